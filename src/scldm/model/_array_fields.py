"""Fields of the registry for arrays in ``obsm``: vectors of cells and their coordinates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi.data.fields import ObsmField

from ._fields import shortened
from ._tissue import Places, measured

__all__ = ["CoordinatesField", "VectorField"]


class VectorField(ObsmField):
    """A vector for each cell; keeps the moments of its dimensions.

    Parameters
    ----------
    argument
        The argument of ``setup_anndata`` that named the array.
    """

    def __init__(self, registry_key: str, attr_key: str, argument: str) -> None:
        super().__init__(registry_key, attr_key)
        self.argument = argument

    @property
    def _what(self) -> str:
        return f"`{self.argument}={self.attr_key!r}`"

    def validate_field(self, adata: AnnData) -> None:
        if self.attr_key not in adata.obsm:
            raise KeyError(f"{self._what} is not in `adata.obsm`. Known: {shortened(adata.obsm)}.")
        values = np.asarray(adata.obsm[self.attr_key])
        self._check_shape(values.shape)
        try:
            finite = np.isfinite(values.astype(float)).all()
        except (TypeError, ValueError):
            raise ValueError(f"{self._what} does not hold numbers.") from None
        if not finite:
            raise ValueError(f"{self._what} has NaN or infinite values.")
        super().validate_field(adata)

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 2 or not shape[1]:
            raise ValueError(
                f"{self._what} has shape {shape}; it must be a dense array with one row for each "
                "cell."
            )

    def register_field(self, adata: AnnData) -> dict:
        state = super().register_field(adata)
        values = np.asarray(adata.obsm[self.attr_key], dtype=float)
        return state | {"mean": values.mean(axis=0).tolist(), "spread": self._spread(values)}

    def _spread(self, values: np.ndarray) -> Any:
        spread = values.std(axis=0)
        return np.where(spread > 0, spread, 1.0).tolist()

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        self.validate_field(adata_target)
        n_dims = np.shape(adata_target.obsm[self.attr_key])[1]
        if n_dims != len(state_registry["mean"]):
            raise ValueError(
                f"{self._what} has {n_dims} columns, but the model was trained with "
                f"{len(state_registry['mean'])}."
            )
        # an array of one user may be the data frame of another: names of columns mean nothing here
        names = list(self._setup_column_names(adata_target))
        like = {**state_registry, self.COLUMN_NAMES_KEY: names}
        own = super().transfer_field(like, adata_target, **kwargs)
        # moments are those of the training data
        return own | {
            k: v for k, v in state_registry.items() if k in ("mean", "spread", "spacing")
        }


class CoordinatesField(VectorField):
    """Coordinates of cells, two or three for each; keeps their centre, spread and spacing.

    Parameters
    ----------
    registry_key, attr_key, argument
        As in :class:`VectorField`.
    batch_key
        The user's column of batches, which may not lie in one space.
    """

    def __init__(
        self, registry_key: str, attr_key: str, argument: str, batch_key: str | None = None
    ) -> None:
        super().__init__(registry_key, attr_key, argument)
        self.batch_key = batch_key

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 2 or shape[1] not in (2, 3):
            raise ValueError(
                f"{self._what} has shape {shape}; coordinates have two or three columns."
            )

    def register_field(self, adata: AnnData) -> dict:
        state = super().register_field(adata)
        values = np.asarray(adata.obsm[self.attr_key], dtype=float)
        batch = np.zeros(len(values), dtype=int)
        # sections of a stack are batches of one space
        if self.batch_key is not None and values.shape[1] == 2:
            batch = pd.factorize(adata.obs[self.batch_key])[0]
        _, spacing = measured(Places(values, batch))
        spread, _ = measured(Places(values, np.zeros_like(batch)))
        return state | {"spread": spread.tolist(), "spacing": spacing.tolist()}
