"""What nearest neighbours say: realism, diversity and mixing."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from scldm.metrics._checks import as_points, labels_as_text
from scldm.metrics._statistic import Statistic, Weights, point

__all__ = [
    "Manifold",
    "lisi",
    "manifold_statistics",
    "one_nn_accuracy",
    "one_nn_statistic",
    "precision_recall",
    "source_lisi_statistic",
]

PERPLEXITY = 30.0


class Manifold(NamedTuple):
    """What :func:`precision_recall` returns."""

    precision: float
    recall: float
    density: float
    coverage: float


def precision_recall(real: ArrayLike, generated: ArrayLike, *, k: int = 5) -> Manifold:
    """Say how realistic generated cells are and how much of the real ones they cover.

    Around each point of a sample lies a ball that reaches to its k-th nearest neighbour in that
    sample. *Precision* is the share of generated cells in a ball of a real one, *recall* the share
    of real cells in a ball of a generated one. *Density* counts the real balls a generated cell is
    in, divided by k, and *coverage* is the share of real cells whose ball holds a generated one;
    both are less moved by single outliers, whose balls are large. The larger sample should be cut
    to the size of the smaller before, as balls shrink with the number of points.

    Parameters
    ----------
    real, generated
        Samples of shape (n, d) and (m, d), for example principal components.
    k
        Which neighbour a ball reaches to.

    Returns
    -------
    Precision, recall and coverage from 0 to 1, density from 0, 1 in the mean for two samples of
    one distribution.

    Raises
    ------
    ValueError
        If the shapes do not fit or ``k`` is not from 1 to the number of cells less one.

    References
    ----------
    Kynkäänniemi et al. (2019). Improved precision and recall metric for assessing generative
    models. NeurIPS.

    Naeem et al. (2020). Reliable fidelity and diversity metrics for generative models. ICML.
    """
    sizes = np.shape(real)[0], np.shape(generated)[0]
    statistics = manifold_statistics(real, generated, k=k)
    return Manifold(**{name: point(statistic, *sizes) for name, statistic in statistics.items()})


def manifold_statistics(
    real: ArrayLike, generated: ArrayLike, *, k: int = 5
) -> Mapping[str, Statistic]:
    """The values of :func:`precision_recall` as functions of weights, with the radii kept.

    Parameters
    ----------
    real, generated
        Samples of shape (n, d) and (m, d).
    k
        Which neighbour a ball reaches to.
    """
    first, second = as_points(real, generated)
    if not 1 <= k < min(len(first), len(second)):
        raise ValueError(
            f"`k={k}` must be at least 1 and less than the cells of either sample, "
            f"{len(first)} and {len(second)}."
        )
    between = cdist(first, second)
    in_real = between <= _radii(first, k)[:, None]
    in_generated = between <= _radii(second, k)[None, :]
    return {
        "precision": lambda w, v: v @ in_real.any(axis=0),
        "recall": lambda w, v: w @ in_generated.any(axis=1),
        "density": lambda w, v: ((len(first) * w @ in_real) * v).sum(axis=1) / k,
        "coverage": lambda w, v: (w * ((v > 0) @ in_real.T)).sum(axis=1),
    }


def one_nn_accuracy(x: ArrayLike, y: ArrayLike) -> float:
    """How often the nearest neighbour of a cell is of its own sample, leaving the cell out.

    0.5 if the samples are of one distribution; 1 if they lie apart; below 0.5 where cells of one
    sample are copies of cells of the other.

    Parameters
    ----------
    x, y
        Samples of shape (n, d) and (m, d), best of equal size: cells of the larger sample are
        nearest neighbours more often.

    Raises
    ------
    ValueError
        If the shapes do not fit.

    References
    ----------
    Lopez-Paz and Oquab (2017). Revisiting classifier two-sample tests. ICLR.
    """
    return point(one_nn_statistic(x, y), np.shape(x)[0], np.shape(y)[0])


def one_nn_statistic(x: ArrayLike, y: ArrayLike) -> Statistic:
    """:func:`one_nn_accuracy` as a function of weights, with the neighbours kept.

    Parameters
    ----------
    x, y
        Samples of shape (n, d) and (m, d).
    """
    first, second = as_points(x, y)
    between = cdist(first, second)
    right_x = _nearest(first) < between.min(axis=1)
    right_y = _nearest(second) < between.min(axis=0)
    return lambda w, v: (w @ right_x + v @ right_y) / 2


def lisi(
    x: ArrayLike, labels: ArrayLike, *, perplexity: float = PERPLEXITY
) -> NDArray[np.float64]:
    r"""Local inverse Simpson index: how many labels a neighbourhood effectively holds.

    .. math:: \mathrm{LISI}_i = 1 / \sum_c p_{ic}^2, \qquad
        p_{ic} = \sum_{j \ne i,\, c_j = c} a_{ij}, \qquad
        a_{ij} \propto e^{-\beta_i \lVert x_i - x_j \rVert}

    over the nearest neighbours, three times as many as the perplexity, with :math:`\beta_i` such
    that the weights have that perplexity.

    Parameters
    ----------
    x
        Cells, shape (n_cells, d).
    labels
        One label per cell, for example its batch, or real against generated.
    perplexity
        Effective number of neighbours; at most a third of the cells.

    Returns
    -------
    Shape (n_cells,): from 1, one label only, to the number of labels, all alike.

    Raises
    ------
    ValueError
        If there are not as many labels as cells, or one is missing.

    References
    ----------
    Korsunsky et al. (2019). Fast, sensitive and accurate integration of single-cell data with
    Harmony. Nature Methods 16:1289.
    """
    points, _ = as_points(x, x)
    names, codes = np.unique(labels_as_text(labels, "labels"), return_inverse=True)
    if len(codes) != len(points):
        raise ValueError(f"`labels` has {len(codes)} values for {len(points)} cells.")
    share = _affinities(points, perplexity) @ np.eye(len(names))[codes]
    return 1 / (share**2).sum(axis=1)


def source_lisi_statistic(x: ArrayLike, y: ArrayLike) -> Statistic:
    """Mean :func:`lisi` of real against generated as a function of weights, neighbours kept.

    Parameters
    ----------
    x, y
        Samples of shape (n, d) and (m, d).
    """
    first, second = as_points(x, y)
    n = len(first)
    affinity = _affinities(np.concatenate([first, second]), PERPLEXITY)

    def statistic(w: Weights, v: Weights) -> NDArray[np.float64]:
        near_real = (affinity[:, :n] @ (n * w).T).T
        near_generated = (affinity[:, n:] @ (len(second) * v).T).T
        index = (near_real + near_generated) ** 2 / (near_real**2 + near_generated**2)
        return ((w * index[:, :n]).sum(axis=1) + (v * index[:, n:]).sum(axis=1)) / 2

    return statistic


def _radii(points: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Return the distance from each point to its k-th neighbour, itself not counted."""
    return np.partition(cdist(points, points), k, axis=1)[:, k]


