"""The two stages of training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from anndata import AnnData
from lightning.pytorch.callbacks import Callback
from scvi.dataloaders import DataSplitter

from scldm.module import moment_dispersion
from scldm.train import (
    AutoencoderPlan,
    DiffusionPlan,
    LatentDataModule,
    Latents,
    RestoreBest,
    StageProgressBar,
    StageRunner,
)

from ._choices import positive
from ._keys import KEYS

__all__ = ["TrainingMixin"]

_STEPS_PER_EPOCH = 200
_ROWS_AT_A_TIME = 4096


class TrainingMixin:
    """``train``, ``train_autoencoder`` and ``train_diffusion``."""

    def train(
        self,
        max_epochs: int | None = None,
        max_steps: int | None = None,
        *,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        train_size: float | None = None,
        validation_size: float | None = None,
        batch_size: int = 128,
        early_stopping: bool = False,
        autoencoder_kwargs: dict[str, Any] | None = None,
        diffusion_kwargs: dict[str, Any] | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train both stages, one after the other.

        Parameters
        ----------
        max_epochs
            Epochs of stage 1, the autoencoder; ``None`` chooses by the number of cells.
        max_steps
            Optimiser steps of stage 2, the diffusion; ``None`` chooses by the number of cells.
        accelerator, devices
            Passed to Lightning.
        train_size, validation_size
            Shares of cells to train on and to validate on, 0.9 and the rest by default. Both
            stages use the same split.
        batch_size
            Cells in a minibatch of stage 1.
        early_stopping
            Stop a stage when its loss on validation cells has not improved for long, and go back
            to the weights of its best epoch. Off by default: on real data the held-out loss of
            either stage turns up long before the cells it makes stop getting better, see the
            guide.
        autoencoder_kwargs, diffusion_kwargs
            For one stage only: arguments of :meth:`train_autoencoder` and
            :meth:`train_diffusion`.
        **trainer_kwargs
            For Lightning's trainer in both stages (``precision``, ``logger``, ``callbacks``,
            ``enable_progress_bar``, ...).
        """
        shared = {
            "accelerator": accelerator,
            "devices": devices,
            "early_stopping": early_stopping,
            **trainer_kwargs,
        }
        split = {"train_size": train_size, "validation_size": validation_size}
        self.train_autoencoder(
            max_epochs,
            **{"batch_size": batch_size, **split, **shared, **(autoencoder_kwargs or {})},
        )
        self.train_diffusion(max_steps, **{**shared, **(diffusion_kwargs or {})})

    def train_autoencoder(
        self,
        max_epochs: int | None = None,
        *,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        train_size: float | None = None,
        validation_size: float | None = None,
        batch_size: int = 128,
        early_stopping: bool = False,
        plan_kwargs: dict[str, Any] | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train stage 1, the count autoencoder.

        Parameters
        ----------
        max_epochs, accelerator, devices, train_size, validation_size, batch_size, early_stopping
            As in :meth:`train`.
        plan_kwargs
            Arguments of :class:`scldm.train.AutoencoderPlan`.
        **trainer_kwargs
            For Lightning's trainer.
        """
        max_epochs = (
            self.recipe.max_epochs if max_epochs is None else positive("max_epochs", max_epochs)
        )
        data = DataSplitter(
            self._adata_manager_or_raise(),
            train_size=train_size,
            validation_size=validation_size,
            batch_size=batch_size,
        )
        data.setup()
        # Lightning sets it up again; the split must not be drawn anew
        data.external_indexing = [data.train_idx, data.val_idx, data.test_idx]
        if not self.autoencoder_trained_:
            self.module.autoencoder.start_from_moments(*self._count_moments(data.train_idx))
        plan = AutoencoderPlan(
            self.module.autoencoder, **{"max_kl_weight": self.kl_weight, **(plan_kwargs or {})}
        )
        self.diffusion_trained_ = False
        self._run_stage(
            "Autoencoder",
            plan,
            data,
            max_epochs,
            monitor="validation_loss" if early_stopping and data.n_val else None,
            patience=45,
            accelerator=accelerator,
            devices=devices,
            **{"gradient_clip_val": 100.0, **trainer_kwargs},
        )
        self.autoencoder_trained_ = True
        self.training_frame_ = self._read_conditions(self.adata)

    def train_diffusion(
        self,
        max_steps: int | None = None,
        *,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        batch_size: int = 256,
        early_stopping: bool = False,
        plan_kwargs: dict[str, Any] | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train stage 2, the diffusion on the latents of stage 1, which stays as it is.

        Every cell is encoded once; its posterior is kept in memory and drawn from at each step.
        An epoch, in the progress bar and in ``history``, is 200 optimiser steps.

        Parameters
        ----------
        max_steps, accelerator, devices, early_stopping
            As in :meth:`train`.
        batch_size
            Cells in a minibatch.
        plan_kwargs
            Arguments of :class:`scldm.train.DiffusionPlan`.
        **trainer_kwargs
            For Lightning's trainer.

        Raises
        ------
        RuntimeError
            If stage 1 has not been trained.
        """
        if not self.autoencoder_trained_:
            raise RuntimeError(
                "The diffusion needs a trained autoencoder. Call `train_autoencoder()` first, or "
                "`train()` for both stages."
            )
        max_steps = (
            self.recipe.max_steps if max_steps is None else positive("max_steps", max_steps)
        )
        adata = self._adata_manager_or_raise().adata
        latents = self._encode(adata)
        train_idx = self.train_indices
        val_idx = self.validation_indices
        if train_idx is None or not len(train_idx):
            train_idx, val_idx = np.arange(adata.n_obs), np.arange(0)
        fitted = latents[train_idx]
        self.module.diffusion.fit_standardisation(fitted.mean, fitted.variance, fitted.log_library)
        steps_per_epoch = min(_STEPS_PER_EPOCH, max_steps)
        data = LatentDataModule(latents, train_idx, val_idx, batch_size, steps_per_epoch)
        frozen = [p for p in self.module.autoencoder.parameters() if p.requires_grad]
        for parameter in frozen:
            parameter.requires_grad_(False)
        try:
            self._run_stage(
                "Diffusion",
                DiffusionPlan(self.module.diffusion, **(plan_kwargs or {})),
                data,
                -(-max_steps // steps_per_epoch),
                monitor="diffusion_loss_validation" if early_stopping and len(val_idx) else None,
                patience=20,
                accelerator=accelerator,
                devices=devices,
                **{"gradient_clip_val": 1.0, "max_steps": max_steps, **trainer_kwargs},
            )
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)
        self.diffusion_trained_ = True

    def _run_stage(
        self,
        stage: str,
        plan: Any,
        data: Any,
        max_epochs: int,
        *,
        monitor: str | None,
        patience: int,
        **kwargs: Any,
    ) -> None:
        callbacks: list[Callback] = list(kwargs.pop("callbacks", None) or [])
        if monitor is not None:
            callbacks.append(RestoreBest(monitor))
            kwargs = {
                "early_stopping": True,
                "early_stopping_monitor": monitor,
                "early_stopping_patience": patience,
                **kwargs,
            }
        if kwargs.get("enable_progress_bar", True):
            callbacks.append(StageProgressBar(stage))
        kwargs = {
            "check_val_every_n_epoch": 1 if data.n_val else None,
            "simple_progress_bar": False,
            "log_every_n_steps": 1,
            **kwargs,
        }
        # Lightning keeps the mode it finds, and the stage may have been trained before
        plan.train()
        trained_before = self.is_trained_
        StageRunner(self, plan, data, max_epochs=max_epochs, callbacks=callbacks, **kwargs)()
        self.is_trained_ = trained_before or self.is_trained_

    def _adata_manager_or_raise(self):
        if self.adata_manager is None:
            raise RuntimeError("The model has no data. Load it with `adata=` to train it further.")
        return self.adata_manager

    def _count_moments(self, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each gene's share of the library and its moment estimate of the dispersion."""
        manager = self.adata_manager
        counts = manager.get_from_registry(KEYS.COUNTS)
        sizes = None
        if KEYS.LIBRARY_SIZE in manager.data_registry:
            sizes = np.asarray(manager.get_from_registry(KEYS.LIBRARY_SIZE), float).ravel()
        indices = np.sort(indices)
        sum_x, sum_x2, sum_xl, sum_l, sum_l2 = 0.0, 0.0, 0.0, 0.0, 0.0
        for start in range(0, len(indices), _ROWS_AT_A_TIME):
            rows = indices[start : start + _ROWS_AT_A_TIME]
            x = counts[rows]
            x = x.toarray() if hasattr(x, "toarray") else np.asarray(x)
            x = x.astype(float)
            library = x.sum(axis=1) if sizes is None else sizes[rows]
            sum_x = sum_x + x.sum(axis=0)
            sum_x2 = sum_x2 + np.square(x).sum(axis=0)
            sum_xl = sum_xl + library @ x
            sum_l += float(library.sum())
            sum_l2 += float(np.square(library).sum())
        scale = torch.as_tensor(sum_x) / sum_l
        theta = moment_dispersion(
            scale, torch.as_tensor(sum_x2), torch.as_tensor(sum_xl), sum_l, sum_l2
        )
        return scale.float(), theta.float()

    @torch.inference_mode()
    def _encode(self, adata: AnnData, batch_size: int = 1024) -> Latents:
        """Encode every cell once."""
        self.module.eval()
        autoencoder = self.module.autoencoder
        parts = [
            [part.cpu() for part in autoencoder.encode(tensors)]
            for tensors in self._make_data_loader(adata, batch_size=batch_size)
        ]
        mean, variance, log_library = (torch.cat(part) for part in zip(*parts, strict=True))
        frame = self._read_conditions(adata)
        conditions = {c.name: torch.from_numpy(c.encode(frame)) for c in self.conditions}
        return Latents(mean, variance, log_library, conditions)

    def _read_conditions(self, adata: AnnData):
        frame = adata.obs[[]].reset_index(drop=True)
        for condition in self.conditions:
            frame = frame.join(condition.read(adata))
        return frame
