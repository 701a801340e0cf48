"""Cells on disk, as the data of stage 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from scdataset import BlockShuffling, scDataset
from scipy import sparse
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

__all__ = ["CellsOnDisk", "DiskDataModule"]

_BLOCK_SIZE = 64
_FETCHED_BATCHES = 64


class CellsOnDisk(Dataset):
    """Cells whose counts are read as they are needed and whose other fields are in memory.

    Parameters
    ----------
    read
        Takes numbers of cells and returns their counts, a CSR matrix or an array.
    fields
        What else is known of all cells, by name, ``(n_cells, ...)`` each.
    counts
        Name that the counts go by in a minibatch.
    """

    def __init__(
        self,
        read: Callable[[np.ndarray], Any],
        fields: Mapping[str, np.ndarray],
        n_cells: int,
        counts: str,
    ) -> None:
        self.read = read
        self.fields = dict(fields)
        self.n_cells = n_cells
        self.counts = counts

    def __len__(self) -> int:
        return self.n_cells

    def __getitem__(self, rows: np.ndarray) -> tuple[Any, dict[str, np.ndarray]]:
        """Read many cells at once."""
        return self.read(rows), {name: field[rows] for name, field in self.fields.items()}

    def shuffled(self, rows: np.ndarray, batch_size: int, **kwargs: Any) -> DataLoader:
        """Return a loader of minibatches of some cells, shuffled anew each time.

        Parameters
        ----------
        rows
            Numbers of the cells.
        batch_size
            Cells in a minibatch.
        **kwargs
            For the loader of PyTorch.
        """
        return DataLoader(_Shuffled(self, np.sort(rows), batch_size), batch_size=None, **kwargs)

    def in_order(self, rows: np.ndarray, batch_size: int, **kwargs: Any) -> DataLoader:
        """Return a loader of minibatches of some cells in the order given, as :meth:`shuffled` does."""
        parts = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
        collate: Any = self.minibatch
        return DataLoader(self, sampler=parts, batch_size=None, collate_fn=collate, **kwargs)

    def minibatch(
        self, read: tuple[Any, dict[str, np.ndarray]], rows: np.ndarray | slice = slice(None)
    ) -> dict[str, Tensor]:
        """Return what was read, or some rows of it, as tensors, counts dense."""
        counts, fields = read
        some = counts[rows].toarray() if sparse.issparse(counts) else counts[rows]
        minibatch = {name: torch.from_numpy(field[rows]) for name, field in fields.items()}
        return {self.counts: torch.from_numpy(some.astype(np.float32, copy=False)), **minibatch}


class _Shuffled(IterableDataset):
    """Minibatches in an order that depends on torch's random stream alone."""

    def __init__(self, cells: CellsOnDisk, rows: np.ndarray, batch_size: int) -> None:
        self.cells = cells
        self.rows = rows
        self.batch_size = batch_size

    def __len__(self) -> int:
        return len(self._in_order(0))

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        worker = get_worker_info()
        # all processes of a loader divide one order among them
        seed = int(torch.randint(2**31, ())) if worker is None else worker.seed - worker.id
        yield from self._in_order(seed)

    def _in_order(self, seed: int) -> scDataset:
        return scDataset(
            self.cells,
            BlockShuffling(_BLOCK_SIZE, indices=self.rows),
            self.batch_size,
            fetch_factor=_FETCHED_BATCHES,
            batch_callback=self.cells.minibatch,
            # each process of a distributed training brings cells of its own
            rank=0,
            world_size=1,
            seed=seed,
        )


class DiskDataModule(pl.LightningDataModule):
    """Loaders over cells on disk.

    Cells are read in blocks of neighbours from all over the file, thousands at a time, and shuffled
    among them (d'Ascenzo and Cultrera, scDataset, 2025), so that a file sorted by donor or type still
    gives mixed minibatches.

    Parameters
    ----------
    cells
        All cells.
    train_idx, val_idx, test_idx
        Which of them train, which validate, and which are left out.
    batch_size
        Cells in a minibatch.
    **kwargs
        For the loaders of PyTorch.
    """

    def __init__(
        self,
        cells: CellsOnDisk,
        train_idx: np.ndarray,
        val_idx: np.ndarray,
        test_idx: np.ndarray,
        batch_size: int,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.cells = cells
        self.train_idx = train_idx
        self.val_idx = val_idx
        self.test_idx = test_idx
        self.n_train = len(train_idx)
        self.n_val = len(val_idx)
        self.batch_size = batch_size
        self.loader_kwargs = kwargs

    def train_dataloader(self) -> DataLoader:
        rows = np.sort(self.train_idx)
        if self.trainer is not None:
            # as many for each process, or one would wait for another that has no more
            n = self.trainer.world_size
            rows = rows[self.trainer.global_rank :: n][: len(rows) // n]
        return self.cells.shuffled(rows, self.batch_size, **self.loader_kwargs)

    def val_dataloader(self) -> DataLoader | list:
        if not self.n_val:
            return []
        return self.cells.in_order(np.sort(self.val_idx), self.batch_size, **self.loader_kwargs)
