"""Training on pairs of control and perturbed cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from scldm.diffusion import Coupling, OptimalTransport
from scldm.module import PerturbationDiffusion

from ._latents import Latents, StepsDataModule
from ._plans import warm_up_and_cosine

__all__ = ["CellGroup", "GroupDataModule", "PerturbationPlan"]


@dataclass
class CellGroup:
    """Perturbed cells of one perturbation and context, and control cells to compare them with.

    Parameters
    ----------
    perturbed, control
        Places of the cells.
    shift
        Mean change by the perturbation, ``(n_latent + 1,)``.
    """

    perturbed: np.ndarray
    control: np.ndarray
    shift: np.ndarray


class _Groups(Dataset):
    """Draws cells of some groups, as many perturbed as control ones."""

    def __init__(self, latents: Latents, groups: Sequence[CellGroup], n_pairs: int) -> None:
        self.latents = latents
        self.groups = groups
        self.n_pairs = n_pairs

    def __len__(self) -> int:
        return len(self.groups)

    def __getitems__(self, indices: list[int]) -> dict[str, Any]:
        chosen = [self.groups[i] for i in indices]
        n = self.n_pairs

        def drawn(kind: str) -> np.ndarray:
            cells = [getattr(group, kind) for group in chosen]
            return np.concatenate([c[torch.randint(len(c), (n,)).numpy()] for c in cells])

        shifts = np.stack([group.shift for group in chosen]).astype(np.float32)
        return {
            "perturbed": vars(self.latents[drawn("perturbed")]),
            "control": vars(self.latents[drawn("control")]),
            "shift": torch.from_numpy(shifts).repeat_interleave(n, 0),
            "group": torch.arange(len(chosen)).repeat_interleave(n).unsqueeze(1).float(),
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
    n_groups, n_pairs
        Groups in a minibatch, and pairs of cells of each.
    steps_per_epoch
        Optimiser steps in an epoch.
    """

    def __init__(
        self,
        latents: Latents,
        groups: Sequence[CellGroup],
        n_groups: int,
        n_pairs: int,
        steps_per_epoch: int,
    ) -> None:
        cells = _Groups(latents, groups, n_pairs)
        places, none = np.arange(len(groups)), np.arange(0)
        super().__init__(cells, cells, places, none, none, n_groups, steps_per_epoch)


class PerturbationPlan(pl.LightningModule):
    """Trains both ways to perturbed cells at once.

    Cells are drawn from their posteriors anew at each step and paired within their group.

    Parameters
    ----------
    model
        The two models, their standardisation already fitted.
    coupling
        Which control cell goes with which perturbed one.
    lr
        Peak learning rate; it warms up over the first twentieth and falls to nearly zero.
    weight_decay
        Of AdamW.
    """

    def __init__(
        self,
        model: PerturbationDiffusion,
        coupling: Coupling | None = None,
        *,
        lr: float = 1e-3,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__()
        self.model = model
        self.coupling = coupling or OptimalTransport()
        self.lr = lr
        self.weight_decay = weight_decay

    def _draw(self, latents: dict[str, Tensor]) -> Tensor:
        mean, variance = latents["mean"], latents["variance"]
        z = mean + variance.sqrt() * torch.randn_like(mean)
        return self.model.flow.standardise(z, latents["log_library"])

    def training_step(self, minibatch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the mean loss of a minibatch."""
        perturbed, control = (self._draw(minibatch[kind]) for kind in ("perturbed", "control"))
        shift = minibatch["shift"] / self.model.flow.scale
        # pairs are exchanged within groups only, where shift and perturbation are the same
        moved = self.coupling.pair(perturbed, control + shift, {"group": minibatch["group"]})
        conditions = {"perturbation": minibatch["perturbed"]["conditions"]["perturbation"]}
        flow, conditional = self.model.loss(perturbed, moved - shift, shift, conditions)
        for name, loss in (("perturbation", flow), ("conditional", conditional)):
            self.log(
                f"{name}_loss_train",
                loss.mean(),
                on_step=False,
                on_epoch=True,
                prog_bar=name == "perturbation",
                batch_size=len(perturbed),
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
