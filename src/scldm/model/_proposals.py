"""Proposing where cells might be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from anndata import AnnData
from scipy.spatial import QhullError

from scldm._warnings import warn

from ._blocks import Stream, resolved_seed
from ._cells import selected
from ._choices import positive
from ._point_process import area_of, area_of_a_cell, inside, least_distance, spread_out

__all__ = ["ProposalsMixin", "checked_depths"]

_FEWEST_CELLS = 4
_MOST_DRAWN = 200_000


class ProposalsMixin:
    """``propose_places``."""

    def propose_places(
        self,
        adata: AnnData | None = None,
        n_places: int | None = None,
        *,
        indices: Sequence[int] | None = None,
        within: np.ndarray | Sequence[Sequence[float]] | None = None,
        z: float | None = None,
        seed: int | None = None,
    ) -> np.ndarray:
        """Return places where cells might be, of a point process fitted to the tissue.

        Its density is that of the observed cells, smoothed over the spacing of cells; in a region that is
        asked for, their median density, with the observed cells in their places. Places keep the distance
        from one another, and in a region from observed cells, that nineteen of twenty observed cells keep.

        Parameters
        ----------
        adata
            Registered cells of one section, or of one stack; ``None`` takes the training data.
        n_places
            How many; ``None`` takes as many as there are cells, as the neighbouring sections have, or as
            the region lacks at the median density.
        indices
            Which cells of ``adata``; ``None`` takes all.
        within
            Corners of a region, ``(n_corners, 2)``.
        z
            In a stack, the depth of a section.
        seed
            Of the draw; each depth has draws of its own.

        Returns
        -------
        ``(n_places, 2 or 3)``; fewer where they do not fit.

        Warns
        -----
        UserWarning
            If fewer fit than were asked for.

        Raises
        ------
        ValueError
            If cells are few, on one line, or of several sections that do not lie in one space; ``z`` is
            not given for a stack, given for none, or no number; or ``within`` is no polygon.
        RuntimeError
            If the stage is not trained.
        """
        self._spatial_condition()
        self._require("spatial")
        tissue = self._tissue()
        cells = selected(self, adata, indices)
        name = self.spatial_["section"]
        if name is not None and cells.frame[name].nunique() > 1:
            raise ValueError(
                f"The cells are of several sections (`{name}`), which do not lie in one space. Give those "
                "of one, by `adata` or `indices`."
            )
        seed = resolved_seed(seed)
        x = self._places_of(cells.frame, None).coordinates / tissue.spacing
        weight, own = np.ones(len(x)), x
        if z is not None:
            self._check_stacked("z")
            if len(checked_depths(z)) != 1:
                raise ValueError(f"`z={z!r}` must be one depth; `impute_sections` takes several.")
            depth = checked_depths(z)[0] / tissue.spacing[2]
            weight = _shares_by_depth(x[:, 2], depth)
            # one section to measure in: two would lie on top of one another
            observed_depth = x[weight.argmax(), 2]
            own = x[x[:, 2] == observed_depth]
        elif tissue.stacked:
            raise ValueError("`z` is missing: the depth of the section in the stack.")
        level = float(z) if z is not None else _level_of(x * tissue.spacing)
        n_dims = x.shape[1] if level is None else 2
        x, own, spacing = x[:, :n_dims], own[:, :n_dims], tissue.spacing[:n_dims]
        if len(np.unique(own, axis=0)) < _FEWEST_CELLS:
            raise ValueError(f"Places need {_FEWEST_CELLS} or more cells of a section to go by.")
        rng = np.random.default_rng((seed, Stream.REQUEST, int(np.float64(z or 0).view("u8"))))

        closest, occupied = least_distance(own), own[:0]
        if within is None:
            n = positive("n_places", n_places, max(1, round(weight.sum())))

            def draw() -> np.ndarray:
                rows = rng.choice(len(x), n, p=weight / weight.sum())
                return x[rows] + rng.normal(size=(n, n_dims))

        else:
            corners = _checked_corners(within, n_dims) / spacing
            if z is None or observed_depth == depth:
                occupied = own
            n = positive("n_places", n_places, _lacking(corners, own, occupied))

            def draw() -> np.ndarray:
                return _drawn_in(corners, n, rng)

        places = spread_out(draw, n, closest, occupied) * spacing
        if n_places is not None and len(places) < n:
            warn(
                f"`n_places={n_places}`: {len(places)} places fit at the distance that cells keep."
            )
        if level is None:
            return places
        return np.column_stack([places, np.full(len(places), level)])


def _level_of(x: np.ndarray) -> float | None:
    """Return the third coordinate of places in a plane, or ``None`` where it has none or many values."""
    return float(x[0, 2]) if x.shape[1] == 3 and np.ptp(x[:, 2]) == 0 else None


def _lacking(corners: np.ndarray, own: np.ndarray, occupied: np.ndarray) -> int:
    """Return how many cells a region lacks of the median density of the observed ones."""
    try:
        wanted = area_of(corners) / area_of_a_cell(own)
    except QhullError:
        raise ValueError("All cells lie on one line, which says nothing of a region.") from None
    there = inside(corners, occupied).sum() if len(occupied) else 0
    return max(1, round(wanted - there))


def _drawn_in(corners: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return about two n places in a region."""
    low, high = corners.min(axis=0), corners.max(axis=0)
    # a thin region fills little of the box around it
    n_drawn = min(_MOST_DRAWN, 2 * n * np.prod(high - low) / area_of(corners))
    some = rng.uniform(low, high, size=(max(int(n_drawn), 2 * n), 2))
    return some[inside(corners, some)]


def checked_depths(z: Any) -> np.ndarray:
    """Return one or several depths.

    Raises
    ------
    ValueError
        If they are none, no finite numbers, or one is there twice.
    """
    try:
        depths = np.atleast_1d(np.asarray(z, dtype=float))
    except (TypeError, ValueError):
        depths = np.zeros(0)
    if depths.ndim != 1 or not len(depths) or not np.isfinite(depths).all():
        raise ValueError(f"`z={z!r}` must be a finite number, or several.")
    if len(np.unique(depths)) < len(depths):
        raise ValueError(f"`z={z!r}` has a depth twice.")
    return depths


def _shares_by_depth(depths: np.ndarray, z: float) -> np.ndarray:
    """Return each cell's weight for a section at z: those of the sections around it, by nearness."""
    known = np.unique(depths)
    if len(known) == 1:
        return np.ones(len(depths))
    above = int(np.clip(np.searchsorted(known, z), 1, len(known) - 1))
    low, high = known[above - 1], known[above]
    share = float(np.clip((z - low) / (high - low), 0, 1))
    return np.where(depths == low, 1 - share, np.where(depths == high, share, 0.0))


def _checked_corners(within: Any, n_dims: int) -> np.ndarray:
    try:
        corners = np.asarray(within, dtype=float)
    except (TypeError, ValueError):
        raise ValueError("`within` does not hold numbers.") from None
    if n_dims != 2 or corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3:
        raise ValueError(
            f"`within` has shape {corners.shape}; it must be three or more corners in a plane, "
            "(n_corners, 2)."
        )
    if not np.isfinite(corners).all():
        raise ValueError("`within` has NaN or infinite values; finite ones are allowed.")
    if area_of(corners) <= 0:
        raise ValueError("`within` has its corners on one line; it must enclose a region.")
    return corners
