r"""Transport between two populations of cells: how likely each of one becomes each of the other.

A plan :math:`P` of optimal transport is the least costly way to move one population onto the other,

.. math:: \min_P \sum_{ij} P_{ij} \lVert x_i - y_j \rVert^2 - \epsilon H(P),
          \qquad \sum_j P_{ij} = a_i, \quad \sum_i P_{ij} = b_j.

Without the entropy :math:`H` cells go where they must; with it they spread, as cells do whose future is
open. Cells that divide have more mass :math:`a_i` than others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from numbers import Real

import numpy as np
import ot
from numpy.typing import NDArray
from scipy.special import logsumexp

__all__ = [
    "TRANSPORTS",
    "EntropicTransport",
    "ExactTransport",
    "MoscotTransport",
    "Transport",
    "UnbalancedTransport",
]

Array = NDArray[np.float64]

_SWEEPS = 2000
_LARGEST_EXPONENT = 500.0
_TOLERANCE = 0.05
_CONVERGED, _TINY = 1e-5, 1e-300


class Transport(ABC):
    """A rule that couples two populations."""

    estimates_growth = False
    """Whether row sums of its plans say how much cells grow, where nobody has said so."""

    def plan(self, x: Array, y: Array, mass: Array | None = None) -> Array:
        """Return the plan, ``(n, m)``, of sum 1.

        Parameters
        ----------
        x, y
            Cells of the earlier and the later population, ``(n, d)`` and ``(m, d)``.
        mass
            Relative numbers of descendants of the earlier cells, ``(n,)``; equal by default.

        Raises
        ------
        RuntimeError
            If the solver finds no plan.
        """
        a = np.full(len(x), 1 / len(x)) if mass is None else mass / mass.sum()
        b = np.full(len(y), 1 / len(y))
        cost = ot.dist(x, y)
        plan = self._solve(a, b, cost / (cost.mean() or 1.0))
        total = plan.sum()
        if not (np.isfinite(total) and total > 0 and self._holds(plan / total, b)):
            raise RuntimeError(
                f"{type(self).__name__} found no plan between {len(x)} and {len(y)} cells; raise its "
                "`epsilon`."
            )
        return plan / total

    def _holds(self, plan: Array, b: Array) -> bool:
        """Say whether the later population comes out, to one cell in twenty."""
        return bool(np.abs(plan.sum(axis=0) - b).sum() < _TOLERANCE)

    @abstractmethod
    def _solve(self, a: Array, b: Array, cost: Array) -> Array:
        """Return the plan for marginals and costs of mean 1."""


class ExactTransport(Transport):
    """The least costly plan, without entropy."""

    def _solve(self, a: Array, b: Array, cost: Array) -> Array:
        return ot.emd(a, b, cost, numItermax=1_000_000)


class EntropicTransport(Transport):
    """A plan with entropy, that of a Schroedinger bridge.

    Parameters
    ----------
    epsilon
        Weight of the entropy, relative to the mean cost.

    References
    ----------
    Cuturi (2013), *Sinkhorn distances*, NeurIPS; Leonard (2014), *A survey of the Schroedinger
    problem and some of its connections with optimal transport*; Schiebinger et al. (2019), Cell
    176:928 (on cells).
    """

    def __init__(self, epsilon: float = 0.05) -> None:
        self.epsilon = _positive("epsilon", epsilon)

    def _solve(self, a: Array, b: Array, cost: Array) -> Array:
        # in logarithms, which are slower, where the kernel would underflow
        method = "sinkhorn" if cost.max() < _LARGEST_EXPONENT * self.epsilon else "sinkhorn_log"
        return ot.sinkhorn(
            a, b, cost, self.epsilon, method, numItermax=_SWEEPS, stopThr=1e-4, warn=False
        )


class UnbalancedTransport(Transport):
    """A plan with entropy whose earlier cells may count more or less than they were given.

    The marginal of the earlier population is held by a Kullback-Leibler penalty only, so that cells
    near the denser part of the later population get more descendants.

    Parameters
    ----------
    epsilon
        Weight of the entropy, relative to the mean cost.
    slack
        Weight of the penalty, relative to the mean cost: the smaller, the freer the masses.
    later_slack
        That of a penalty on the later population; infinity holds it. With less, cells whose ancestors
        were not measured need not come from any.

    References
    ----------
    Chizat et al. (2018), *Scaling algorithms for unbalanced optimal transport problems*, Mathematics
    of Computation 87:2563.
    """

    estimates_growth = True

    def __init__(
        self, epsilon: float = 0.05, slack: float = 0.5, later_slack: float = np.inf
    ) -> None:
        self.epsilon = _positive("epsilon", epsilon)
        self.slack = _positive("slack", slack)
        self.later_slack = later_slack
        if later_slack != np.inf:
            _positive("later_slack", later_slack)

    def _holds(self, plan: Array, b: Array) -> bool:
        return np.isfinite(self.later_slack) or super()._holds(plan, b)

    def _solve(self, a: Array, b: Array, cost: Array) -> Array:
        if cost.max() >= _LARGEST_EXPONENT * self.epsilon:
            return self._in_logarithms(a, b, cost)
        return ot.unbalanced.sinkhorn_unbalanced(
            a,
            b,
            cost,
            self.epsilon,
            (self.slack, self.later_slack),
            # entropy relative to the masses: with the plain one, masses that are given count for less
            reg_type="kl",
            numItermax=_SWEEPS,
            stopThr=1e-5,
        )

    def _in_logarithms(self, a: Array, b: Array, cost: Array) -> Array:
        """Solve the same, more slowly, where the kernel would underflow: a few cells far from all others."""
        log_kernel = -cost / self.epsilon
        strength, later_strength = (
            1.0 if slack == np.inf else slack / (slack + self.epsilon)
            for slack in (self.slack, self.later_slack)
        )
        log_a, log_b = np.log(np.maximum(a, _TINY)), np.log(b)
        log_u, log_v = np.zeros_like(a), np.zeros_like(b)
        for _ in range(_SWEEPS):
            before = log_u
            log_u = -strength * logsumexp(log_kernel + (log_v + log_b), axis=1)
            log_v = -later_strength * logsumexp(log_kernel + (log_u + log_a)[:, None], axis=0)
            if np.abs(log_u - before).max() < _CONVERGED:
                break
        return np.exp(log_kernel + (log_u + log_a)[:, None] + (log_v + log_b))


class MoscotTransport(Transport):
    r"""Entropic transport by moscot, which runs on what jax runs on.

    Parameters
    ----------
    epsilon
        Weight of the entropy, relative to the mean cost.
    tau_a
        How firmly the marginal of the earlier population is held, 1 being fully: moscot's
        :math:`\tau_a = \lambda / (\lambda + \epsilon)` for a penalty of weight :math:`\lambda`.

    Raises
    ------
    ImportError
        If moscot is not installed.

    References
    ----------
    Klein et al. (2025), *Mapping cells through time and space with moscot*, Nature 638:1065.
    """

    def __init__(self, epsilon: float = 0.05, tau_a: float = 1.0) -> None:
        self.epsilon = _positive("epsilon", epsilon)
        if _positive("tau_a", tau_a) > 1:
            raise ValueError(f"`tau_a={tau_a!r}` must be at most 1.")
        self.tau_a = tau_a
        self.estimates_growth = tau_a < 1
        try:
            from moscot.backends.ott import SinkhornSolver
        except ImportError as error:
            raise ImportError(
                "`MoscotTransport` needs moscot: `pip install 'scldm-tools[moscot]'`."
            ) from error
        self._solver = SinkhornSolver

    def _solve(self, a: Array, b: Array, cost: Array) -> Array:
        found = self._solver()(
            a=a,
            b=b,
            xy=cost,
            tags={"xy": "cost_matrix"},
            epsilon=self.epsilon,
            tau_a=self.tau_a,
        )
        return np.asarray(found.transport_matrix, dtype=np.float64)


def _positive(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < np.inf:
        raise ValueError(f"`{name}={value!r}` must be a number above 0.")
    return float(value)


TRANSPORTS: dict[str, type[Transport]] = {
    "exact": ExactTransport,
    "entropic": EntropicTransport,
    "unbalanced": UnbalancedTransport,
    "moscot": MoscotTransport,
}
"""Rules by name."""
