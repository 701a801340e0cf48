"""Cells of registered data as minibatches, as frames of conditions and as latents."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi import settings
from scvi.data import AnnDataManager
from scvi.dataloaders import DataSplitter
from torch import Tensor

from scldm.train import CellsOnDisk, DiskDataModule, Latents

from ._keys import KEYS
from ._moments import count_moments
from ._storage import is_on_disk, read_rows

__all__ = ["LoadingMixin"]

_MOST_IN_MEMORY = 2**32
"""Bytes of latents that are kept in memory; larger ones are mapped from a file."""


class LoadingMixin:
    """How the stages come by their data."""

    def _make_data_loader(
        self,
        adata: AnnData,
        indices: Any = None,
        batch_size: int | None = None,
        shuffle: bool = False,
        data_loader_class: Any = None,
        **data_loader_kwargs: Any,
    ) -> Any:
        manager = self.get_anndata_manager(adata, required=True)
        cells = _cells_on_disk(manager)
        if cells is None or shuffle or data_loader_class is not None:
            return super()._make_data_loader(  # type: ignore[misc]
                adata, indices, batch_size, shuffle, data_loader_class, **data_loader_kwargs
            )
        rows = np.arange(len(cells)) if indices is None else np.asarray(indices)
        if rows.dtype == bool:
            rows = np.flatnonzero(rows)
        return cells.in_order(rows, batch_size or settings.batch_size)

    def _cells_to_train_on(
        self, batch_size: int, *, distributed: bool = False, **split: float | None
    ) -> Any:
        """Return the data of stage 1, from memory or from disk, each process's own if ``distributed``."""
        splitter = DataSplitter(
            self.adata_manager,
            batch_size=batch_size,
            distributed_sampler=distributed,
            **split,
        )
        train, val, test = _drawn_split(splitter)
        cells = _cells_on_disk(self.adata_manager)
        if cells is not None:
            return DiskDataModule(
                cells, train, val, test, batch_size, num_workers=settings.dl_num_workers
            )
        # Lightning sets it up again; the split must not be drawn anew
        splitter.external_indexing = [train, val, test]
        splitter.setup()
        return splitter

    def _split_of(self, adata: AnnData) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return training, validation and test cells: those of stage 1, or new ones."""
        none = np.arange(0)
        known = [self.train_indices, self.validation_indices, self.test_indices]
        split = [none if part is None else np.asarray(part) for part in known]
        if sum(map(len, split)) == adata.n_obs:
            return split[0], split[1], split[2]
        # stage 1 was trained on other data
        return _drawn_split(DataSplitter(self.adata_manager))

    def _start_autoencoder(self, indices: np.ndarray) -> None:
        """Start the decoder at the moments of the counts of training cells."""
        manager = self.adata_manager
        sizes = None
        if KEYS.LIBRARY_SIZE in manager.data_registry:
            sizes = np.asarray(manager.get_from_registry(KEYS.LIBRARY_SIZE), float).ravel()
        counts = manager.get_from_registry(KEYS.COUNTS)
        self.module.autoencoder.start_from_moments(*count_moments(counts, indices, sizes))

    @torch.inference_mode()
    def _encode(
        self, adata: AnnData, indices: np.ndarray | None = None, batch_size: int = 1024
    ) -> Latents:
        """Encode every cell once, or those at ``indices``."""
        self.module.eval()
        autoencoder = self.module.autoencoder
        frame = self._read_conditions(adata)
        frame = frame if indices is None else frame.iloc[indices]
        loader = self._make_data_loader(adata, indices=indices, batch_size=batch_size)
        moments: list[Tensor] = []
        first = 0
        for minibatch in loader:
            parts = autoencoder.encode(minibatch)
            moments = moments or [_room_for(len(frame), part) for part in parts]
            last = first + len(parts[0])
            for whole, part in zip(moments, parts, strict=True):
                whole[first:last] = part.cpu()
            first = last
        conditions = {c.name: torch.from_numpy(c.encode(frame)) for c in self.conditions}
        mean, variance, log_library = moments
        return Latents(mean, variance, log_library, conditions)

    def _read_conditions(self, adata: AnnData) -> pd.DataFrame:
        """Return the frame of conditions of registered data.

        Raises
        ------
        ValueError
            If ``adata.obs`` no longer says what was registered.
        """
        frame = adata.obs[[]].reset_index(drop=True)
        manager = self.get_anndata_manager(adata, required=True)
        for condition in self.conditions:
            frame = frame.join(condition.read(adata))
            key = {"batch": KEYS.BATCH, "cell_type": KEYS.CELL_TYPE}.get(condition.name)
            registered = None if key is None else manager.get_from_registry(key).ravel()
            if key and (frame[condition.name].cat.codes != registered).any():
                raise ValueError(
                    f"The {condition.name.replace('_', ' ')} in `adata.obs` is not the one that "
                    "was registered. Call `setup_anndata` again after changing it."
                )
        return frame


def _cells_on_disk(manager: AnnDataManager) -> CellsOnDisk | None:
    """Return registered cells whose counts are on disk, or ``None`` where they are in memory."""
    if KEYS.COUNTS not in manager.data_registry:
        return None
    counts = manager.get_from_registry(KEYS.COUNTS)
    if not is_on_disk(counts):
        return None
    n_cells = manager.adata.n_obs
    others = [name for name in manager.data_registry if name != KEYS.COUNTS]
    fields = manager.create_torch_dataset(data_and_attributes=others)[np.arange(n_cells)]
    return CellsOnDisk(lambda rows: read_rows(counts, rows), fields, n_cells, KEYS.COUNTS)


def _drawn_split(splitter: DataSplitter) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return training, validation and test cells."""
    splitter.setup()
    split = splitter.train_idx, splitter.val_idx, splitter.test_idx
    if settings.seed is None:
        # scvi-tools draws them from the system, which a training that is taken up could not repeat
        order = np.random.permutation(sum(map(len, split)))
        train, val, test = np.split(order, np.cumsum([len(part) for part in split[:2]]))
        return train, val, test
    return split


def _room_for(n_cells: int, part: Tensor) -> Tensor:
    """Return a tensor for the parts of all cells, mapped from a file where it is large."""
    shape = (n_cells, *part.shape[1:])
    if np.prod(shape) * part.element_size() <= _MOST_IN_MEMORY:
        return torch.empty(shape, dtype=part.dtype)
    with tempfile.TemporaryFile() as file:
        # the mapping keeps the file's contents for as long as it lives
        return torch.from_numpy(np.memmap(file, part.cpu().numpy().dtype, "w+", shape=shape))
