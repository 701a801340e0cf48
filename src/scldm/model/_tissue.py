"""Where cells are, and which lie around a place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from scipy.spatial import KDTree

__all__ = ["Places", "Tissue"]

_CANDIDATES = 256
_PLACES_AT_A_TIME = 4096
_MOST_DEPTHS = 0.1
_HOLES, _SECTIONS = 0.5, 0.25


class Places(NamedTuple):
    """Some places: ``coordinates``, ``(n, n_dims)``, and the code of each one's ``section``, ``(n,)``."""

    coordinates: np.ndarray
    section: np.ndarray

    def __len__(self) -> int:
        return len(self.coordinates)


@dataclass
class Tissue:
    """The measures of a tissue, in which the network sees places.

    Parameters
    ----------
    centre, spread
        Of the cells, by axis; in the plane one spread for all axes, so that distances stay what they are.
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
    def fit(cls, places: Places, n_neighbors: int, reach: float) -> Self:
        """Measure the tissue that cells are of."""
        x = places.coordinates
        n_dims = x.shape[1]
        depths = np.unique(x[:, 2]) if n_dims == 3 else np.zeros(0)
        stacked = 1 < len(depths) <= _MOST_DEPTHS * len(x)
        plane = 2 if stacked else n_dims
        spread = np.full(n_dims, np.sqrt(x[:, :plane].var(axis=0).mean()))
        sections = np.stack([places.section, x[:, 2] if stacked else places.section], axis=1)
        step = _median_step(x[:, :plane], np.unique(sections, axis=0, return_inverse=True)[1])
        spacing = np.full(n_dims, step)
        if stacked:
            spread[2], spacing[2] = x[:, 2].std(), np.median(np.diff(depths))
        ones = np.ones(n_dims)
        return cls(
            x.mean(axis=0),
            np.where(spread > 0, spread, ones),
            np.where(spacing > 0, spacing, ones),
            stacked,
            n_neighbors,
            reach,
        )

    def standardised(self, coordinates: np.ndarray) -> np.ndarray:
        """Return coordinates as the network sees them."""
        return ((coordinates - self.centre) / self.spread).astype(np.float32)

    def offsets(self, places: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
        """Return where neighbours ``(n, k, n_dims)`` are from places ``(n, n_dims)``, in steps."""
        return ((neighbours - places[:, None]) / self.spacing).astype(np.float32)

    def around(self, observed: Places, asked: Places, own: np.ndarray | None = None) -> np.ndarray:
        """Return the cells nearest to each place, ``(n, n_neighbors)``, -1 where there is none.

        Parameters
        ----------
        observed
            The cells.
        asked
            The places.
        own
            For each place, the cell that stands there and is not to be looked at.
        """
        return self._looked_at(observed, asked, own, None)

    def some_neighbourhoods(
        self,
        observed: Places,
        asked: Places,
        own: np.ndarray,
        n_draws: int,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Return neighbourhoods of cells, as if some of the tissue were missing.

        Half of them as they are; of the other half a disc is missing with the place somewhere inside, so
        that the model meets in training what it is asked for in a missing region. In a stack the whole
        section is missing from a quarter of them.

        Parameters
        ----------
        observed, asked, own
            As in :meth:`around`.
        n_draws
            How many of each place.
        rng
            Source of the holes.

        Returns
        -------
        ``(n_draws, n, n_neighbors)``.
        """
        return np.stack(
            [self._looked_at(observed, asked, own, rng) for _ in range(n_draws)]
        ).astype(np.int32)

    def nearest(self, observed: Places, asked: Places, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the k nearest cells of each place's section.

        Returns
        -------
        Distances in steps and numbers of the cells, ``(n, k)`` each; infinite and -1 where there are
        less.
        """
        distance = np.full((len(asked), k), np.inf)
        nearest = np.full((len(asked), k), -1)
        for section in np.unique(asked.section):
            cells = np.flatnonzero(observed.section == section)
            rows = np.flatnonzero(asked.section == section)
            if not len(cells):
                continue
            tree = KDTree(observed.coordinates[cells] / self.spacing)
            n = min(k, len(cells))
            d, i = tree.query(asked.coordinates[rows] / self.spacing, n)
            distance[rows, :n] = d.reshape(len(rows), n)
            nearest[rows, :n] = cells[i].reshape(len(rows), n)
        return distance, nearest

    def _looked_at(
        self,
        observed: Places,
        asked: Places,
        own: np.ndarray | None,
        rng: np.random.Generator | None,
    ) -> np.ndarray:
        parts = []
        for start in range(0, max(1, len(asked)), _PLACES_AT_A_TIME):
            rows = slice(start, start + _PLACES_AT_A_TIME)
            some = Places(asked.coordinates[rows], asked.section[rows])
            k = self.n_neighbors + 1 if rng is None else _CANDIDATES
            distance, nearest = self.nearest(observed, some, k)
            if own is not None:
                distance[nearest == own[rows, None]] = np.inf
            if rng is not None:
                distance[self._missing(observed, some, nearest, rng)] = np.inf
            first = np.argsort(distance, axis=1, kind="stable")[:, : self.n_neighbors]
            near = np.take_along_axis(distance, first, axis=1)
            chosen = np.where(np.isfinite(near), np.take_along_axis(nearest, first, axis=1), -1)
            chosen[near[:, 0] > self.reach] = -1
            parts.append(chosen)
        return np.concatenate(parts)

    def _missing(
        self, observed: Places, asked: Places, nearest: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Say which cells a hole around each place takes away."""
        n, n_dims = asked.coordinates.shape
        cells = observed.coordinates[nearest]
        radius = np.exp(rng.uniform(0, np.log(self.reach), n))
        way = rng.normal(size=(n, n_dims))
        way *= (rng.uniform(size=n) ** (1 / n_dims) / np.linalg.norm(way, axis=1))[:, None]
        centre = radius[:, None] * way
        off = (cells - asked.coordinates[:, None]) / self.spacing - centre[:, None]
        holed, sectioned = rng.uniform(size=(2, n, 1))
        hole = np.square(off).sum(axis=2) < radius[:, None] ** 2
        hole &= holed < _HOLES
        if self.stacked:
            same = cells[:, :, 2] == asked.coordinates[:, None, 2]
            hole |= same & (sectioned < _SECTIONS)
        return hole

    def to_plain(self) -> dict[str, Any]:
        """Return what :meth:`from_plain` takes."""
        return vars(self).copy()

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """Return what was taken apart."""
        return cls(**plain)


def _median_step(x: np.ndarray, section: np.ndarray) -> float:
    """Return the median distance of a cell to the nearest one elsewhere in its section."""
    steps = []
    for code in np.unique(section):
        # cells at one and the same place say nothing of the distance between places
        cells = np.unique(x[section == code], axis=0)
        if len(cells) > 1:
            steps.append(KDTree(cells).query(cells, 2)[0][:, 1])
    return float(np.median(np.concatenate(steps))) if steps else 0.0
