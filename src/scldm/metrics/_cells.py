"""One number per cell, compared between two samples of cells."""

import numpy as np
from numpy.typing import NDArray

from scldm.metrics._checks import Counts, as_csr
from scldm.metrics._statistic import Statistic, Weights, point

__all__ = [
    "cell_zeros",
    "cell_zeros_w1",
    "library_size_w1",
    "library_sizes",
    "wasserstein1_statistic",
]


def library_sizes(counts: Counts) -> NDArray[np.float64]:
    """Total count of each cell, shape (n_cells,)."""
    return np.asarray(as_csr(counts).sum(axis=1, dtype=np.float64)).ravel()


def cell_zeros(counts: Counts) -> NDArray[np.float64]:
    """Fraction of genes without a count in each cell, shape (n_cells,)."""
    matrix = as_csr(counts)
    return 1 - np.asarray((matrix != 0).sum(axis=1)).ravel() / matrix.shape[1]


def library_size_w1(x: Counts, y: Counts) -> float:
    r"""1-Wasserstein distance between the library sizes, in counts.

    .. math:: W_1 = \int \lvert F_x(l) - F_y(l) \rvert \, dl

    Parameters
    ----------
    x, y
        Counts of shape (n_cells, n_genes); the numbers of cells may differ.
    """
    a, b = library_sizes(x), library_sizes(y)
    return point(wasserstein1_statistic(a, b), len(a), len(b))


def cell_zeros_w1(x: Counts, y: Counts) -> float:
    """1-Wasserstein distance between the fractions of zeros per cell, between 0 and 1.

    Parameters
    ----------
    x, y
        Counts of shape (n_cells, n_genes); the numbers of cells may differ.
    """
    a, b = cell_zeros(x), cell_zeros(y)
    return point(wasserstein1_statistic(a, b), len(a), len(b))


def wasserstein1_statistic(a: NDArray[np.float64], b: NDArray[np.float64]) -> Statistic:
    """1-Wasserstein distance between numbers, as a function of weights.

    Parameters
    ----------
    a, b
        One number per cell, shape (n,) and (m,).
    """
    both = np.concatenate([a, b])
    order = np.argsort(both)
    gaps = np.diff(both[order])

    def statistic(w: Weights, v: Weights) -> NDArray[np.float64]:
        difference = np.cumsum(np.hstack([w, -v])[:, order], axis=1)[:, :-1]
        return np.abs(difference) @ gaps

    return statistic
