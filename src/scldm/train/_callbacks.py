"""Callbacks of both stages."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from scvi.train._progress import ProgressBar
from torch import Tensor

__all__ = ["RestoreBest", "StageProgressBar"]


class RestoreBest(Callback):
    """Keeps the weights of the epoch with the lowest monitored loss and puts them back at the end.

    Parameters
    ----------
    monitor
        Name of a logged metric that is better when lower. Where it is never logged, for want of
        validation cells, the last weights stay.
    """

    def __init__(self, monitor: str) -> None:
        self.monitor = monitor
        self.best = float("inf")
        self.best_epoch: int | None = None
        self._weights: dict[str, Tensor] = {}

    def on_validation_epoch_end(self, trainer: pl.Trainer, plan: pl.LightningModule) -> None:
        value = trainer.callback_metrics.get(self.monitor)
        if value is not None and float(value) < self.best:
            self.best = float(value)
            self.best_epoch = trainer.current_epoch
            self._weights = {
                name: tensor.detach().cpu().clone() for name, tensor in plan.state_dict().items()
            }

    def on_train_end(self, trainer: pl.Trainer, plan: pl.LightningModule) -> None:
        if self._weights:
            plan.load_state_dict(self._weights)
            self._weights = {}


class StageProgressBar(ProgressBar):
    """scvi-tools' progress bar, saying which stage is running.

    Parameters
    ----------
    stage
        The words before the count of epochs.
    """

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.stage = stage

    def on_train_epoch_start(self, trainer: pl.Trainer, plan: pl.LightningModule) -> Any:
        super().on_train_epoch_start(trainer, plan)
        epoch = trainer.current_epoch + 1
        self.main_progress_bar.set_description(f"{self.stage}: epoch {epoch}/{trainer.max_epochs}")
