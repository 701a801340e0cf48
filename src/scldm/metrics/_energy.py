"""Energy distance between two samples."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist

from scldm.metrics._checks import as_points
from scldm.metrics._statistic import Statistic, mean_of_pairs, point

__all__ = ["energy_distance", "energy_statistic"]


def energy_distance(x: ArrayLike, y: ArrayLike) -> float:
    r"""Unbiased estimate of the energy distance.

    .. math:: E(x, y) = 2\,\mathbb{E}\lVert X - Y \rVert - \mathbb{E}\lVert X - X' \rVert
        - \mathbb{E}\lVert Y - Y' \rVert,

    with pairs of different cells in the last two terms. Zero in the mean for two samples of one
    distribution, so a single value may lie a little below zero. No root is taken, and distances
    are not squared (with squares the distance would see the means only).

    Parameters
    ----------
    x, y
        Samples of shape (n, d) and (m, d).

    Raises
    ------
    ValueError
        If the shapes do not fit.

    References
    ----------
    Székely and Rizzo (2013). Energy statistics: a class of statistics based on distances. Journal
    of Statistical Planning and Inference 143:1249.
    """
    return point(energy_statistic(x, y), np.shape(x)[0], np.shape(y)[0])


def energy_statistic(x: ArrayLike, y: ArrayLike) -> Statistic:
    """:func:`energy_distance` as a function of weights.

    Parameters
    ----------
    x, y
        Samples of shape (n, d) and (m, d).
    """
    first, second = as_points(x, y)
    between, within, other = cdist(first, second), cdist(first, first), cdist(second, second)
    return lambda w, v: (
        2 * ((w @ between) * v).sum(axis=1) - mean_of_pairs(w, within) - mean_of_pairs(v, other)
    )
