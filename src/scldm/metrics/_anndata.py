"""What the metrics take from an AnnData: counts, labels, genes in one order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData

from scldm._warnings import warn
from scldm.metrics._checks import Counts, as_csr, require_integers

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

__all__ = ["align_genes", "as_cells", "counts_of", "generated_counts", "labels_of", "real_counts"]


def as_cells(cells: AnnData | Counts, name: str, like: AnnData | None = None) -> AnnData:
    """The cells, or a matrix of counts as cells without labels.

    Parameters
    ----------
    cells
        An AnnData, or cells by genes.
    name
        What it is called in errors.
    like
        Cells with the genes that a matrix has, in their order.

    Raises
    ------
    ValueError
        If it is neither, the genes are not as many, or values are negative or not finite.
    """
    if isinstance(cells, AnnData):
        return cells
    counts = as_csr(cells, name)
    # names that no other cells have
    obs = pd.DataFrame(index=[f"{name}_{i}" for i in range(counts.shape[0])])
    if like is None:
        return AnnData(counts, obs)
    if counts.shape[1] != like.n_vars:
        raise ValueError(f"`{name}` has {counts.shape[1]} genes, and `real` has {like.n_vars}.")
    return AnnData(counts, obs, like.var[[]])


def counts_of(adata: AnnData, layer: str | None, name: str) -> sparse.csr_matrix:
    """Counts of shape (n_cells, n_genes) from ``X`` or a layer.

    Parameters
    ----------
    adata
        The cells.
    layer
        The layer, or ``None`` for ``X``.
    name
        What ``adata`` is called in errors.

    Raises
    ------
    ValueError
        If the layer is missing or its values are negative or not finite.
    """
    if layer is None:
        return as_csr(adata.X, f"{name}.X")
    if layer not in adata.layers:
        raise ValueError(
            f"`layer={layer!r}` is not a layer of `{name}`. Known: {list(adata.layers)}."
        )
    return as_csr(adata.layers[layer], f"{name}.layers[{layer!r}]")


def labels_of(adata: AnnData, groupby: str, name: str) -> NDArray[np.str_]:
    """Labels of the cells as strings, shape (n_cells,).

    Parameters
    ----------
    adata
        The cells.
    groupby
        Column of ``obs``.
    name
        What ``adata`` is called in errors.

    Raises
    ------
    ValueError
        If the column is missing or has missing values.
    """
    if groupby not in adata.obs:
        raise ValueError(
            f"`groupby={groupby!r}` is not a column of `{name}.obs`. Known: {list(adata.obs)}."
        )
    column = adata.obs[groupby]
    if column.isna().any():
        raise ValueError(
            f"`{name}.obs[{groupby!r}]` has {column.isna().sum()} missing values. Leave these "
            "cells out or name their label."
        )
    return column.astype(str).to_numpy(dtype=str)


def align_genes(real: AnnData, other: AnnData, name: str) -> AnnData:
    """``other`` with its genes in the order of ``real``.

    Parameters
    ----------
    real
        The cells that set the order.
    other
        The cells to put in order.
    name
        What ``other`` is called in errors.

    Raises
    ------
    ValueError
        If one has a gene that the other has not.
    """
    if real.var_names.equals(other.var_names):
        return other
    for adata, called in ((real, "real"), (other, name)):
        if not adata.var_names.is_unique:
            raise ValueError(
                f"`{called}.var_names` has names that occur more than once, so genes cannot be put "
                "in one order. Call `var_names_make_unique()`."
            )
    missing = real.var_names.difference(other.var_names)
    surplus = other.var_names.difference(real.var_names)
    if len(missing) or len(surplus):
        raise ValueError(
            f"The genes of `{name}` are not those of `real`: {len(missing)} are missing "
            f"{list(missing[:3])} and {len(surplus)} are not in `real` {list(surplus[:3])}."
        )
    return other[:, real.var_names]


def real_counts(adata: AnnData, layer: str | None, name: str) -> sparse.csr_matrix:
    """:func:`counts_of`, of integers.

    Parameters
    ----------
    adata, layer, name
        As for :func:`counts_of`.

    Raises
    ------
    ValueError
        If a value is not an integer.
    """
    counts = counts_of(adata, layer, name)
    require_integers(counts, name)
    return counts


def generated_counts(generated: AnnData, layer: str | None, name: str) -> sparse.csr_matrix:
    """:func:`counts_of`, from ``X`` if there is no such layer; other values are warned of.

    Parameters
    ----------
    generated, layer, name
        As for :func:`counts_of`.
    """
    present = layer if layer in generated.layers else None
    counts = counts_of(generated, present, name)
    if (counts.data != np.rint(counts.data)).any():
        warn(
            f"`{name}` holds values that are not integers, so these are not counts; they are "
            "compared as they are."
        )
    return counts
