"""Teaching a copy of the denoiser to take few steps."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from scldm.diffusion import Denoiser, NetworkDenoiser, Sampler
from scldm.module import LatentDiffusion

from ._plans import warm_up_and_cosine

__all__ = ["DistillationPlan"]


class DistillationPlan(pl.LightningModule):
    r"""Trains a student on the pairs of noise and data that its teacher makes.

    The teacher takes noise :math:`\epsilon` to data :math:`x_0(\epsilon)`, a function with nothing
    random about it. On the straight way between the two, :math:`\alpha_t x_0 + \sigma_t \epsilon`,
    the student learns to say where it leads, at the few times at which it will be asked. One step
    from pure noise is then a regression of the teacher's result on its noise, and each further
    step mends the one before. This is one round of reflow (Liu et al. 2023, *Flow straight and
    fast*, algorithm 1) with their distillation (section 3.3) in one.

    Parameters
    ----------
    diffusion
        The latent diffusion with its student, see
        :meth:`scldm.module.LatentDiffusion.add_student`.
    teacher
        The denoiser to learn from, guided or not.
    sampler, steps
        How the teacher samples; it must be deterministic.
    lr
        Peak learning rate; it warms up over the first twentieth and falls to nearly zero.
    weight_decay
        Of AdamW.
    """

    def __init__(
        self,
        diffusion: LatentDiffusion,
        teacher: Denoiser,
        sampler: Sampler,
        steps: int | None,
        *,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        student = diffusion.student
        if student is None:
            raise ValueError("`diffusion` has no student.")
        self.diffusion = diffusion
        self.teacher = teacher
        self.averaged: NetworkDenoiser = student
        self.trained: NetworkDenoiser = deepcopy(student).requires_grad_(True)
        self.sampler = sampler
        self.steps = steps
        self.lr = lr
        self.weight_decay = weight_decay

    def on_train_epoch_start(self) -> None:
        """Keep the teacher's dropout off; Lightning has set all to training."""
        self.diffusion.eval()
        self.teacher.eval()

    def training_step(self, minibatch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the mean loss of a minibatch."""
        n = len(minibatch["mean"])
        conditions = self.diffusion.drop_at_random(minibatch["conditions"])
        noise = torch.randn(n, self.diffusion.n_latent + 1, device=self.device)
        x_0 = self.sampler.sample(self.teacher, noise, self.steps, conditions)
        times = self.trained.schedule.times(self.diffusion.n_student_steps)[:-1]
        t = times[torch.randint(len(times), (n,))].to(self.device)
        loss = self.trained.loss(x_0, t, noise, conditions).mean()
        self.log(
            "distillation_loss_train",
            loss,
            on_step=False,
            on_epoch=True,
            prog_bar=True,
            batch_size=n,
            sync_dist=self.trainer.world_size > 1,
        )
        return loss

    @torch.no_grad()
    def on_train_batch_end(self, *args: Any) -> None:
        """Move the student towards the trained weights."""
        n = self.global_step
        decay = min(self.diffusion.ema_decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(
            list(self.averaged.parameters()), list(self.trained.parameters()), 1 - decay
        )

    def configure_optimizers(self) -> Any:
        """Return AdamW with its schedule over all steps."""
        parameters = self.trained.parameters()
        optimizer = torch.optim.AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay)
        return warm_up_and_cosine(self, optimizer, warm_up=0.05)
