"""What the metrics ask of the arrays they are given."""

from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

__all__ = ["Counts", "as_csr", "as_points", "require_integers"]

Counts: TypeAlias = ArrayLike | sparse.spmatrix | sparse.sparray
"""A matrix of cells by genes, dense or sparse."""


def as_csr(counts: Counts, name: str = "counts") -> sparse.csr_matrix:
    """A CSR matrix of shape (n_cells, n_genes) whose stored values are finite and >= 0.

    Raises
    ------
    ValueError
        If ``counts`` is not two-dimensional, or holds a negative or non-finite value.
    """
    if np.ndim(counts) != 2:
        raise ValueError(f"`{name}` must be cells by genes, but has {np.ndim(counts)} dimensions.")
    matrix = sparse.csr_matrix(counts)
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


def as_points(x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two samples as ``float64`` arrays of shape (n, d) and (m, d).

    Raises
    ------
    ValueError
        If one is not two-dimensional or has less than two rows, or the widths differ.
    """
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    for points in (first, second):
        if points.ndim != 2 or len(points) < 2:
            raise ValueError(
                f"A sample must be an array of at least two rows (cells) by columns, but one has "
                f"shape {points.shape}."
            )
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"The samples must have the same columns, but have {first.shape[1]} and "
            f"{second.shape[1]}."
        )
    return first, second
