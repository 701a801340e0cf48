"""Expression at places of a tissue, from places that were measured, without a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._translation import _dense

__all__ = ["RegionMean", "SpatialBaseline"]

Array = NDArray[np.float64]
Index = NDArray[np.intp]
Names = NDArray[np.str_]
_AT_A_TIME = 256


class Places(NamedTuple):
    """Places with their sections and, where given, regions."""

    coordinates: Array
    sections: Names
    regions: Names | None


class SpatialBaseline(ABC):
    """Learns from places that have coordinates and expression, and predicts other places.

    Expression is normalised by the user, as by log(1 + counts per 10,000); predictions are on the scale
    of what was learned from. Coordinates are in any unit, the same along all axes.

    With ``groups`` each section is learned by itself, so that neighbours are of the same section.
    """

    def fit(
        self,
        coordinates: ArrayLike,
        x: ArrayLike,
        groups: ArrayLike | None = None,
        labels: ArrayLike | None = None,
    ) -> Self:
        """Learn from places.

        Parameters
        ----------
        coordinates
            ``(n, 2)`` or ``(n, 3)``.
        x
            Expression, ``(n, n_genes)``.
        groups
            Section of each place, ``(n,)``; all are of one where not given.
        labels
            Region of each place, ``(n,)``, for :class:`RegionMean`; the others do without.

        Raises
        ------
        ValueError
            If lengths differ, values are not finite, or there are too few places.
        """
        where, cells = _coordinates(coordinates), _dense(x, "x")
        if len(where) != len(cells):
            raise ValueError(f"`coordinates` has {len(where)} places, but `x` has {len(cells)}.")
        sections = _names(groups, len(where), "groups")
        regions = None if labels is None else _names(labels, len(where), "labels")
        self.n_axes_, self.n_genes_ = where.shape[1], cells.shape[1]
        self.has_groups_ = groups is not None
        self.groups_ = np.unique(sections)
        self._fit(Places(where, sections, regions), cells)
        return self

    def predict(
        self,
        coordinates: ArrayLike,
        groups: ArrayLike | None = None,
        labels: ArrayLike | None = None,
    ) -> Array:
        """Return the expected expression at places, ``(n, n_genes)``.

        Parameters
        ----------
        coordinates
            ``(n, 2)`` or ``(n, 3)``, as learned from.
        groups
            Section of each place, where sections were learned from.
        labels
            Region of each place, for :class:`RegionMean`.

        Raises
        ------
        ValueError
            If shapes do not fit, or a section or region is not known.
        RuntimeError
            If nothing was learned.
        """
        return self._predict(self._checked(coordinates, groups, labels))

    def sample(
        self,
        coordinates: ArrayLike,
        n_samples: int = 1,
        groups: ArrayLike | None = None,
        seed: int = 0,
        labels: ArrayLike | None = None,
    ) -> Array:
        """Return draws of the expression at places, ``(n_samples, n, n_genes)``.

        Parameters
        ----------
        coordinates, groups, labels
            As for :meth:`predict`.
        n_samples
            Draws for each place.
        seed
            Of the draws.

        Raises
        ------
        ValueError, RuntimeError
            As :meth:`predict`.
        """
        n_samples = _whole(n_samples, "n_samples")
        asked = self._checked(coordinates, groups, labels)
        return self._sample(asked, n_samples, np.random.default_rng(seed))

    def _checked(
        self, coordinates: ArrayLike, groups: ArrayLike | None, labels: ArrayLike | None
    ) -> Places:
        if not hasattr(self, "groups_"):
            raise RuntimeError("Nothing has been learned yet: call `fit` first.")
        where = _coordinates(coordinates)
        if where.shape[1] != self.n_axes_:
            raise ValueError(
                f"`coordinates` has {where.shape[1]} columns; {self.n_axes_} were learned from."
            )
        if (groups is not None) != self.has_groups_:
            raise ValueError(
                "`groups` must be given as to `fit`, one of each place."
                if self.has_groups_
                else "`groups` must be left out, as `fit` was given none."
            )
        sections = _names(groups, len(where), "groups")
        _require_known(sections, self.groups_, "groups")
        regions = None if labels is None else _names(labels, len(where), "labels")
        return Places(where, sections, regions)

    @abstractmethod
    def _fit(self, places: Places, cells: Array) -> None: ...

    @abstractmethod
    def _predict(self, places: Places) -> Array: ...

    @abstractmethod
    def _sample(self, places: Places, n_samples: int, rng: np.random.Generator) -> Array: ...


class RegionMean(SpatialBaseline):
    """The mean of the places of the same region; draws are any of these places.

    Regions are given as ``labels`` to ``fit``, ``predict`` and ``sample``. With ``groups`` they are those
    of the same section, and of all sections where the section has none of the region.
    """

    def _fit(self, places: Places, cells: Array) -> None:
        regions = _regions(places)
        self.cells_, self.labels_ = cells, np.unique(regions)
        self._anywhere = {str(r): np.flatnonzero(regions == r) for r in self.labels_}
        self._within = {
            (s, r): np.flatnonzero((places.sections == s) & (regions == r))
            for s, r in _pairs(places.sections, regions)
        }

    def _members(self, places: Places) -> list[tuple[Index, Index]]:
        """Return asked places and the measured ones of their region, a pair for each region."""
        regions = _regions(places)
        _require_known(regions, self.labels_, "labels")
        return [
            (
                np.flatnonzero((places.sections == s) & (regions == r)),
                self._within.get((s, r), self._anywhere[r]),
            )
            for s, r in _pairs(places.sections, regions)
        ]

    def _predict(self, places: Places) -> Array:
        mean = np.empty((len(places.coordinates), self.n_genes_))
        for asked, rows in self._members(places):
            mean[asked] = self.cells_[rows].mean(axis=0)
        return mean

    def _sample(self, places: Places, n_samples: int, rng: np.random.Generator) -> Array:
        draws = np.empty((n_samples, len(places.coordinates), self.n_genes_))
        for asked, rows in self._members(places):
            draws[:, asked] = self.cells_[rng.choice(rows, size=(n_samples, len(asked)))]
        return draws


class _BySection(SpatialBaseline):
    """A baseline that learns each section by itself, and keeps what it learned of it."""

    def _fit(self, places: Places, cells: Array) -> None:
        self.parts_: dict[str, Any] = {}
        for name in self.groups_:
            rows = places.sections == name
            self.parts_[str(name)] = self._learn(places.coordinates[rows], cells[rows])

    def _predict(self, places: Places) -> Array:
        mean = np.empty((len(places.coordinates), self.n_genes_))
        for rows, part in self._asked(places):
            mean[rows] = self._mean(part, places.coordinates[rows])
        return mean

    def _sample(self, places: Places, n_samples: int, rng: np.random.Generator) -> Array:
        draws = np.empty((n_samples, len(places.coordinates), self.n_genes_))
        for rows, part in self._asked(places):
            draws[:, rows] = self._draw(part, places.coordinates[rows], n_samples, rng)
        return draws

    def _asked(self, places: Places) -> list[tuple[Index, Any]]:
        """Return a few places at a time, all of one section, and what is known of the section."""
        found = []
        for name in np.unique(places.sections):
            rows = np.flatnonzero(places.sections == name)
            for start in range(0, len(rows), _AT_A_TIME):
                found.append((rows[start : start + _AT_A_TIME], self.parts_[str(name)]))
        return found

    @abstractmethod
    def _learn(self, coordinates: Array, cells: Array) -> Any:
        """Return what is to be known of a section."""

    @abstractmethod
    def _mean(self, part: Any, coordinates: Array) -> Array: ...

    @abstractmethod
    def _draw(
        self, part: Any, coordinates: Array, n_samples: int, rng: np.random.Generator
    ) -> Array: ...


def _coordinates(coordinates: ArrayLike) -> Array:
    values = np.asarray(coordinates, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] not in (2, 3) or not len(values):
        raise ValueError(
            f"`coordinates` has shape {values.shape}, but must be (n, 2) or (n, 3), with a place or more."
        )
    if not np.isfinite(values).all():
        raise ValueError("`coordinates` holds values that are not finite.")
    return values


def _names(names: ArrayLike | None, n: int, what: str) -> Names:
    found = np.full(n, "") if names is None else np.asarray(names)
    if found.shape != (n,):
        raise ValueError(f"`{what}` has shape {found.shape}, but must be ({n},), one of a place.")
    return found.astype(str)


def _regions(places: Places) -> Names:
    if places.regions is None:
        raise ValueError("`labels` must be given: the region of each place.")
    return places.regions


def _pairs(first: Names, second: Names) -> list[tuple[str, str]]:
    return sorted(set(zip(first.tolist(), second.tolist(), strict=True)))


def _require_known(asked: Names, known: Names, what: str) -> None:
    strange = sorted(set(asked.tolist()) - set(known.tolist()))
    if strange:
        raise ValueError(
            f"`{what}` has {strange}, which `fit` was not given; known are {known.tolist()}."
        )


def _whole(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"`{name}={value!r}` must be a whole number of 1 or more.")
    return int(value)
