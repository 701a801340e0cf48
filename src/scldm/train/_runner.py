"""Runs one stage of training."""

from __future__ import annotations

import pandas as pd
from scvi.train import TrainRunner

__all__ = ["StageRunner"]


class StageRunner(TrainRunner):
    """scvi-tools' runner, keeping the histories of several stages side by side."""

    def _update_history(self) -> None:
        # of several processes the first keeps it
        first = self.trainer.is_global_zero
        recorded = (getattr(self.trainer.logger, "history", None) or {}) if first else {}
        history = dict(self.model.history_ or {})
        for name, new in recorded.items():
            if name in history:
                # the same stage trained further: its epochs are counted on
                old = history[name]
                new = pd.concat([old, new.set_axis(new.index + old.index.max() + 1)])
                new.index.name = old.index.name
            history[name] = new
        self.model.history_ = history
