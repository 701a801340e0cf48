"""Data of several modalities as one table: a row for each cell, a modality in ``obsm``.

A user's modalities stand in a ``MuData``, in ``AnnData`` side by side, or in ``obsm`` of one. They
become an ``AnnData`` without ``X`` that holds what the model reads: the counts of each modality under its
name in ``obsm``, zeros where a cell lacks it; which cells have which in ``obsm["present"]``; and the columns
that cells depend on. Where a modality has all cells in the same order, its counts are not copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse
from scvi.data.fields import ObsmField

from scldm.module import PRESENT, counts_key

from ._fields import check_counts, shortened

__all__ = [
    "KINDS",
    "Joined",
    "Modality",
    "ModalityField",
    "PresentField",
    "aligned",
    "join",
]

KINDS = ("rna", "protein", "atac")
"""Kinds of modalities, each with likelihoods of its own; a model has at most one of each."""

FEATURES = "features"
_ROWS_AT_A_TIME = 4096


@dataclass(frozen=True)
class Modality:
    """One modality of a user's data.

    Parameters
    ----------
    name
        Its kind, one of :data:`KINDS`, by which methods know it.
    counts
        Counts, dense or sparse.
    cells, features
        Names of rows and columns.
    where
        What to call it in messages.
    measured
        Which rows have been measured; ``None`` is all.
    """

    name: str
    counts: Any
    cells: pd.Index
    features: pd.Index
    where: str
    measured: np.ndarray | None = None


@dataclass
class Joined:
    """A table of cells, and what was done to make it.

    Parameters
    ----------
    adata
        The table.
    missing
        By modality, features of the model that the data lack; their counts are zero.
    """

    adata: AnnData
    missing: dict[str, list[str]] = field(default_factory=dict)

    def present(self, modality: str) -> np.ndarray:
        """Return which cells have a modality."""
        names = self.adata.uns[FEATURES]
        return np.asarray(self.adata.obsm[PRESENT])[:, list(names).index(modality)].astype(bool)


def join(cells: pd.Index, modalities: Sequence[Modality]) -> AnnData:
    """Return the table, without the columns that cells depend on.

    Parameters
    ----------
    cells
        Names of all cells, in order.
    modalities
        Each with some of the cells, or all.

    Raises
    ------
    ValueError
        If names are not unique, a modality has no cells or ones that are not among ``cells``, values are
        not counts, or a measured cell has none.
    """
    if not cells.is_unique:
        raise ValueError("Names of cells (`obs_names`) are not unique; make them so first.")
    if not len(cells):
        raise ValueError("The data have no cells.")
    adata = AnnData(obs=pd.DataFrame(index=cells))
    present = np.zeros((len(cells), len(modalities)), dtype=np.float32)
    for m, modality in enumerate(modalities):
        counts, measured = _over_cells(modality, cells)
        _check(modality, counts, measured)
        adata.obsm[modality.name] = counts
        present[:, m] = measured
    if not (present.sum(1) > 0).all():
        raise ValueError(
            f"{int((present.sum(1) == 0).sum())} cells have none of the modalities "
            f"{[m.name for m in modalities]}. Leave them out."
        )
    adata.obsm[PRESENT] = present
    adata.uns[FEATURES] = {m.name: np.asarray(m.features, dtype=str) for m in modalities}
    return adata


def _over_cells(modality: Modality, cells: pd.Index) -> tuple[Any, np.ndarray]:
    """Return counts with a row for each cell, and which of them were measured."""
    own = modality.cells
    if not own.is_unique or not modality.features.is_unique:
        raise ValueError(f"{modality.where} has names of cells or features that are not unique.")
    if not len(own) or not len(modality.features):
        raise ValueError(f"{modality.where} is empty: it has no cells or no features.")
    counts = modality.counts
    counts = counts.to_numpy() if isinstance(counts, pd.DataFrame) else counts
    here = np.ones(len(own), bool) if modality.measured is None else modality.measured
    counts = _measured_only(counts, here)
    if own.equals(cells):
        return _readable(counts), here
    places = cells.get_indexer(own)
    if (places < 0).any():
        unknown = own[places < 0]
        raise ValueError(
            f"{modality.where} has {len(unknown)} cells that are not in the others' table: "
            f"{shortened(unknown, 3)}."
        )
    measured = np.zeros(len(cells), bool)
    measured[places] = here
    rows = sparse.csr_matrix(counts)
    order = sparse.csr_matrix(
        (np.ones(len(own), rows.dtype), (places, np.arange(len(own)))), (len(cells), len(own))
    )
    return (order @ rows).tocsr(), measured


def _measured_only(counts: Any, here: np.ndarray) -> Any:
    """Return counts with zeros, whatever stands there, where nothing was measured."""
    if here.all():
        return counts
    if not sparse.issparse(counts):
        return np.where(here[:, None], np.asarray(counts), 0)
    rows = counts.tocsr(copy=True)
    rows.data[~np.repeat(here, np.diff(rows.indptr))] = 0
    rows.eliminate_zeros()
    return rows


def _readable(counts: Any) -> Any:
    """Return counts as what loaders read row by row."""
    return counts.tocsr() if sparse.issparse(counts) else np.ascontiguousarray(counts)


def _check(modality: Modality, counts: Any, measured: np.ndarray) -> None:
    if not measured.any():
        raise ValueError(f"{modality.where} was measured in none of the cells.")
    empty = 0
    for start in range(0, len(measured), _ROWS_AT_A_TIME):
        rows = counts[start : start + _ROWS_AT_A_TIME]
        check_counts(rows.data if sparse.issparse(rows) else np.asarray(rows), modality.where)
        totals = np.asarray(rows.sum(axis=1)).ravel()
        empty += int((totals[measured[start : start + _ROWS_AT_A_TIME]] == 0).sum())
    if empty:
        raise ValueError(
            f"{modality.where} has {empty} cells without any count. Leave them out; or, if they "
            "were not measured, say so: leave them out of this modality of a MuData, or name a "
            "column of booleans in `measured_keys`."
        )


def aligned(modality: Modality, features: Iterable[str]) -> tuple[Modality, list[str]]:
    """Return a modality with the features of a model in its order, and those that it lacks.

    Raises
    ------
    ValueError
        If it has none of them.
    """
    known = pd.Index(features)
    if not modality.features.is_unique:
        raise ValueError(f"{modality.where} has names of features that are not unique.")
    if modality.features.equals(known):
        return modality, []
    places = modality.features.get_indexer(known)
    missing = known[places < 0]
    if len(missing) == len(known):
        raise ValueError(
            f"{modality.where} has none of the model's {len(known)} features: "
            f"{shortened(known, 3)}."
        )
    counts = modality.counts
    counts = counts.to_numpy() if isinstance(counts, pd.DataFrame) else counts
    rows = sparse.csc_matrix(counts)
    found = np.flatnonzero(places >= 0)
    select = sparse.csr_matrix(
        (np.ones(len(found), rows.dtype), (places[found], found)),
        (len(modality.features), len(known)),
    )
    new = Modality(
        modality.name,
        (rows @ select).tocsr(),
        modality.cells,
        known,
        modality.where,
        modality.measured,
    )
    return new, list(missing)


class ModalityField(ObsmField):
    """Counts of one modality; keeps the names of its features and the largest count."""

    def __init__(self, modality: str) -> None:
        super().__init__(counts_key(modality), modality)

    def _setup_column_names(self, adata: AnnData) -> list[str]:
        return list(adata.uns[FEATURES][self.attr_key])

    def register_field(self, adata: AnnData) -> dict:
        largest = float(adata.obsm[self.attr_key].max())
        return super().register_field(adata) | {"largest": largest}

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        names = list(adata_target.uns[FEATURES][self.attr_key])
        if names != list(state_registry["column_names"]):
            raise ValueError(
                f"The {self.attr_key} features are not those of the model, or in another order."
            )
        own = self.register_field(adata_target)
        return dict(state_registry) | {"largest": own["largest"]}

    def get_summary_stats(self, state_registry: dict) -> dict:
        return {f"n_{self.attr_key}": len(state_registry["column_names"])}


class PresentField(ObsmField):
    """Which modalities cells have."""

    def __init__(self) -> None:
        super().__init__(PRESENT, PRESENT)

    def _setup_column_names(self, adata: AnnData) -> list[str]:
        return list(adata.uns[FEATURES])

    def register_field(self, adata: AnnData) -> dict:
        return super().register_field(adata) | {"n_cells": adata.n_obs}

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        super().register_field(adata_target)
        return dict(state_registry)

    def get_summary_stats(self, state_registry: dict) -> dict:
        return {"n_cells": state_registry["n_cells"]}


def in_mudata(
    mdata: MuData,
    mods: Mapping[str, str],
    layers: Mapping[str, str | None],
    measured: Mapping[str, str],
    strict: bool,
) -> tuple[pd.Index, list[Modality]]:
    """Return the cells and modalities of a ``MuData``.

    Parameters
    ----------
    mdata
        The data.
    mods
        Keys of ``mdata.mod`` by modality.
    layers
        Layers with the counts by modality, ``None`` for ``X``.
    measured
        By modality, the column with which cells were measured.
    strict
        Whether these columns have to be there.
    """
    found = []
    for name, key in mods.items():
        adata = mdata.mod[key]
        where = f"`mdata[{key!r}]`"
        counts = in_layer(adata, layers.get(name), f"{name}_layer", where)
        here = None
        if name in measured:
            here = booleans(adata.obs, mdata.obs, measured[name], name, strict)
        found.append(Modality(name, counts, adata.obs_names, adata.var_names, where, here))
    return mdata.obs_names, found


def in_layer(adata: AnnData, layer: str | None, argument: str, where: str) -> Any:
    """Return the counts in a layer of ``adata``, or in its ``X``."""
    if layer is None:
        if adata.X is None:
            raise ValueError(f"{where} has no `X`; name a layer with `{argument}`.")
        return adata.X
    if layer not in adata.layers:
        raise KeyError(
            f"`{argument}={layer!r}` is not a layer of {where}. Known: {shortened(adata.layers)}."
        )
    return adata.layers[layer]


def booleans(
    own: pd.DataFrame, shared: pd.DataFrame, column: str, modality: str, strict: bool
) -> np.ndarray | None:
    """Return a column that says which cells were measured, of a modality's cells or of all."""
    obs = own if column in own else shared
    if column not in obs and not strict:
        return None
    if column not in obs:
        raise KeyError(
            f"`measured_keys[{modality!r}]={column!r}` is not a column of `obs`. "
            f"Known: {shortened([*own, *shared])}."
        )
    values = obs[column].reindex(own.index)
    if values.dtype == "boolean" and not values.isna().any():
        values = values.astype(bool)
    if values.dtype != bool:
        raise ValueError(
            f"`measured_keys[{modality!r}]={column!r}` holds {values.dtype} values, but must hold "
            "True where a cell was measured and False where it was not."
        )
    return values.to_numpy()
