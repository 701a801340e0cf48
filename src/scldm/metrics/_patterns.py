"""How well the pattern of each gene in tissue is predicted, by values at the same places."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse, special

from scldm.metrics import translation
from scldm.metrics._places import as_coordinates, as_values, neighbours

__all__ = ["averaged", "gene_pcc", "jensen_shannon", "smooth", "smoothed_pcc", "ssim"]

Array = NDArray[np.float64]


def gene_pcc(true: ArrayLike, predicted: ArrayLike) -> Array:
    """Pearson correlation over places of each gene, NaN where one side is constant.

    Parameters
    ----------
    true, predicted
        Values, (n, n_genes).

    Returns
    -------
    (n_genes,)

    Raises
    ------
    ValueError
        If shapes differ, values are not finite, or there are fewer than two places.
    """
    x = as_values(true, "true")
    return translation.feature_pearson(x, as_values(predicted, "predicted", like=x))


def smooth(
    values: ArrayLike,
    coordinates: ArrayLike,
    n_neighbors: int = 10,
    groups: ArrayLike | None = None,
) -> Array:
    """Mean over each place and the places nearest to it.

    Parameters
    ----------
    values
        (n, n_genes).
    coordinates
        (n, 2) or (n, 3).
    n_neighbors
        Nearest places, besides the place itself.
    groups
        Section of each place, (n,): only places of the same one are averaged.

    Returns
    -------
    (n, n_genes)

    Raises
    ------
    ValueError
        If shapes do not fit, values are not finite, or there are not more places (in a section)
        than ``n_neighbors``.
    """
    x = as_values(values, "values")
    near = neighbours(as_coordinates(coordinates, len(x)), n_neighbors, groups)
    return averaged(x, near)


def smoothed_pcc(
    true: ArrayLike,
    predicted: ArrayLike,
    coordinates: ArrayLike,
    n_neighbors: int = 10,
    groups: ArrayLike | None = None,
) -> Array:
    """Pearson correlation of each gene after :func:`smooth` of both sides.

    It asks for the pattern and not for the single cell, which no coordinate tells.

    Parameters
    ----------
    true, predicted
        Values, (n, n_genes).
    coordinates, n_neighbors, groups
        As for :func:`smooth`.

    Returns
    -------
    (n_genes,), NaN where one side is constant.

    Raises
    ------
    ValueError
        As :func:`smooth`.
    """
    x = as_values(true, "true")
    y = as_values(predicted, "predicted", like=x)
    near = neighbours(as_coordinates(coordinates, len(x)), n_neighbors, groups)
    return translation.feature_pearson(averaged(x, near), averaged(y, near))


def ssim(true: ArrayLike, predicted: ArrayLike) -> Array:
    r"""Structural similarity of each gene's values over all places at once; 1 is the same.

    Each gene is divided by its largest value, on either side. With mean :math:`\mu`, standard
    deviation :math:`\sigma` and covariance :math:`\sigma_{xy}`,

    .. math:: \frac{(2 \mu_x \mu_y + C_1^2)(2 \sigma_{xy} + C_2^2)}
        {(\mu_x^2 + \mu_y^2 + C_1^2)(\sigma_x^2 + \sigma_y^2 + C_2^2)},
        \qquad C_1 = 0.01, \; C_2 = 0.03.

    Parameters
    ----------
    true, predicted
        Values, (n, n_genes), above zero where there is expression.

    Returns
    -------
    (n_genes,), NaN where no true value is above zero. A prediction without one is not divided.

    Raises
    ------
    ValueError
        As :func:`gene_pcc`.

    References
    ----------
    Li et al. (2022). Benchmarking spatial and single-cell transcriptomics integration methods for
    transcript distribution prediction and cell type deconvolution. Nature Methods 19:662.
    """
    x = as_values(true, "true")
    y = as_values(predicted, "predicted", like=x)
    top, reached = x.max(axis=0), y.max(axis=0)
    x = x / np.where(top > 0, top, np.nan)
    y = y / np.where(reached > 0, reached, 1.0)
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    covariance = ((x - mean_x) * (y - mean_y)).mean(axis=0)
    c1, c2 = 0.01**2, 0.03**2
    brightness = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return brightness * (2 * covariance + c2) / (x.var(axis=0) + y.var(axis=0) + c2)


def jensen_shannon(true: ArrayLike, predicted: ArrayLike) -> Array:
    r"""Jensen-Shannon divergence between each gene's shares of places, in nats; 0 is the same.

    A gene's values are divided by their sum over places, p and q, and

    .. math:: \tfrac{1}{2} \mathrm{KL}(p \| m) + \tfrac{1}{2} \mathrm{KL}(q \| m), \qquad
        m = (p + q) / 2.

    Parameters
    ----------
    true
        Values of zero or more, (n, n_genes).
    predicted
        Values, (n, n_genes); those below zero count as zero.

    Returns
    -------
    (n_genes,), from 0 to log 2, which a prediction of zero everywhere has as well. NaN where all
    true values are zero.

    Raises
    ------
    ValueError
        As :func:`gene_pcc`, or if ``true`` has values below zero.

    References
    ----------
    As for :func:`ssim`.
    """
    x = as_values(true, "true")
    y = as_values(predicted, "predicted", like=x).clip(min=0)
    if x.min() < 0:
        raise ValueError(f"`true` has the value {x.min():.4g}, but must not be below 0.")
    total, reached = x.sum(axis=0), y.sum(axis=0)
    p = x / np.where(total > 0, total, np.nan)
    q = y / np.where(reached > 0, reached, 1.0)
    middle = (p + q) / 2
    divergence = (special.rel_entr(p, middle) + special.rel_entr(q, middle)).sum(axis=0) / 2
    return np.where((reached > 0) | np.isnan(divergence), divergence, np.log(2))


def averaged(x: Array, near: sparse.csr_array) -> Array:
    """Return the mean of each place and its neighbours, ``(n, n_genes)``."""
    k = near.indptr[1]
    return (x + k * (near @ x)) / (k + 1)
