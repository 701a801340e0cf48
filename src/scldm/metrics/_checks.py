"""What the metrics ask of the arrays they are given."""

from typing import TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

__all__ = ["Counts", "as_csr", "as_dense", "as_points", "labels_as_text", "require_integers"]

Counts: TypeAlias = ArrayLike | sparse.spmatrix | sparse.sparray
"""A matrix of cells by genes, dense or sparse."""


def as_csr(counts: Counts, name: str = "counts") -> sparse.csr_matrix:
    """A CSR matrix of shape (n_cells, n_genes) whose stored values are finite and >= 0.

    Raises
    ------
    TypeError
        If ``counts`` is an AnnData.
    ValueError
        If ``counts`` is not two-dimensional, or holds a negative or non-finite value.
    """
    if isinstance(counts, AnnData):
        raise TypeError(f"`{name}` is an AnnData. Give its `X` or a layer, or call `evaluate`.")
    for to_memory in ("to_memory", "compute"):
        # a matrix on disk, of anndata or dask
        if hasattr(counts, to_memory):
            counts = getattr(counts, to_memory)()
    shape = np.shape(counts)
    if len(shape) != 2:
        raise ValueError(f"`{name}` must be cells by genes, but has {len(shape)} dimensions.")
    matrix = sparse.csr_matrix(counts)
    if matrix.dtype == bool:
        matrix = matrix.astype(np.float32)
    if not matrix.has_canonical_format:
        # entries of one place count together, and the user's matrix stays as it is
        matrix = matrix.copy()
        matrix.sum_duplicates()
    if matrix.data.size and not np.isfinite(matrix.data).all():
        raise ValueError(f"`{name}` holds values that are not finite.")
    if matrix.data.size and matrix.data.min() < 0:
        raise ValueError(f"`{name}` holds negative values, so these are not counts.")
    return matrix


def require_integers(matrix: sparse.csr_matrix, name: str) -> None:
    """Check that the stored values are integers.

    Raises
    ------
    ValueError
        If a value is not.
    """
    fractional = matrix.data[matrix.data != np.rint(matrix.data)]
    if fractional.size:
        raise ValueError(
            f"`{name}` does not hold counts: it has the value {fractional[0]:.4g}. Give the raw "
            "counts, for example with `layer='counts'`."
        )


def as_dense(x: Counts) -> NDArray[np.float64]:
    """A dense ``float64`` array of a dense or sparse one."""
    return np.asarray(
        sparse.csr_matrix(x).toarray() if sparse.issparse(x) else x, dtype=np.float64
    )


def as_points(x: Counts, y: Counts) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two samples as dense ``float64`` arrays of shape (n, d) and (m, d).

    Raises
    ------
    ValueError
        If one is not two-dimensional, has less than two rows or values that are not finite, or the
        widths differ.
    """
    first, second = as_dense(x), as_dense(y)
    for points in (first, second):
        if points.ndim != 2 or len(points) < 2:
            raise ValueError(
                f"A sample must be an array of at least two rows (cells) by columns, but one has "
                f"shape {points.shape}."
            )
        if not np.isfinite(points).all():
            raise ValueError("A sample holds values that are not finite.")
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"The samples must have the same columns, but have {first.shape[1]} and "
            f"{second.shape[1]}."
        )
    return first, second


def labels_as_text(labels: ArrayLike, name: str) -> NDArray[np.str_]:
    """One label per cell as text.

    Raises
    ------
    ValueError
        If a label is missing.
    """
    missing = pd.isna(np.asarray(labels)).sum()
    if missing:
        raise ValueError(f"`{name}` has {missing} missing values. Leave these cells out.")
    return np.asarray(labels).astype(str)
