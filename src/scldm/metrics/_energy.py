"""Energy distance between two samples."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist, pdist

from scldm.metrics._checks import as_points

__all__ = ["energy_distance"]


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
    first, second = as_points(x, y)
    between = cdist(first, second).mean()
    return float(2 * between - np.mean(pdist(first)) - np.mean(pdist(second)))
