"""Fields of the registry for arrays in ``obsm``: vectors of cells and their coordinates."""

from __future__ import annotations

from typing import Any

import numpy as np
from anndata import AnnData
from scipy.spatial import KDTree
from scvi.data.fields import ObsmField

from ._fields import shortened

__all__ = ["CoordinatesField", "VectorField"]

_MOST_CELLS = 10_000


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
        own = super().transfer_field(state_registry, adata_target, **kwargs)
        # moments are those of the training data
        return own | {
            k: v for k, v in state_registry.items() if k in ("mean", "spread", "spacing")
        }


class CoordinatesField(VectorField):
    """Coordinates of cells, two or three for each; keeps their centre, spread and spacing."""

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 2 or shape[1] not in (2, 3):
            raise ValueError(
                f"{self._what} has shape {shape}; coordinates have two or three columns."
            )

    def register_field(self, adata: AnnData) -> dict:
        state = super().register_field(adata)
        values = np.unique(np.asarray(adata.obsm[self.attr_key], dtype=float), axis=0)
        some = values[:: max(1, len(values) // _MOST_CELLS)]
        steps = KDTree(values).query(some, min(2, len(values)))[0]
        return state | {"spacing": float(np.median(steps[:, 1])) if len(values) > 1 else 0.0}

    def _spread(self, values: np.ndarray) -> float:
        # one spread for all axes keeps distances what they are
        return float(np.sqrt(values.var(axis=0).mean())) or 1.0
