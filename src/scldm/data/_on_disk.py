"""Cells of which the counts stay on disk."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import zarr
from anndata import AnnData
from anndata.experimental import read_elem_lazy
from anndata.io import read_elem, sparse_dataset

__all__ = ["read_on_disk"]

_ROWS_IN_A_CHUNK = 256
_IN_MEMORY = ("obs", "var", "obsm", "varm", "uns")


def read_on_disk(
    paths: str | os.PathLike | Iterable[str | os.PathLike], layer: str | None = None
) -> AnnData:
    """Open files of cells and leave their counts where they are.

    What describes cells and genes is read into memory; the matrix is read a few thousand cells at a time
    when a model needs it. So a model trains on more cells than memory has room for: give the result to
    :meth:`scldm.SCLDM.setup_anndata` like any other.

    Parameters
    ----------
    paths
        One file, ``.h5ad`` or ``.zarr``, or several. Of several, which needs ``dask``, the genes that
        all have are kept, and a column ``"file"`` of ``obs`` says which file a cell is of. Matrices must
        be stored dense or by rows (CSR).
    layer
        Layer with the counts, which becomes ``X``; ``None`` takes ``X``.

    Returns
    -------
    :class:`~anndata.AnnData`, ``(n_cells, n_genes)``. Other layers and graphs between cells are left out.
    The file stays open for as long as it lives.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    KeyError
        If a file has no such layer.
    ValueError
        If a name ends in neither ``.h5ad`` nor ``.zarr``, no file is given, or no gene is in all.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else paths
    files = [Path(path).expanduser() for path in given]
    if not files:
        raise ValueError("`paths` is empty; one file or more are needed.")
    if len(files) == 1:
        return _opened(files[0], layer, lazy=False)
    # numbers keep files of the same name apart
    names = [f"{i}: {file.name}" for i, file in enumerate(files)]
    parts = [_opened(file, layer, lazy=True) for file in files]
    whole = ad.concat(
        dict(zip(names, parts, strict=True)), label="file", join="inner", merge="same"
    )
    if not whole.n_vars:
        raise ValueError("`paths`: no gene is in all files. Are their names of the same kind?")
    if not whole.obs_names.is_unique:
        whole.obs_names = [
            f"{cell}-{int(i)}"
            for cell, i in zip(whole.obs_names, whole.obs["file"].cat.codes, strict=True)
        ]
    return whole


def _opened(path: Path, layer: str | None, lazy: bool) -> AnnData:
    group = _group_of(path)
    known = list(group["layers"]) if "layers" in group else []
    if layer is not None and layer not in known:
        raise KeyError(f"`layer={layer!r}` is not a layer of {str(path)!r}. Known: {known}.")
    counts = group["X"] if layer is None else group[f"layers/{layer}"]
    rest = {name: read_elem(group[name]) for name in _IN_MEMORY if name in group}
    return AnnData(X=_matrix(counts, lazy), **rest)


def _group_of(path: Path) -> Any:
    if not path.exists():
        raise FileNotFoundError(f"`paths`: there is no file {str(path)!r}.")
    if path.suffix == ".h5ad":
        return h5py.File(path, "r")
    if path.suffix == ".zarr":
        return zarr.open_group(path, mode="r")
    raise ValueError(f"`paths`: {str(path)!r} must end in .h5ad or .zarr.")


def _matrix(stored: Any, lazy: bool) -> Any:
    if lazy:
        n_genes = stored.attrs["shape"][1] if "shape" in stored.attrs else stored.shape[1]
        return read_elem_lazy(stored, chunks=(_ROWS_IN_A_CHUNK, int(n_genes)))
    is_dense = isinstance(stored, h5py.Dataset | zarr.Array)
    return stored if is_dense else sparse_dataset(stored)
