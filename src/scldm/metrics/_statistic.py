r"""A metric as a function of the weights of cells, so that its bootstrap costs little.

The plug-in value of a metric between two samples depends on their empirical distributions, that
is, on a weight for each cell: :math:`1/n` at first, and :math:`c_i / n` where the bootstrap has
drawn cell :math:`i` for :math:`c_i` times. What is dear (distances, classifiers, transport plans)
depends on the cells alone and is done once; weights come last, many rows of them at a time.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Estimate",
    "NotApplicable",
    "Statistic",
    "Weights",
    "bootstrap",
    "mean_of_pairs",
    "point",
    "ratio",
]

Weights: TypeAlias = NDArray[np.float64]
"""Shape (n_rows, n_cells); each row sums to one."""

Statistic: TypeAlias = Callable[[Weights, Weights], NDArray[np.float64]]
"""From the weights of both samples to a value for each row, shape (n_rows,)."""


class NotApplicable(ValueError):
    """A metric says nothing of these cells; the message says why."""


class Estimate(NamedTuple):
    """A value and its 95% interval."""

    value: float
    low: float
    high: float


def point(statistic: Statistic, n: int, m: int) -> float:
    """The value at equal weights.

    Parameters
    ----------
    statistic
        The metric.
    n, m
        Numbers of cells of both samples.
    """
    return float(statistic(_equal(n), _equal(m))[0])


def bootstrap(statistic: Statistic, n: int, m: int, n_bootstrap: int, seed: int) -> Estimate:
    """The value at equal weights, and an interval from cells drawn with replacement.

    Distances between samples are larger between resampled ones, which the quantiles of the
    bootstrap would count twice: they are therefore moved so that their mean is the value.

    Parameters
    ----------
    statistic
        The metric.
    n, m
        Numbers of cells of both samples.
    n_bootstrap
        Number of draws. With none the ends are not a number.
    seed
        Seed of the draws.

    References
    ----------
    Efron and Tibshirani (1993). An introduction to the bootstrap. Chapter 13.
    """
    if n_bootstrap == 0:
        return Estimate(point(statistic, n, m), np.nan, np.nan)
    rng = np.random.default_rng(seed)
    w, v = (
        np.vstack([_equal(size), rng.multinomial(size, _equal(size)[0], n_bootstrap) / size])
        for size in (n, m)
    )
    value, *drawn = statistic(w, v)
    low, high = value + np.nanquantile(drawn - np.nanmean(drawn), [0.025, 0.975])
    return Estimate(float(value), float(low), float(high))


def mean_of_pairs(weights: Weights, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted mean over pairs of different cells, for each row of weights.

    Parameters
    ----------
    weights
        Shape (n_rows, n_cells).
    values
        Symmetric, shape (n_cells, n_cells), with zeros on the diagonal.
    """
    total = ((weights @ values) * weights).sum(axis=1)
    return total / (1 - (weights**2).sum(axis=1))


def ratio(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """``a / b``, and not a number where ``b`` is zero.

    Parameters
    ----------
    a, b
        Arrays of one shape.
    """
    return np.divide(a, b, out=np.full_like(a, np.nan), where=b != 0)


def _equal(n: int) -> Weights:
    return np.full((1, n), 1 / n)
