"""Draws from count distributions that use a generator of their own."""

from __future__ import annotations

import torch
from scvi.distributions import NegativeBinomial, ZeroInflatedNegativeBinomial
from torch import Tensor
from torch.distributions import Distribution, Poisson

__all__ = ["sample_counts"]

# float32 holds every integer up to here
_MAX_RATE = 2.0**24


def sample_counts(distribution: Distribution, generator: torch.Generator) -> Tensor:
    r"""Draw counts without touching torch's global random state.

    The negative binomial is drawn as a Poisson whose rate is gamma distributed with shape
    :math:`\theta` and mean :math:`\mu`; the zero-inflated one is set to zero with probability
    :math:`\mathrm{sigmoid}(\pi)` on top.

    Parameters
    ----------
    distribution
        A negative binomial or zero-inflated one of :mod:`scvi.distributions`, or a Poisson.
    generator
        Source of randomness, on the device of the distribution's parameters.

    Returns
    -------
    Whole numbers as float32, in the distribution's batch shape.
    """
    if isinstance(distribution, NegativeBinomial):
        mu, theta = distribution.mu, distribution.theta
        theta = theta.expand_as(mu)
        rate = torch._standard_gamma(theta, generator=generator) * (mu / theta)
    elif isinstance(distribution, Poisson):
        rate = distribution.rate
    else:
        raise TypeError(f"`distribution` is a {type(distribution).__name__}, not one of counts.")
    counts = torch.poisson(rate.clamp(max=_MAX_RATE), generator=generator)
    if isinstance(distribution, ZeroInflatedNegativeBinomial):
        uniform = torch.rand(counts.shape, device=counts.device, generator=generator)
        counts = counts * (uniform >= distribution.zi_probs)
    return counts
