"""The two stages of training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from lightning.pytorch.callbacks import Callback
from scvi.dataloaders import DataSplitter

from scldm.train import (
    AdversarialPlan,
    AutoencoderPlan,
    DiffusionPlan,
    FiniteLoss,
    LatentDataModule,
    Latents,
    RestoreBest,
    StageProgressBar,
    StageRunner,
)

from ._choices import positive
from ._keys import KEYS
from ._moments import count_moments

__all__ = ["STEPS_PER_EPOCH", "TrainingMixin"]

STEPS_PER_EPOCH = 200
_FEWEST_CELLS = 10


class TrainingMixin:
    """``train``, ``train_autoencoder`` and ``train_diffusion``."""

    _loaded_without_data = False

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
        perturbation_kwargs: dict[str, Any] | None = None,
        trajectory_kwargs: dict[str, Any] | None = None,
        spatial_kwargs: dict[str, Any] | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train all stages, one after the other.

        The third, see :meth:`train_perturbation`, takes seconds and is left out where no
        perturbed cells can be compared with control cells; the fourth, see
        :meth:`train_trajectory`, where cells do not have two or more times; the fifth, see
        :meth:`train_spatial`, where cells have no coordinates.

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
        autoencoder_kwargs, diffusion_kwargs, perturbation_kwargs, trajectory_kwargs, spatial_kwargs
            For one stage only: arguments of :meth:`train_autoencoder`, :meth:`train_diffusion`,
            :meth:`train_perturbation`, :meth:`train_trajectory` and :meth:`train_spatial`.
        **trainer_kwargs
            For Lightning's trainer in all stages (``precision``, ``logger``, ``callbacks``,
            ``enable_progress_bar``, ...).
        """
        for name in ("early_stopping_monitor", "checkpointing_monitor", "enable_checkpointing"):
            if name in trainer_kwargs:
                raise ValueError(
                    f"`{name}` differs between the stages; give it in `autoencoder_kwargs` or "
                    "`diffusion_kwargs`."
                )
        max_steps = positive("max_steps", max_steps, self.recipe.max_steps)
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
        shared.pop("early_stopping")
        if self._can_learn_perturbations():
            self.train_perturbation(**{**shared, **(perturbation_kwargs or {})})
        if trajectory_kwargs is not None or self._can_learn_trajectories():
            self.train_trajectory(**{**shared, **(trajectory_kwargs or {})})
        if spatial_kwargs is not None or self._can_learn_space():
            self.train_spatial(**{**shared, **(spatial_kwargs or {})})

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
            Arguments of :class:`scldm.train.AutoencoderPlan`, or of
            :class:`scldm.train.AdversarialPlan` where the model has an ``adversarial_weight``.
        **trainer_kwargs
            For Lightning's trainer.
        """
        max_epochs = positive("max_epochs", max_epochs, self.recipe.max_epochs)
        adata = self._adata_manager_or_raise().adata
        if adata.n_obs < _FEWEST_CELLS:
            raise ValueError(
                f"`adata` has {adata.n_obs} cells; training needs {_FEWEST_CELLS} or more."
            )
        self.training_frame_ = self._read_conditions(adata)
        data = DataSplitter(
            self.adata_manager,
            train_size=train_size,
            validation_size=validation_size,
            batch_size=positive("batch_size", batch_size),
        )
        data.setup()
        # Lightning sets it up again; the split must not be drawn anew
        data.external_indexing = [data.train_idx, data.val_idx, data.test_idx]
        if not self.autoencoder_trained_:
            self._start_autoencoder(data.train_idx)
        plan_kwargs = {"max_kl_weight": self.kl_weight, **(plan_kwargs or {})}
        plan: AutoencoderPlan
        if self.adversarial_weight:
            plan_kwargs = {"adversarial_weight": self.adversarial_weight, **plan_kwargs}
            plan = AdversarialPlan(self.module.autoencoder, **plan_kwargs)
        else:
            plan = AutoencoderPlan(self.module.autoencoder, **plan_kwargs)
        self.diffusion_trained_ = self.perturbation_trained_ = False
        self.trajectory_trained_ = self.spatial_trained_ = False
        self._forget_student()
        self._run_stage(
            "Autoencoder",
            plan,
            data,
            max_epochs,
            monitor="validation_loss" if early_stopping and data.n_val else None,
            accelerator=accelerator,
            devices=devices,
            **{"gradient_clip_val": 100.0, **trainer_kwargs},
        )
        self.autoencoder_trained_ = True

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
        max_steps = positive("max_steps", max_steps, self.recipe.max_steps)
        batch_size = positive("batch_size", batch_size)
        adata = self._adata_manager_or_raise().adata
        self.training_frame_ = self._read_conditions(adata)
        self.diffusion_trained_ = False
        self._forget_student()
        split = self._split_of(adata)
        # the plan holds the diffusion alone, so no gradient can reach the autoencoder
        latents = self._encode(adata)
        fitted = latents[split[0]]
        self.module.diffusion.fit_standardisation(fitted.mean, fitted.variance, fitted.log_library)
        latents = self._with_given(latents)
        steps_per_epoch = min(STEPS_PER_EPOCH, max_steps)
        data = LatentDataModule(latents, *split, batch_size, steps_per_epoch)
        max_epochs = -(-max_steps // steps_per_epoch)
        self._run_stage(
            "Diffusion",
            DiffusionPlan(self.module.diffusion, **(plan_kwargs or {})),
            data,
            max_epochs,
            monitor="diffusion_loss_validation" if early_stopping and data.n_val else None,
            accelerator=accelerator,
            devices=devices,
            **{"gradient_clip_val": 1.0, "max_steps": max_steps, **trainer_kwargs},
        )
        self.diffusion_trained_ = True

    def _run_stage(
        self,
        stage: str,
        plan: Any,
        data: Any,
        max_epochs: int,
        *,
        monitor: str | None,
        **kwargs: Any,
    ) -> None:
        given = kwargs.pop("callbacks", None) or []
        callbacks = [FiniteLoss(stage), *([given] if isinstance(given, Callback) else given)]
        if monitor is not None:
            callbacks.append(RestoreBest(monitor))
            kwargs = {
                "early_stopping": True,
                "early_stopping_monitor": monitor,
                "early_stopping_patience": max(5, max_epochs // 4),
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
        StageRunner(self, plan, data, max_epochs=max_epochs, callbacks=callbacks, **kwargs)()

    @contextmanager
    def _in_place_of(self, stage: str, model: Any) -> Iterator[None]:
        """Train a new module of a stage inside; what was trained before stays if that fails.

        Which cells the other stages were trained on stays too: scvi-tools' runner puts those of this stage
        in their place.
        """
        before = getattr(self.module, stage), getattr(self, f"{stage}_trained_")
        split = self.train_indices, self.validation_indices, self.test_indices
        setattr(self.module, stage, model)
        setattr(self, f"{stage}_trained_", False)
        try:
            yield
        except BaseException:
            setattr(self.module, stage, before[0])
            setattr(self, f"{stage}_trained_", before[1])
            raise
        finally:
            self.train_indices, self.validation_indices, self.test_indices = split

    def _adata_manager_or_raise(self):
        # cells that such a model is shown later are registered, and still no training data
        if self.adata_manager is None or self._loaded_without_data:
            raise RuntimeError(
                "The model was loaded without its training data. Load it with `adata=` for what needs "
                "them, or give cells."
            )
        return self.adata_manager

    def _start_autoencoder(self, indices: np.ndarray) -> None:
        """Start the decoder at the moments of the counts of training cells."""
        manager = self.adata_manager
        sizes = None
        if KEYS.LIBRARY_SIZE in manager.data_registry:
            sizes = np.asarray(manager.get_from_registry(KEYS.LIBRARY_SIZE), float).ravel()
        counts = manager.get_from_registry(KEYS.COUNTS)
        self.module.autoencoder.start_from_moments(*count_moments(counts, indices, sizes))

    @torch.inference_mode()
    def _encode(
        self, adata: AnnData, indices: np.ndarray | None = None, batch_size: int = 1024
    ) -> Latents:
        """Encode every cell once, or those at ``indices``."""
        self.module.eval()
        autoencoder = self.module.autoencoder
        loader = self._make_data_loader(adata, indices=indices, batch_size=batch_size)
        parts = [[part.cpu() for part in autoencoder.encode(tensors)] for tensors in loader]
        mean, variance, log_library = (torch.cat(part) for part in zip(*parts, strict=True))
        frame = self._read_conditions(adata)
        frame = frame if indices is None else frame.iloc[indices]
        conditions = {c.name: torch.from_numpy(c.encode(frame)) for c in self.conditions}
        return Latents(mean, variance, log_library, conditions)

    def _with_given(self, latents: Latents) -> Latents:
        """Return cells with what else is given to the diffusion, once it is standardised."""
        return latents

    def _split_of(self, adata: AnnData) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return training, validation and test cells: those of stage 1, or new ones."""
        none = np.arange(0)
        known = [self.train_indices, self.validation_indices, self.test_indices]
        split = [none if part is None else np.asarray(part) for part in known]
        if sum(map(len, split)) == adata.n_obs:
            return split[0], split[1], split[2]
        # stage 1 was trained on other data
        data = DataSplitter(self.adata_manager)
        data.setup()
        return data.train_idx, data.val_idx, data.test_idx

    def _read_conditions(self, adata: AnnData) -> pd.DataFrame:
        """Return the frame of conditions of registered data.

        Raises
        ------
        ValueError
            If ``adata.obs`` no longer says what was registered.
        """
        frame = adata.obs[[]].reset_index(drop=True)
        manager = self.get_anndata_manager(adata, required=True)
        for condition in self.conditions:
            frame = frame.join(condition.read(adata))
            key = {"batch": KEYS.BATCH, "cell_type": KEYS.CELL_TYPE}.get(condition.name)
            registered = None if key is None else manager.get_from_registry(key).ravel()
            if key and (frame[condition.name].cat.codes != registered).any():
                raise ValueError(
                    f"The {condition.name.replace('_', ' ')} in `adata.obs` is not the one that "
                    "was registered. Call `setup_anndata` again after changing it."
                )
        return frame
