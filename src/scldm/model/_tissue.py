"""Where cells are, and which lie around a place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from scipy.spatial import KDTree

__all__ = ["UNLIKE", "Finder", "Places", "Tissue", "measured"]

UNLIKE = 2.0
"""Ratio of the spacings of two sections from which on they may be in different units."""

_CANDIDATES = 256
_PLACES_AT_A_TIME = 4096
_MOST_DEPTHS, _LEAST_GAP = 0.1, 0.5
_HOLES, _SECTIONS = 0.5, 0.25


class Places(NamedTuple):
    """Some places: ``coordinates``, ``(n, n_dims)``, and the code of each one's ``section``, ``(n,)``."""

    coordinates: np.ndarray
    section: np.ndarray

    def __len__(self) -> int:
        return len(self.coordinates)

    def at(self, rows: np.ndarray | slice) -> Places:
        """Return some of these places."""
        return Places(self.coordinates[rows], self.section[rows])


@dataclass
class Tissue:
    """The measures of a tissue, in which the network sees places.

    Parameters
    ----------
    centre
        Of the cells, by code of the section and axis; NaN of sections without cells.
    spread
        By axis, within sections; in the plane one for all axes, so that distances stay what they are.
    spacing
        By axis, what counts as one step: in the plane the median distance of a cell to the nearest one,
        in depth that from one section to the next, where cells lie in sections.
    stacked
        Whether cells lie in sections of a stack, told apart by the third coordinate.
    n_neighbors
        How many cells around a place are looked at.
    reach
        Distance of the nearest of them, in steps, from which on they are not.
    """

    centre: np.ndarray
    spread: np.ndarray
    spacing: np.ndarray
    stacked: bool
    n_neighbors: int
    reach: float

    @classmethod
    def fit(
        cls, places: Places, n_neighbors: int, reach: float, stacked: bool | None = None
    ) -> Self:
        """Measure the tissue that cells are of; ``None`` finds out whether it is a stack."""
        x, section = places
        centre = np.full((section.max() + 1, x.shape[1]), np.nan)
        for code in np.unique(section):
            centre[code] = x[section == code].mean(axis=0)
        is_stacked = _is_stack(places) if stacked is None else stacked
        spread, spacing = measured(places, is_stacked)
        return cls(centre, spread, spacing, is_stacked, n_neighbors, reach)

    def standardised(self, places: Places) -> np.ndarray:
        """Return coordinates as the network sees them."""
        # a section of which no cell was trained on has no centre
        centre = np.vstack([self.centre, np.full_like(self.centre[:1], np.nan)])
        off = places.coordinates - centre[np.minimum(places.section, len(self.centre))]
        return (off / self.spread).astype(np.float32)

    def offsets(self, places: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
        """Return where neighbours ``(n, k, n_dims)`` are from places ``(n, n_dims)``, in steps."""
        return ((neighbours - places[:, None]) / self.spacing).astype(np.float32)

    def among(self, observed: Places) -> Finder:
        """Return what finds the cells around places among those that are observed."""
        return Finder(self, observed)

    def to_plain(self) -> dict[str, Any]:
        """Return what :meth:`from_plain` takes."""
        return vars(self).copy()

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """Return what was taken apart."""
        return cls(**plain)


class Finder:
    """Finds the observed cells around places.

    Parameters
    ----------
    tissue
        Its measures.
    observed
        The cells.
    """

    def __init__(self, tissue: Tissue, observed: Places) -> None:
        self.tissue = tissue
        self.observed = observed
        self._cells = {
            c: np.flatnonzero(observed.section == c) for c in np.unique(observed.section)
        }
        self._trees = {
            c: KDTree(observed.coordinates[cells] / tissue.spacing)
            for c, cells in self._cells.items()
        }

    def nearest(self, asked: Places, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the k nearest cells of each place's section.

        Returns
        -------
        Distances in steps and numbers of the cells, ``(n, k)`` each; infinite and -1 where there are
        less.
        """
        distance = np.full((len(asked), k), np.inf)
        nearest = np.full((len(asked), k), -1)
        for code in np.unique(asked.section):
            if code not in self._trees:
                continue
            cells = self._cells[code]
            rows = np.flatnonzero(asked.section == code)
            n = min(k, len(cells))
            d, i = self._trees[code].query(asked.coordinates[rows] / self.tissue.spacing, n)
            distance[rows, :n] = d.reshape(len(rows), n)
            nearest[rows, :n] = cells[i].reshape(len(rows), n)
        return distance, nearest

    def around(self, asked: Places, own: np.ndarray | None = None) -> np.ndarray:
        """Return the cells nearest to each place, ``(n, n_neighbors)``, -1 where there is none.

        Parameters
        ----------
        asked
            The places.
        own
            For each place, the cell that stands there and is not to be looked at.
        """
        parts = [np.zeros((0, self.tissue.n_neighbors), dtype=int)]
        for rows in _portions(len(asked)):
            distance, nearest = self.nearest(asked.at(rows), self.tissue.n_neighbors + 1)
            if own is not None:
                distance[nearest == own[rows, None]] = np.inf
            parts.append(self._first(distance, nearest))
        return np.concatenate(parts)

    def beside(self, asked: Places) -> tuple[list[Places], np.ndarray]:
        """Return places as they would be in the two sections of a stack that are around each.

        Returns
        -------
        Places in the sections below and above, which are one section at its own depth and beyond the
        outer ones; and how far on the way up each is, ``(n,)``, 0 in the section below and 1 in that above.
        """
        below, above = (asked.coordinates.copy() for _ in range(2))
        way = np.zeros(len(asked))
        for code in np.unique(asked.section):
            rows = asked.section == code
            depths = np.unique(self.observed.coordinates[self.observed.section == code, 2])
            z = np.clip(asked.coordinates[rows, 2], depths[0], depths[-1])
            lower = depths[np.searchsorted(depths, z, side="right") - 1]
            upper = depths[np.searchsorted(depths, z)]
            below[rows, 2], above[rows, 2] = lower, upper
            way[rows] = (z - lower) / np.where(upper > lower, upper - lower, 1.0)
        return [Places(below, asked.section), Places(above, asked.section)], way

    def some_neighbourhoods(self, n_draws: int, rng: np.random.Generator) -> np.ndarray:
        """Return neighbourhoods of the cells themselves, as if some of the tissue were missing.

        Half of them as they are; of the other half a disc, in three dimensions a ball, is missing with the
        cell somewhere inside, so that the model meets in training what it is asked for in a missing region.
        In a stack the whole section is missing from a quarter of them.

        Parameters
        ----------
        n_draws
            How many of each cell.
        rng
            Source of the holes.

        Returns
        -------
        ``(n_draws, n, n_neighbors)``, -1 where there is none.
        """
        drawn = np.empty((n_draws, len(self.observed), self.tissue.n_neighbors), dtype=np.int32)
        for rows in _portions(len(self.observed)):
            cells = self.observed.at(rows)
            distance, nearest = self.nearest(cells, _CANDIDATES)
            distance[nearest == np.arange(rows.start, rows.stop)[:, None]] = np.inf
            for draw in drawn:
                missing = self._missing(cells.coordinates, nearest, rng)
                draw[rows] = self._first(np.where(missing, np.inf, distance), nearest)
        return drawn

    def _first(self, distance: np.ndarray, nearest: np.ndarray) -> np.ndarray:
        first = np.argsort(distance, axis=1, kind="stable")[:, : self.tissue.n_neighbors]
        near = np.take_along_axis(distance, first, axis=1)
        chosen = np.where(np.isfinite(near), np.take_along_axis(nearest, first, axis=1), -1)
        chosen[near[:, 0] > self.tissue.reach] = -1
        return chosen

    def _missing(
        self, places: np.ndarray, nearest: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Say which cells a hole around each place takes away."""
        n, n_dims = places.shape
        cells = self.observed.coordinates[nearest]
        radius = np.exp(rng.uniform(0, np.log(self.tissue.reach), n))
        way = rng.normal(size=(n, n_dims))
        way *= (rng.uniform(size=n) ** (1 / n_dims) / np.linalg.norm(way, axis=1))[:, None]
        off = self.tissue.offsets(places, cells) - (radius[:, None] * way)[:, None]
        holed, sectioned = rng.uniform(size=(2, n, 1))
        hole = np.square(off).sum(axis=2) < radius[:, None] ** 2
        hole &= holed < _HOLES
        if self.tissue.stacked:
            same = cells[:, :, 2] == places[:, None, 2]
            hole |= same & (sectioned < _SECTIONS)
        return hole


def measured(places: Places, stacked: bool | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return spread and spacing by axis, see :class:`Tissue`; 1 where there is none."""
    x, section = places
    n_dims = x.shape[1]
    stacked = _is_stack(places) if stacked is None else stacked
    plane = 2 if stacked else n_dims
    codes = np.unique(section, return_inverse=True)[1]
    means = np.stack([np.bincount(codes, axis) for axis in x.T], axis=1)
    within = x - (means / np.bincount(codes)[:, None])[codes]
    spread = np.full(n_dims, np.sqrt(np.square(within[:, :plane]).mean()))
    layer = np.stack([section, x[:, 2] if stacked else section], axis=1)
    spacing = np.full(n_dims, _median_step(x[:, :plane], layer))
    if stacked:
        spread[2] = within[:, 2].std()
        spacing[2] = np.median(_gaps(x[:, 2], section))
    return np.where(spread > 0, spread, 1.0), np.where(spacing > 0, spacing, 1.0)


def _is_stack(places: Places) -> bool:
    """Say whether the third coordinate tells sections apart.

    Sections have many cells each, and are no nearer to one another than cells are: depths on the grid of
    a microscope are.
    """
    x, section = places
    if x.shape[1] != 3:
        return False
    depths = np.unique(x[:, 2])
    if not 1 < len(depths) <= _MOST_DEPTHS * len(x):
        return False
    step = _median_step(x, section[:, None])
    return bool(np.median(_gaps(x[:, 2], section)) >= _LEAST_GAP * step)


def _gaps(depths: np.ndarray, section: np.ndarray) -> np.ndarray:
    """Return the distances between depths that follow one another, 0 where there is but one."""
    gaps = [np.diff(np.unique(depths[section == code])) for code in np.unique(section)]
    found = np.concatenate(gaps)
    return found if len(found) else np.zeros(1)


def _median_step(x: np.ndarray, section: np.ndarray) -> float:
    """Return the median distance of a cell to the nearest one elsewhere in its section, ``(n, any)``."""
    codes = np.unique(section, axis=0, return_inverse=True)[1].ravel()
    steps = []
    for code in range(codes.max() + 1):
        # cells at one and the same place say nothing of the distance between places
        cells = np.unique(x[codes == code], axis=0)
        if len(cells) > 1:
            steps.append(KDTree(cells).query(cells, 2)[0][:, 1])
    return float(np.median(np.concatenate(steps))) if steps else 0.0


def _portions(n: int) -> list[slice]:
    return [slice(i, min(i + _PLACES_AT_A_TIME, n)) for i in range(0, n, _PLACES_AT_A_TIME)]
