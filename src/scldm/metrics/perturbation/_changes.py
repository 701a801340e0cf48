"""Predicted against true changes of the mean, and the spread of cells."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scldm.metrics._checks import as_dense
from scldm.metrics.perturbation._genes import welch

__all__ = [
    "cosine_delta",
    "pearson_delta",
    "r2_delta",
    "variance_ratio",
    "weighted_mse",
    "weighted_r2",
    "zero_fraction_gap",
]

Array = NDArray[np.float64]


def pearson_delta(
    true: ArrayLike,
    predicted: ArrayLike,
    control: ArrayLike,
    genes: Sequence[int] | NDArray[np.intp] | None = None,
) -> float:
    r"""Pearson correlation over genes of predicted and true changes of the mean.

    .. math:: \operatorname{corr}(\bar p - \bar c,\; \bar t - \bar c)

    Parameters
    ----------
    true, predicted, control
        Cells. Against the mean of all perturbed cells in the place of ``control``, this is
        Systema's version, which does not reward what all perturbations share.
    genes
        Which genes; all by default.

    Returns
    -------
    From -1 to 1; not a number if nothing changes.

    References
    ----------
    Viñas Torné et al. (2025). Systema: a framework for evaluating genetic perturbation response
    prediction beyond systematic variation. Nature Biotechnology.
    """
    a, b = (change[_all(genes)] for change in _changes(true, predicted, control))
    a, b = a - a.mean(), b - b.mean()
    return _cosine(a, b)


def cosine_delta(true: ArrayLike, predicted: ArrayLike, control: ArrayLike) -> float:
    """Cosine of predicted and true changes of the mean log expression.

    Parameters
    ----------
    true, predicted, control
        Cells.

    Returns
    -------
    From -1 to 1; not a number if nothing changes.
    """
    return _cosine(*_changes(true, predicted, control))


def r2_delta(true: ArrayLike, predicted: ArrayLike, control: ArrayLike) -> float:
    r"""Share of the true change that is predicted.

    .. math:: R^2 = 1 - \frac{\lVert \bar p - \bar t \rVert^2}{\lVert \bar t - \bar c \rVert^2}

    No change has 0; below zero is worse than that.

    Parameters
    ----------
    true, predicted, control
        Cells.
    """
    a, b = _changes(true, predicted, control)
    return float(1 - ((a - b) ** 2).sum() / (a**2).sum())


def weighted_mse(true: ArrayLike, predicted: ArrayLike, control: ArrayLike) -> float:
    r"""Mean squared error of the means, each gene weighted by how surely it changes.

    .. math:: \sum_g w_g (\bar p_g - \bar t_g)^2, \qquad w_g \propto t_g^2,\; \sum_g w_g = 1

    with Welch's :math:`t_g` of true against control cells (after Mejia et al., without their scaling
    of t to its range).

    Parameters
    ----------
    true, predicted, control
        Cells.

    References
    ----------
    Mejia et al. (2025). Diversity by design: addressing mode collapse improves scRNA-seq
    perturbation modeling on well-calibrated metrics. arXiv:2506.22641.
    """
    a, b = _changes(true, predicted, control)
    weights = _weights(true, control)
    return float(weights @ (a - b) ** 2 / weights.sum())


def weighted_r2(true: ArrayLike, predicted: ArrayLike, control: ArrayLike) -> float:
    r"""Share of the true change that is predicted, each gene weighted by how surely it changes.

    .. math:: R^2_w = 1 - \frac{\sum_g w_g (\bar p_g - \bar t_g)^2}{\sum_g w_g (\bar t_g - \bar c_g)^2}

    with the weights of :func:`weighted_mse`. Unlike in :func:`r2_delta`, many genes with small changes
    do not drown the few that answer.

    Parameters
    ----------
    true, predicted, control
        Cells.

    References
    ----------
    As for :func:`weighted_mse`. They centre true means over genes; here no change has 0.
    """
    a, b = _changes(true, predicted, control)
    weights = _weights(true, control)
    return float(1 - weights @ (a - b) ** 2 / (weights @ a**2))


def variance_ratio(true: ArrayLike, predicted: ArrayLike) -> float:
    """Total variance over genes of predicted cells, divided by that of true ones.

    Means have 0; 1 is right.

    Parameters
    ----------
    true, predicted
        Cells.
    """
    spread = [as_dense(cells).var(axis=0, ddof=1).sum() for cells in (predicted, true)]
    return float(spread[0] / spread[1])


def zero_fraction_gap(true: ArrayLike, predicted: ArrayLike) -> float:
    """Share of zeros in predicted cells less that in true ones.

    Parameters
    ----------
    true, predicted
        Cells.
    """
    return float((as_dense(predicted) == 0).mean() - (as_dense(true) == 0).mean())


def _weights(true: ArrayLike, control: ArrayLike) -> Array:
    return welch(as_dense(true), as_dense(control)) ** 2


def _all(genes: Sequence[int] | NDArray[np.intp] | None) -> slice | NDArray[np.intp]:
    return slice(None) if genes is None else np.asarray(genes)


def _changes(true: ArrayLike, predicted: ArrayLike, control: ArrayLike) -> tuple[Array, Array]:
    start = as_dense(control).mean(axis=0)
    return tuple(as_dense(cells).mean(axis=0) - start for cells in (true, predicted))


def _cosine(a: Array, b: Array) -> float:
    length = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / length) if length > 1e-12 else float("nan")
