"""Weights that stay what they are while others are trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

__all__ = ["HoldWeights"]


class HoldWeights(Callback):
    """Holds parameters, or some of their entries, bit by bit.

    A gradient of zero is not enough: weight decay moves a parameter without one. So held parameters
    have no gradient at all, and held entries of others are put back after each step. Neither kind
    counts in the norm that gradients are clipped by.

    Parameters
    ----------
    held
        By parameter, where it is held: a mask of its shape, or ``None`` for all of it.
    resting
        Modules that are in ``eval`` mode while training goes on, so that the statistics of
        normalisation layers stay too and nothing is dropped.
    """

    def __init__(
        self, held: Mapping[nn.Parameter, Tensor | None], resting: Iterable[nn.Module] = ()
    ) -> None:
        self.whole = [parameter for parameter, mask in held.items() if mask is None]
        self.partly = {p: mask for p, mask in held.items() if mask is not None}
        self.resting = list(resting)
        self._values: dict[nn.Parameter, Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, plan: pl.LightningModule) -> None:
        self.partly = {p: mask.to(p.device) for p, mask in self.partly.items()}
        self._values = {p: p.detach().clone() for p in self.partly}

    def on_train_batch_start(
        self, trainer: pl.Trainer, plan: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        for module in self.resting:
            module.eval()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, plan: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        for parameter in self.whole:
            parameter.grad = None
        for parameter, mask in self.partly.items():
            if parameter.grad is not None:
                parameter.grad.masked_fill_(mask, 0.0)

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        for parameter, mask in self.partly.items():
            parameter.copy_(torch.where(mask, self._values[parameter], parameter))
