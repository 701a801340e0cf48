"""Maximum mean discrepancy between two samples."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist, pdist

from scldm.metrics._checks import as_points

__all__ = ["median_heuristic", "mmd2"]

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
        raise ValueError("More than half of the pairs of cells are equal: give `bandwidths`.")
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
    first, second = as_points(x, y)
    if bandwidths is None:
        median = median_heuristic(first)
        bandwidths = [scale * median for scale in SCALES]
    if not len(bandwidths) or min(bandwidths) <= 0:
        raise ValueError(f"`bandwidths={list(bandwidths)}` must be one or more values above 0.")
    within = sum(
        _mean_kernel(pdist(points, metric="sqeuclidean"), bandwidths) for points in (first, second)
    )
    between = _mean_kernel(cdist(first, second, metric="sqeuclidean"), bandwidths)
    return float(within - 2 * between)


def _mean_kernel(squared: NDArray[np.float64], bandwidths: Sequence[float]) -> float:
    return float(np.mean([np.exp(squared / (-2 * h**2)).mean() for h in bandwidths]))
