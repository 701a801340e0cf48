"""How each stage is optimised."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import torch
from scvi.train import TrainingPlan
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from scldm.module import CountAutoencoder, LatentDiffusion

from ._rehearsal import Rehearsal

__all__ = ["AutoencoderPlan", "DiffusionPlan", "networks_and_dispersion", "warm_up_and_cosine"]

_REHEARSED = 128
"""Cells that the model made before, in each minibatch."""


def warm_up_and_cosine(
    plan: pl.LightningModule, optimizer: torch.optim.Optimizer, warm_up: float
) -> dict[str, Any]:
    """Let the rates rise linearly over a share of all steps, then fall to zero as a cosine."""
    total = max(int(plan.trainer.estimated_stepping_batches), 1)
    rise = max(1, round(warm_up * total))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, total - rise))))

    scheduler = {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}
    return {"optimizer": optimizer, "lr_scheduler": scheduler}


def networks_and_dispersion(
    autoencoder: CountAutoencoder,
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the parameters that are trained, those that set the dispersion apart."""
    dispersion = list(autoencoder.dispersion_parameters())
    names = {id(parameter) for parameter in dispersion}
    networks = [
        parameter
        for parameter in autoencoder.parameters()
        if parameter.requires_grad and id(parameter) not in names
    ]
    return networks, dispersion


class AutoencoderPlan(TrainingPlan):
    """scvi-tools' plan with a warm-up, a cosine and a learning rate for dispersions.

    Parameters
    ----------
    module
        The autoencoder.
    dispersion_lr
        Peak learning rate of the parameters that set the dispersion, logarithms that must travel
        far. ``None`` is 3e-2 for one parameter a gene, well above the networks' rate, and 3e-3
        for the decoder's output layer, where many weights move together.
    lr
        Peak learning rate of the networks.
    max_kl_weight
        Weight of the KL term, or of the commitment of a vector-quantised autoencoder, after its
        warm-up.
    n_steps_kl_warmup
        Steps over which that weight grows from 0.
    weight_decay, eps
        Of AdamW.
    thinning
        Largest share of a cell's counts that are kept from the encoder, which the decoder has to
        explain all the same; the share is drawn for each cell, anew at each step. What an encoder sees
        is part signal and part chance, and latents that know the chance hand it on to all that is made
        from them.
    rehearsal
        Cells that the model made before, whose counts its decoder is to go on giving.

    References
    ----------
    Batson, Royer and Webber (2019), *Molecular cross-validation for single-cell RNA-seq*, bioRxiv
    786269 (signal is what one part of a cell's molecules tells of the others).
    """

    module: CountAutoencoder

    def __init__(
        self,
        module: CountAutoencoder,
        *,
        dispersion_lr: float | None = None,
        lr: float = 1e-3,
        max_kl_weight: float = 1.0,
        n_steps_kl_warmup: int = 400,
        weight_decay: float = 1e-6,
        eps: float = 0.01,
        thinning: float = 0.0,
        rehearsal: Rehearsal | None = None,
    ) -> None:
        super().__init__(
            module,
            lr=lr,
            max_kl_weight=max_kl_weight,
            n_epochs_kl_warmup=None,
            n_steps_kl_warmup=n_steps_kl_warmup,
            weight_decay=weight_decay,
            eps=eps,
        )
        self.thinning = thinning
        self.rehearsal = rehearsal
        by_kind = 3e-3 if module.dispersion == "gene-cell" else 3e-2
        self.dispersion_lr = by_kind if dispersion_lr is None else dispersion_lr

    def forward(self, batch: dict[str, Tensor], **kwargs: Any) -> Any:
        """Run the autoencoder and, in training, add the loss on cells that it made before."""
        if self.thinning and self.training:
            kwargs["inference_kwargs"] = {"thinning": self.thinning}
        inference, generative, loss = super().forward(batch, **kwargs)
        if self.rehearsal is not None and self.training:
            further = self.rehearsal.decoding_loss(self.module, _REHEARSED)
            loss = replace(loss, loss=loss.loss + further)
        return inference, generative, loss

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return one group for the networks and one for the dispersions."""
        networks, dispersion = networks_and_dispersion(self.module)
        return [
            {"params": networks, "lr": self.lr, "weight_decay": self.weight_decay},
            {"params": dispersion, "lr": self.dispersion_lr, "weight_decay": 0.0},
        ]

    def configure_optimizers(self) -> dict[str, Any]:
        """Return AdamW with its schedule over all steps."""
        optimizer = torch.optim.AdamW(self.parameter_groups(), eps=self.eps)
        return warm_up_and_cosine(self, optimizer, warm_up=0.1)


class DiffusionPlan(pl.LightningModule):
    """Trains the denoiser on cached latents and keeps the average of its weights.

    Latents are drawn anew from their posteriors at each step, so the denoiser learns the
    aggregate posterior and not a fixed set of points.

    Parameters
    ----------
    diffusion
        The latent diffusion, its standardisation already fitted.
    lr
        Peak learning rate; it warms up over the first twentieth and falls to nearly zero.
    weight_decay
        Of AdamW.
    name
        Of the stage, for the names of its losses.
    rehearsal
        Cells that the model made before, whose latents it is to go on making.
    """

    def __init__(
        self,
        diffusion: LatentDiffusion,
        *,
        lr: float = 1e-3,
        weight_decay: float = 1e-2,
        name: str = "diffusion",
        rehearsal: Rehearsal | None = None,
    ) -> None:
        super().__init__()
        self.rehearsal = rehearsal
        self.diffusion = diffusion
        self.stage_name = name
        self.lr = lr
        self.weight_decay = weight_decay

    def _draw(self, minibatch: dict[str, Any], generator: torch.Generator | None) -> Tensor:
        mean, variance = minibatch["mean"], minibatch["variance"]
        noise = torch.randn(mean.shape, device=mean.device, generator=generator)
        z = mean + variance.sqrt() * noise
        return self.diffusion.standardise(z, minibatch["log_library"])

    def training_step(self, minibatch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the mean loss of a minibatch."""
        x_0 = self._draw(minibatch, None)
        loss = self.diffusion.loss(x_0, minibatch["conditions"]).mean()
        self._log(f"{self.stage_name}_loss_train", loss, len(x_0))
        if self.rehearsal is not None:
            loss = loss + self.rehearsal.diffusion_loss(self.diffusion, _REHEARSED)
        return loss

    def on_train_batch_end(self, *args: Any) -> None:
        """Update the averaged weights."""
        self.diffusion.update_average()

    def validation_step(self, minibatch: dict[str, Any], batch_idx: int) -> None:
        """Log the loss of the averaged weights, on the same draws every time."""
        generator = torch.Generator(self.device).manual_seed(batch_idx)
        x_0 = self._draw(minibatch, generator)
        loss = self.diffusion.validation_loss(x_0, minibatch["conditions"], generator).mean()
        self._log(f"{self.stage_name}_loss_validation", loss, len(x_0))

    def _log(self, name: str, value: Tensor, n_cells: int) -> None:
        self.log(
            name,
            value,
            on_step=False,
            on_epoch=True,
            prog_bar=True,
            batch_size=n_cells,
            sync_dist=self.trainer.world_size > 1,
        )

    def configure_optimizers(self) -> Any:
        """Return AdamW with its schedule over all steps."""
        parameters = self.diffusion.trained.parameters()
        optimizer = torch.optim.AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay)
        return warm_up_and_cosine(self, optimizer, warm_up=0.05)
