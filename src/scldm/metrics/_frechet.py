"""Fréchet distance between two samples."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scldm.metrics._checks import as_points
from scldm.metrics._statistic import Statistic, Weights, point

__all__ = ["frechet_distance", "frechet_statistic"]


def frechet_distance(x: ArrayLike, y: ArrayLike) -> float:
    r"""Squared 2-Wasserstein distance between the Gaussians of the same means and covariances.

    .. math:: \lVert \mu_x - \mu_y \rVert^2 + \operatorname{tr}\left(C_x + C_y
        - 2\,(C_x^{1/2} C_y C_x^{1/2})^{1/2}\right)

    It sees nothing but means and covariances. Above zero for two samples of one distribution.

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
    Dowson and Landau (1982). The Fréchet distance between multivariate normal distributions.
    Journal of Multivariate Analysis 12:450.

    Heusel et al. (2017). GANs trained by a two time-scale update rule converge to a local Nash
    equilibrium. NeurIPS (for judging generators).
    """
    return point(frechet_statistic(x, y), np.shape(x)[0], np.shape(y)[0])


def frechet_statistic(x: ArrayLike, y: ArrayLike) -> Statistic:
    """:func:`frechet_distance` as a function of weights.

    Parameters
    ----------
    x, y
        Samples of shape (n, d) and (m, d).
    """
    first, second = as_points(x, y)
    # far from zero, second moments would lose the digits of the variances
    middle = first.mean(axis=0)
    first, second = first - middle, second - middle

    def statistic(w: Weights, v: Weights) -> NDArray[np.float64]:
        (mean_x, cov_x), (mean_y, cov_y) = _moments(first, w), _moments(second, v)
        root = _root(cov_x)
        cross = np.linalg.eigvalsh(root @ cov_y @ root)
        trace = np.trace(cov_x + cov_y, axis1=1, axis2=2)
        distance = ((mean_x - mean_y) ** 2).sum(axis=1)
        return distance + trace - 2 * np.sqrt(np.maximum(cross, 0)).sum(axis=1)

    return statistic


def _moments(
    points: NDArray[np.float64], weights: Weights
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    mean = weights @ points
    second = np.stack([(points.T * row) @ points for row in weights])
    covariance = second - mean[:, :, None] * mean[:, None, :]
    return mean, covariance / (1 - (weights**2).sum(axis=1))[:, None, None]


def _root(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(matrices)
    return (vectors * np.sqrt(np.maximum(values, 0))[:, None, :]) @ vectors.swapaxes(1, 2)
