"""Latents in memory, as the data of stage 2.

Stage 2 needs each cell's posterior and conditions, not its counts. They are computed once and
served by slicing tensors, so a pass over the data costs next to nothing beside the network.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

__all__ = ["LatentDataModule", "LatentDataset", "Latents", "StepsDataModule"]


@dataclass
class Latents:
    """What stage 2 knows of the cells.

    Parameters
    ----------
    mean, variance
        Moments of the posteriors, ``(n, n_latent)``.
    log_library
        Log library sizes, ``(n, 1)``.
    conditions
        Encoded conditions, each ``(n, width)``.
    """

    mean: Tensor
    variance: Tensor
    log_library: Tensor
    conditions: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.mean)

    def __getitem__(self, indices: Sequence[int] | np.ndarray) -> Latents:
        rows = torch.as_tensor(indices)
        return Latents(
            self.mean[rows],
            self.variance[rows],
            self.log_library[rows],
            {name: value[rows] for name, value in self.conditions.items()},
        )


class LatentDataset(Dataset):
    """Hands out whole minibatches, which a loader otherwise collects cell by cell.

    Parameters
    ----------
    latents
        All cells. They are not copied, as they may be mapped from a file.
    rows
        Which of them to hand out.
    """

    def __init__(self, latents: Latents, rows: np.ndarray) -> None:
        self.latents = latents
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor | dict[str, Tensor]]:
        return vars(self.latents[self.rows[indices]])


def _as_is(minibatch):
    return minibatch


class StepsDataModule(pl.LightningDataModule):
    """Loaders over data sets that hand out whole minibatches.

    An epoch is a fixed number of optimiser steps, not a pass over the cells: small data would
    spend its time between epochs.

    Parameters
    ----------
    train, val
        Cells to train on and to validate on, in the order of their indices.
    train_idx, val_idx, test_idx
        Which of them train, which validate, and which are left out; all but the first may be
        empty.
    batch_size
        Cells in a training minibatch, at most the number of training cells.
    steps_per_epoch
        Optimiser steps in an epoch.
    """

    validation_batch_size = 4096

    def __init__(
        self,
        train: Dataset,
        val: Dataset,
        train_idx: np.ndarray,
        val_idx: np.ndarray,
        test_idx: np.ndarray,
        batch_size: int,
        steps_per_epoch: int,
    ) -> None:
        super().__init__()
        self.train_idx = train_idx
        self.val_idx = val_idx
        self.test_idx = test_idx
        self.n_train = len(train_idx)
        self.n_val = len(val_idx)
        self.batch_size = min(batch_size, len(train_idx))
        self.steps_per_epoch = steps_per_epoch
        self._train = train
        self._val = val

    def train_dataloader(self) -> DataLoader:
        # a data set of torch need not have a length, but these have
        cells = cast(Sized, self._train)
        sampler = RandomSampler(cells, num_samples=self.steps_per_epoch * self.batch_size)
        return DataLoader(self._train, self.batch_size, sampler=sampler, collate_fn=_as_is)

    def val_dataloader(self) -> DataLoader | list:
        if not self.n_val:
            return []
        return DataLoader(self._val, self.validation_batch_size, collate_fn=_as_is)


class LatentDataModule(StepsDataModule):
    """Loaders over latents.

    Parameters
    ----------
    latents
        All cells.
    train_idx, val_idx, *args
        As in :class:`StepsDataModule`.
    """

    def __init__(
        self, latents: Latents, train_idx: np.ndarray, val_idx: np.ndarray, *args: Any
    ) -> None:
        train, val = LatentDataset(latents, train_idx), LatentDataset(latents, val_idx)
        super().__init__(train, val, train_idx, val_idx, *args)
