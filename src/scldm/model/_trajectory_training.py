"""Training on pairs of cells of neighbouring times."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from scldm._warnings import warn
from scldm.diffusion import TRANSPORTS, Transport
from scldm.module import TransitionDiffusion
from scldm.nn import FourierEmbedder
from scldm.train import PairDataModule, TransitionPlan

from ._blocks import resolved_seed
from ._choices import chosen, listed, positive
from ._conditions import Category, Condition, Number
from ._expression import ExpressionSpace
from ._perturbations import PerturbationSet
from ._timeline import Population, Timeline, coupled, fitted_clock, grouped
from ._training import STEPS_PER_EPOCH
from ._training_options import only_steps, plan_options
from ._trajectory_methods import INTERVAL

__all__ = ["TrajectoryTrainingMixin"]

_MAX_STEPS, _BATCH_SIZE = 1500, 256
_PAIRS = 20_000
_MOST_GROWTH = 20.0
_FEWEST_KEPT = 5


class TrajectoryTrainingMixin:
    """``train_trajectory`` and ``get_growth_rates``."""

    trajectory_: dict[str, Any]
    """What trajectories were learned from, as plain data."""

    trajectory_trained_ = False

    def train_trajectory(
        self,
        max_steps: int | None = None,
        *,
        transport: str | Transport = "unbalanced",
        within: str | Sequence[str] = "auto",
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
            descendants than others, or than ``growth_key`` says, and estimates how many.
        within
            Registered conditions, such as ``"perturbation"`` or ``"batch"``, that cells keep: only
            cells that agree in them are coupled. ``"auto"`` takes the perturbation, the batch and
            categorical covariates, in this order, as far as each of their combinations (of perturbations, with
            the dose) has five cells at every time point; ``[]`` takes none. How combinations grow against
            each other only ``growth_key`` can say, as their samples were taken apart.
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
        TypeError
            If arguments of early stopping are given.
        RuntimeError
            If stage 1 has not been trained.

        Warns
        -----
        UserWarning
            If perturbations are registered that not all time points have, so that cells cannot keep them.
        """
        if not self.autoencoder_trained_:
            raise RuntimeError(
                "Trajectories need a trained autoencoder. Call `train_autoencoder()` first, or "
                "`train()` for all stages."
            )
        time = self._time_condition()
        max_steps = positive("max_steps", max_steps, _MAX_STEPS)
        plan_kwargs = plan_options(TransitionPlan, plan_kwargs, ("coupling", "name"))
        rule = _rule_of(transport)
        named = None if isinstance(within, str) and within == "auto" else self._named(within)
        only_steps(trainer_kwargs, validated=False)
        adata = self._adata_manager_or_raise().adata
        self.training_frame_ = self._read_conditions(adata)
        training = self._split_of(adata)[0]
        frame = self.training_frame_.iloc[training].reset_index(drop=True)
        line = Timeline.fit(frame[time.name].to_numpy(float), time_points)
        growth = _growth_of(adata, growth_key, float(np.diff(line.knots).max()))[training]
        latents = self._encode(adata)[training]
        model = self._new_trajectory_module(self.module.diffusion.n_latent)
        assert model is not None
        moments = latents.mean, latents.variance, latents.log_library
        model.to(self.device).fit_standardisation(*moments)
        plan = TransitionPlan(model, name="trajectory", **plan_kwargs)
        space = ExpressionSpace.fit(self, latents.mean, frame)
        x, knot = space.coordinates(self, latents.mean), line.of(frame[time.name].to_numpy(float))
        kept = self._kept_by_all(frame, knot) if named is None else named
        cells = Population(x, knot, _groups(frame, kept), growth)
        rng = np.random.default_rng(resolved_seed(None))
        pairs, intervals, log_growth = coupled(cells, line, rule, _PAIRS, rng)
        clock = fitted_clock(cells, line, rule, rng)
        given: dict[str, Tensor] = {c.name: latents.conditions[c.name][pairs[:, 0]] for c in kept}
        given[INTERVAL] = torch.from_numpy(self._encoded_interval(line, intervals))
        given = self._with_nulls(given, latents.conditions)
        steps_per_epoch = min(STEPS_PER_EPOCH, max_steps)
        data = PairDataModule(latents, pairs, given, _BATCH_SIZE, steps_per_epoch)
        with self._in_place_of("trajectory", model):
            self._run_transition(
                "Trajectory",
                plan,
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
            "x": cells.x.astype(np.float32),
            "types": frame[[name for name in ("cell_type",) if name in frame]],
            "space": space.to_plain(),
        }
        self.trajectory_trained_ = True

    def get_growth_rates(self) -> pd.Series:
        """Return how fast training cells multiply, births less deaths per unit of time.

        As they were estimated by unbalanced transport or given by ``growth_key``, relative to the
        mean over cells of the same time: how large a population is, a sample does not say. Estimates are
        relative to the mean of the cells that also agree in what is coupled ``within``, such as the
        perturbation: they tell which cells of a treatment grow, and not whether the treatment kills.

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
                "Growth is not known: the transport of `train_trajectory` estimates none, and no "
                "`growth_key` was given."
            )
        lengths = np.diff(state["knots"])[np.asarray(state["knot"])[known]]
        names = np.asarray(state["cells"], dtype=object)[known]
        return pd.Series(rates[known] / lengths, index=names, name="growth_rate")

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
        # so that a registered time changes nothing in what the other stages draw
        with torch.random.fork_rng([]):
            return TransitionDiffusion(
                embedders, n_latent, width=128, depth=2, dropout_rate=0.1, ema_decay=0.995
            )

    def _can_learn_trajectories(self) -> bool:
        condition = _time_of(self.conditions)
        if condition is None:
            return False
        training = self._split_of(self.adata)[0]
        times = self.training_frame_[condition.name].to_numpy(float)[training]
        try:
            Timeline.fit(times)
        except ValueError as error:
            warn(f"No trajectories are learned: {error}")
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

    def _expression_space(self) -> ExpressionSpace:
        return ExpressionSpace.from_plain(self.trajectory_["space"])

    def _timeline(self) -> Timeline:
        return Timeline(np.asarray(self.trajectory_["knots"], dtype=float))

    def _time_condition(self) -> Number:
        condition = _time_of(self.conditions)
        if condition is None:
            raise ValueError("No time is registered. Give `time_key` to `setup_anndata`.")
        return condition

    def _kept_by_all(self, frame: pd.DataFrame, knot: np.ndarray) -> list[Condition]:
        """Return the conditions that cells can keep: all their combinations occur at all knots."""
        known = {c.name: c for c in self.conditions if _can_be_kept(c) and c.name != "cell_type"}
        first = [name for name in ("perturbation", "batch") if name in known]
        kept: list[Condition] = []
        for name in [*first, *(name for name in known if name not in first)]:
            group = _groups(frame, [*kept, known[name]])
            table = np.zeros((group.max() + 1, knot.max() + 1), dtype=int)
            np.add.at(table, (group, knot), 1)
            if (table >= _FEWEST_KEPT).all():
                kept.append(known[name])
            elif name == "perturbation" and len(table) > 1:
                dosed = " with each of its doses" if "dose" in frame else ""
                warn(
                    f"Not every `perturbation`{dosed} has five cells at every time point, so the ways of cells do not "
                    "depend on it, and predicted cells keep the label that they come with. `within` says what "
                    "cells keep."
                )
        return kept

    def _named(self, within: Sequence[str]) -> list[Condition]:
        names = listed("within", within)
        known = {c.name: c for c in self.conditions if _can_be_kept(c)}
        return [chosen("within", name, known) for name in names]


def _time_of(conditions: Sequence[Condition]) -> Number | None:
    """Return the time among the conditions, if it is there."""
    found = (c for c in conditions if isinstance(c, Number) and c.name == "time")
    return next(found, None)


def _can_be_kept(condition: Condition) -> bool:
    return isinstance(condition, Category | PerturbationSet)


def _rule_of(transport: str | Transport) -> Transport:
    if isinstance(transport, Transport):
        return transport
    return chosen("transport", transport, TRANSPORTS)()


def _groups(frame: pd.DataFrame, kept: Sequence[Condition]) -> np.ndarray:
    """Return numbers that tell cells apart that differ in a condition."""
    return grouped(frame, [column for c in kept for a in c.arguments for column in c.columns(a)])


def _growth_of(adata: AnnData, key: str | None, longest: float) -> np.ndarray:
    """Return the growth rate of each cell, NaN where none is given.

    Parameters
    ----------
    adata
        The cells.
    key
        Column of ``obs``.
    longest
        The longest interval between time points.
    """
    if key is None:
        return np.full(adata.n_obs, np.nan)
    if not isinstance(key, str) or key not in adata.obs:
        raise KeyError(f"`growth_key={key!r}` is not a column of `adata.obs`.")
    rates = pd.to_numeric(adata.obs[key], errors="coerce").to_numpy(float)
    if not np.isfinite(rates).all():
        raise ValueError(
            f"`growth_key={key!r}` has values that are missing or not finite numbers."
        )
    if np.ptp(rates) * longest > _MOST_GROWTH:
        raise ValueError(
            f"`growth_key={key!r}` has rates from {rates.min():g} to {rates.max():g}: over {longest:g}, "
            f"the longest interval, numbers of cells would differ by more than e^{_MOST_GROWTH:g}. Rates "
            "are per unit of the registered time."
        )
    return rates
