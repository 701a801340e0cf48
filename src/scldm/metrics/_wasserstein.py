"""Optimal transport between two samples."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.spatial.distance import cdist

from scldm.metrics._checks import Counts, as_csr, as_points
from scldm.metrics._statistic import Statistic, Weights, point

__all__ = [
    "gene_w1",
    "gene_w1_statistic",
    "sliced_wasserstein2",
    "sliced_wasserstein2_statistic",
    "wasserstein2",
    "wasserstein2_statistic",
]

# POT stops at 1e5 iterations and then returns a wrong value with a warning; a thousand cells on
# either side already come near that.
MAX_ITERATIONS = 100_000_000


def wasserstein2(x: ArrayLike, y: ArrayLike) -> float:
    r"""Exact 2-Wasserstein distance between two samples.

    .. math:: W_2(x, y) = \left(\min_{\pi \in \Pi} \sum_{ij} \pi_{ij}
        \lVert x_i - y_j \rVert^2 \right)^{1/2},

    where :math:`\Pi` holds the couplings of the two uniform weights. In units of the columns.

    Parameters
    ----------
    x, y
        Samples of shape (n, d) and (m, d).

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Notes
    -----
    The value is above zero for two samples of one distribution, and the more so the fewer the
    cells and the more the columns. Compare samples of equal size, and read the value against that
    of two real samples. Memory and time grow with n * m or faster.

    References
    ----------
    Peyré and Cuturi (2019). Computational Optimal Transport. Foundations and Trends in Machine
    Learning 11:355.

    Flamary et al. (2021). POT: Python Optimal Transport. JMLR 22(78):1.
    """
    return point(wasserstein2_statistic(x, y), np.shape(x)[0], np.shape(y)[0])


def wasserstein2_statistic(x: ArrayLike, y: ArrayLike) -> Statistic:
    r""":func:`wasserstein2` as a function of weights, to first order around equal ones.

    With the dual potentials :math:`f, g` of the plan, :math:`W_2^2 = \sum_i w_i f_i + \sum_j v_j
    g_j`. They change slowly with the weights, and their fluctuation is that of the distance (del
    Barrio and Loubes 2019, Central limit theorems for empirical transportation cost in general
    dimension, Annals of Probability 47:926).

    Parameters
    ----------
    x, y
        Samples of shape (n, d) and (m, d).
    """
    # POT looks for every array library that is installed, which takes a second: not for those
    # who only import the metrics.
    import ot

    first, second = as_points(x, y)
    cost = cdist(first, second, metric="sqeuclidean")
    equal = [np.full(size, 1 / size) for size in cost.shape]
    _, log = ot.emd2(*equal, cost, numItermax=MAX_ITERATIONS, log=True)
    # Rounding may leave a value just below zero for equal samples.
    return lambda w, v: np.sqrt(np.maximum(w @ log["u"] + v @ log["v"], 0))


def sliced_wasserstein2(
    x: ArrayLike, y: ArrayLike, *, n_projections: int = 100, seed: int = 0
) -> float:
    r"""Sliced 2-Wasserstein distance: that of one-dimensional projections, in the mean square.

    .. math:: SW_2(x, y) = \left(\frac{1}{P} \sum_{p=1}^{P}
        W_2^2(\langle x, u_p \rangle, \langle y, u_p \rangle) \right)^{1/2}

    with directions :math:`u_p` drawn evenly from the sphere. It is fast, and what it has in excess for
    finite samples falls with the number of cells at a rate that does not depend on the number of
    columns; it sees less of what is not along a line.

    Parameters
    ----------
    x, y
        Samples of shape (n, d) and (m, d). If their sizes differ, quantiles of both are compared
        at as many levels as the larger has cells.
    n_projections
        Number of directions.
    seed
        Seed of the directions.

    Raises
    ------
    ValueError
        If the shapes do not fit.

    References
    ----------
    Bonneel et al. (2015). Sliced and Radon Wasserstein barycenters of measures. Journal of
    Mathematical Imaging and Vision 51:22.
    """
    statistic = sliced_wasserstein2_statistic(x, y, n_projections=n_projections, seed=seed)
    return point(statistic, np.shape(x)[0], np.shape(y)[0])


def sliced_wasserstein2_statistic(
    x: ArrayLike, y: ArrayLike, *, n_projections: int = 100, seed: int = 0
) -> Statistic:
    """:func:`sliced_wasserstein2` as a function of weights that are multiples of one cell's.

    Parameters
    ----------
    x, y
        Samples of shape (n, d) and (m, d).
    n_projections, seed
        As for :func:`sliced_wasserstein2`.
    """
    first, second = as_points(x, y)
    if n_projections < 1:
        raise ValueError(f"`n_projections={n_projections}` must be 1 or more.")
    directions = np.random.default_rng(seed).standard_normal((first.shape[1], n_projections))
    directions /= np.linalg.norm(directions, axis=0)
    n_levels = max(len(first), len(second))
    sides = [(points @ directions).T for points in (first, second)]
    orders = [np.argsort(side, axis=1) for side in sides]

    def statistic(w: Weights, v: Weights) -> NDArray[np.float64]:
        total = np.zeros(len(w))
        for p in range(n_projections):
            a, b = (
                _quantiles(side[p], order[p], weights, n_levels)
                for side, order, weights in zip(sides, orders, (w, v), strict=True)
            )
            total += ((a - b) ** 2).mean(axis=1)
        return np.sqrt(total / n_projections)

    return statistic


def _quantiles(
    values: NDArray[np.float64], order: NDArray[np.intp], weights: Weights, n_levels: int
) -> NDArray[np.float64]:
    """Quantiles at the middle of as many equal steps, shape (n_rows, n_levels)."""
    n_rows, n = weights.shape
    copies = np.rint(weights[:, order] * n).astype(int)
    drawn = np.repeat(np.tile(values[order], n_rows), copies.ravel()).reshape(n_rows, n)
    return drawn[:, np.floor((np.arange(n_levels) + 0.5) / n_levels * n).astype(int)]


def gene_w1(x: Counts, y: Counts) -> float:
    r"""Mean over genes of the 1-Wasserstein distance between their values.

    .. math:: \frac{1}{G} \sum_g \int \lvert F^x_g(t) - F^y_g(t) \rvert \, dt

    Parameters
    ----------
    x, y
        Values of shape (n_cells, n_genes), not negative, for example log-normalised; sparse
        matrices stay sparse.

    Raises
    ------
    ValueError
        If the genes differ in number or a value is negative or not finite.
    """
    statistic = gene_w1_statistic(x, y)
    return point(statistic, np.shape(x)[0], np.shape(y)[0])


def gene_w1_statistic(x: Counts, y: Counts) -> Statistic:
    """:func:`gene_w1` as a function of weights.

    Parameters
    ----------
    x, y
        Values of shape (n_cells, n_genes).
    """
    # integers without a sign have no negative to sort by
    first, second = as_csr(x, "x").astype(np.float64), as_csr(y, "y").astype(np.float64)
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"The samples must have the same genes, but have {first.shape[1]} and "
            f"{second.shape[1]}."
        )
    both = sparse.vstack([first, second]).tocsr()
    both.eliminate_zeros()
    both = both.tocoo()
    # From the highest value of each gene to the lowest: below a value lies all that comes later,
    # so zeros need no entry of their own.
    order = np.lexsort((-both.data, both.col))
    cell, gene, value = both.row[order], both.col[order], both.data[order]
    last = np.append(gene[1:] != gene[:-1], True)
    gap = value - np.where(last, 0, np.append(value[1:], 0))
    start = np.flatnonzero(np.append(True, last[:-1]))
    length = np.diff(np.append(start, len(gene)))
    n_genes = first.shape[1]

    def statistic(w: Weights, v: Weights) -> NDArray[np.float64]:
        if not len(gene):
            return np.zeros(len(w))
        out = np.empty(len(w))
        for row, weights in enumerate(np.hstack([w, -v])):
            above = np.cumsum(weights[cell])
            before = np.repeat(np.append(0, above[start[1:] - 1]), length)
            out[row] = np.abs(above - before) @ gap
        return out / n_genes

    return statistic
