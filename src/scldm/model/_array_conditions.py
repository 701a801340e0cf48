"""Conditions that are arrays: vectors of cells, and where they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from torch import nn

from scldm.nn import FourierEmbedder, VectorEmbedder

from ._conditions import STEPS, Condition, refuse_far

__all__ = ["Coordinates", "Vector"]

_WAVE = 8.0
"""Length of the shortest wave of coordinates, in spacings of cells."""

_LONGEST_WAVE = 8.0
"""That of the longest one, in standard deviations."""

_OCTAVES = 2, 7


class Vector(Condition):
    """A vector of any length, such as the latent of another cell.

    Parameters
    ----------
    name
        Its argument.
    column
        The user's array in ``obsm``.
    mean, spread
        Mean and standard deviation of the training data, of each dimension.
    """

    def __init__(
        self, name: str, column: str, mean: Sequence[float], spread: Sequence[float] | float
    ) -> None:
        super().__init__(name)
        self.column = column
        self.mean = np.asarray(mean, dtype=float)
        self.spread = np.asarray(spread, dtype=float)

    def columns(self, argument: str) -> list[str]:
        return [f"{argument}[{i}]" for i in range(len(self.mean))]

    def parse(self, argument: str, values: Any) -> pd.DataFrame:
        try:
            vectors = np.atleast_2d(np.asarray(values, dtype=float))
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"`{argument}` does not hold numbers.") from None
        if vectors.ndim != 2 or vectors.shape[1] != len(self.mean):
            raise ValueError(
                f"`{argument}` has shape {np.shape(values)}, but must be (n_cells, "
                f"{len(self.mean)}), or ({len(self.mean)},) for all cells."
            )
        if not np.isfinite(vectors).all():
            raise ValueError(f"`{argument}` has NaN or infinite values; finite ones are allowed.")
        refuse_far(argument, vectors, (vectors - self.mean) / self.spread)
        return pd.DataFrame(vectors, columns=self.columns(argument))

    def per_cell(self, argument: str, values: Any) -> bool:
        return np.ndim(values) == 2

    def describe(self, values: pd.DataFrame) -> str:
        many = values.shape[1] > 3
        return (
            "one vector for all cells" if len(values) == 1 and many else super().describe(values)
        )

    def read(self, adata: AnnData) -> pd.DataFrame:
        return self.parse(self.name, adata.obsm[self.column])

    def write(self, frame: pd.DataFrame, adata: AnnData) -> None:
        adata.obsm[self.column] = frame[self.columns(self.name)].to_numpy(dtype=float)

    def encode(self, frame: pd.DataFrame) -> np.ndarray:
        vectors = frame[self.columns(self.name)].to_numpy(dtype=float)
        return ((vectors - self.mean) / self.spread).astype(np.float32)

    def examples(self, training: pd.DataFrame) -> tuple[list[str], pd.DataFrame]:
        columns = self.columns(self.name)
        spread = np.broadcast_to(self.spread, len(columns))
        steps = np.concatenate([-np.diag(spread), np.diag(spread)])
        labels = [f"{column} {step}" for step in STEPS for column in columns]
        return labels, pd.DataFrame(self.mean + steps, columns=columns)

    def embedder(self, width: int) -> nn.Module:
        return VectorEmbedder(len(self.mean), width)


class Coordinates(Vector):
    """A place in two or three dimensions.

    Parameters
    ----------
    name, column, mean, spread
        As in :class:`Vector`; one spread for the axes of a plane keeps distances what they are.
    spacing
        By axis, the distance of a cell to the nearest one, or of a section to the next. Waves of the coordinates that are not several times as
        long would let the network learn each cell's place by heart.
    """

    def __init__(
        self,
        name: str,
        column: str,
        mean: Sequence[float],
        spread: Sequence[float],
        spacing: Sequence[float],
    ) -> None:
        super().__init__(name, column, mean, spread)
        shortest = _WAVE * spacing[0] / spread[0]
        fitting = np.log2(_LONGEST_WAVE / shortest) + 1 if shortest > 0 else np.inf
        self.n_octaves = int(np.clip(fitting, *_OCTAVES))

    def columns(self, argument: str) -> list[str]:
        return [f"{argument}_{axis}" for axis in range(len(self.mean))]

    def embedder(self, width: int) -> nn.Module:
        return FourierEmbedder(len(self.mean), width, self.n_octaves)
