"""What cells of one time are, by the training cells that are nearest to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.neighbors import NearestNeighbors

__all__ = ["FateLabels", "label_names"]

_NEIGHBOURS = 15
_SAME = 1e-4
"""Of the median distance of neighbours; below it, a cell stands where another does."""


class FateLabels:
    """Says what cells of one time are, by the nearest of the training cells.

    Parameters
    ----------
    column
        Where users have them.
    names
        The fates.
    knot
        The time point.
    x, labels
        Coordinates of training cells of that time, and what they are.
    """

    def __init__(
        self, column: str, names: list[Any], knot: int, x: np.ndarray, labels: np.ndarray
    ) -> None:
        self.column = column
        self.names = names
        self.knot = knot
        self.is_of = labels[:, None] == np.array(names, dtype=object)
        self.near = NearestNeighbors(n_neighbors=min(_NEIGHBOURS + 1, len(x))).fit(x)

    def votes(self, x: np.ndarray) -> np.ndarray:
        """Return shares of neighbours by fate, ``(n, n_fates)``; no cell is its own neighbour."""
        distance, place = self.near.kneighbors(x)
        counts = distance > _SAME * np.median(distance, axis=1, keepdims=True)
        # whoever is not among them has one neighbour too many
        counts[counts.all(axis=1), -1] = False
        counts[~counts.any(axis=1)] = True
        weight = counts / counts.sum(axis=1, keepdims=True)
        return np.einsum("nk,nkf->nf", weight, self.is_of[place])


def label_names(values: pd.Series) -> list[Any]:
    """Return labels as text, NaN where there is none; whole numbers without their point."""
    whole = pd.api.types.is_float_dtype(values)
    return [np.nan if pd.isna(v) else f"{v:.12g}" if whole else str(v) for v in values]
