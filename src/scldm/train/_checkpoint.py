"""What training needs to go on after it was killed."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback
from scvi.train._logger import SimpleLogger

__all__ = ["EpochCheckpoint", "random_state", "set_random_state"]


def random_state() -> dict[str, Any]:
    """Return the states of the global random streams, as plain data and tensors."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys, np.int64)), *rest],
        "python": [version, list(internal), gauss],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put the global random streams where they were.

    Parameters
    ----------
    state
        What :func:`random_state` returned.
    """
    torch.set_rng_state(state["torch"])
    # on a machine with other devices their streams cannot be continued
    if len(state["cuda"]) == torch.cuda.device_count() > 0:
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.asarray(keys, np.uint32), *rest))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


class EpochCheckpoint(Callback):
    """Writes what a stage needs to go on, at the end of an epoch.

    Beside what Lightning keeps, weights, optimiser, rates and the states of callbacks, these are the
    global random streams and the history, so that a stage that goes on ends where it would have ended.
    The last epoch is not written: what comes after it is done again in no time.

    Parameters
    ----------
    path
        The file, which is replaced when a new one is whole.
    interval
        Seconds from one writing to the next.
    """

    def __init__(self, path: Path, interval: float) -> None:
        self.path = path
        self.interval = interval
        self._written = time.monotonic()
        self._before: dict[str, Any] | None = None
        self._now: dict[str, Any] = {}

    def on_save_checkpoint(
        self, trainer: pl.Trainer, plan: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # for Lightning an epoch ends after this hook, and one that has not ended is counted twice
        epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]
        for counts in epochs.values():
            counts["completed"] = counts["processed"]

    def on_train_start(self, trainer: pl.Trainer, plan: pl.LightningModule) -> None:
        if self._before is not None:
            # where steps are limited, Lightning takes every epoch for one that broke off
            trainer.fit_loop.epoch_loop.restarting = False

    def on_train_epoch_start(self, trainer: pl.Trainer, plan: pl.LightningModule) -> None:
        if self._before is not None and trainer.current_epoch == self._before["epoch"] + 1:
            set_random_state(self._before["random"])
            # an epoch begins with a draw by its loader, which in this one was made too early
            torch.empty((), dtype=torch.int64).random_()

    def on_train_epoch_end(self, trainer: pl.Trainer, plan: pl.LightningModule) -> None:
        if _is_last(trainer) or time.monotonic() - self._written < self.interval:
            return
        losses = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self._now = {
            "random": random_state(),
            "history": self._whole_history(trainer),
            "epoch": trainer.current_epoch,
            # the losses of this epoch go to the history only after this call
            "losses": {**self._earlier_losses(), trainer.current_epoch: losses},
        }
        partial = self.path.with_name(f"{self.path.name}.partial")
        trainer.save_checkpoint(partial, weights_only=False)
        if trainer.is_global_zero:
            os.replace(partial, self.path)
        self._written = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return self._now

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._before = state_dict

    def on_train_end(self, trainer: pl.Trainer, plan: pl.LightningModule) -> None:
        if self._before is not None:
            history = _history(trainer)
            for name, rows in self._whole_history(trainer).items():
                frame = pd.DataFrame({name: rows.values()}, index=pd.Index(rows))
                history[name] = frame.rename_axis(index="epoch")

    def _earlier_losses(self) -> dict[int, dict[str, float]]:
        """Return the losses of the last epochs of earlier processes."""
        return {} if self._before is None else self._before["losses"]

    def _whole_history(self, trainer: pl.Trainer) -> dict[str, dict[int, float]]:
        """Return what was logged at each epoch, by this process and those before it."""
        own = {
            name: dict(zip(map(int, frame.index), map(float, frame[name]), strict=True))
            for name, frame in _history(trainer).items()
        }
        if self._before is None:
            return own
        before = self._before["history"]
        whole = {name: {**before.get(name, {}), **own.get(name, {})} for name in {**before, **own}}
        for epoch, losses in self._earlier_losses().items():
            for name in losses.keys() & whole.keys():
                whole[name].setdefault(epoch, losses[name])
        return {name: dict(sorted(rows.items())) for name, rows in whole.items()}


def _is_last(trainer: pl.Trainer) -> bool:
    epochs = trainer.max_epochs is not None and 0 < trainer.max_epochs <= trainer.current_epoch + 1
    steps = 0 < trainer.max_steps <= trainer.global_step
    return epochs or steps or trainer.should_stop


def _history(trainer: pl.Trainer) -> dict[str, pd.DataFrame]:
    """Return what scvi-tools' logger keeps; other loggers keep their own files."""
    logger = trainer.logger
    return logger.history if isinstance(logger, SimpleLogger) and trainer.is_global_zero else {}
