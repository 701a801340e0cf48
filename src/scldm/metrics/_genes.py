"""Mean, variance and zeros of each gene, compared between two samples of cells."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scldm.metrics._checks import Counts, as_csr

__all__ = [
    "GeneMoments",
    "gene_mean_rmse",
    "gene_moments",
    "gene_variance_rmse",
    "gene_zeros_rmse",
]


class GeneMoments(NamedTuple):
    """What :func:`gene_moments` returns; each of shape (n_genes,)."""

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    zeros: NDArray[np.float64]


def gene_moments(counts: Counts) -> GeneMoments:
    """Mean, variance (over n - 1) and fraction of zeros of the raw counts of each gene.

    Parameters
    ----------
    counts
        Counts of shape (n_cells, n_genes), with at least two cells.

    Raises
    ------
    ValueError
        If there are less than two cells.
    """
    matrix = as_csr(counts).astype(np.float64)
    n = matrix.shape[0]
    if n < 2:
        raise ValueError(f"A variance needs at least two cells, but there is {n}.")
    mean = np.asarray(matrix.mean(axis=0)).ravel()
    second = np.asarray(matrix.multiply(matrix).mean(axis=0)).ravel()
    zeros = 1 - np.asarray((matrix != 0).sum(axis=0)).ravel() / n
    return GeneMoments(mean, np.maximum(second - mean**2, 0) * n / (n - 1), zeros)


def gene_mean_rmse(x: Counts, y: Counts, *, min_count: int = 20) -> float:
    r"""Root mean square over genes of the difference of the log10 means.

    .. math:: \left[\frac{1}{G} \sum_g \left(\log_{10}(\mu^x_g + 1/n_x)
        - \log_{10}(\mu^y_g + 1/n_y)\right)^2\right]^{1/2}

    One count is added to the total of each gene, so a gene without counts has a logarithm. A value
    of 0.3 means that means are off by a factor of two.

    Parameters
    ----------
    x, y
        Counts of shape (n_cells, n_genes). ``x`` is the reference.
    min_count
        Genes with a smaller total in ``x`` are left out. The mean of a gene with 20 counts has a
        Poisson error of 22%; with the many rarer genes of a whole transcriptome in the sum, their
        noise is all that one sees.

    Raises
    ------
    ValueError
        If no gene has so many counts, or a side has less than two cells.
    """
    a, b = gene_moments(x), gene_moments(y)
    kept = _expressed(a, x, min_count)
    return _rmse(_log(a.mean, x)[kept], _log(b.mean, y)[kept])


def gene_variance_rmse(x: Counts, y: Counts, *, min_count: int = 20) -> float:
    """As :func:`gene_mean_rmse`, for the variances.

    Parameters
    ----------
    x, y
        Counts of shape (n_cells, n_genes). ``x`` is the reference.
    min_count
        Genes with a smaller total in ``x`` are left out.

    Raises
    ------
    ValueError
        If no gene has so many counts, or a side has less than two cells.
    """
    a, b = gene_moments(x), gene_moments(y)
    kept = _expressed(a, x, min_count)
    return _rmse(_log(a.variance, x)[kept], _log(b.variance, y)[kept])


def gene_zeros_rmse(x: Counts, y: Counts) -> float:
    """Root mean square over all genes of the difference of the fractions of zeros.

    Parameters
    ----------
    x, y
        Counts of shape (n_cells, n_genes).

    Raises
    ------
    ValueError
        If a side has less than two cells.
    """
    return _rmse(gene_moments(x).zeros, gene_moments(y).zeros)


def _expressed(moments: GeneMoments, counts: Counts, min_count: int) -> NDArray[np.bool_]:
    # Half a count of slack: the total is a mean times n, which rounding may put just below.
    kept = moments.mean * np.shape(counts)[0] >= min_count - 0.5
    if not kept.any():
        raise ValueError(f"No gene has `min_count={min_count}` counts in the reference.")
    return kept


def _log(values: NDArray[np.float64], counts: Counts) -> NDArray[np.float64]:
    return np.log10(values + 1 / np.shape(counts)[0])


def _rmse(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))
