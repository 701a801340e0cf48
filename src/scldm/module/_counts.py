"""Draws from count distributions that use a generator of their own."""

from __future__ import annotations

import torch
from scvi.distributions import (
    NegativeBinomial,
    NegativeBinomialMixture,
    ZeroInflatedNegativeBinomial,
)
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Poisson

__all__ = ["sample_counts"]

_MAX_RATE = 2.0**24


def sample_counts(distribution: Distribution, generator: torch.Generator) -> Tensor:
    r"""Draw counts without touching torch's global random state.

    The negative binomial is drawn as a Poisson whose rate is gamma distributed with shape
    :math:`\theta` and mean :math:`\mu`; the zero-inflated one is set to zero with probability
    :math:`\mathrm{sigmoid}(\pi)` on top. Of a mixture, one component is drawn first.

    Parameters
    ----------
    distribution
        A negative binomial, a zero-inflated one or a mixture of two of :mod:`scvi.distributions`, a
        Poisson, or a Bernoulli.
    generator
        Source of randomness, on the device of the distribution's parameters.

    Returns
    -------
    Whole numbers as float32, in the distribution's batch shape; rates are cut at 2^24, up to which
    float32 holds every whole number.

    Raises
    ------
    ValueError
        If a rate is not finite.
    TypeError
        If the distribution is another.
    """
    for_gamma, for_poisson, for_zeros = _children(generator, 3)
    if isinstance(distribution, Bernoulli):
        probability = distribution.probs
        return (_uniform(probability, for_zeros) < probability).float()
    if isinstance(distribution, NegativeBinomialMixture):
        first = _uniform(distribution.mu1, for_zeros) < distribution.mixture_probs
        mu = torch.where(first, distribution.mu1, distribution.mu2)
        rate = _gamma_rate(mu, distribution.theta1, for_gamma)
    elif isinstance(distribution, NegativeBinomial):
        rate = _gamma_rate(distribution.mu, distribution.theta, for_gamma)
    elif isinstance(distribution, Poisson):
        rate = distribution.rate
    else:
        raise TypeError(f"`distribution` is a {type(distribution).__name__}, not one of counts.")
    if not rate.isfinite().all():
        raise ValueError(
            "The decoder gives rates that are not finite: latents or library sizes lie far "
            "outside those of the training data."
        )
    counts = torch.poisson(rate.clamp(max=_MAX_RATE), generator=for_poisson)
    if isinstance(distribution, ZeroInflatedNegativeBinomial):
        counts = counts * (_uniform(counts, for_zeros) >= distribution.zi_probs)
    return counts


def _gamma_rate(mu: Tensor, theta: Tensor, generator: torch.Generator) -> Tensor:
    theta = theta.expand_as(mu)
    return torch._standard_gamma(theta, generator=generator) * (mu / theta)


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(like.shape, device=like.device, generator=generator)


def _children(generator: torch.Generator, n: int) -> list[torch.Generator]:
    """Return generators seeded by this one.

    Draws by rejection use up a number of random numbers that depends on every row. With streams of
    their own, what follows is the same for a row whatever rows come after it.
    """
    device = generator.device
    seeds = torch.randint(2**62, (n,), device=device, generator=generator).tolist()
    return [torch.Generator(device).manual_seed(seed) for seed in seeds]
