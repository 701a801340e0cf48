"""Places where cells might be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.spatial import Delaunay, KDTree

__all__ = ["area_of", "area_of_a_cell", "inside", "least_distance", "spread_out"]

_ROUNDS = 40
_CLOSEST = 0.05


def spread_out(
    draw: Callable[[], np.ndarray], n: int, closest: float, occupied: np.ndarray | None = None
) -> np.ndarray:
    """Return the first n of some candidates that keep their distance from those before.

    Simple sequential inhibition (Diggle 2013, *Statistical Analysis of Spatial and Spatio-Temporal Point
    Patterns*, section 6.5): cells have a size, so they lie apart more than points drawn at random.

    Parameters
    ----------
    draw
        Returns some candidates, ``(any, n_dims)``; called up to forty times.
    n
        How many to return, at most.
    closest
        The least distance.
    occupied
        Places that are taken.
    """
    taken = None if occupied is None or not len(occupied) else KDTree(occupied)
    kept = draw()[:0]
    for _ in range(_ROUNDS):
        new = draw()
        if taken is not None and len(new):
            new = new[taken.query(new)[0] > closest]
        if len(kept) and len(new):
            new = new[KDTree(kept).query(new)[0] > closest]
        if len(new) > 1:
            alive = np.ones(len(new), dtype=bool)
            pairs = KDTree(new).query_pairs(closest, output_type="ndarray")
            # by the first of each pair: whoever could exclude it has been dealt with before
            for first, second in pairs[np.argsort(pairs[:, 0], kind="stable")]:
                if alive[first]:
                    alive[second] = False
            new = new[alive]
        kept = np.concatenate([kept, new])[:n]
        if len(kept) == n:
            break
    return kept


def inside(corners: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Say which places ``(n, 2)`` lie in the polygon with these corners, by the even-odd rule."""
    a, b = corners, np.roll(corners, -1, axis=0)
    px, py = x[:, :1], x[:, 1:2]
    crosses = (a[:, 1] > py) != (b[:, 1] > py)
    with np.errstate(divide="ignore", invalid="ignore"):
        at = a[:, 0] + (py - a[:, 1]) / (b[:, 1] - a[:, 1]) * (b[:, 0] - a[:, 0])
    return (crosses & (px < at)).sum(axis=1) % 2 == 1


def area_of(corners: np.ndarray) -> float:
    """Return the area of a polygon (the shoelace formula)."""
    a, b = corners, np.roll(corners, -1, axis=0)
    return float(abs(np.sum(a[:, 0] * b[:, 1] - b[:, 0] * a[:, 1])) / 2)


def least_distance(x: np.ndarray) -> float:
    """Return the distance below which one of twenty cells has its nearest."""
    apart = np.unique(x, axis=0)
    return float(np.quantile(KDTree(apart).query(apart, 2)[0][:, 1], _CLOSEST))


def area_of_a_cell(x: np.ndarray) -> float:
    """Return the area that a cell has where cells are as dense as at the median.

    A third of the triangles that meet at the cell, of which all of the tissue is made.
    """
    x = np.unique(x, axis=0)
    corners = Delaunay(x).simplices
    a, b = x[corners[:, 1]] - x[corners[:, 0]], x[corners[:, 2]] - x[corners[:, 0]]
    area = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) / 2
    return float(np.median(np.bincount(corners.ravel(), np.repeat(area, 3), len(x)) / 3))
