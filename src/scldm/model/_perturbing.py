"""Cells as they would be under a perturbation."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from scldm.diffusion import COUPLINGS, Sampler
from scldm.module import TransitionDiffusion
from scldm.train import CellGroup, GroupDataModule, TransitionPlan

from ._blocks import Stream, blocks, resolved_seed
from ._cells import Cells, encoded, selected, without_scores
from ._choices import chosen, flag, positive
from ._editing import deterministic
from ._fields import shortened
from ._pairing import Group, compared, context_columns, perturbation_of
from ._perturbation_methods import (
    PERTURBATION_METHODS,
    LatentsOf,
    PerturbationJob,
    PerturbationMethod,
)
from ._perturbations import PerturbationSet
from ._provenance import provenance, recorded
from ._request import Request, changed
from ._residuals import KeptResiduals
from ._shifts import Shifts
from ._training import STEPS_PER_EPOCH
from ._training_options import plan_options

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
        adata = self._adata_manager_or_raise().adata
        self.training_frame_ = self._read_conditions(adata)
        training = self._split_of(adata)[0]
        groups = self._compared(training)
        if not groups:
            raise ValueError(
                "`adata` has no perturbed cells with control cells "
                f"({perturbation.control!r}) like them, to learn changes from."
            )
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

    @recorded
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
        keep_residuals: bool = False,
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
        keep_residuals
            Whether counts stay at the quantiles of the control cell's, see
            ``scldm.module.carried_counts``, in place of new draws: what latents do not know of a cell
            stays with it, and so does what chance did to it.
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
        if condition.column == _SOURCE_CELL:
            raise ValueError(f"The column {_SOURCE_CELL!r} of `obs` is needed for the result.")
        n_samples = positive("n_samples", n_samples)
        batch_size = positive("batch_size", batch_size)
        return_mean = flag("return_mean", return_mean)
        if flag("keep_residuals", keep_residuals) and return_mean:
            raise ValueError(
                "`keep_residuals=True` is of drawn counts; `return_mean=True` draws none."
            )
        rule, n_steps = deterministic(sampler, steps, default=None)
        cells = self._control_cells(adata, indices, condition)
        seed = resolved_seed(seed)
        asked = self._perturbed_request(cells, condition, perturbation, dose, seed)
        source = np.repeat(np.arange(len(cells.rows)), n_samples)
        request = Request(
            asked.frame.iloc[source].reset_index(drop=True),
            {name: value[source] for name, value in asked.encoded.items()},
            asked.described,
        )
        known = without_scores(self, encoded(self, cells))
        # inversion takes more steps than sampling unless told otherwise
        n_steps = n_steps if steps is not None or way.stage == "perturbation" else None
        job = PerturbationJob(self, known, source, request, seed, rule, n_steps)
        latents_of = self._fading_to_arithmetic(job, way)
        if return_mean:
            new = self._expected(asked.frame, job, latents_of)
            source = np.arange(len(cells.rows))
            start = job.start.reshape(len(source), n_samples, -1).mean(axis=1)
        else:
            draw = KeptResiduals(self, cells, job) if keep_residuals else None
            parts = self._parts(request.frame, latents_of, seed, batch_size, draw=draw)
            new = self._assembled(request.frame, parts)
            start = job.start
        names = cells.names[source]
        new.obs[_SOURCE_CELL] = names.to_numpy()
        copies = len(source) > len(cells.rows)
        new.obs_names = [f"{x}_{i % n_samples}" if copies else x for i, x in enumerate(names)]
        new.obsm["X_scldm_delta"] = new.obsm["X_scldm"] - start
        new.uns["scldm"] = {
            **provenance(),
            "method": method if isinstance(method, str) else type(method).__name__,
            "seed": seed,
            "n_samples": n_samples,
            "return_mean": return_mean,
            "keep_residuals": keep_residuals,
            "conditions": dict(request.described),
            **way.record(job),
        }
        return new

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
            return bool(self._compared(self._split_of(self.adata)[0]))

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
            named = "adata" if indices is None else "indices"
            raise ValueError(
                f"`{named}` has {len(labels)} cells that are not control cells "
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
        if condition.dose is not None:
            given["dose"] = self._doses(condition, perturbation) if dose is None else dose
        rng = np.random.default_rng((seed, Stream.REQUEST))
        return changed(self.conditions, cells.frame, given, self.training_frame_, rng)

    def _doses(self, condition: PerturbationSet, perturbation: Any) -> Any:
        """Return the only doses that training cells of these perturbations have."""
        wanted = condition.parse("perturbation", perturbation)["perturbation"].astype(str)
        labels = self.training_frame_["perturbation"].astype(str)
        only = {}
        for label in wanted.unique():
            # a new combination has the doses of perturbed cells
            own = labels == label if (labels == label).any() else labels != condition.control
            known = np.unique(self.training_frame_.loc[own.to_numpy(), "dose"])
            if len(known) > 1 and label != condition.control:
                raise ValueError(
                    f"`perturbation={label!r}` needs a `dose` too: training cells of it have "
                    f"{shortened(known.tolist())}."
                )
            only[label] = known[0]
        doses = [only[label] for label in wanted]
        return doses[0] if len(doses) == 1 else doses

    def _fading_to_arithmetic(self, job: PerturbationJob, way: PerturbationMethod) -> LatentsOf:
        """Return latents by a method, and by latent arithmetic where there is nothing to learn from.

        No network has learned to do nothing, as the control does, nor what ever lower doses do.
        """
        inner = way.prepare(job)
        share = np.ones(len(job.request.frame))
        if way.stage == "perturbation":
            share = self._by_perturbation(job.request.frame, Shifts.known_share, 1)[:, 0]

        def latents_of(block: int, rows: np.ndarray) -> tuple[Tensor, Tensor]:
            z, log_library = inner(block, rows)
            if (share[rows] < 1).any():
                own = torch.from_numpy(share[rows]).to(z).unsqueeze(1)
                plain, plain_library = job.moved(job.control(block, rows), rows)
                z = plain + own * (z - plain)
                log_library = plain_library + own * (log_library - plain_library)
            return self.module.autoencoder.allowed(z), log_library

        return latents_of

    def _changes(self, frame: pd.DataFrame) -> np.ndarray:
        """Return the mean change of each cell, ``(n, n_latent + 1)``."""
        return self._by_perturbation(frame, Shifts.at, self.module.diffusion.n_latent + 1)

    def _by_perturbation(
        self, frame: pd.DataFrame, what: Callable[[Shifts, str, float], Any], size: int
    ) -> np.ndarray:
        """Return what shifts say of each cell's perturbation and dose, ``(n, size)``."""
        shifts = Shifts.from_plain(self._perturbation_condition(), self.shifts_)
        labels = frame["perturbation"].astype(str).to_numpy()
        doses = frame["dose"].to_numpy(float) if "dose" in frame else np.full(len(frame), np.nan)
        table = pd.DataFrame({"label": labels, "dose": doses})
        found = np.empty((len(frame), size))
        for (label, dose), rows in table.groupby(["label", "dose"], dropna=False).indices.items():
            found[rows] = what(shifts, label, dose)
        return found

    def _expected(
        self, frame: pd.DataFrame, job: PerturbationJob, latents_of: LatentsOf
    ) -> AnnData:
        """Return expected counts, latents and library sizes, means over the samples of each cell."""
        n, n_samples = len(frame), len(job.source) // len(frame)
        counts = np.zeros((n, len(self.var_names)), dtype=np.float32)
        latents = np.zeros((n, job.cells.mean.shape[1]), dtype=np.float32)
        library_sizes = np.zeros(n, dtype=np.float32)
        inputs = self._decoder_inputs(job.request.frame)
        for block, rows, padded in blocks(len(job.source)):
            z, log_library = latents_of(block, padded)
            cut = {name: values[padded] for name, values in inputs.items()}
            mean = self._distribution(z, log_library, cut).mean
            own, at = slice(rows.stop - rows.start), job.source[rows]
            np.add.at(counts, at, mean[own].cpu().numpy() / n_samples)
            np.add.at(latents, at, z[own].cpu().numpy() / n_samples)
            np.add.at(library_sizes, at, log_library[own, 0].exp().cpu().numpy() / n_samples)
        return self._as_anndata(frame, counts, latents, library_sizes)
