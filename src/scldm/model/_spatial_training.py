"""Training on cells and what lies around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from scldm._warnings import warn
from scldm.module import NEIGHBOURS, PLACE, LatentDiffusion, spatial_diffusion
from scldm.train import ContextDataModule, DiffusionPlan, Latents

from ._array_conditions import Coordinates
from ._blocks import resolved_seed
from ._choices import chosen, flag, positive
from ._conditions import Category, Condition, Number
from ._perturbations import PerturbationSet
from ._tissue import UNLIKE, Finder, Places, Tissue, measured
from ._training import STEPS_PER_EPOCH
from ._training_options import only_steps, plan_options

__all__ = ["SpatialTrainingMixin", "Surroundings"]

_MAX_STEPS, _BATCH_SIZE = 4000, 256
_N_NEIGHBORS, _REACH = 24, 8.0
_MANY = 30
"""Cells from which on a spacing says something."""
_DRAWS, _MOST_NUMBERS = 12, 3e7
_FEWEST_CELLS = 20


class Surroundings(NamedTuple):
    """Cells that are observed: what finds them, and what the network sees of them, ``(n, n_latent + 1)``."""

    tissue: Tissue
    finder: Finder
    features: np.ndarray

    def encode(self, asked: np.ndarray, neighbours: np.ndarray) -> Tensor:
        """Return neighbourhoods as the network sees them, one row for each place.

        Parameters
        ----------
        asked
            Coordinates of the places, ``(n, n_dims)``.
        neighbours
            Numbers of the cells around each, ``(n, k)``, -1 where there is none.
        """
        offsets = self.tissue.offsets(asked, self.finder.observed.coordinates[neighbours])
        around = np.concatenate([offsets, self.features[neighbours]], axis=2)
        around[neighbours < 0] = np.nan
        return torch.from_numpy(around.reshape(len(asked), -1))


class SpatialTrainingMixin:
    """``train_spatial``."""

    spatial_: dict[str, Any]
    """The measures of the tissue, as plain data."""

    spatial_trained_ = False

    def train_spatial(
        self,
        max_steps: int | None = None,
        *,
        section: str | None = "auto",
        stacked: bool | None = None,
        early_stopping: bool = False,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        plan_kwargs: dict[str, Any] | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train the spatial stage, cells given their place and the cells around it.

        :meth:`train` does this after the other stages where coordinates are registered. In training
        each cell is shown with the cells nearest to it, never itself, often as if a part of the tissue
        around it were missing, and often without any.

        Parameters
        ----------
        max_steps
            Optimiser steps; 4,000 by default.
        section
            The registered category that tells sections apart which do not lie in one space: only cells
            of the same section are neighbours. ``"auto"`` is the batch, where there is one and coordinates
            have two dimensions. ``None`` where all cells lie in one space, as the sections of a stack do.
        stacked
            Whether the third coordinate has one value for each section of a stack. ``None`` finds out: its
            values are few, and no nearer to one another than cells are.
        early_stopping
            As in :meth:`train`.
        accelerator, devices
            Passed to Lightning.
        plan_kwargs
            Arguments of :class:`scldm.train.DiffusionPlan`.
        **trainer_kwargs
            For Lightning's trainer.

        Raises
        ------
        ValueError
            If no coordinates are registered, ``section`` is not a registered category, coordinates of two
            dimensions are said to be stacked, or all cells of every section are at one place.
        RuntimeError
            If stage 1 has not been trained.

        Warns
        -----
        UserWarning
            If cells share their coordinates.
        """
        if not self.autoencoder_trained_:
            raise RuntimeError(
                "Cells at places need a trained autoencoder. Call `train_autoencoder()` first, or "
                "`train()` for all stages."
            )
        condition = self._spatial_condition()
        name = self._section_of_cells(section, len(condition.mean))
        max_steps = positive("max_steps", max_steps, _MAX_STEPS)
        plan_kwargs = plan_options(DiffusionPlan, plan_kwargs, ("coupling", "name"))
        early_stopping = flag("early_stopping", early_stopping)
        only_steps(trainer_kwargs)
        if stacked is not None:
            flag("stacked", stacked)
        if stacked and len(condition.mean) != 3:
            raise ValueError("`stacked=True` needs coordinates in three dimensions.")
        adata = self._adata_manager_or_raise().adata
        frame = self._read_conditions(adata)
        places = self._places_of(frame, name)
        _check_spread(places, name)
        _warn_of_twins(places)
        self.training_frame_ = frame
        split = self._split_of(adata)
        tissue = Tissue.fit(places.at(split[0]), _N_NEIGHBORS, _REACH, stacked)
        _warn_of_units(places.at(split[0]), tissue.stacked, name)
        latents = self._encode(adata)
        model = self._new_spatial_module(self.module.autoencoder.n_latent)
        assert model is not None
        fitted = latents[split[0]]
        model.to(self.device).fit_standardisation(fitted.mean, fitted.variance, fitted.log_library)
        steps_per_epoch = min(STEPS_PER_EPOCH, max_steps)
        data = self._cells_in_context(model, latents, tissue, places, split, steps_per_epoch)
        with self._in_place_of("spatial", model):
            self._run_stage(
                "Space",
                DiffusionPlan(model, name="spatial", **plan_kwargs),
                data,
                -(-max_steps // steps_per_epoch),
                monitor="spatial_loss_validation" if early_stopping and data.n_val else None,
                accelerator=accelerator,
                devices=devices,
                **{"gradient_clip_val": 1.0, "max_steps": max_steps, **trainer_kwargs},
            )
        self.spatial_ = {"section": name, "tissue": tissue.to_plain()}
        self.spatial_trained_ = True

    def _cells_in_context(
        self,
        model: LatentDiffusion,
        latents: Latents,
        tissue: Tissue,
        places: Places,
        split: tuple[np.ndarray, np.ndarray, np.ndarray],
        steps_per_epoch: int,
    ) -> ContextDataModule:
        """Return training and validation cells with what lies around them."""
        known = Surroundings(tissue, tissue.among(places), self._seen(model, latents))

        def encode(cells: np.ndarray, neighbours: np.ndarray) -> Tensor:
            return known.encode(places.coordinates[cells], neighbours)

        place = torch.from_numpy(tissue.standardised(places))
        own = {c.name: latents.conditions[c.name] for c in self._circumstances()}
        train, val, _ = split
        return ContextDataModule(
            replace(latents, conditions={**own, PLACE: place}),
            train,
            val,
            _neighbourhoods(tissue, places, train, val),
            encode,
            NEIGHBOURS,
            _BATCH_SIZE,
            steps_per_epoch,
        )

    def _seen(self, model: LatentDiffusion, latents: Latents) -> np.ndarray:
        """Return what the network sees of cells, ``(n, n_latent + 1)``."""
        x = latents.mean.to(self.device), latents.log_library.to(self.device)
        return model.standardise(*x).cpu().numpy()

    def _new_spatial_module(self, n_latent: int) -> LatentDiffusion | None:
        """Return the module of the stage, untrained, or ``None`` without coordinates."""
        found = _coordinates_of(self.conditions)
        if found is None:
            return None
        embedders = {c.name: c.embedder for c in self._circumstances()}
        # so that registered coordinates change nothing in what the other stages draw
        with torch.random.fork_rng([]):
            return spatial_diffusion(embedders, n_latent, len(found.mean), _N_NEIGHBORS)

    def _circumstances(self) -> list[Condition]:
        """Return the conditions that a place has, which the type of its cell is not one of."""
        return [
            c
            for c in self.conditions
            if isinstance(c, Category | Number | PerturbationSet) and c.name != "cell_type"
        ]

    def _can_learn_space(self) -> bool:
        found = _coordinates_of(self.conditions)
        if found is None or self.adata.n_obs < _FEWEST_CELLS:
            return False
        name = self._section_of_cells("auto", len(found.mean))
        try:
            _check_spread(self._places_of(self.training_frame_, name), name)
        except ValueError as error:
            warn(f"Nothing of space is learned: {error}")
            return False
        return True

    def _spatial_condition(self) -> Coordinates:
        condition = _coordinates_of(self.conditions)
        if condition is None:
            raise ValueError(
                "No coordinates are registered. Give `spatial_key` to `setup_anndata`."
            )
        return condition

    def _section_of_cells(self, section: str | None, n_dims: int) -> str | None:
        """Return the condition that tells sections apart, if any."""
        known = {c.name: c for c in self.conditions if isinstance(c, Category)}
        known.pop("cell_type", None)
        if isinstance(section, str) and section == "auto":
            section = "batch" if "batch" in known and n_dims == 2 else None
        if section is None:
            return None
        return chosen("section", section, known).name

    def _places_of(self, frame: pd.DataFrame, section: str | None) -> Places:
        """Return where the cells of a frame of conditions are."""
        condition = self._spatial_condition()
        x = frame[condition.columns(condition.name)].to_numpy(float)
        if section is None:
            return Places(x, np.zeros(len(x), dtype=int))
        return Places(x, frame[section].cat.codes.to_numpy())


def _coordinates_of(conditions: Sequence[Condition]) -> Coordinates | None:
    return next((c for c in conditions if isinstance(c, Coordinates)), None)


def _neighbourhoods(
    tissue: Tissue, places: Places, train: np.ndarray, val: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return neighbourhoods of training and of validation cells, all among training cells."""
    rng = np.random.default_rng(resolved_seed(None))
    finder = tissue.among(places.at(train))
    n_draws = int(np.clip(_MOST_NUMBERS / (len(train) * tissue.n_neighbors), 2, _DRAWS))
    drawn = finder.some_neighbourhoods(n_draws, rng)
    seen = finder.around(places.at(val))[None]
    # numbers of training cells become numbers of cells
    return tuple(np.where(x < 0, -1, train[x]) for x in (drawn, seen))  # type: ignore[return-value]


def _check_spread(places: Places, section: str | None) -> None:
    """Raise where all cells of every section are at one place."""
    both = np.column_stack([places.coordinates, places.section])
    if len(np.unique(both, axis=0)) == len(np.unique(places.section)):
        of = "" if section is None else f" of each section (`section={section!r}`)"
        raise ValueError(f"All cells{of} have the same coordinates; they say nothing of space.")


def _warn_of_units(places: Places, stacked: bool, section: str | None) -> None:
    """Warn where the spacing of cells differs so much between sections that their units may."""
    parts = [np.flatnonzero(places.section == code) for code in np.unique(places.section)]
    steps = [measured(places.at(rows), stacked)[1][0] for rows in parts if len(rows) >= _MANY]
    if steps and max(steps) > UNLIKE * min(steps):
        warn(
            f"The spacing of cells differs between sections (`section={section!r}`), from {min(steps):.4g} to "
            f"{max(steps):.4g}; one spacing is used for all. If their coordinates are in different units, "
            "divide them by their spacing first."
        )


def _warn_of_twins(places: Places) -> None:
    both = np.column_stack([places.coordinates, places.section])
    n_twins = len(both) - len(np.unique(both, axis=0))
    if n_twins:
        warn(
            f"{n_twins} of {len(both)} cells have the coordinates of another. If segments of one cell "
            "were counted as cells, what lies around them says too much."
        )
