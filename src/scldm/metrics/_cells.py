"""One number per cell, compared between two samples of cells."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance

from scldm.metrics._checks import Counts, as_csr

__all__ = ["cell_zeros", "cell_zeros_w1", "library_size_w1", "library_sizes"]


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
    return float(wasserstein_distance(library_sizes(x), library_sizes(y)))


def cell_zeros_w1(x: Counts, y: Counts) -> float:
    """1-Wasserstein distance between the fractions of zeros per cell, between 0 and 1.

    Parameters
    ----------
    x, y
        Counts of shape (n_cells, n_genes); the numbers of cells may differ.
    """
    return float(wasserstein_distance(cell_zeros(x), cell_zeros(y)))
