"""Callbacks of both stages."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from scvi.train._progress import ProgressBar
from torch import Tensor

__all__ = ["FiniteLoss", "OwnStreams", "RestoreBest", "StageProgressBar"]


class FiniteLoss(Callback):
    """Stops training before a loss that is not finite spoils any weight.

    Parameters
    ----------
    stage
        What is being trained, for the message.
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self._minibatch = 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, plan: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._minibatch = batch_idx

    def on_before_backward(
        self, trainer: pl.Trainer, plan: pl.LightningModule, loss: Tensor
    ) -> None:
        """Look at a loss.

        Raises
        ------
        FloatingPointError
            If it is not finite.
        """
        if bool(loss.detach().isfinite().all()):
            return
        rate = getattr(plan, "lr", None)
        advice = "" if rate is None else f", now {rate:g} (`plan_kwargs={{'lr': ...}}`)"
        raise FloatingPointError(
            f"{self.stage}: the loss became {float(loss.detach().mean()):g} at step {trainer.global_step} "
            f"(epoch {trainer.current_epoch}, minibatch {self._minibatch}). Weights are as they were before "
            f"it. Take a lower learning rate{advice}, full precision, or look for cells of extreme counts."
        )


class OwnStreams(Callback):
    """Gives each process of a distributed stage a random stream of its own, and the common one back after it.

    Processes that were seeded alike would draw the same noise, and a minibatch would have as many draws
    fewer as there are processes.
    """

    def on_fit_start(self, trainer: pl.Trainer, plan: pl.LightningModule) -> None:
        seed = int(torch.randint(2**31, ()))
        self._common = torch.get_rng_state()
        torch.manual_seed(seed + trainer.global_rank)

    def on_fit_end(self, trainer: pl.Trainer, plan: pl.LightningModule) -> None:
        torch.set_rng_state(self._common)


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

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_epoch": self.best_epoch, "weights": self._weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.best_epoch = state_dict["best"], state_dict["best_epoch"]
        self._weights = state_dict["weights"]

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
