"""Training on pairs of cells of two populations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from scldm.diffusion import Coupling
from scldm.module import TransitionDiffusion

from ._latents import Latents, StepsDataModule
from ._plans import warm_up_and_cosine

__all__ = ["CellGroup", "GroupDataModule", "PairDataModule", "TransitionPlan"]


@dataclass
class CellGroup:
    """Target cells, and source cells to compare them with.

    Parameters
    ----------
    target, source
        Places of the cells.
    shift
        Their mean change, ``(n_latent + 1,)``.
    """

    target: np.ndarray
    source: np.ndarray
    shift: np.ndarray


class _Groups(Dataset):
    """Draws cells of some groups, as many target as source cells."""

    def __init__(
        self,
        latents: Latents,
        groups: Sequence[CellGroup],
        n_pairs: int,
        conditions: Sequence[str],
    ) -> None:
        self.latents = latents
        self.groups = groups
        self.n_pairs = n_pairs
        self.conditions = conditions

    def __len__(self) -> int:
        return len(self.groups)

    def __getitems__(self, indices: list[int]) -> dict[str, Any]:
        chosen = [self.groups[i] for i in indices]
        n = self.n_pairs

        def drawn(kind: str) -> Latents:
            cells = [getattr(group, kind) for group in chosen]
            rows = [c[torch.randint(len(c), (n,)).numpy()] for c in cells]
            return self.latents[np.concatenate(rows)]

        shifts = np.stack([group.shift for group in chosen]).astype(np.float32)
        target = drawn("target")
        return {
            "target": vars(target),
            "source": vars(drawn("source")),
            "shift": torch.from_numpy(shifts).repeat_interleave(n, 0),
            # pairs are exchanged within groups only, where shift and conditions are the same
            "group": {
                "group": torch.arange(len(chosen)).repeat_interleave(n).unsqueeze(1).float()
            },
            "conditions": {name: target.conditions[name] for name in self.conditions},
        }


class GroupDataModule(StepsDataModule):
    """Loaders over groups of cells; a minibatch has a few groups and many cells of each.

    Every group comes up as often as any other, so that a rare context counts as much as a common
    one.

    Parameters
    ----------
    latents
        All cells.
    groups
        The groups.
    conditions
        Names of the conditions of target cells that the way to them depends on.
    n_groups, n_pairs
        Groups in a minibatch, and pairs of cells of each.
    steps_per_epoch
        Optimiser steps in an epoch.
    """

    def __init__(
        self,
        latents: Latents,
        groups: Sequence[CellGroup],
        conditions: Sequence[str],
        n_groups: int,
        n_pairs: int,
        steps_per_epoch: int,
    ) -> None:
        cells = _Groups(latents, groups, n_pairs, conditions)
        places, none = np.arange(len(groups)), np.arange(0)
        super().__init__(cells, cells, places, none, none, n_groups, steps_per_epoch)


class _Pairs(Dataset):
    """Hands out minibatches of pairs of cells."""

    def __init__(
        self, latents: Latents, pairs: np.ndarray, conditions: Mapping[str, Tensor]
    ) -> None:
        self.latents = latents
        self.pairs = pairs
        self.conditions = conditions

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitems__(self, indices: list[int]) -> dict[str, Any]:
        source, target = (self.latents[self.pairs[indices, side]] for side in (0, 1))
        return {
            "target": vars(target),
            "source": vars(source),
            "shift": torch.zeros(len(indices), target.mean.shape[1] + 1),
            "group": {},
            "conditions": {name: value[indices] for name, value in self.conditions.items()},
        }


class PairDataModule(StepsDataModule):
    """Loaders over pairs of cells that are chosen beforehand.

    Parameters
    ----------
    latents
        All cells.
    pairs
        Places of source and target cells, ``(n_pairs, 2)``.
    conditions
        What the way of each pair depends on, encoded, ``(n_pairs, k)`` each.
    batch_size
        Pairs in a minibatch.
    steps_per_epoch
        Optimiser steps in an epoch.
    """

    def __init__(
        self,
        latents: Latents,
        pairs: np.ndarray,
        conditions: Mapping[str, Tensor],
        batch_size: int,
        steps_per_epoch: int,
    ) -> None:
        data = _Pairs(latents, pairs, conditions)
        places, none = np.arange(len(pairs)), np.arange(0)
        super().__init__(data, data, places, none, none, batch_size, steps_per_epoch)


class TransitionPlan(pl.LightningModule):
    """Trains both ways to target cells at once.

    Cells are drawn from their posteriors anew at each step.

    Parameters
    ----------
    model
        The two models, their standardisation already fitted.
    coupling
        Which source cell goes with which target cell of a minibatch; ``None`` where they come in
        pairs.
    name
        Of the stage, for the names of its losses.
    lr
        Peak learning rate; it warms up over the first twentieth and falls to nearly zero.
    weight_decay
        Of AdamW.
    """

    def __init__(
        self,
        model: TransitionDiffusion,
        coupling: Coupling | None = None,
        *,
        name: str = "transition",
        lr: float = 1e-3,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__()
        self.model = model
        self.coupling = coupling
        self.stage_name = name
        self.lr = lr
        self.weight_decay = weight_decay

    def _draw(self, latents: dict[str, Tensor]) -> Tensor:
        mean, variance = latents["mean"], latents["variance"]
        z = mean + variance.sqrt() * torch.randn_like(mean)
        return self.model.flow.standardise(z, latents["log_library"])

    def training_step(self, minibatch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the mean loss of a minibatch."""
        target, source = (self._draw(minibatch[kind]) for kind in ("target", "source"))
        shift = minibatch["shift"] / self.model.flow.scale
        if self.coupling is not None:
            source = self.coupling.pair(target, source + shift, minibatch["group"]) - shift
        flow, conditional = self.model.loss(target, source, shift, minibatch["conditions"])
        for name, loss in (("", flow), ("_conditional", conditional)):
            self.log(
                f"{self.stage_name}{name}_loss_train",
                loss.mean(),
                on_step=False,
                on_epoch=True,
                prog_bar=not name,
                batch_size=len(target),
                sync_dist=self.trainer.world_size > 1,
            )
        return flow.mean() + conditional.mean()

    def on_train_batch_end(self, *args: Any) -> None:
        """Update the averaged weights."""
        self.model.update_average()

    def configure_optimizers(self) -> Any:
        """Return AdamW with its schedule over all steps."""
        trained = [
            *self.model.flow.trained.parameters(),
            *self.model.conditional.trained.parameters(),
        ]
        optimizer = torch.optim.AdamW(trained, lr=self.lr, weight_decay=self.weight_decay)
        return warm_up_and_cosine(self, optimizer, warm_up=0.05)
