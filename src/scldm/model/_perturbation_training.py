"""Training on perturbed cells and the control cells of their context."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from scldm._warnings import warn
from scldm.diffusion import COUPLINGS
from scldm.module import TransitionDiffusion
from scldm.train import CellGroup, GroupDataModule, TransitionPlan

from ._choices import chosen, positive
from ._pairing import Group, compared, context_columns, perturbation_of
from ._perturbations import PerturbationSet
from ._shifts import Shifts
from ._training import STEPS_PER_EPOCH
from ._training_options import only_steps, plan_options

__all__ = ["PerturbationTrainingMixin"]

_MAX_STEPS = 300
_GROUPS, _PAIRS = 4, 64


class PerturbationTrainingMixin:
    """``train_perturbation``."""

    shifts_: dict[str, Any]
    """Mean changes of latents by perturbation, as plain data."""

    perturbation_trained_ = False

    def train_perturbation(
        self,
        max_steps: int | None = None,
        *,
        coupling: str = "optimal_transport",
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        plan_kwargs: dict[str, Any] | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train the perturbation stage, the ways from control cells to perturbed ones.

        :meth:`train` does this after the other stages where it can. Control cells and perturbed cells
        are compared within contexts: cell type, time, batch and categorical covariates, as far as these
        have control cells.

        Parameters
        ----------
        max_steps
            Optimiser steps; 300 by default. More fit the contexts that were seen better and others
            worse.
        coupling
            Which control cell goes with which perturbed one, one of
            :data:`scldm.diffusion.COUPLINGS`.
        accelerator, devices
            Passed to Lightning.
        plan_kwargs
            Arguments of :class:`scldm.train.TransitionPlan`.
        **trainer_kwargs
            For Lightning's trainer.

        Raises
        ------
        ValueError
            If no perturbation is registered, or no perturbed cells can be compared with control cells.
        RuntimeError
            If stage 1 has not been trained.

        Warns
        -----
        UserWarning
            If perturbed cells are left out because no control cell is like them.
        """
        if not self.autoencoder_trained_:
            raise RuntimeError(
                "Perturbations need a trained autoencoder. Call `train_autoencoder()` first, or "
                "`train()` for all stages."
            )
        perturbation = self._perturbation_condition()
        max_steps = positive("max_steps", max_steps, _MAX_STEPS)
        plan_kwargs = plan_options(TransitionPlan, plan_kwargs, ("coupling", "name"))
        rule = chosen("coupling", coupling, COUPLINGS)()
        only_steps(trainer_kwargs, validated=False)
        adata = self._adata_manager_or_raise().adata
        self.training_frame_ = self._read_conditions(adata)
        training = self._split_of(adata)[0]
        groups = self._compared(training)
        if not groups:
            raise ValueError(self._no_groups())
        self.perturbation_trained_ = False
        latents = self._encode(adata)[training]
        x = torch.cat([latents.mean, latents.log_library], dim=1).numpy().astype(float)
        shifts = Shifts.fit(x, groups, perturbation)
        # from the start, where the flow is latent arithmetic
        model = self._new_perturbation_module(self.module.diffusion.n_latent)
        assert model is not None
        self.module.perturbation = model.to(self.device)
        model.fit_standardisation(latents.mean, latents.variance, latents.log_library)
        pairs = [CellGroup(g.perturbed, g.control, shifts.at(g.label, g.dose)) for g in groups]
        steps_per_epoch = min(STEPS_PER_EPOCH, max_steps)
        data = GroupDataModule(
            latents, pairs, [perturbation.name], _GROUPS, _PAIRS, steps_per_epoch
        )
        self._run_transition(
            "Perturbation",
            TransitionPlan(model, rule, name="perturbation", **plan_kwargs),
            data,
            max_steps,
            accelerator=accelerator,
            devices=devices,
            **trainer_kwargs,
        )
        self.shifts_ = shifts.to_plain()
        self.perturbation_trained_ = True

    def _new_perturbation_module(self, n_latent: int) -> TransitionDiffusion | None:
        """Return the module of the stage, untrained, or ``None`` without a perturbation."""
        condition = perturbation_of(self.conditions)
        if condition is None:
            return None
        return TransitionDiffusion({condition.name: condition.embedder}, n_latent)

    def _compared(self, training: np.ndarray) -> list[Group]:
        """Return which training cells are compared with which."""
        frame = self.training_frame_.iloc[training].reset_index(drop=True)
        return compared(frame, self._perturbation_condition(), context_columns(self.conditions))

    def _can_learn_perturbations(self) -> bool:
        if perturbation_of(self.conditions) is None:
            return False
        with warnings.catch_warnings():
            # said again where it is trained
            warnings.simplefilter("ignore")
            groups = self._compared(self._split_of(self.adata)[0])
        if not groups:
            warn(f"Nothing is learned of perturbations: {self._no_groups()}")
        return bool(groups)

    def _no_groups(self) -> str:
        return (
            "`adata` has no perturbed cells with control cells "
            f"({self._perturbation_condition().control!r}) like them, to learn changes from."
        )

    def _perturbation_condition(self) -> PerturbationSet:
        condition = perturbation_of(self.conditions)
        if condition is None:
            raise ValueError(
                "No perturbation is registered. Give `perturbation_key` to `setup_anndata`."
            )
        return condition
