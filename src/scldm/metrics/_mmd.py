"""Maximum mean discrepancy between two samples."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist, pdist

from scldm.metrics._checks import as_points
from scldm.metrics._statistic import NotApplicable, Statistic, mean_of_pairs, point

__all__ = ["median_heuristic", "mmd2", "mmd2_statistic"]

SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)


def median_heuristic(x: ArrayLike) -> float:
    """Median Euclidean distance between two different rows.

    Parameters
    ----------
    x
        Sample of shape (n, d).

    Raises
    ------
    ValueError
        If the median is zero, which leaves no width for a kernel.
    """
    points, _ = as_points(x, x)
    median = float(np.median(pdist(points)))
    if median == 0:
        raise NotApplicable("More than half of the pairs of cells are equal: give `bandwidths`.")
    return median


def mmd2(x: ArrayLike, y: ArrayLike, *, bandwidths: Sequence[float] | None = None) -> float:
    r"""Unbiased estimate of the squared maximum mean discrepancy.

    .. math:: \mathrm{MMD}^2(x, y) = \mathbb{E}\,k(X, X') + \mathbb{E}\,k(Y, Y')
        - 2\,\mathbb{E}\,k(X, Y), \qquad
        k(a, b) = \frac{1}{J} \sum_{j=1}^{J} e^{-\lVert a - b \rVert^2 / 2 h_j^2},

    with pairs of different cells in the first two terms. Zero in the mean for two samples of one
    distribution, so a single value may lie a little below zero; at most 2.

    Parameters
    ----------
    x, y
        Samples of shape (n, d) and (m, d). ``x`` is the reference.
    bandwidths
        The widths :math:`h_j`. If ``None``, a quarter, half, one, two and four times the median
        distance within ``x``. They come from ``x`` alone, so that all samples compared with
        one reference are measured with one kernel.

    Raises
    ------
    ValueError
        If the shapes do not fit or a bandwidth is not above zero.

    References
    ----------
    Gretton et al. (2012). A kernel two-sample test. JMLR 13:723 (equation 3, median heuristic).

    Li, Swersky and Zemel (2015). Generative moment matching networks. ICML (the mixture).
    """
    statistic = mmd2_statistic(x, y, bandwidths)
    return point(statistic, np.shape(x)[0], np.shape(y)[0])


def mmd2_statistic(
    x: ArrayLike, y: ArrayLike, bandwidths: Sequence[float] | None = None
) -> Statistic:
    """:func:`mmd2` as a function of weights.

    Parameters
    ----------
    x, y
        Samples of shape (n, d) and (m, d).
    bandwidths
        As for :func:`mmd2`.
    """
    first, second = as_points(x, y)
    if bandwidths is None:
        median = median_heuristic(first)
        bandwidths = [scale * median for scale in SCALES]
    if not np.size(bandwidths) or np.ndim(bandwidths) != 1 or not np.all(0 < np.array(bandwidths)):
        raise ValueError(f"`bandwidths={bandwidths!r}` must be a list of values above 0.")
    between = _kernel(first, second, bandwidths)
    within, other = (_kernel(points, points, bandwidths) for points in (first, second))
    for kernel in (within, other):
        np.fill_diagonal(kernel, 0)
    return lambda w, v: (
        mean_of_pairs(w, within) + mean_of_pairs(v, other) - 2 * ((w @ between) * v).sum(axis=1)
    )


def _kernel(
    a: NDArray[np.float64], b: NDArray[np.float64], bandwidths: Sequence[float]
) -> NDArray[np.float64]:
    squared = cdist(a, b, metric="sqeuclidean")
    kernels = (np.exp(squared / (-2 * width**2)) for width in bandwidths)
    return sum(kernels, np.zeros_like(squared)) / len(bandwidths)
