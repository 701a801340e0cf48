"""Counts that stay on disk, read a few thousand rows at a time.

AnnData's backed matrices (HDF5 and zarr), arrays of either, and dask's. A read of scattered rows costs
far more than one of rows in a run, so rows that are asked for in order are read in runs, small gaps
between them included.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np
import zarr
from anndata.abc import CSCDataset, CSRDataset
from scipy import sparse

__all__ = ["chunks_of", "is_on_disk", "read_rows", "refuse_columns"]

_GAP = 32
"""Rows between two that are asked for, up to which reading them all is faster than reading twice."""


def is_on_disk(counts: Any) -> bool:
    """Return whether counts are read from disk as they are needed."""
    return isinstance(counts, CSRDataset | CSCDataset | h5py.Dataset | zarr.Array) or is_lazy(
        counts
    )


def is_lazy(counts: Any) -> bool:
    """Return whether counts are an array of dask, which need not be installed."""
    return type(counts).__module__.startswith("dask.")


def refuse_columns(counts: Any, where: str) -> None:
    """Raise where counts on disk are stored gene by gene, so that reading cells reads everything.

    Raises
    ------
    ValueError
        If they are.
    """
    if isinstance(counts, CSCDataset):
        raise ValueError(
            f"{where} is stored on disk by columns (CSC), so that reading some cells reads all. Write it "
            "by rows (CSR), or read it into memory."
        )


def chunks_of(counts: Any, n_rows: int = 4096) -> Iterator[Any]:
    """Yield all counts in memory, some rows at a time."""
    for start in range(0, counts.shape[0], n_rows):
        part = counts[start : start + n_rows]
        yield _in_memory(part) if is_on_disk(counts) else part


def read_rows(counts: Any, rows: np.ndarray) -> Any:
    """Return some rows of counts, in memory.

    Parameters
    ----------
    counts
        Counts of all cells, ``(n_cells, n_genes)``, in memory or on disk.
    rows
        Numbers of the rows, in any order.

    Returns
    -------
    A CSR matrix or an array, ``(len(rows), n_genes)``.
    """
    if not is_on_disk(counts):
        return counts[rows]
    if not len(rows):
        return _in_memory(counts[:0])
    order = np.argsort(rows, kind="stable")
    parts = [_in_memory(counts[first:last])[kept] for first, last, kept in _runs(rows[order])]
    read = (
        sparse.vstack(parts, format="csr") if sparse.issparse(parts[0]) else np.concatenate(parts)
    )
    return read if (np.diff(order) > 0).all() else read[np.argsort(order)]


def _in_memory(part: Any) -> Any:
    part = part.compute(scheduler="synchronous") if is_lazy(part) else part
    return sparse.csr_matrix(part) if sparse.issparse(part) else np.asarray(part)


def _runs(rows: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield where runs of rising rows begin and end, and which of the rows between are asked for."""
    for run in np.split(rows, np.flatnonzero(np.diff(rows) > _GAP) + 1):
        yield int(run[0]), int(run[-1]) + 1, run - run[0]
