"""Places where cells might be."""

from __future__ import annotations

import numpy as np
from scipy.spatial import KDTree

__all__ = ["area_of", "inside", "spread_out"]


def spread_out(draw: np.ndarray, n: int, closest: float, spacing: np.ndarray) -> np.ndarray:
    """Return the first n of some candidates that keep their distance from those before.

    Simple sequential inhibition (Diggle 2013, *Statistical Analysis of Spatial and Spatio-Temporal Point
    Patterns*, section 6.5): cells have a size, so they lie apart more than points drawn at random.

    Parameters
    ----------
    draw
        Candidates, ``(n_candidates, n_dims)``.
    n
        How many to return, at most.
    closest
        The least distance, in units of ``spacing``.
    spacing
        By axis.
    """
    x = draw / spacing
    near = KDTree(x).query_ball_point(x, closest)
    kept = np.zeros(len(x), dtype=bool)
    n_kept = 0
    for i, others in enumerate(near):
        if n_kept == n:
            break
        if not kept[others].any():
            kept[i] = True
            n_kept += 1
    return draw[kept]


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
