"""Cells at later times."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from scldm._version import __version__
from scldm.diffusion import TRANSPORTS, Sampler, Transport
from scldm.module import TransitionDiffusion
from scldm.nn import FourierEmbedder
from scldm.train import PairDataModule, TransitionPlan

from ._blocks import Stream, blocks, resolved_seed
from ._cells import Cells, encoded, selected, without_scores
from ._choices import chosen, positive
from ._conditions import Category, Condition, Number
from ._editing import deterministic
from ._perturbations import PerturbationSet
from ._request import changed
from ._timeline import Population, Timeline, coupled, fitted_clock, grouped
from ._training import STEPS_PER_EPOCH
from ._trajectory_methods import INTERVAL, TRAJECTORY_METHODS, TrajectoryJob, TrajectoryMethod

__all__ = ["TrajectoryMixin"]

_MAX_STEPS, _BATCH_SIZE = 1500, 256
_PAIRS = 20_000
_SOURCE_CELL, _SAMPLE = "source_cell", "sample"


class TrajectoryMixin:
    """``train_trajectory``, ``predict_trajectory`` and ``get_growth_rates``."""

    trajectory_: dict[str, Any]
    """What trajectories were learned from, as plain data."""

    trajectory_trained_ = False

    def train_trajectory(
        self,
        max_steps: int | None = None,
        *,
        transport: str | Transport = "entropic",
        within: Sequence[str] = (),
        growth_key: str | None = None,
        time_points: Sequence[float] | None = None,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        plan_kwargs: dict[str, Any] | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train the trajectory stage, the ways from cells of one time to those of the next.

        :meth:`train` does this after the other stages where times are registered. Nobody has seen
        a cell at two times: optimal transport says which may have become which.

        Parameters
        ----------
        max_steps
            Optimiser steps; 1,500 by default.
        transport
            How cells of neighbouring times are coupled, one of
            :data:`scldm.diffusion.TRANSPORTS`, or an object of
            :class:`scldm.diffusion.Transport`. ``"unbalanced"`` lets cells have more or fewer
            descendants and estimates how many.
        within
            Registered conditions, such as ``"perturbation"`` or ``"batch"``, that cells keep: only
            cells that agree in them are coupled.
        growth_key
            Column of ``adata.obs`` with growth rates, births less deaths per unit of time.
        time_points
            Times between which to learn; other cells count for the nearest. By default those that
            cells have or, where they are more than 20, means of ten quantiles.
        accelerator, devices
            Passed to Lightning.
        plan_kwargs
            Arguments of :class:`scldm.train.TransitionPlan`.
        **trainer_kwargs
            For Lightning's trainer.

        Raises
        ------
        ValueError
            If no time is registered, cells have only one, a time point has less than five cells,
            or no cells of two neighbouring times can be coupled.
        KeyError
            If ``growth_key`` is not a column of ``adata.obs``.
        RuntimeError
            If stage 1 has not been trained.
        """
        if not self.autoencoder_trained_:
            raise RuntimeError(
                "Trajectories need a trained autoencoder. Call `train_autoencoder()` first, or "
                "`train()` for all stages."
            )
        time = self._time_condition()
        max_steps = positive("max_steps", max_steps, _MAX_STEPS)
        rule = transport
        if not isinstance(rule, Transport):
            rule = chosen("transport", transport, TRANSPORTS)()
        kept = self._kept_conditions(within)
        adata = self._adata_manager_or_raise().adata
        self.training_frame_ = self._read_conditions(adata)
        training = self._split_of(adata)[0]
        frame = self.training_frame_.iloc[training].reset_index(drop=True)
        line = Timeline.fit(frame[time.name].to_numpy(float), time_points)
        growth = _growth_of(adata, growth_key)[training]
        latents = self._encode(adata)[training]
        self.trajectory_trained_ = False
        model = self._new_trajectory_module(self.module.diffusion.n_latent)
        assert model is not None
        self.module.trajectory = model.to(self.device)
        model.fit_standardisation(latents.mean, latents.variance, latents.log_library)
        z = model.flow.standardise(
            latents.mean.to(self.device), latents.log_library.to(self.device)
        )
        columns = [column for c in kept for a in c.arguments for column in c.columns(a)]
        cells = Population(
            # the library size of a cell says little of what becomes of it
            z[:, :-1].cpu().double().numpy(),
            line.of(frame[time.name].to_numpy(float)),
            grouped(frame, columns),
            growth,
        )
        rng = np.random.default_rng(resolved_seed(None))
        pairs, intervals, log_growth = coupled(cells, line, rule, _PAIRS, rng)
        clock = fitted_clock(cells, line, rule, rng)
        given: dict[str, Tensor] = {c.name: latents.conditions[c.name][pairs[:, 0]] for c in kept}
        given[INTERVAL] = torch.from_numpy(self._encoded_interval(line, intervals))
        given = self._with_nulls(given, latents.conditions)
        steps_per_epoch = min(STEPS_PER_EPOCH, max_steps)
        data = PairDataModule(latents, pairs, given, _BATCH_SIZE, steps_per_epoch)
        self._run_transition(
            "Trajectory",
            TransitionPlan(model, name="trajectory", **(plan_kwargs or {})),
            data,
            max_steps,
            accelerator=accelerator,
            devices=devices,
            **trainer_kwargs,
        )
        self.trajectory_ = {
            "knots": line.knots,
            "clock": clock,
            "within": [c.name for c in kept],
            "cells": [str(name) for name in adata.obs_names[training]],
            "log_growth": log_growth,
            "knot": cells.knot,
        }
        self.trajectory_trained_ = True

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
            Registered cells; ``None`` takes those of the training data at its first time.
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
            Return expected counts, the mean over paths, in place of drawn ones. Where paths part,
            their mean is no cell.
        seed, batch_size
            As in :meth:`generate`.
        sampler, steps
            A deterministic rule and its number of steps, for each interval of time.

        Returns
        -------
        For each cell, path and time (for each cell and time with ``return_mean``): counts in ``X``,
        latents in ``obsm["X_scldm"]``, and in ``obs`` the conditions with the new time under the
        user's own names, the name of the cell in ``"source_cell"`` and the number of the path in
        ``"sample"``.

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
            If times lie beyond those of the training cells, where cells stay as they were last.
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
        rule, n_steps = deterministic(sampler, steps, default=None)
        when = _checked_times(times, condition)
        cells = self._cells_at_start(adata, indices, condition)
        seed = resolved_seed(seed)
        job = self._trajectory_job(cells, when, n_samples, seed, rule, n_steps)
        paths = way.paths(job)
        if return_mean:
            new, cell, sample = self._mean_of_paths(job, paths, n_samples, cells, when)
        else:
            flat = paths.reshape(-1, paths.shape[-1])
            new = self._decoded(
                job.request.frame, _from_array(flat, self.device), seed, batch_size
            )
            cell = np.repeat(job.source, len(when))
            sample = np.repeat(np.tile(np.arange(n_samples), len(cells.rows)), len(when))
        names = cells.names[cell]
        new.obs[_SOURCE_CELL] = names.to_numpy()
        new.obs[_SAMPLE] = sample
        labels = [f"{time:g}" for time in np.tile(when, len(cell) // len(when))]
        copies = n_samples > 1 and not return_mean
        new.obs_names = [
            f"{name}_{k}_{label}" if copies else f"{name}_{label}"
            for name, k, label in zip(names, sample, labels, strict=True)
        ]
        new.uns["scldm"] = {
            "version": __version__,
            "method": method if isinstance(method, str) else type(method).__name__,
            "times": when,
            "seed": seed,
            "n_samples": n_samples,
            "return_mean": return_mean,
            **way.record(job),
        }
        return new

    def get_growth_rates(self) -> pd.Series:
        """Return how fast training cells multiply, births less deaths per unit of time.

        As they were given by ``growth_key`` or estimated by unbalanced transport, relative to the
        mean over cells of the same time: how large a population is, a sample does not say.

        Returns
        -------
        One value for each training cell but those of the last time.

        Raises
        ------
        RuntimeError
            If no trajectory is trained, or growth was neither given nor estimated.
        """
        self._require("trajectory")
        state = self.trajectory_
        rates = np.asarray(state["log_growth"], dtype=float)
        known = np.isfinite(rates)
        if not known.any():
            raise RuntimeError(
                "Growth is not known. Give `growth_key` to `train_trajectory`, or "
                "`transport='unbalanced'`, which estimates it."
            )
        lengths = np.diff(state["knots"])[np.asarray(state["knot"])[known]]
        names = np.asarray(state["cells"], dtype=object)[known]
        return pd.Series(rates[known] / lengths, index=names, name="growth_rate")

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
        # within its knot's own reach a cell stands for the knot
        begin = np.minimum(own, line.knots[knot])
        if (when.min() < begin).any():
            raise ValueError(
                f"`times` has {when.min():g}, before the time of some of the cells "
                f"({own.max():g}); only later states can be predicted."
            )
        if when.max() > line.knots[-1]:
            warnings.warn(
                f"`times` has {when.max():g}, beyond the last time of the training cells, "
                f"{line.knots[-1]:g}; cells stay as they were last.",
                UserWarning,
                stacklevel=3,
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
        )
        given = self._with_nulls(kept, latents.conditions)
        clock = float(state["clock"])
        return TrajectoryJob(
            self, latents, knot, source, when, line, clock, given, request, seed, rule, steps
        )

    def _mean_of_paths(
        self, job: TrajectoryJob, paths: np.ndarray, n_samples: int, cells: Cells, when: np.ndarray
    ) -> tuple[AnnData, np.ndarray, np.ndarray]:
        """Return expected counts at each time, means over the paths of each cell."""
        n, n_times = len(cells.rows), len(when)
        # rows stand by cell, path and time; those of one cell and time go together
        rows_of = np.arange(len(job.source) * n_times).reshape(n, n_samples, n_times)
        at = np.broadcast_to(np.arange(n * n_times).reshape(n, 1, n_times), rows_of.shape).ravel()
        first = rows_of[:, 0].ravel()
        frame = job.request.frame
        inputs = self._decoder_inputs(frame)
        counts = np.zeros((n * n_times, len(self.var_names)), dtype=np.float32)
        flat = paths.reshape(-1, paths.shape[-1])
        latents_of = _from_array(flat, self.device)
        for block, rows, padded in blocks(len(flat)):
            z, log_library = latents_of(block, padded)
            cut = {name: values[padded] for name, values in inputs.items()}
            mean = self._distribution(z, log_library, cut).mean.cpu().numpy()
            np.add.at(counts, at[rows], mean[: rows.stop - rows.start] / n_samples)
        means = paths.reshape(n, n_samples, n_times, -1)
        latents = means[..., :-1].mean(axis=1).reshape(n * n_times, -1)
        sizes = np.exp(means[..., -1]).mean(axis=1).ravel()
        new = self._as_anndata(frame.iloc[first].reset_index(drop=True), counts, latents, sizes)
        return new, np.repeat(np.arange(n), n_times), np.zeros(n * n_times, dtype=int)

    def _run_transition(
        self, stage: str, plan: TransitionPlan, data: Any, max_steps: int, **kwargs: Any
    ) -> None:
        """Train on pairs of cells, keeping which cells the other stages were trained on."""
        split = self.train_indices, self.validation_indices, self.test_indices
        with warnings.catch_warnings():
            # there is nothing to validate on, and Lightning wonders why
            warnings.filterwarnings("ignore", message=".*have no `validation_step`")
            self._run_stage(
                stage,
                plan,
                data,
                -(-max_steps // data.steps_per_epoch),
                monitor=None,
                **{"gradient_clip_val": 1.0, "max_steps": max_steps, **kwargs},
            )
        # scvi-tools' runner has put the pairs of this stage in place of the cells of the others
        self.train_indices, self.validation_indices, self.test_indices = split

    def _new_trajectory_module(self, n_latent: int) -> TransitionDiffusion | None:
        """Return the module of the stage, untrained, or ``None`` without a time."""
        if _time_of(self.conditions) is None:
            return None
        embedders = {c.name: c.embedder for c in self.conditions if _can_be_kept(c)}
        embedders[INTERVAL] = lambda width: FourierEmbedder(2, width)
        return TransitionDiffusion(
            embedders, n_latent, width=128, depth=2, dropout_rate=0.1, ema_decay=0.995
        )

    def _can_learn_trajectories(self) -> bool:
        condition = _time_of(self.conditions)
        if condition is None:
            return False
        training = self._split_of(self.adata)[0]
        try:
            Timeline.fit(self.training_frame_[condition.name].to_numpy(float)[training])
        except ValueError:
            return False
        return True

    def _encoded_interval(self, line: Timeline, before: np.ndarray) -> np.ndarray:
        """Return both times of intervals as the networks see them, ``(n, 2)``."""
        ends = np.stack([line.knots[before], line.knots[before + 1]], axis=1)
        return self._time_condition().standardise(ends).astype(np.float32)

    def _with_nulls(self, given: dict[str, Tensor], like: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return conditions with those that cells do not keep as not given."""
        n = len(next(iter(given.values()))) if given else len(next(iter(like.values())))
        free = {
            c.name: torch.full((n, like[c.name].shape[1]), torch.nan)
            for c in self.conditions
            if _can_be_kept(c) and c.name not in given
        }
        return {**free, **given}

    def _timeline(self) -> Timeline:
        return Timeline(np.asarray(self.trajectory_["knots"], dtype=float))

    def _time_condition(self) -> Number:
        condition = _time_of(self.conditions)
        if condition is None:
            raise ValueError("No time is registered. Give `time_key` to `setup_anndata`.")
        return condition

    def _kept_conditions(self, within: Sequence[str]) -> list[Condition]:
        names = [within] if isinstance(within, str) else list(within)
        known = {c.name: c for c in self.conditions if _can_be_kept(c)}
        return [chosen("within", name, known) for name in names]

    def _cells_at_start(
        self, adata: AnnData | None, indices: Sequence[int] | None, condition: Number
    ) -> Cells:
        cells = selected(self, adata, indices)
        if adata is not None or indices is not None:
            return cells
        line = self._timeline()
        return cells.at(np.flatnonzero(line.of(cells.frame[condition.name].to_numpy(float)) == 0))


def _time_of(conditions: Sequence[Condition]) -> Number | None:
    """Return the time among the conditions, if it is there."""
    found = (c for c in conditions if isinstance(c, Number) and c.name == "time")
    return next(found, None)


def _can_be_kept(condition: Condition) -> bool:
    return isinstance(condition, Category | PerturbationSet)


def _checked_times(times: float | Sequence[float] | None, condition: Number) -> np.ndarray:
    if times is None:
        raise ValueError("`times` is missing: the times to predict cells at.")
    when = condition.parse("times", times)["times"].to_numpy(float)
    if not len(when):
        raise ValueError("`times` is empty; at least one time is needed.")
    return when


def _growth_of(adata: AnnData, key: str | None) -> np.ndarray:
    if key is None:
        return np.full(adata.n_obs, np.nan)
    if key not in adata.obs:
        raise KeyError(f"`growth_key={key!r}` is not a column of `adata.obs`.")
    rates = pd.to_numeric(adata.obs[key], errors="coerce").to_numpy(float)
    if not np.isfinite(rates).all():
        raise ValueError(
            f"`growth_key={key!r}` has values that are missing or not finite numbers."
        )
    return rates


def _from_array(x: np.ndarray, device: torch.device) -> Any:
    """Return what hands out rows of latents and log library sizes."""

    def latents_of(block: int, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        cells = torch.from_numpy(x[rows]).to(device)
        return cells[:, :-1], cells[:, -1:]

    return latents_of
