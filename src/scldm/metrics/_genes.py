"""Moments and correlations of genes, compared between two samples of cells."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from scldm.metrics._checks import Counts, as_csr, as_points
from scldm.metrics._statistic import NotApplicable, Statistic, Weights, point

__all__ = [
    "GeneMoments",
    "gene_correlation_rmse",
    "gene_correlation_statistic",
    "gene_mean_rmse",
    "gene_moments",
    "gene_moments_statistics",
    "gene_variance_rmse",
    "gene_zeros_rmse",
    "mean_variance_gap",
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
    powers = _Powers.of(counts)
    n = powers.first.shape[0]
    moments = powers.moments(np.full((1, n), 1 / n))
    return GeneMoments(*(values[0] for values in moments))


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
    return _at_equal_weights("gene_mean_rmse", x, y, min_count)


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
    return _at_equal_weights("gene_variance_rmse", x, y, min_count)


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
    return _at_equal_weights("gene_zeros_rmse", x, y, 0)


def mean_variance_gap(x: Counts, y: Counts, *, min_count: int = 20) -> float:
    r"""Distance between the trends of the variance with the mean.

    A parabola is fitted to :math:`\log_{10}` of the variances against :math:`\log_{10}` of the
    means in either sample; the value is the root mean square of their difference at the means of
    the genes of ``x``, with one count more for each gene as in :func:`gene_mean_rmse`. A wrong gene moves :func:`gene_variance_rmse`; a wrong noise model, such as
    means in the place of counts, moves the trend.

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
    return _at_equal_weights("mean_variance_gap", x, y, min_count)


def gene_moments_statistics(x: Counts, y: Counts, *, min_count: int = 20) -> dict[str, Statistic]:
    """All comparisons of moments as functions of weights, by the name of their function.

    Parameters
    ----------
    x, y
        Counts of shape (n_cells, n_genes). ``x`` is the reference.
    min_count
        Genes with a smaller total in ``x`` are left out, but for the zeros.
    """
    first, second = _Powers.of(x), _Powers.of(y)
    if first.first.shape[1] != second.first.shape[1]:
        raise ValueError(
            f"The samples must have the same genes, but have {first.first.shape[1]} and "
            f"{second.first.shape[1]}."
        )
    pseudo = [1 / side.first.shape[0] for side in (first, second)]
    kept = np.asarray(first.first.sum(axis=0)).ravel() >= min_count

    def logs(moment: str, w: Weights, v: Weights) -> list[NDArray[np.float64]]:
        if not kept.any():
            raise NotApplicable(f"No gene has `min_count={min_count}` counts in the reference.")
        moments = (getattr(side.moments(rows), moment) for side, rows in
                   zip((first, second), (w, v), strict=True))  # fmt: skip
        return [np.log10(m[:, kept] + one) for m, one in zip(moments, pseudo, strict=True)]

    def trends(w: Weights, v: Weights) -> NDArray[np.float64]:
        if kept.sum() < 3:
            raise NotApplicable(f"A trend needs three genes with `min_count={min_count}` counts.")
        means, variances = logs("mean", w, v), logs("variance", w, v)
        rows = zip(*means, *variances, strict=True)
        return np.array([_gap(*row) for row in rows])

    return {
        "gene_mean_rmse": lambda w, v: _rms(*logs("mean", w, v)),
        "gene_variance_rmse": lambda w, v: _rms(*logs("variance", w, v)),
        "gene_zeros_rmse": lambda w, v: _rms(first.moments(w).zeros, second.moments(v).zeros),
        "mean_variance_gap": trends,
    }


def gene_correlation_rmse(x: ArrayLike, y: ArrayLike, *, n_genes: int = 100) -> float:
    """Root mean square of the difference of the gene-gene correlations.

    Over all pairs of the genes that vary most in ``x``. A generator without dependence between
    genes within a type is caught here.

    Parameters
    ----------
    x, y
        Log-normalised values of shape (n_cells, n_genes). ``x`` is the reference.
    n_genes
        Number of genes, at most those that vary in ``x``.

    Raises
    ------
    ValueError
        If the shapes do not fit or less than two genes vary in ``x``.
    """
    statistic = gene_correlation_statistic(x, y, n_genes=n_genes)
    return point(statistic, np.shape(x)[0], np.shape(y)[0])


def gene_correlation_statistic(x: ArrayLike, y: ArrayLike, *, n_genes: int = 100) -> Statistic:
    """:func:`gene_correlation_rmse` as a function of weights.

    Parameters
    ----------
    x, y
        Log-normalised values of shape (n_cells, n_genes).
    n_genes
        Number of genes.
    """
    first, second = as_points(x, y)
    variance = first.var(axis=0)
    n_genes = min(n_genes, int((variance > 0).sum()))
    if n_genes < 2:
        raise NotApplicable("Less than two genes vary in the reference, so nothing can correlate.")
    genes = np.argsort(-variance, kind="stable")[:n_genes]
    pairs = np.triu_indices(n_genes, 1)

    def correlations(points: NDArray[np.float64], weights: Weights) -> NDArray[np.float64]:
        return np.stack([_correlation(points, row)[pairs] for row in weights])

    a, b = first[:, genes], second[:, genes]
    return lambda w, v: _rms(correlations(a, w), correlations(b, v))


class _Powers(NamedTuple):
    """What the moments of any weighting are sums of, each of shape (n_cells, n_genes)."""

    first: sparse.csr_matrix
    second: sparse.csr_matrix
    present: sparse.csr_matrix

    @classmethod
    def of(cls, counts: Counts) -> "_Powers":
        matrix = as_csr(counts).astype(np.float64)
        if matrix.shape[0] < 2:
            raise ValueError(
                f"A variance needs at least two cells, but there is {matrix.shape[0]}."
            )
        return cls(matrix, matrix.multiply(matrix).tocsr(), (matrix != 0).astype(np.float64))

    def moments(self, weights: Weights) -> GeneMoments:
        """Moments for each row of weights, each of shape (n_rows, n_genes)."""
        mean, second, present = ((power.T @ weights.T).T for power in self)
        freedom = 1 - (weights**2).sum(axis=1, keepdims=True)
        return GeneMoments(mean, np.maximum(second - mean**2, 0) / freedom, 1 - present)


def _at_equal_weights(name: str, x: Counts, y: Counts, min_count: int) -> float:
    statistic = gene_moments_statistics(x, y, min_count=min_count)[name]
    return point(statistic, np.shape(x)[0], np.shape(y)[0])


def _rms(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sqrt(((a - b) ** 2).mean(axis=1))


def _gap(
    mean_x: NDArray[np.float64],
    mean_y: NDArray[np.float64],
    variance_x: NDArray[np.float64],
    variance_y: NDArray[np.float64],
) -> float:
    difference = np.polyfit(mean_x, variance_x, 2) - np.polyfit(mean_y, variance_y, 2)
    return float(np.sqrt(np.mean(np.polyval(difference, mean_x) ** 2)))


def _correlation(points: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlation matrix; a gene that does not vary correlates with none."""
    centred = points - weights @ points
    covariance = (centred.T * weights) @ centred
    spread = np.sqrt(np.diag(covariance))
    scale = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 1e-12)
    return covariance * scale * scale[:, None]
