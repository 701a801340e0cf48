"""Cells at later times."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from scldm._warnings import warn
from scldm.diffusion import Sampler

from ._blocks import Stream, blocks, resolved_seed
from ._cells import Cells, encoded, selected, without_scores
from ._choices import chosen, flag, positive
from ._conditions import Number
from ._editing import deterministic
from ._fate_labels import FateLabels
from ._generation import from_array
from ._provenance import provenance, recorded
from ._request import changed, redrawn, replaced
from ._trajectory_methods import TRAJECTORY_METHODS, Growth, TrajectoryJob, TrajectoryMethod
from ._trajectory_training import TrajectoryTrainingMixin

__all__ = ["TrajectoryMixin"]

_SOURCE_CELL, _SAMPLE, _WEIGHT = "source_cell", "sample", "weight"
_CELL_TYPE = "cell_type"
_SAME_TIME = 1e-6


class TrajectoryMixin(TrajectoryTrainingMixin):
    """``predict_trajectory``."""

    @recorded
    def predict_trajectory(
        self,
        adata: AnnData | None = None,
        times: float | Sequence[float] | None = None,
        *,
        indices: Sequence[int] | None = None,
        method: str | TrajectoryMethod = "rollout",
        n_samples: int = 1,
        return_mean: bool = False,
        seed: int | None = None,
        batch_size: int = 1024,
        sampler: str | Sampler = "heun",
        steps: int | None = None,
    ) -> AnnData:
        """Return what cells may become.

        Parameters
        ----------
        adata
            Registered cells; ``None`` takes the training data: cells of the first time point or, with
            ``indices``, those.
        times
            When, in the unit of the registered time, in any order; none before a cell's own.
        indices
            Which cells; ``None`` takes all.
        method
            One of ``"rollout"``, diffusion of the next state given the present one, from time to
            time, which branches where cells do; ``"flow"``, a continuous flow through all times
            in which the state alone decides; ``"marginal"``, new cells of that time that have
            nothing of the cell but its other conditions. Or an object of
            :class:`scldm.model.TrajectoryMethod`.
        n_samples
            Paths of each cell.
        return_mean
            Return expected counts, the mean over paths by their weights, in place of drawn ones. Where
            paths part, their mean is no cell.
        seed, batch_size
            As in :meth:`generate`.
        sampler, steps
            A deterministic rule and its number of steps, for each interval of time.

        Returns
        -------
        For each cell, path and time (for each cell and time with ``return_mean``): counts in ``X``,
        latents in ``obsm["X_scldm"]``, and in ``obs`` the conditions with the new time under the
        user's own names (the cell type is that of the nearest training cells about that time, or for
        ``"marginal"`` drawn from them), the name of the cell in ``"source_cell"`` and the number of the path in
        ``"sample"``; where growth is known, the number of descendants that the path stands for in
        ``"weight"``, relative to the mean of all paths at that time.

        Raises
        ------
        ValueError
            If no time is registered, times are missing, no numbers or before a cell's own, or a
            value is not allowed.
        RuntimeError
            If the stage that the method needs is not trained.

        Warns
        -----
        UserWarning
            If times lie beyond those of the training cells, where cells stay as they were last, or are guessed
            by ``"marginal"``.
        """
        way = method
        if not isinstance(way, TrajectoryMethod):
            way = chosen("method", method, TRAJECTORY_METHODS)
        condition = self._time_condition()
        self._require("trajectory")
        self._require(way.stage)
        taken = sorted(
            {_SOURCE_CELL, _SAMPLE} & {getattr(c, "column", "") for c in self.conditions}
        )
        if taken:
            raise ValueError(f"The columns {taken} of `obs` are needed for the result.")
        n_samples = positive("n_samples", n_samples)
        batch_size = positive("batch_size", batch_size)
        return_mean = flag("return_mean", return_mean)
        rule, n_steps = deterministic(sampler, steps, default=None)
        when = _checked_times(times, condition)
        cells = self._cells_at_start(adata, indices, condition)
        seed = resolved_seed(seed)
        job = self._trajectory_job(cells, when, n_samples, seed, rule, n_steps)
        job.growth = self._growth()
        self._warn_beyond(when, way)
        if way.stage == "diffusion":
            self._draw_types(job)
        paths = way.paths(job)
        weight = job.log_weight - job.log_weight.max(initial=0)
        weight = np.exp(weight) / np.exp(weight).mean(axis=0)
        if way.stage == "trajectory":
            self._find_types(job, paths, weight, n_samples if return_mean else 1)
        if return_mean:
            new, cell, sample = self._mean_of_paths(job, paths, weight, n_samples, cells, when)
        else:
            flat = paths.reshape(-1, paths.shape[-1])
            new = self._decoded(job.request.frame, from_array(flat, self.device), seed, batch_size)
            cell = np.repeat(job.source, len(when))
            sample = np.repeat(np.tile(np.arange(n_samples), len(cells.rows)), len(when))
        names = cells.names[cell]
        new.obs[_SOURCE_CELL] = names.to_numpy()
        new.obs[_SAMPLE] = sample
        if job.growth is not None:
            paths_of = weight.reshape(-1, n_samples if return_mean else 1, len(when))
            new.obs[_WEIGHT] = paths_of.mean(axis=1).ravel()
        labels = [f"{time:.12g}" for time in np.tile(when, len(cell) // len(when))]
        copies = n_samples > 1 and not return_mean
        new.obs_names = [
            f"{name}_{k}_{label}" if copies else f"{name}_{label}"
            for name, k, label in zip(names, sample, labels, strict=True)
        ]
        new.uns["scldm"] = {
            **provenance(),
            "method": method if isinstance(method, str) else type(method).__name__,
            "times": when,
            "seed": seed,
            "n_samples": n_samples,
            "return_mean": return_mean,
            **way.record(job),
        }
        return new

    def _trajectory_job(
        self,
        cells: Cells,
        when: np.ndarray,
        n_samples: int,
        seed: int,
        rule: Sampler,
        steps: int | None,
    ) -> TrajectoryJob:
        state = self.trajectory_
        line = self._timeline()
        condition = self._time_condition()
        own = cells.frame[condition.name].to_numpy(float)
        knot = line.of(own)
        # times of float32 are not those that are written the same
        later = own > when.min() + _SAME_TIME * np.abs(own)
        if later.any():
            raise ValueError(
                f"`times` has {when.min():g}, before the time of {later.sum()} of the cells "
                f"({own[later].min():g} or later); only later states can be predicted."
            )
        source = np.repeat(np.arange(len(cells.rows)), n_samples)
        latents = without_scores(self, encoded(self, cells))
        kept = {name: latents.conditions[name] for name in state["within"]}
        rows = np.repeat(source, len(when))
        rng = np.random.default_rng((seed, Stream.REQUEST))
        request = changed(
            self.conditions,
            cells.frame.iloc[rows].reset_index(drop=True),
            {condition.name: np.tile(when, len(source))},
            self.training_frame_,
            rng,
            check_range=False,
        )
        given = self._with_nulls(kept, latents.conditions)
        clock = float(state["clock"])
        return TrajectoryJob(
            self, latents, knot, own, source, when, line, clock, given, request, seed, rule, steps
        )

    def _growth(self) -> Growth | None:
        """Return how much cells grow, where that is known."""
        state = self.trajectory_
        log_growth = np.asarray(state["log_growth"], dtype=float)
        if not np.isfinite(log_growth).any():
            return None
        x, knot = (np.asarray(state[name]) for name in ("x", "knot"))
        return Growth(self, self._expression_space(), x, knot, log_growth)

    def _types_change(self) -> bool:
        """Say whether cells have registered types that they may leave on their way."""
        named = any(c.name == _CELL_TYPE for c in self.conditions)
        return named and _CELL_TYPE not in self.trajectory_["within"]

    def _draw_types(self, job: TrajectoryJob) -> None:
        """Ask for the types that training cells of each time have."""
        if self._types_change():
            rng = np.random.default_rng((job.seed, Stream.REQUEST, 1))
            job.request = redrawn(
                self.conditions, job.request, _CELL_TYPE, self.training_frame_, rng
            )

    def _find_types(
        self, job: TrajectoryJob, paths: np.ndarray, weight: np.ndarray, together: int
    ) -> None:
        """Give each path and time the type that the nearest training cells about that time have.

        Parameters
        ----------
        job, paths, weight
            The paths.
        together
            Number of paths in a row that have one type, what most of them come to.
        """
        if not self._types_change():
            return
        state = self.trajectory_
        labels = state["types"][_CELL_TYPE]
        x, knot = (np.asarray(state[name]) for name in ("x", "knot"))
        names = list(labels.cat.categories)
        votes = np.empty((*paths.shape[:2], len(names)))
        for i, time in enumerate(job.times):
            before = int(np.clip(np.searchsorted(job.line.knots, time, "right") - 1, 0, None))
            about = (knot == before) | (knot == before + 1) & (time > job.line.knots[before])
            about &= labels.notna().to_numpy()
            near = FateLabels(
                _CELL_TYPE, names, before, x[about], labels[about].to_numpy(dtype=object)
            )
            z = torch.from_numpy(paths[:, i, :-1])
            votes[:, i] = near.votes(self._expression_space().coordinates(self, z))
        shared = (votes * weight[..., None]).reshape(-1, together, *votes.shape[1:]).sum(axis=1)
        codes = np.repeat(shared.argmax(axis=2), together, axis=0)
        types = pd.Categorical.from_codes(codes.ravel(), categories=names)
        job.request = replaced(self.conditions, job.request, _CELL_TYPE, types)

    def _mean_of_paths(
        self,
        job: TrajectoryJob,
        paths: np.ndarray,
        weight: np.ndarray,
        n_samples: int,
        cells: Cells,
        when: np.ndarray,
    ) -> tuple[AnnData, np.ndarray, np.ndarray]:
        """Return expected counts at each time, means over the paths of each cell by their weights."""
        n, n_times = len(cells.rows), len(when)
        shares = weight.reshape(n, n_samples, n_times)
        shares = shares / shares.sum(axis=1, keepdims=True)
        share_of = shares.ravel().astype(np.float32)[:, None]
        # rows stand by cell, path and time; those of one cell and time go together
        rows_of = np.arange(len(job.source) * n_times).reshape(n, n_samples, n_times)
        at = np.broadcast_to(np.arange(n * n_times).reshape(n, 1, n_times), rows_of.shape).ravel()
        first = rows_of[:, 0].ravel()
        frame = job.request.frame
        inputs = self._decoder_inputs(frame)
        counts = np.zeros((n * n_times, len(self.var_names)), dtype=np.float32)
        flat = paths.reshape(-1, paths.shape[-1])
        latents_of = from_array(flat, self.device)
        for block, rows, padded in blocks(len(flat)):
            z, log_library = latents_of(block, padded)
            cut = {name: values[padded] for name, values in inputs.items()}
            mean = self._distribution(z, log_library, cut).mean.cpu().numpy()
            np.add.at(counts, at[rows], mean[: rows.stop - rows.start] * share_of[rows])
        of_cell = paths.reshape(n, n_samples, n_times, -1)
        latents = np.einsum("nst,nstd->ntd", shares, of_cell[..., :-1])
        sizes = np.einsum("nst,nst->nt", shares, np.exp(of_cell[..., -1])).ravel()
        latents = latents.reshape(n * n_times, -1).astype(np.float32)
        new = self._as_anndata(frame.iloc[first].reset_index(drop=True), counts, latents, sizes)
        return new, np.repeat(np.arange(n), n_times), np.zeros(n * n_times, dtype=int)

    def _cells_at_start(
        self, adata: AnnData | None, indices: Sequence[int] | None, condition: Number
    ) -> Cells:
        cells = selected(self, adata, indices)
        if not cells.names.is_unique:
            raise ValueError(
                "`adata` has names of cells that are not unique, and paths go by them. Call "
                "`adata.obs_names_make_unique()` first."
            )
        if adata is not None or indices is not None:
            return cells
        line = self._timeline()
        return cells.at(np.flatnonzero(line.of(cells.frame[condition.name].to_numpy(float)) == 0))

    def _warn_beyond(self, when: np.ndarray, way: TrajectoryMethod) -> None:
        known = self.training_frame_[self._time_condition().name].to_numpy(float)
        stays = way.stage == "trajectory"
        first, last = known.min(), self._timeline().knots[-1] if stays else known.max()
        then = "cells stay as they were last" if stays else "what is made there is a guess"
        if when.max() > last:
            odd, side, end = when.max(), "beyond the last", last
        elif when.min() < first and not stays:
            odd, side, end = when.min(), "before the first", first
        else:
            return
        warn(f"`times` has {odd:g}, {side} time point of the training cells, {end:g}; {then}.")


def _checked_times(times: float | Sequence[float] | None, condition: Number) -> np.ndarray:
    if times is None:
        raise ValueError("`times` is missing: the times to predict cells at.")
    when = condition.parse("times", times)["times"].to_numpy(float)
    if not len(when):
        raise ValueError("`times` is empty; at least one time is needed.")
    if len(np.unique(when)) < len(when):
        raise ValueError(f"`times` has {when[pd.Series(when).duplicated()][0]:g} twice.")
    return when
