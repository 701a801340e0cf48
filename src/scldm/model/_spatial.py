"""Cells at any place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from scldm.diffusion import Sampler

from ._array_conditions import Vector
from ._blocks import Stream, resolved_seed
from ._cells import Cells, encoded, selected
from ._choices import chosen, flag, positive
from ._generation import from_array
from ._order import checked_sampler, joint_scale
from ._place_warnings import warn_of_depth, warn_of_observed, warn_of_outside, warn_of_twins
from ._provenance import provenance, recorded
from ._ranges import warn_beyond
from ._request import Request, changed, concatenated
from ._spatial_methods import SPATIAL_METHODS, SpatialJob, SpatialMethod
from ._spatial_output import means_of
from ._spatial_training import SpatialTrainingMixin, Surroundings
from ._tissue import Finder, Places, Tissue
from ._types import TypesByLatent

__all__ = ["SpatialMixin"]

_OWN_COLUMNS = {"place", "sample", "spot"}


class _Asked(NamedTuple):
    """What is asked: places, and where cells of them are drawn, given what and which cells around.

    ``seats`` are the places, or those in the section below and then those in the section above; ``upper``
    is how likely a cell is drawn in the latter.
    """

    places: Places
    seats: Places
    upper: np.ndarray | None
    request: Request
    observed: Cells
    finder: Finder

    def likeliest(self) -> np.ndarray:
        """Return the seat of each place in which most of its cells are drawn, the lower of two alike."""
        place = np.arange(len(self.places))
        return place if self.upper is None else place + len(place) * (self.upper > 0.5)

    def seats_of(self, n_samples: int, seed: int) -> np.ndarray:
        """Return the seat of each cell, by place."""
        place = np.repeat(np.arange(len(self.places)), n_samples)
        if self.upper is None:
            return place
        drawn = np.random.default_rng((seed, Stream.SECTIONS)).uniform(size=len(place))
        return place + len(self.places) * (drawn < self.upper[place])


class SpatialMixin(SpatialTrainingMixin):
    """``impute_region``, and what else asks for cells at places."""

    @recorded
    def impute_region(
        self,
        adata: AnnData | None = None,
        coordinates: np.ndarray | Sequence[Sequence[float]] | None = None,
        *,
        indices: Sequence[int] | None = None,
        method: str | SpatialMethod = "context",
        adjacent: bool = False,
        n_samples: int = 1,
        return_mean: bool = False,
        seed: int | None = None,
        batch_size: int = 1024,
        sampler: str | Sampler = "heun",
        steps: int | None = None,
        guidance_scale: float = 1.0,
        **conditions: Any,
    ) -> AnnData:
        """Return cells at places where none were observed.

        Depth and expression of a cell are drawn together, given where the place is and which cells lie
        around it, and its type is drawn given them. Where the nearest observed cell is far, the place
        alone decides.

        Parameters
        ----------
        adata
            Registered cells that are observed; ``None`` takes the training data.
        coordinates
            Where, ``(n_places, 2 or 3)``, in the unit of the registered coordinates.
        indices
            Which cells of ``adata`` are observed; ``None`` takes all.
        method
            One of ``"context"``, diffusion given the place and the cells around it; ``"coordinates"``
            and ``"neighbours"``, given one of the two only; ``"inverse_distance"``, the latents of the
            three nearest cells weighted by inverse distance, which is one latent for all draws. Or an
            object of :class:`scldm.model.SpatialMethod`.
        adjacent
            In a stack, draw each cell as if its place were in one of the two sections around, the nearer
            one more often, with the conditions of that section. A section differs from the next in more
            than depth, and which of them a missing one is like cannot be known. If not, the network is
            asked for the depth itself.
        n_samples
            Cells at each place.
        return_mean
            Return one row for each place, with expected counts, means over the draws.
        seed, batch_size, sampler, steps
            As in :meth:`generate`.
        guidance_scale
            As there, one for all that is given.
        **conditions
            Registered conditions but the cell type, such as the ``batch`` that is the section: one value
            for all places, or one for each. Those that are left out are the nearest observed cell's; in a
            stack, that of one section for all places of a depth.

        Returns
        -------
        ``n_samples`` cells for each place, or one row with ``return_mean``: counts in ``X``; coordinates
        in ``obsm`` under the user's own key; latents in ``obsm["X_scldm"]``; in ``obs`` the conditions
        under the user's own names, among them the type, drawn from the probabilities that a logistic
        regression on the latents of observed cells gives; the number of the place in ``"place"``, and of the cell there in ``"sample"``.
        With ``return_mean`` the type is the most frequent one, ``layers["spread"]`` has the standard deviation of counts and
        ``layers["sample"]`` the counts of the first cell at each place.

        Raises
        ------
        ValueError
            If no coordinates are registered, coordinates are missing, of a wrong shape or not finite, the
            section is not said or not known, or a value is not allowed.
        RuntimeError
            If the stage is not trained.

        Warns
        -----
        UserWarning
            If places lie outside the tissue or beyond the outer sections of a stack, which says how far,
            coordinates occur twice, or an observed cell is there.
        """
        way = method
        if not isinstance(way, SpatialMethod):
            way = chosen("method", method, SPATIAL_METHODS)
        self._spatial_condition()
        self._require("spatial")
        taken = sorted(_OWN_COLUMNS & {getattr(c, "column", "") for c in self.conditions})
        if taken:
            raise ValueError(f"The columns {taken} of `obs` are needed for the result.")
        if flag("adjacent", adjacent):
            self._check_stacked("adjacent")
        n_samples = positive("n_samples", n_samples)
        batch_size = positive("batch_size", batch_size)
        return_mean = flag("return_mean", return_mean)
        rule, n_steps = checked_sampler(sampler, steps, 0)
        guidance_scale = joint_scale(guidance_scale)
        if not way.samples and (steps is not None or sampler != "heun" or guidance_scale != 1):
            raise ValueError(
                f"`sampler`, `steps` and `guidance_scale` have no meaning for `method={method!r}`."
            )
        cells = selected(self, adata, indices)
        seed = resolved_seed(seed)
        asked = self._asked_places(cells, coordinates, conditions, seed, adjacent)
        rows = asked.seats_of(n_samples, seed)
        job, types = self._spatial_job(asked, rows, seed, rule, n_steps, guidance_scale)
        with torch.inference_mode():
            flat = way.latents(job)
        place = rows % len(asked.places)
        frame = self._frame_at(asked, rows)
        if types is not None:
            frame["cell_type"] = self._drawn_types(types, flat, job.seed)
        if return_mean:
            own = self._frame_at(asked, asked.likeliest())
            new, place = means_of(self, own, frame, flat, job.seed, n_samples)
        else:
            new = self._decoded(frame, from_array(flat, self.device), job.seed, batch_size)
        sample = np.zeros(len(place), int) if return_mean else np.arange(len(place)) % n_samples
        new.obs["place"], new.obs["sample"] = place, sample
        copies = n_samples > 1 and not return_mean
        new.obs_names = [
            f"place_{i}_{k}" if copies else f"place_{i}"
            for i, k in zip(place, sample, strict=True)
        ]
        new.uns["scldm"] = {
            **provenance(),
            "method": method if isinstance(method, str) else type(way).__name__,
            "seed": seed,
            "n_samples": n_samples,
            "return_mean": return_mean,
            "adjacent": adjacent,
            "conditions": asked.request.described,
            **way.record(job),
        }
        return new

    def _asked_places(
        self,
        cells: Cells,
        coordinates: Any,
        conditions: dict[str, Any],
        seed: int,
        adjacent: bool,
    ) -> _Asked:
        """Check places and what is said of them, and complete it from the nearest observed cells."""
        if coordinates is None:
            raise ValueError("`coordinates` is missing: the places where cells are asked for.")
        if "cell_type" in conditions:
            raise ValueError(
                "`cell_type` is found together with the cells. For cells of a given type at a place use "
                "`generate(spatial=..., cell_type=...)`."
            )
        condition = self._spatial_condition()
        x = condition.parse("coordinates", coordinates).to_numpy(float)
        if not len(x):
            raise ValueError("`coordinates` is empty; at least one place is needed.")
        name = self.spatial_["section"]
        seen = self._places_of(cells.frame, name)
        places = Places(x, self._asked_sections(name, conditions, len(x), seen.section))
        warn_of_twins(places)
        finder = self._tissue().among(seen)
        distance, nearest = (found[:, 0] for found in finder.nearest(places, 1))
        if (nearest < 0).any():
            raise ValueError(f"No observed cell is of the `{name}` that is asked for.")
        warn_of_observed(distance)
        outside = warn_of_outside(finder, places, nearest)
        warn_of_depth(finder, places.at(np.flatnonzero(~outside)), adjacent)
        seats, upper = finder.beside(places) if adjacent else ([places], None)
        requests = [self._conditions_at(at, cells, finder, conditions, seed) for at in seats]
        given = [name for name, value in conditions.items() if value is not None]
        warn_beyond(self.conditions, given, requests[0].frame, self.training_frame_)
        joined = Places(*(np.concatenate(parts) for parts in zip(*seats, strict=True)))
        return _Asked(places, joined, upper, concatenated(requests), cells, finder)

    def _frame_at(self, asked: _Asked, seats: np.ndarray) -> pd.DataFrame:
        """Return the conditions of seats, with the coordinates of their places."""
        frame = asked.request.frame.iloc[seats].reset_index(drop=True)
        condition = self._spatial_condition()
        where = asked.places.coordinates[seats % len(asked.places)]
        frame[condition.columns(condition.name)] = where
        return frame

    def _conditions_at(
        self, places: Places, cells: Cells, finder: Finder, conditions: dict[str, Any], seed: int
    ) -> Request:
        """Return what is said of places, completed from the nearest observed cells."""
        nearest = finder.nearest(places, 1)[1][:, 0]
        given = {name: value for name, value in conditions.items() if value is not None}
        request = changed(
            self.conditions,
            cells.frame.iloc[_lenders(finder, places, nearest)].reset_index(drop=True),
            given | {self._spatial_condition().name: places.coordinates},
            self.training_frame_,
            np.random.default_rng((seed, Stream.REQUEST)),
            check_range=False,
        )
        for other in self.conditions:
            # a vector of the nearest cell, such as its latent, is not the new cell's
            if type(other) is Vector and other.name not in conditions:
                request.frame[other.columns(other.name)] = np.nan
        return request

    def _asked_sections(
        self, name: str | None, conditions: dict[str, Any], n: int, observed: np.ndarray
    ) -> np.ndarray:
        """Return the code of each place's section."""
        if name is None:
            return np.zeros(n, dtype=int)
        condition = next(c for c in self.conditions if c.name == name)
        if conditions.get(name) is None:
            if len(np.unique(observed)) > 1:
                raise ValueError(
                    f"`{name}` is missing: the section in which the places are. "
                    f"Known: {condition.observed}."
                )
            return np.full(n, observed[0])
        codes = condition.parse(name, conditions[name])[name].cat.codes.to_numpy()
        if len(codes) not in (1, n):
            raise ValueError(f"`{name}` has {len(codes)} values for {n} places.")
        return np.broadcast_to(codes, n).astype(int)

    def _spatial_job(
        self,
        asked: _Asked,
        rows: np.ndarray,
        seed: int,
        rule: Sampler,
        steps: int | None,
        guidance_scale: float,
    ) -> tuple[SpatialJob, TypesByLatent | None]:
        """Return the job, and what tells types by latents where cells have types."""
        latents = encoded(self, asked.observed)
        seen = self._seen(self.module.spatial, latents)
        known = Surroundings(asked.finder.tissue, asked.finder, seen)
        encoding = asked.request.encoded
        given = {c.name: torch.from_numpy(encoding[c.name]) for c in self._circumstances()}
        joined = torch.cat([latents.mean, latents.log_library], dim=1).numpy()
        job = SpatialJob(
            self,
            known,
            joined,
            asked.seats,
            given,
            rows,
            seed,
            rule,
            steps,
            guidance_scale,
        )
        types = asked.observed.frame.get("cell_type")
        if types is None or types.isna().all():
            return job, None
        rng = np.random.default_rng((seed, Stream.REQUEST))
        return job, TypesByLatent().fit(known.features, types, rng)

    def _drawn_types(self, types: TypesByLatent, flat: np.ndarray, seed: int) -> pd.Categorical:
        """Return types of new cells, by their latents and log library sizes."""
        diffusion = self.module.spatial
        shift, scale = (x.cpu().numpy() for x in (diffusion.shift, diffusion.scale))
        return types.draw((flat - shift) / scale, np.random.default_rng((seed, Stream.POSTERIOR)))

    def _check_stacked(self, argument: str) -> None:
        if not self._tissue().stacked:
            raise ValueError(
                f"`{argument}` needs cells in sections of a stack: coordinates with a third column that "
                "has one value for each section."
            )

    def _tissue(self) -> Tissue:
        return Tissue.from_plain(self.spatial_["tissue"])


def _lenders(finder: Finder, places: Places, nearest: np.ndarray) -> np.ndarray:
    """Return the cells whose conditions places take where they are not said: the nearest.

    In a stack it is the nearest of one section for all places of one depth, or a section would be made of
    cells of two batches: of the section at that depth or, where none was cut, of that which has the nearest
    cell of most places.
    """
    if not finder.tissue.stacked:
        return nearest
    lenders = nearest.copy()
    observed, depths = finder.observed, finder.observed.coordinates[:, 2]
    asked = np.column_stack([places.coordinates[:, 2], places.section])
    for z, section in np.unique(asked, axis=0):
        rows = np.flatnonzero((asked == (z, section)).all(axis=1))
        cells = np.flatnonzero((depths == z) & (observed.section == section))
        if not len(cells):
            known, n_cells = np.unique(depths[nearest[rows]], return_counts=True)
            own = (depths == known[n_cells.argmax()]) & (observed.section == section)
            cells = np.flatnonzero(own)
        near = finder.tissue.among(observed.at(cells)).nearest(places.at(rows), 1)[1][:, 0]
        lenders[rows] = cells[near]
    return lenders
