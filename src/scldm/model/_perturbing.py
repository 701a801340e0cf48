"""Cells as they would be under a perturbation."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from scldm._version import __version__
from scldm.diffusion import COUPLINGS, Sampler
from scldm.train import CellGroup, GroupDataModule, PerturbationPlan

from ._blocks import Stream, blocks, resolved_seed
from ._cells import Cells, encoded, selected, without_scores
from ._choices import chosen, positive
from ._editing import with_doses
from ._fields import shortened
from ._order import checked_sampler, name_of
from ._pairing import compared, context_columns, perturbation_of
from ._perturbation_methods import PERTURBATION_METHODS, PerturbationJob, PerturbationMethod
from ._perturbations import PerturbationSet
from ._request import Request, changed
from ._shifts import Shifts
from ._training import STEPS_PER_EPOCH

__all__ = ["PerturbingMixin"]

_MAX_STEPS = 300
_GROUPS, _PAIRS = 4, 64
_SOURCE_CELL = "source_cell"


class PerturbingMixin:
    """``train_perturbation`` and ``predict_perturbation``."""

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
        are compared within contexts: cell type, batch and categorical covariates, as far as these have
        control cells.

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
            Arguments of :class:`scldm.train.PerturbationPlan`.
        **trainer_kwargs
            For Lightning's trainer.

        Raises
        ------
        ValueError
            If no perturbation is registered, or there are no control cells or no perturbed ones.
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
        rule = chosen("coupling", coupling, COUPLINGS)()
        adata = self._adata_manager_or_raise().adata
        frame = self._read_conditions(adata)
        training = self._split_of(adata)[0]
        inside = frame.iloc[training].reset_index(drop=True)
        groups = compared(inside, perturbation, context_columns(self.conditions))
        if not groups:
            raise ValueError(
                "`adata` has no perturbed cells, or no control cells "
                f"({perturbation.control!r}), to learn changes from."
            )
        self.perturbation_trained_ = False
        latents = self._encode(adata)[training]
        x = torch.cat([latents.mean, latents.log_library], dim=1).numpy().astype(float)
        shifts = Shifts.fit(x, groups, perturbation)
        model = self.module.perturbation
        model.fit_standardisation(latents.mean, latents.variance, latents.log_library)
        pairs = [CellGroup(g.perturbed, g.control, shifts.at(g.label, g.dose)) for g in groups]
        steps_per_epoch = min(STEPS_PER_EPOCH, max_steps)
        data = GroupDataModule(latents, pairs, _GROUPS, _PAIRS, steps_per_epoch)
        split = self.train_indices, self.validation_indices, self.test_indices
        with warnings.catch_warnings():
            # there is nothing to validate on, and Lightning wonders why
            warnings.filterwarnings("ignore", message=".*have no `validation_step`")
            self._run_stage(
                "Perturbation",
                PerturbationPlan(model, rule, **(plan_kwargs or {})),
                data,
                -(-max_steps // steps_per_epoch),
                monitor=None,
                accelerator=accelerator,
                devices=devices,
                **{"gradient_clip_val": 1.0, "max_steps": max_steps, **trainer_kwargs},
            )
        # scvi-tools' runner has put the groups of this stage in place of the cells of the others
        self.train_indices, self.validation_indices, self.test_indices = split
        self.shifts_ = shifts.to_plain()
        self.perturbation_trained_ = True

    def predict_perturbation(
        self,
        adata: AnnData | None = None,
        perturbation: str | Sequence[str] | None = None,
        dose: float | Sequence[float] | None = None,
        *,
        indices: Sequence[int] | None = None,
        method: str | PerturbationMethod = "flow",
        n_samples: int = 1,
        return_mean: bool = False,
        seed: int | None = None,
        batch_size: int = 1024,
        sampler: str | Sampler = "heun",
        steps: int | None = None,
    ) -> AnnData:
        """Return control cells as they would be under a perturbation.

        Parameters
        ----------
        adata
            Registered control cells; ``None`` takes those of the training data.
        perturbation
            A perturbation or combination; one for all cells, or one for each. Combinations of known
            perturbations need not have been seen, nor perturbations with an embedding.
        dose
            Its dose, where doses are registered; needed where training cells have several.
        indices
            Which cells; ``None`` takes all.
        method
            One of ``"flow"``, from the control cell moved by the mean change; ``"conditional"``,
            from noise given the control cell; ``"inversion"``, to noise under the cell's own
            conditions and back under the changed ones; ``"delta"``, the change that is expected
            of its latent; ``"arithmetic"``, the mean change alone. Or an object of
            :class:`scldm.model.PerturbationMethod`.
        n_samples
            Cells to make of each control cell.
        return_mean
            Return expected counts, the mean over samples, in place of drawn ones. Means are for
            point metrics; they have none of the spread of cells.
        seed, batch_size
            As in :meth:`generate`.
        sampler, steps
            A deterministic rule and its number of steps.

        Returns
        -------
        ``n_samples`` cells for each control cell, or one with ``return_mean``: counts in ``X``,
        latents in ``obsm["X_scldm"]`` and their change in ``obsm["X_scldm_delta"]``, the conditions
        in ``obs``, and the name of the control cell in ``obs["source_cell"]``.

        Raises
        ------
        ValueError
            If no perturbation is registered, it is not known, a dose is given and none is registered,
            cells are not control cells, or a value is not allowed.
        RuntimeError
            If the stage that the method needs is not trained.
        """
        condition = self._perturbation_condition()
        way = method
        if not isinstance(way, PerturbationMethod):
            way = chosen("method", method, PERTURBATION_METHODS)
        self._require(way.stage)
        n_samples = positive("n_samples", n_samples)
        rule, n_steps = checked_sampler(sampler, steps, 0)
        cells = self._control_cells(adata, indices, condition)
        seed = resolved_seed(seed)
        request = self._perturbed_request(cells, condition, perturbation, dose, seed)
        job = self._perturbation_job(cells, request, way, n_samples, seed, rule, n_steps)
        if way.stage == "diffusion" and steps is None:
            # inversion needs more steps than sampling, and chooses their number
            job.steps = None
        latents_of = way.prepare(job)
        new = self._decoded(job.request.frame, latents_of, seed, batch_size)
        source = np.repeat(np.arange(len(cells.rows)), n_samples)
        if return_mean:
            new = self._mean_counts(new, job.request, latents_of, n_samples)
            source = np.arange(len(cells.rows))
        new.obs[_SOURCE_CELL] = cells.names[source].to_numpy()
        copies = not return_mean and n_samples > 1
        new.obs_names = [
            f"{name}_{i % n_samples}" if copies else str(name)
            for i, name in enumerate(cells.names[source])
        ]
        start = job.latents.mean.numpy()[:: n_samples if return_mean else 1]
        new.obsm["X_scldm_delta"] = new.obsm["X_scldm"] - start
        new.uns["scldm"] = self._perturbation_record(job, method, n_samples, return_mean)
        return new

    def _has_perturbed_and_control_cells(self) -> bool:
        condition = perturbation_of(self.conditions)
        if condition is None:
            return False
        control = self.training_frame_["perturbation"].astype(str) == condition.control
        return bool(control.any() and not control.all())

    def _perturbation_condition(self) -> PerturbationSet:
        condition = perturbation_of(self.conditions)
        if condition is None:
            raise ValueError(
                "No perturbation is registered. Give `perturbation_key` to `setup_anndata`."
            )
        return condition

    def _control_cells(
        self, adata: AnnData | None, indices: Sequence[int] | None, condition: PerturbationSet
    ) -> Cells:
        cells = selected(self, adata, indices)
        control = (cells.frame["perturbation"].astype(str) == condition.control).to_numpy()
        if adata is None and indices is None and control.any():
            return cells.at(np.flatnonzero(control))
        if not control.all():
            labels = cells.frame["perturbation"].astype(str)[~control]
            raise ValueError(
                f"`adata` has {len(labels)} cells that are not control cells "
                f"({condition.control!r}) but {shortened(sorted(labels.unique()))}. Give control cells "
                "only."
            )
        return cells

    def _perturbed_request(
        self,
        cells: Cells,
        condition: PerturbationSet,
        perturbation: str | Sequence[str] | None,
        dose: float | Sequence[float] | None,
        seed: int,
    ) -> Request:
        if perturbation is None:
            known = [label for label in condition.labels if label != condition.control]
            raise ValueError(f"`perturbation` is missing. Known: {shortened(known)}.")
        if dose is not None and condition.dose is None:
            raise ValueError(
                f"`dose={dose!r}` was given, but no dose is registered. Give `dose_key` to "
                "`setup_anndata`, or leave `dose` out."
            )
        given: dict[str, Any] = {"perturbation": perturbation}
        if dose is not None:
            given["dose"] = dose
        given = with_doses(self.conditions, cells.frame, given, self.training_frame_)
        rng = np.random.default_rng((seed, Stream.REQUEST))
        return changed(self.conditions, cells.frame, given, self.training_frame_, rng)

    def _perturbation_job(
        self,
        cells: Cells,
        request: Request,
        way: PerturbationMethod,
        n_samples: int,
        seed: int,
        rule: Sampler,
        steps: int | None,
    ) -> PerturbationJob:
        """Return what is to be done, with an entry for each cell to make."""
        shift = np.zeros((len(cells.rows), self.module.diffusion.n_latent + 1))
        if way.stage == "perturbation":
            shift = self._changes(request.frame)
        rows = np.repeat(np.arange(len(cells.rows)), n_samples)
        latents = without_scores(self, encoded(self, cells))[rows]
        repeated = Request(
            request.frame.iloc[rows].reset_index(drop=True),
            {name: value[rows] for name, value in request.encoded.items()},
            request.described,
        )
        return PerturbationJob(self, latents, shift[rows], repeated, seed, rule, steps)

    def _changes(self, frame: pd.DataFrame) -> np.ndarray:
        """Return the mean change of each cell, ``(n, n_latent + 1)``."""
        shifts = Shifts.from_plain(self._perturbation_condition(), self.shifts_)
        labels = frame["perturbation"].astype(str).to_numpy()
        doses = frame["dose"].to_numpy(float) if "dose" in frame else np.full(len(frame), np.nan)
        table = pd.DataFrame({"label": labels, "dose": doses})
        changes = np.empty((len(frame), self.module.diffusion.n_latent + 1))
        for (label, dose), rows in table.groupby(["label", "dose"], dropna=False).indices.items():
            changes[rows] = shifts.at(label, dose)
        return changes

    def _mean_counts(
        self, drawn: AnnData, request: Request, latents_of, n_samples: int
    ) -> AnnData:
        """Return expected counts, the mean over the samples of each control cell."""
        inputs = self._decoder_inputs(request.frame)
        parts = []
        for block, rows, padded in blocks(len(request.frame)):
            z, log_library = latents_of(block, padded)
            cut = {name: values[padded] for name, values in inputs.items()}
            mean = self._distribution(z, log_library, cut).mean
            parts.append(mean[: rows.stop - rows.start].cpu().numpy())
        counts = np.concatenate(parts).reshape(-1, n_samples, drawn.n_vars).mean(axis=1)
        latents = drawn.obsm["X_scldm"].reshape(len(counts), n_samples, -1).mean(axis=1)
        mean = drawn[::n_samples].copy()
        mean.X = counts
        mean.obsm["X_scldm"] = latents
        return mean

    def _perturbation_record(
        self, job: PerturbationJob, method: str | PerturbationMethod, n: int, mean: bool
    ) -> dict[str, Any]:
        record = {
            "version": __version__,
            "method": method if isinstance(method, str) else type(method).__name__,
            "seed": job.seed,
            "n_samples": n,
            "return_mean": mean,
            "sampler": name_of(job.sampler),
            "conditions": dict(job.request.described),
        }
        return record if job.steps is None else {**record, "steps": job.steps}
