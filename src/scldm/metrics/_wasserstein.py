"""Optimal transport between two samples."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist

from scldm.metrics._checks import as_points

__all__ = ["wasserstein2"]

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
    # POT looks for every array library that is installed, which takes a second: not for those
    # who only import the metrics.
    import ot

    first, second = as_points(x, y)
    cost = cdist(first, second, metric="sqeuclidean")
    value = ot.emd2(
        np.full(len(first), 1 / len(first)),
        np.full(len(second), 1 / len(second)),
        cost,
        numItermax=MAX_ITERATIONS,
    )
    # Rounding may leave a value just below zero for equal samples.
    return float(np.sqrt(max(float(value), 0.0)))
