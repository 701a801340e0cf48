"""Embeddings from elsewhere: vectors for the categories or members of a condition."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi.data.fields import BaseAnnDataField
from torch import Tensor

from ._fields import shortened

__all__ = ["Embeddings", "EmbeddingsField"]


class Embeddings:
    """A vector for each of many names.

    Names are text here, as a file makes them text in any case.

    Parameters
    ----------
    key
        Where the user has them in ``uns``.
    names
        Names, without repeats.
    vectors
        Their vectors, ``(n_names, d)``.
    """

    def __init__(self, key: str, names: Iterable[str], vectors: np.ndarray) -> None:
        self.key = key
        self.names = list(names)
        self.vectors = np.asarray(vectors, dtype=np.float32)

    @classmethod
    def from_user(cls, argument: str, key: str, table: Any) -> Self:
        """Check what stands in ``uns``: a data frame, or a mapping from names to vectors.

        Raises
        ------
        TypeError
            If it is neither.
        ValueError
            If it is empty, names repeat, or vectors are not finite or of different lengths.
        """
        what = f"`embeddings[{argument!r}]`, `adata.uns[{key!r}]`,"
        if isinstance(table, pd.DataFrame):
            names, rows = list(table.index), list(table.to_numpy())
        elif isinstance(table, Mapping):
            names, rows = list(table), [np.asarray(row) for row in table.values()]
        else:
            raise TypeError(
                f"{what} is a {type(table).__name__}; give a data frame with one row for each "
                "name, or a mapping from names to vectors."
            )
        names = [str(name) for name in names]
        index = pd.Index(names)
        if index.has_duplicates:
            repeated = index[index.duplicated()].unique()
            raise ValueError(f"{what} has {shortened(repeated)} more than once.")
        if not names or rows[0].size == 0:
            raise ValueError(f"{what} is empty.")
        if odd := [n for n, row in zip(names, rows, strict=True) if row.shape != rows[0].shape]:
            raise ValueError(
                f"{what} has vectors of different lengths: that of {names[0]!r} has shape "
                f"{rows[0].shape}, those of {shortened(odd, 5)} have another."
            )
        try:
            vectors = np.stack(rows).astype(np.float32)
        except (TypeError, ValueError):
            raise ValueError(f"{what} does not hold numbers.") from None
        if vectors.ndim != 2:
            raise ValueError(f"{what} has values of shape {rows[0].shape}, but needs vectors.")
        if (bad := ~np.isfinite(vectors).all(axis=1)).any():
            raise ValueError(f"{what} has NaN or infinite values for {shortened(index[bad])}.")
        return cls(key, names, vectors)

    def with_new(self, argument: str, table: Any) -> Embeddings:
        """Return these vectors and those of further names in what may stand in ``uns``.

        Raises
        ------
        ValueError
            If vectors have another length, or as :meth:`from_user`.
        """
        if table is None:
            return self
        given = self.from_user(argument, self.key, table)
        if given.vectors.shape[1] != self.vectors.shape[1]:
            raise ValueError(
                f"`embeddings[{argument!r}]`, `adata.uns[{self.key!r}]`, has vectors of length "
                f"{given.vectors.shape[1]}, but the model was trained with vectors of length "
                f"{self.vectors.shape[1]}."
            )
        at = [i for i, name in enumerate(given.names) if name not in self.names]
        names = [*self.names, *(given.names[i] for i in at)]
        return Embeddings(self.key, names, np.concatenate([self.vectors, given.vectors[at]]))

    def require(self, argument: str, names: Iterable[Any]) -> None:
        """Check that all of some names have a vector, or raise a ``ValueError``."""
        missing = sorted({str(name) for name in names} - set(self.names))
        if missing:
            raise ValueError(
                f"`embeddings[{argument!r}]`, `adata.uns[{self.key!r}]`, has no vector for "
                f"{shortened(missing)}, which cells have. It has vectors for "
                f"{shortened(self.names)}."
            )

    def table(self, names: Iterable[Any]) -> Tensor:
        """Return the vectors of names, ``(n, d)``; those without one get the mean of all."""
        row = {name: i for i, name in enumerate(self.names)}
        everything = np.vstack([self.vectors, self.vectors.mean(axis=0)])
        return torch.from_numpy(everything[[row.get(str(name), -1) for name in names]])

    @property
    def advice(self) -> str:
        """What to do about a name that has no vector."""
        return f" A vector in `adata.uns[{self.key!r}]` at setup would make it known."


class EmbeddingsField(BaseAnnDataField):
    """Embeddings in ``uns``; keeps names and vectors, so that a model is built without data.

    Parameters
    ----------
    registry_key
        Key of the registry.
    attr_key
        Key of ``adata.uns``.
    argument
        The condition that they are for.
    column
        Its column of ``obs``.
    members
        Says which names a value of the column needs vectors for.
    """

    attr_name = "uns"
    is_empty = False

    def __init__(
        self,
        registry_key: str,
        attr_key: str,
        argument: str,
        column: str,
        members: Callable[[Any], list[str]],
    ) -> None:
        self._registry_key = registry_key
        self._attr_key = attr_key
        self.argument = argument
        self.column = column
        self.members = members

    @property
    def registry_key(self) -> str:
        return self._registry_key

    @property
    def attr_key(self) -> str:
        return self._attr_key

    def get_data_registry(self) -> dict:
        """Return nothing: it has no row for each cell, so that no loader can load it."""
        return {}

    def validate_field(self, adata: AnnData) -> None:
        if self.attr_key not in adata.uns:
            raise KeyError(
                f"`embeddings[{self.argument!r}]={self.attr_key!r}` is not in `adata.uns`. "
                f"Known: {shortened(adata.uns)}."
            )

    def register_field(self, adata: AnnData) -> dict:
        self.validate_field(adata)
        given = Embeddings.from_user(self.argument, self.attr_key, adata.uns[self.attr_key])
        given.require(self.argument, self._needed(adata))
        return {"names": given.names, "vectors": given.vectors}

    def transfer_field(
        self,
        state_registry: dict,
        adata_target: AnnData,
        extend_categories: bool = False,
        **kwargs: Any,
    ) -> dict:
        """Return the vectors that the model was trained with, and on request those of new names."""
        if not extend_categories:
            return dict(state_registry)
        known = Embeddings(self.attr_key, state_registry["names"], state_registry["vectors"])
        known = known.with_new(self.argument, adata_target.uns.get(self.attr_key))
        known.require(self.argument, self._needed(adata_target))
        return {"names": known.names, "vectors": known.vectors}

    def _needed(self, adata: AnnData) -> set[str]:
        return {m for value in adata.obs[self.column].unique() for m in self.members(value)}

    def get_summary_stats(self, state_registry: dict) -> dict:
        return {f"n_{self.registry_key}": len(state_registry["names"])}

    def view_state_registry(self, state_registry: dict) -> None:
        return None
