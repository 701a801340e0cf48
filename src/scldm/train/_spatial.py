"""Cells with what lies around them, as the data of the spatial stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._latents import LatentDataset, Latents, StepsDataModule

__all__ = ["ContextDataModule"]


class _CellsInContext(LatentDataset):
    """Hands out minibatches of cells, each with one of its neighbourhoods at random."""

    def __init__(
        self,
        latents: Latents,
        cells: np.ndarray,
        neighbours: np.ndarray,
        encode: Callable[[np.ndarray, np.ndarray], Tensor],
        name: str,
    ) -> None:
        super().__init__(latents, cells)
        self.neighbours = neighbours
        self.encode = encode
        self.name = name

    def __getitems__(self, indices: list[int]) -> dict[str, Any]:
        draw = torch.randint(len(self.neighbours), (len(indices),)).numpy()
        around = self.encode(self.rows[indices], self.neighbours[draw, indices])
        minibatch = super().__getitems__(indices)
        minibatch["conditions"] = {**minibatch["conditions"], self.name: around}  # type: ignore[dict-item]
        return minibatch


class ContextDataModule(StepsDataModule):
    """Loaders over cells and neighbourhoods that were drawn beforehand.

    Parameters
    ----------
    latents
        All cells, with their other conditions.
    train_idx, val_idx
        Cells to train on and to validate on.
    neighbours
        Some neighbourhoods of each training cell, ``(n_draws, n_train, k)``, and one of each
        validation cell, ``(1, n_val, k)``: places of cells, -1 where there is none.
    encode
        Takes places of cells, ``(n,)``, and of their neighbours, ``(n, k)``, and returns what the
        network sees of the neighbours.
    name
        Of the condition that the neighbourhood is.
    batch_size, steps_per_epoch
        As in :class:`StepsDataModule`.
    """

    def __init__(
        self,
        latents: Latents,
        train_idx: np.ndarray,
        val_idx: np.ndarray,
        neighbours: tuple[np.ndarray, np.ndarray],
        encode: Callable[[np.ndarray, np.ndarray], Tensor],
        name: str,
        batch_size: int,
        steps_per_epoch: int,
    ) -> None:
        train, val = (
            _CellsInContext(latents, cells, around, encode, name)
            for cells, around in zip((train_idx, val_idx), neighbours, strict=True)
        )
        none = np.arange(0)
        super().__init__(train, val, train_idx, val_idx, none, batch_size, steps_per_epoch)
