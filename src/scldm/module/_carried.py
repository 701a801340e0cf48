"""Counts of one distribution at their quantiles of another."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import stats
from scvi.distributions import NegativeBinomial, ZeroInflatedNegativeBinomial
from torch import Tensor
from torch.distributions import Distribution, Poisson

from ._counts import LARGEST_COUNT

__all__ = ["carried_counts"]

_LEAST_TAIL = 1e-300


def carried_counts(
    counts: Tensor, source: Distribution, target: Distribution, generator: torch.Generator
) -> Tensor:
    r"""Take counts from one distribution to the same quantiles of another.

    .. math:: x' = F_1^{-1}(u), \qquad u \sim \mathcal U\big(F_0(x - 1), F_0(x)\big)

    Counts that are distributed as the first come out distributed as the second, and equal ones stay as they
    are where the two are the same. In the words of Pearl (2009, *Causality*, chapter 7) this is abduction,
    action and prediction, with the quantile for what is not known of a cell.

    Parameters
    ----------
    counts
        What was counted, ``(n, n_features)``.
    source, target
        Negative binomials, zero-inflated ones or Poissons.
    generator
        Source of randomness, on the device of the counts.

    Returns
    -------
    Whole numbers as float32, ``(n, n_features)``, at most 2^24.

    Raises
    ------
    TypeError
        If a distribution is another.
    """
    uniform = torch.rand(counts.shape, generator=generator, device=counts.device)
    x, u = counts.cpu().double().numpy(), uniform.cpu().double().numpy()
    # from above, as large counts have small tails
    above, at_least = _survival(source, x), _survival(source, x - 1)
    tail = np.maximum(at_least - u * (at_least - above), _LEAST_TAIL)
    found = _upper_quantile(target, tail)
    # what is the same stays the same, whatever the rounding
    kept = np.where(_same(source, target), x, found)
    return torch.from_numpy(np.clip(kept, 0, LARGEST_COUNT)).to(counts)


def _survival(distribution: Distribution, x: np.ndarray) -> np.ndarray:
    """Return the probability of more than ``x``; one below zero."""
    more = np.where(x < 0, 1.0, _plain(distribution).sf(np.maximum(x, 0)))
    return np.where(x < 0, 1.0, (1 - _zeros(distribution)) * more)


def _upper_quantile(distribution: Distribution, tail: np.ndarray) -> np.ndarray:
    """Return the smallest counts of which there are more with a probability of at most ``tail``."""
    some = 1 - _zeros(distribution)
    return np.where(tail < some, _plain(distribution).isf(np.minimum(tail / some, 1.0)), 0.0)


def _plain(distribution: Distribution) -> Any:
    """Return the distribution, without further zeros, as one of scipy."""
    if isinstance(distribution, NegativeBinomial):
        mu, theta = (
            _array(x) for x in torch.broadcast_tensors(distribution.mu, distribution.theta)
        )
        return stats.nbinom(theta, theta / (theta + mu))
    if isinstance(distribution, Poisson):
        return stats.poisson(_array(distribution.rate))
    raise TypeError(f"A {type(distribution).__name__} has no quantiles here.")


def _zeros(distribution: Distribution) -> Any:
    """Return the probability of a zero on top of those of the plain distribution."""
    if isinstance(distribution, ZeroInflatedNegativeBinomial):
        return _array(distribution.zi_probs)
    return 0.0


def _same(one: Distribution, other: Distribution) -> np.ndarray:
    """Say where two distributions are the same."""
    if type(one) is not type(other):
        return np.zeros(1, dtype=bool)
    names = ("rate",) if isinstance(one, Poisson) else ("mu", "theta", "zi_logits")
    pairs = [(getattr(one, n), getattr(other, n)) for n in names if hasattr(one, n)]
    return np.logical_and.reduce([(a == b).cpu().numpy() for a, b in pairs])


def _array(x: Tensor) -> np.ndarray:
    return x.detach().cpu().double().numpy()
