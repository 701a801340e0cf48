"""Expression in tissue from the sections of a stack above and below."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ._spatial import Index, Places, _whole
from ._spatial_neighbours import Neighbourhood, _Weighted

__all__ = ["NearestSection", "SectionBlend"]

Array = NDArray[np.float64]


class _Stack(NamedTuple):
    depths: Array
    rows: list[Index]
    sections: list[Neighbourhood]
    cells: Array


class _InStack(_Weighted):
    """A baseline that looks for places by (x, y) in sections, which are known by their depth z.

    Coordinates are ``(n, 3)``, and places of a section share their third exactly. ``groups`` are stacks
    here, as of several animals.
    """

    def __init__(self, n_neighbors: int = 1) -> None:
        self.n_neighbors = _whole(n_neighbors, "n_neighbors")

    def _fit(self, places: Places, cells: Array) -> None:
        if places.coordinates.shape[1] != 3:
            raise ValueError(
                f"`coordinates` has {places.coordinates.shape[1]} columns, but must have 3: x, y and "
                "the depth of the section."
            )
        super()._fit(places, cells)

    def _learn(self, coordinates: Array, cells: Array) -> _Stack:
        depths = np.unique(coordinates[:, 2])
        rows = [np.flatnonzero(coordinates[:, 2] == z) for z in depths]
        sections = [Neighbourhood(cKDTree(coordinates[r, :2]), cells[r]) for r in rows]
        return _Stack(depths, rows, sections, cells)

    def _in_sections(self, part: _Stack, which: Index, xy: Array) -> tuple[Index, Array]:
        """Return the nearest places of a section, one section for each (x, y), and their weights.

        Both are ``(n, n_neighbors)``; where a section has fewer places the rest has no weight.
        """
        index = np.zeros((len(xy), self.n_neighbors), dtype=np.intp)
        weights = np.zeros(index.shape)
        for i in np.unique(which):
            asked = np.flatnonzero(which == i)
            _, near = part.sections[i].nearest(xy[asked], self.n_neighbors)
            k = near.shape[1]
            index[asked, :k] = part.rows[i][near]
            weights[asked, :k] = 1 / k
        return index, weights


class NearestSection(_InStack):
    """The nearest places in (x, y) of the section that is nearest in depth.

    Coordinates are ``(n, 3)``, and places of a section share their third, the depth, exactly. ``groups``
    are stacks, as of several animals. Predictions are the mean of the nearest places, and draws are these places, each as likely. Of two sections that are as
    near it is the one of lower depth.

    Parameters
    ----------
    n_neighbors
        Places of the section, or all where it has fewer.
    """

    def _weights(self, part: _Stack, coordinates: Array) -> tuple[Index | None, Array]:
        gap = np.abs(coordinates[:, 2:] - part.depths)
        return self._in_sections(part, gap.argmin(axis=1), coordinates[:, :2])


class SectionBlend(_InStack):
    """The nearest places in (x, y) of the sections below and above, blended by depth.

    At a share s of the way from one section to the next the prediction is 1 - s of the mean in the one and
    s of that in the other, and a draw is a place of the one or the other with these chances. At the depth
    of a section, and past the first and the last, it is that section alone. Coordinates and ``groups`` are
    as for :class:`NearestSection`.

    Parameters
    ----------
    n_neighbors
        Places of each section, or all where it has fewer.
    """

    def _weights(self, part: _Stack, coordinates: Array) -> tuple[Index | None, Array]:
        z, last = coordinates[:, 2], len(part.depths) - 1
        below = np.clip(np.searchsorted(part.depths, z, side="right") - 1, 0, last)
        above = np.minimum(below + 1, last)
        gap = part.depths[above] - part.depths[below]
        share = np.divide(z - part.depths[below], gap, out=np.zeros_like(z), where=gap > 0)
        share = share.clip(0, 1)[:, None]
        first, low = self._in_sections(part, below, coordinates[:, :2])
        second, high = self._in_sections(part, above, coordinates[:, :2])
        return np.hstack([first, second]), np.hstack([(1 - share) * low, share * high])
