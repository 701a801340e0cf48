"""The two stages of training."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.callbacks import Callback
from scvi import settings
from scvi.model._utils import use_distributed_sampler as is_distributed
from scvi.train._logger import SimpleLogger

from scldm.train import (
    AdversarialPlan,
    AutoencoderPlan,
    DiffusionPlan,
    FiniteLoss,
    LatentDataModule,
    Latents,
    OwnStreams,
    RestoreBest,
    StageProgressBar,
    StageRunner,
)

from ._choices import flag, positive, weight
from ._loading import LoadingMixin
from ._training_options import check_split, only_steps, options, plan_options
from ._training_run import TrainingRun

__all__ = ["STEPS_PER_EPOCH", "TrainingMixin"]

STEPS_PER_EPOCH = 200
_FEWEST_CELLS, _FEWEST_AT_A_TIME = 10, 2
_PLAIN_DDP = ("ddp", "ddp_spawn", "ddp_fork", "ddp_notebook")


class TrainingMixin(LoadingMixin):
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
        checkpoint_dir: str | os.PathLike | None = None,
        checkpoint_interval: float = 60.0,
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
        checkpoint_dir
            Folder to keep the training in. Called again with the same folder, arguments and data, by the
            same script in a new process, say, training goes on where it was stopped and ends with the
            same weights on the same machine; where all is done, the model is what it was at the end.
            Of a stage that was under way at most ``checkpoint_interval`` and an epoch are lost.
        checkpoint_interval
            Seconds between writings within a stage, at the ends of epochs.
        **trainer_kwargs
            For Lightning's trainer in all stages (``precision``, ``logger``, ``callbacks``,
            ``enable_progress_bar``, ...).

        Raises
        ------
        ValueError
            If an argument is not allowed, or ``checkpoint_dir`` holds a training that differs.
        """
        for name in ("early_stopping_monitor", "checkpointing_monitor", "enable_checkpointing"):
            if name in trainer_kwargs:
                raise ValueError(
                    f"`{name}` differs between the stages; give it in `autoencoder_kwargs` or "
                    "`diffusion_kwargs`."
                )
        max_steps = positive("max_steps", max_steps, self.recipe.max_steps)
        if is_distributed(trainer_kwargs.get("strategy")) and settings.seed is None:
            raise ValueError(
                f"`strategy={trainer_kwargs['strategy']!r}`: all processes must draw the same split of cells. "
                "Set `scvi.settings.seed` before the model is made."
            )
        early_stopping = flag("early_stopping", early_stopping)
        shared = {
            "accelerator": accelerator,
            "devices": devices,
            "early_stopping": early_stopping,
            **trainer_kwargs,
        }
        first = {
            "max_epochs": max_epochs,
            "train_size": train_size,
            "validation_size": validation_size,
            "batch_size": batch_size,
        }
        own = {
            "autoencoder": options("autoencoder_kwargs", autoencoder_kwargs),
            "diffusion": options("diffusion_kwargs", diffusion_kwargs),
            "perturbation": options("perturbation_kwargs", perturbation_kwargs),
            "trajectory": options("trajectory_kwargs", trajectory_kwargs),
            "spatial": options("spatial_kwargs", spatial_kwargs),
        }
        # before hours of training
        if perturbation_kwargs is not None:
            self._perturbation_condition()
        if trajectory_kwargs is not None:
            self._time_condition()
        if spatial_kwargs is not None:
            self._spatial_condition()
        run = self._run_of(
            {**first, "max_steps": max_steps, **shared, **own}, checkpoint_dir, checkpoint_interval
        )

        def stage(name: str, train: Callable[..., None], **kwargs: Any) -> None:
            run(name, train, **{**kwargs, **shared, **own[name]})

        stage("autoencoder", self.train_autoencoder, **first)
        stage("diffusion", self.train_diffusion, max_steps=max_steps)
        shared.pop("early_stopping")
        if perturbation_kwargs is not None or self._can_learn_perturbations():
            stage("perturbation", self.train_perturbation)
        if trajectory_kwargs is not None or self._can_learn_trajectories():
            stage("trajectory", self.train_trajectory)
        if spatial_kwargs is not None or self._can_learn_space():
            stage("spatial", self.train_spatial)

    def _run_of(
        self, asked: dict[str, Any], folder: str | os.PathLike | None, interval: float
    ) -> Callable[..., None]:
        """Return what runs a stage: in a folder that it can be taken up from, or just so."""
        interval = weight("checkpoint_interval", interval)
        self._adata_manager_or_raise()
        if folder is None:
            return lambda name, train, **kwargs: train(**kwargs)
        return TrainingRun(folder, self, asked, interval)

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
        batch_size = positive("batch_size", batch_size)
        early_stopping = flag("early_stopping", early_stopping)
        if batch_size < _FEWEST_AT_A_TIME:
            raise ValueError(
                f"`batch_size={batch_size}`: stage 1 normalises over the cells of a minibatch and needs "
                f"{_FEWEST_AT_A_TIME} or more."
            )
        check_split(train_size, validation_size)
        kind = AdversarialPlan if self.adversarial_weight else AutoencoderPlan
        plan_kwargs = plan_options(kind, plan_kwargs)
        adata = self._adata_manager_or_raise().adata
        if adata.n_obs < _FEWEST_CELLS:
            raise ValueError(
                f"`adata` has {adata.n_obs} cells; training needs {_FEWEST_CELLS} or more."
            )
        self.training_frame_ = self._read_conditions(adata)
        data = self._cells_to_train_on(
            batch_size,
            distributed=is_distributed(trainer_kwargs.get("strategy")),
            train_size=train_size,
            validation_size=validation_size,
        )
        if len(data.train_idx) < _FEWEST_AT_A_TIME:
            raise ValueError(
                f"`train_size={train_size!r}` leaves {len(data.train_idx)} cells to train on."
            )
        if not self.autoencoder_trained_:
            self._start_autoencoder(data.train_idx)
        plan_kwargs = {"max_kl_weight": self.kl_weight, "thinning": self.thinning, **plan_kwargs}
        if self.adversarial_weight:
            plan_kwargs = {"adversarial_weight": self.adversarial_weight, **plan_kwargs}
        plan = kind(self.module.autoencoder, **plan_kwargs)
        self.diffusion_trained_ = self.perturbation_trained_ = False
        self.trajectory_trained_ = self.spatial_trained_ = False
        self._forget_dependents()
        if trainer_kwargs.get("strategy") in _PLAIN_DDP:
            # scvi-tools' autoencoder has heads that some likelihoods leave unused
            trainer_kwargs["strategy"] += "_find_unused_parameters_true"
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
        early_stopping = flag("early_stopping", early_stopping)
        plan_kwargs = plan_options(DiffusionPlan, plan_kwargs, ["name"])
        only_steps(trainer_kwargs)
        adata = self._adata_manager_or_raise().adata
        self.training_frame_ = self._read_conditions(adata)
        self.diffusion_trained_ = False
        self._forget_dependents()
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
            DiffusionPlan(self.module.diffusion, **plan_kwargs),
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
        if is_distributed(kwargs.get("strategy")):
            # each process draws cells and noise of its own, from loaders that know of the others
            kwargs["use_distributed_sampler"] = False
            # the one that scvi-tools would choose leaves a file where the process happens to run
            kwargs.setdefault("logger", SimpleLogger(save_dir=kwargs.get("log_save_dir")))
            callbacks.append(OwnStreams())
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

    def _with_given(self, latents: Latents) -> Latents:
        """Return cells with what else is given to the diffusion, once it is standardised."""
        return latents
