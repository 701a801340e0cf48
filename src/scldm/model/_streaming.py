"""Cells written to disk as they are made.

Parts of the cells go to a folder beside the file, each whole or absent. When all are there they are joined
into the file, which is renamed at the end. So a process that is killed loses the part it was at, and the same
call goes on where it stopped.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pandas as pd
import torch
import zarr
from anndata import AnnData
from anndata.io import sparse_dataset, write_elem
from scipy import sparse

from ._choices import place
from ._fields import shortened

__all__ = ["Part", "PartStore", "checked_out", "checked_shard", "fingerprint"]

_FORMATS = (".h5ad", ".zarr")
_ORDER = "order.json"
_MOST_IN_32_BITS = 2**31 - 1


class Part(NamedTuple):
    """Some cells: ``counts`` ``(n, n_genes)``, ``latents`` and ``library_sizes``."""

    counts: sparse.csr_matrix
    latents: np.ndarray
    library_sizes: np.ndarray


def checked_out(out: str | os.PathLike) -> Path:
    """Return the path of a file that can be made.

    Raises
    ------
    TypeError
        If it is neither text nor a path.
    ValueError
        If its ending is not one of those that can be written.
    FileExistsError
        If it is there already.
    FileNotFoundError
        If its folder is not.
    PermissionError
        If nothing can be written there.
    """
    path = place("out", out).resolve()
    if path.suffix not in _FORMATS:
        raise ValueError(f"`out={str(out)!r}` must end in {' or '.join(_FORMATS)}.")
    if path.exists():
        raise FileExistsError(f"`out={str(out)!r}` exists; remove it or choose another name.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"`out={str(out)!r}`: there is no folder {str(path.parent)!r}.")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(
            f"`out={str(out)!r}`: nothing can be written to {str(path.parent)!r}."
        )
    return path


def checked_shard(shard: tuple[int, int] | None) -> tuple[int, int]:
    """Return which of how many processes this is, the only one by default.

    Raises
    ------
    ValueError
        If it is not two whole numbers, the first below the second.
    """
    if shard is None:
        return 0, 1
    try:
        index, n = (int(i) for i in shard)
        fine = (index, n) == tuple(shard) and 0 <= index < n
    except (TypeError, ValueError):
        fine = False
    if not fine:
        raise ValueError(
            f"`shard={shard!r}` must be this process's number, from 0, and the number of processes."
        )
    return index, n


def fingerprint(module: torch.nn.Module, frame: pd.DataFrame, record: Mapping[str, Any]) -> str:
    """Return what tells an order of cells from any other: weights, conditions and settings."""
    digest = hashlib.sha256(json.dumps(record, default=str, sort_keys=True).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    digest.update(str(len(frame)).encode())
    for name in frame:
        digest.update(pd.util.hash_pandas_object(frame[name], index=False).to_numpy().tobytes())
    return digest.hexdigest()


class PartStore:
    """The parts of a file that is being made.

    Parameters
    ----------
    out
        The file.
    order
        What was asked for, see :func:`fingerprint`.
    n_parts
        Number of parts.
    seed
        That of the order, for those who ask again without one.

    Raises
    ------
    ValueError
        If parts of another order are there.
    """

    def __init__(self, out: Path, order: str, n_parts: int, seed: int) -> None:
        self.out = out
        self.n_parts = n_parts
        self.folder = _folder_of(out)
        self.folder.mkdir(exist_ok=True)
        known = self.folder / _ORDER
        if known.exists() and json.loads(known.read_text())["order"] != order:
            raise ValueError(
                f"`out`: {str(self.folder)!r} has parts of another order. Ask for that again to finish it, "
                "or remove the folder."
            )
        _whole(known, lambda path: path.write_text(json.dumps({"order": order, "seed": seed})))

    @staticmethod
    def seed_of(out: Path) -> int | None:
        """Return the seed of the parts that are there of a file, if any."""
        known = _folder_of(out) / _ORDER
        return json.loads(known.read_text())["seed"] if known.exists() else None

    def _path(self, i: int) -> Path:
        return self.folder / f"{i:06d}.npz"

    def missing(self, shard: tuple[int, int] = (0, 1)) -> list[int]:
        """Return the parts that are yet to be made, of all or of those of one process."""
        index, n = shard
        return [i for i in range(index, self.n_parts, n) if not self._path(i).exists()]

    def put(self, i: int, part: Part) -> None:
        """Keep a part."""
        counts = part.counts
        arrays = {
            "data": counts.data,
            "indices": counts.indices,
            "indptr": counts.indptr,
            "shape": np.array(counts.shape),
            "latents": part.latents,
            "library_sizes": part.library_sizes,
        }

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, **arrays)

        _whole(self._path(i), write)

    def parts(self) -> Iterator[Part]:
        """Yield all parts in their order."""
        for i in range(self.n_parts):
            with np.load(self._path(i)) as arrays:
                csr = arrays["data"], arrays["indices"], arrays["indptr"]
                counts = sparse.csr_matrix(csr, shape=tuple(arrays["shape"]))
                yield Part(counts, arrays["latents"], arrays["library_sizes"])

    def join(self, head: AnnData, library_size_key: str | None) -> Path:
        """Make the file of all parts, and remove them.

        Parameters
        ----------
        head
            All of the cells but counts and latents.
        library_size_key
            The column for library sizes, if there is one.

        Raises
        ------
        OSError
            If it cannot be written; the parts are kept.
        """
        draft = self.folder / f"joined{self.out.suffix}"
        try:
            self._join_in(draft, head, library_size_key)
            # on the same file system, so that the file is whole or absent
            os.replace(draft, self.out)
        # HDF5 calls some failures to write the one, some the other
        except (OSError, RuntimeError) as error:
            raise OSError(
                getattr(error, "errno", None) or errno.EIO,
                f"`out={str(self.out)!r}` could not be written ({getattr(error, 'strerror', None) or error}). "
                f"Its parts are kept in {str(self.folder)!r}: make room and ask again to go on",
            ) from error
        finally:
            _remove(draft)
        shutil.rmtree(self.folder)
        return self.out

    def _join_in(self, draft: Path, head: AnnData, library_size_key: str | None) -> None:
        """Write all parts to one file."""
        _remove(draft)
        if library_size_key is not None:
            head.obs[library_size_key] = np.concatenate([p.library_sizes for p in self.parts()])
        if self.out.suffix == ".zarr":
            head.write_zarr(draft)
            # what is consolidated cannot be changed, so it is done anew at the end
            self._fill(zarr.open_group(draft, mode="r+", use_consolidated=False))
            zarr.consolidate_metadata(draft)
        else:
            head.write_h5ad(draft)
            with h5py.File(draft, "r+") as file:
                self._fill(file)

    def _fill(self, file: Any) -> None:
        del file["X"]
        kind = self._kind_of_index()
        for i, part in enumerate(self.parts()):
            if i == 0:
                part.counts.indptr = part.counts.indptr.astype(kind)
                part.counts.indices = part.counts.indices.astype(kind)
                write_elem(file, "X", part.counts)
                # arrays of zarr can grow anyway
                grows = {"maxshape": (None, part.latents.shape[1])} if _is_h5(file) else {}
                write_elem(file["obsm"], "X_scldm", part.latents, dataset_kwargs=grows)
                continue
            sparse_dataset(file["X"]).append(part.counts)
            latents = file["obsm"]["X_scldm"]
            start = latents.shape[0]
            latents.resize((start + len(part.latents), latents.shape[1]))
            latents[start:] = part.latents

    def _kind_of_index(self) -> type[np.signedinteger]:
        """Return the type of numbers that can count all entries; scipy wants one for all indices."""
        n_entries = 0
        for i in range(self.n_parts):
            with np.load(self._path(i)) as arrays:
                n_entries += int(arrays["indptr"][-1])
        return np.int32 if n_entries <= _MOST_IN_32_BITS else np.int64


def _folder_of(out: Path) -> Path:
    return out.with_name(f".{out.name}.parts")


def _is_h5(file: Any) -> bool:
    return isinstance(file, h5py.Group)


def _whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file beside its place and move it there, so that it is whole or absent."""
    # processes that share the folder must not share the draft
    draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
    try:
        write(draft)
        os.replace(draft, path)
    except OSError as error:
        raise OSError(
            f"Nothing could be written to {str(path.parent)!r} ({error.strerror or error}). What is there is "
            f"kept: {shortened(sorted(p.name for p in path.parent.glob('*.npz')), 3)}; make room and ask again "
            "to go on."
        ) from error
    finally:
        draft.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
