"""Realism and diversity apart, by nearest neighbours."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist

from scldm.metrics._checks import as_points

__all__ = ["Manifold", "precision_recall"]


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
    first, second = as_points(real, generated)
    if not 1 <= k < min(len(first), len(second)):
        raise ValueError(
            f"`k={k}` must be at least 1 and less than the cells of either sample, "
            f"{len(first)} and {len(second)}."
        )
    between = cdist(first, second)
    in_real = between <= _radii(first, k)[:, None]
    in_generated = between <= _radii(second, k)[None, :]
    return Manifold(
        precision=float(in_real.any(axis=0).mean()),
        recall=float(in_generated.any(axis=1).mean()),
        density=float(in_real.sum(axis=0).mean() / k),
        coverage=float(in_real.any(axis=1).mean()),
    )


def _radii(points: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Return the distance from each point to its k-th neighbour, itself not counted."""
    return np.partition(cdist(points, points), k, axis=1)[:, k]
