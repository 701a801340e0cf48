"""Stage 3: autoencoder and diffusion together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd
import torch

from scldm._warnings import warn
from scldm.train import FineTuningPlan, JointDataModule, Latents

from ._choices import positive, weight
from ._training import STEPS_PER_EPOCH

__all__ = ["FineTuningMixin"]

_ACTIVE = 0.1
"""Share of a latent's spread that must lie between cells for it to count as active."""


class FineTuningMixin:
    """``fine_tune``."""

    latent_check_: pd.DataFrame | None = None
    """What the last fine-tuning did to each latent, see :meth:`fine_tune`."""

    def fine_tune(
        self,
        max_steps: int = 300,
        *,
        diffusion_weight: float = 0.1,
        lr: float = 1e-4,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        batch_size: int = 128,
        early_stopping: bool = False,
        plan_kwargs: dict[str, Any] | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train stage 3, autoencoder and diffusion together.

        Both stages must be trained. The loss is stage 1's plus the diffusion's, whose gradient
        reaches the encoder, so latents become easier to diffuse while they still reconstruct.
        The standardisation of stage 2 stays. When training fails or is interrupted, the model is
        as it was before.

        The easiest latents to diffuse are constant ones. ``latent_check_`` therefore keeps, for
        each latent on the training cells, ``variance_before`` and ``variance_after`` (of the
        posterior means, in units of the standardisation) and ``kl_before`` and ``kl_after``
        (means in nats; NaN for codes, which have no KL term).

        Parameters
        ----------
        max_steps
            Optimiser steps.
        diffusion_weight
            Weight of the diffusion's loss, summed over dimensions as the reconstruction is over
            genes. At 1 every latent of ``pbmc3k`` lost half of its variance in 1,000 steps, at
            0.1 less than a tenth.
        lr
            Peak learning rate of all networks.
        accelerator, devices, early_stopping
            As in :meth:`train`.
        batch_size
            Cells in a minibatch.
        plan_kwargs
            Further arguments of :class:`scldm.train.FineTuningPlan`.
        **trainer_kwargs
            For Lightning's trainer.

        Raises
        ------
        RuntimeError
            If a stage is not trained, the model has no data, or the loss becomes non-finite.

        Warns
        -----
        UserWarning
            If an active latent lost more than half of its variance: it may have collapsed. The
            result is kept.

        References
        ----------
        Vahdat et al. (2021), *Score-based generative modeling in latent space*, NeurIPS.
        """
        max_steps = positive("max_steps", max_steps)
        batch_size = positive("batch_size", batch_size)
        weights = {
            "kl_weight": self.kl_weight,
            "diffusion_weight": weight("diffusion_weight", diffusion_weight),
            "lr": weight("lr", lr),
        }
        self._require("autoencoder")
        self._require("diffusion")
        adata = self._adata_manager_or_raise().adata
        split = self._split_of(adata)
        with self._restored_on_failure():
            before = self._encode(adata)
            steps_per_epoch = min(STEPS_PER_EPOCH, max_steps)
            cells = self.adata_manager.create_torch_dataset()
            data = JointDataModule(cells, before.conditions, *split, batch_size, steps_per_epoch)
            self._run_stage(
                "Fine-tuning",
                FineTuningPlan(self.module, **{**weights, **(plan_kwargs or {})}),
                data,
                -(-max_steps // steps_per_epoch),
                monitor="fine_tune_loss_validation" if early_stopping and data.n_val else None,
                accelerator=accelerator,
                devices=devices,
                **{"gradient_clip_val": 100.0, "max_steps": max_steps, **trainer_kwargs},
            )
            self.training_frame_ = self._read_conditions(adata)
            after = self._encode(adata)
            self._check_latents(before[split[0]], after[split[0]])
        self._forget_dependents()
        self.perturbation_trained_ = self.trajectory_trained_ = self.spatial_trained_ = False

    def _check_latents(self, before: Latents, after: Latents) -> None:
        """Keep what became of each latent, and warn of those that may have collapsed."""
        check = self._spread(before).join(self._spread(after), lsuffix="_before", rsuffix="_after")
        self.latent_check_ = check
        active = check["variance_before"] > _ACTIVE
        lost = check[active & (check["variance_after"] < 0.5 * check["variance_before"])]
        if len(lost):
            numbers = ", ".join(
                f"{i} from {row.variance_before:.3g} to {row.variance_after:.3g}"
                for i, row in lost.iterrows()
            )
            warn(
                f"{len(lost)} of {active.sum()} active latents lost more than half of their "
                f"variance in fine-tuning: {numbers}. See `latent_check_`; with a lower "
                "`diffusion_weight` or `lr` they would lose less."
            )

    def _spread(self, latents: Latents) -> pd.DataFrame:
        """Return the standardised variance of the means and the mean KL of each latent."""
        mean, variance = latents.mean, latents.variance
        scale = self.module.diffusion.scale[: mean.shape[1]].cpu()
        kl = 0.5 * (mean.square() + variance - 1 - variance.log())
        columns = {
            "variance": (mean / scale).var(0, correction=0),
            "kl": torch.where(variance > 0, kl, torch.nan).mean(0),
        }
        return pd.DataFrame({name: value.numpy() for name, value in columns.items()})

    @contextmanager
    def _restored_on_failure(self) -> Iterator[None]:
        """Put weights, buffers and fitted attributes back when what runs inside fails."""
        device = self.device
        state = {k: v.detach().cpu().clone() for k, v in self.module.state_dict().items()}
        attributes = {k: v for k, v in vars(self).items() if k.endswith("_") and k[-2] != "_"}
        try:
            yield
        # an interruption too must not leave half a training behind
        except BaseException:
            self.module.load_state_dict(state)
            self.module.zero_grad()
            self.module.eval()
            self.to_device(device)
            vars(self).update(attributes)
            raise
