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
    """A value and what it would have been with other cells."""

    value: float
    draws: NDArray[np.float64]
    """Values with cells drawn with replacement, shape (n_bootstrap,)."""

    def interval(self, bounds: tuple[float, float] = (-np.inf, np.inf)) -> tuple[float, float]:
        """The ends of the 95% interval; not a number without draws.

        Distances between samples are larger between resampled ones, which the quantiles of the
        bootstrap would count twice: they are therefore moved so that their mean is the value.

        Parameters
        ----------
        bounds
            The least and the greatest value there can be.

        References
        ----------
        Efron and Tibshirani (1993). An introduction to the bootstrap. Chapter 13.
        """
        if not np.isfinite(self.draws).any():
            return np.nan, np.nan
        moved = self.draws - np.nanmean(self.draws) + self.value
        low, high = np.clip(np.nanquantile(moved, [0.025, 0.975]), *bounds)
        return float(low), float(high)

    def less(self, other: "Estimate") -> "Estimate":
        """The difference from another value, found with the same draws of the reference's cells.

        Parameters
        ----------
        other
            From :func:`bootstrap` with the same seed, number of draws and reference.
        """
        if np.isnan(self.value) or np.isnan(other.value):
            return Estimate(np.nan, np.empty(0))
        return Estimate(self.value - other.value, self.draws - other.draws)


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
    """The value at equal weights, and those with cells drawn with replacement.

    Parameters
    ----------
    statistic
        The metric.
    n, m
        Numbers of cells of both samples.
    n_bootstrap
        Number of draws.
    seed
        Seed of the draws; those of the first sample depend on nothing but this and its size.
    """
    rng = np.random.default_rng(seed)
    w, v = (
        np.vstack([_equal(size), rng.multinomial(size, _equal(size)[0], n_bootstrap) / size])
        for size in (n, m)
    )
    value, *drawn = statistic(w, v)
    return Estimate(float(value), np.array(drawn, dtype=float))


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
    return ratio(total, 1 - (weights**2).sum(axis=1))


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
