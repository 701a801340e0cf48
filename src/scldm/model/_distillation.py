"""Few steps: a student of the trained denoiser."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from scldm.train import DistillationPlan, LatentDataModule, Latents

from ._choices import positive
from ._editing import deterministic
from ._order import checked_guidance, name_of
from ._request import Request
from ._training import STEPS_PER_EPOCH

__all__ = ["DistillationMixin"]

_MAX_STEPS = 4000


class DistillationMixin:
    """``distill``."""

    student_: dict[str, Any] | None = None
    """How the student was made, see :meth:`distill`."""

    def distill(
        self,
        n_steps: int = 1,
        *,
        max_steps: int | None = None,
        guidance_scale: float | Mapping[str, float] = 1.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        guidance_rescale: float = 0.0,
        sampler: str = "heun",
        steps: int | None = None,
        batch_size: int = 256,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        plan_kwargs: dict[str, Any] | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Teach a copy of the denoiser to make cells in one to a few steps.

        Afterwards ``generate(..., sampler="distilled")`` uses it; everything else of the model
        stays as it is. It is saved with the model, and gone when the model is trained further.
        When this fails or is interrupted, the model is as it was before.

        Parameters
        ----------
        n_steps
            Steps, and so calls of the network, that the student takes.
        max_steps
            Optimiser steps; 4,000 by default.
        guidance_scale, guidance_interval, guidance_rescale
            Guidance of the teacher, as in :meth:`generate`; the student then needs none.
        sampler, steps
            How the teacher samples, a deterministic rule.
        batch_size
            Cells in a minibatch.
        accelerator, devices
            Passed to Lightning.
        plan_kwargs
            Arguments of :class:`scldm.train.DistillationPlan`.
        **trainer_kwargs
            For Lightning's trainer.

        Raises
        ------
        ValueError
            If a value is not allowed.
        RuntimeError
            If the model is not trained.
        """
        self._require("diffusion")
        n_steps = positive("n_steps", n_steps)
        max_steps = positive("max_steps", max_steps, _MAX_STEPS)
        rule, steps = deterministic(sampler, steps, default=None)
        guidance = checked_guidance(
            self.conditions,
            Request(self.training_frame_, {}, {}),
            guidance_scale,
            guidance_interval,
            guidance_rescale,
        )
        diffusion = self.module.diffusion
        data = self._condition_data(positive("batch_size", batch_size), max_steps)
        split = self.train_indices, self.validation_indices, self.test_indices
        with self._without_trace_of_failure(), warnings.catch_warnings():
            # there is nothing to validate on, and Lightning wonders why
            warnings.filterwarnings("ignore", message=".*have no `validation_step`")
            diffusion.add_student(n_steps)
            teacher = diffusion.denoiser(**guidance.settings)
            plan = DistillationPlan(diffusion, teacher, rule, steps, **(plan_kwargs or {}))
            self._run_stage(
                "Distillation",
                plan,
                data,
                -(-max_steps // data.steps_per_epoch),
                monitor=None,
                accelerator=accelerator,
                devices=devices,
                **{"gradient_clip_val": 1.0, "max_steps": max_steps, **trainer_kwargs},
            )
        # scvi-tools' runner has put the cells of this stage in place of those of the others
        self.train_indices, self.validation_indices, self.test_indices = split
        taught = {} if steps is None else {"teacher_steps": steps}
        self.student_ = {
            "steps": n_steps,
            "teacher": name_of(rule),
            **taught,
            **guidance.record(),
        }

    @contextmanager
    def _without_trace_of_failure(self) -> Iterator[None]:
        """Put the student before, and all else, back when what runs inside fails."""
        diffusion = self.module.diffusion
        before = diffusion.student, diffusion.n_student_steps
        with self._restored_on_failure():
            try:
                yield
            except BaseException:
                diffusion.student, diffusion.n_student_steps = before
                raise

    def _forget_dependents(self) -> None:
        """Drop the student; call when its teacher or the latents change."""
        self.module.diffusion.student = None
        self.module.diffusion.n_student_steps = 0
        self.student_ = None

    def _condition_data(self, batch_size: int, max_steps: int) -> LatentDataModule:
        """Return the training cells' conditions, in place of latents, as the data of a stage."""
        steps_per_epoch = min(STEPS_PER_EPOCH, max_steps)
        frame = self.training_frame_
        conditions = {c.name: torch.from_numpy(c.encode(frame)) for c in self.conditions}
        nothing = torch.zeros(len(frame), 1)
        latents = Latents(nothing, nothing, nothing, conditions)
        none = np.arange(0)
        return LatentDataModule(
            latents, np.arange(len(frame)), none, none, batch_size, steps_per_epoch
        )