def _nearest(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance from each point to another one; copies are at zero."""
    distance = cdist(points, points)
    np.fill_diagonal(distance, np.inf)
    return distance.min(axis=1)


def _affinities(
    points: NDArray[np.float64], perplexity: float, n_halvings: int = 60
) -> sparse.csr_matrix:
    """Weights of each cell's neighbours with that perplexity, rows of sum one, by bisection."""
    n = len(points)
    perplexity = min(perplexity, (n - 1) / 3)
    search = NearestNeighbors(n_neighbors=int(3 * perplexity)).fit(points)
    distance, index = search.kneighbors()
    gap = distance - distance.min(axis=1, keepdims=True)
    # In units of the mean distance the right rate is within these bounds for all real data.
    unit = np.maximum(gap.mean(axis=1, keepdims=True), np.finfo(float).tiny)
    low, high = np.full((n, 1), -10.0), np.full((n, 1), 10.0)
    for _ in range(n_halvings):
        middle = (low + high) / 2
        weights = np.exp(-gap / unit * np.exp(middle))
        weights /= weights.sum(axis=1, keepdims=True)
        entropy = -(weights * np.log(np.maximum(weights, 1e-300))).sum(axis=1, keepdims=True)
        wide = entropy > np.log(perplexity)
        low, high = np.where(wide, middle, low), np.where(wide, high, middle)
    row = np.repeat(np.arange(n), index.shape[1])
    return sparse.csr_matrix((weights.ravel(), (row, index.ravel())), shape=(n, n))
