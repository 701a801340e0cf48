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

__all__ = ["LARGEST_COUNT", "sample_counts"]

LARGEST_COUNT = 2.0**24
_SELDOM, _SMALL = 0.5, 20.0
"""A count is seldom one where it is most likely zero and, if not, not large in the mean."""

_GRAIN = 2.0**-24
_NO_MASS = 1e-18


def sample_counts(distribution: Distribution, generator: torch.Generator) -> Tensor:
    r"""Draw counts without touching torch's global random state.

    The negative binomial is drawn as a Poisson whose rate is gamma distributed with shape
    :math:`\theta` and mean :math:`\mu`; or, on a CPU and where counts are mostly zero, by first drawing
    whether there is any, and inverting the distribution of those that there are. The zero-inflated one is
    set to zero with probability :math:`\mathrm{sigmoid}(\pi)` on top. Of a mixture, one component is
    drawn first.

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
    for_zeros, *for_counts = _children(generator, 6)
    if isinstance(distribution, Bernoulli):
        probability = distribution.probs
        return (_uniform(probability, for_zeros) < probability).float()
    if isinstance(distribution, NegativeBinomialMixture):
        first = _uniform(distribution.mu1, for_zeros) < distribution.mixture_probs
        mu = torch.where(first, distribution.mu1, distribution.mu2)
        counts = _negative_binomial(mu, distribution.theta1, *for_counts)
    elif isinstance(distribution, NegativeBinomial):
        counts = _negative_binomial(distribution.mu, distribution.theta, *for_counts)
    elif isinstance(distribution, Poisson):
        counts = _poisson(distribution.rate, for_counts[0])
    else:
        raise TypeError(f"`distribution` is a {type(distribution).__name__}, not one of counts.")
    if isinstance(distribution, ZeroInflatedNegativeBinomial):
        counts = counts * (_uniform(counts, for_zeros) >= distribution.zi_probs)
    return counts


def _negative_binomial(mu: Tensor, theta: Tensor, *generators: torch.Generator) -> Tensor:
    for_gamma, for_poisson, for_some, for_unsure, for_positive = generators
    theta = theta.expand_as(mu)
    if mu.device.type != "cpu":
        return _gamma_poisson(mu, theta, for_gamma, for_poisson)
    _require_finite(mu)
    shape, mu, theta = mu.shape, mu.flatten(), theta.flatten()
    # gamma numbers cost most, and nearly all of them would end as a zero
    some = -torch.expm1(theta * torch.log1p(-mu / (mu + theta)))
    seldom = (some <= _SELDOM) & (mu <= _SMALL * some)
    counts = torch.zeros_like(mu)
    often = (~seldom).nonzero().squeeze(1)
    counts[often] = _gamma_poisson(mu[often], theta[often], for_gamma, for_poisson)
    u = _uniform(mu, for_some)
    # uniform numbers come in grains: whether one lies below a bound inside a grain is drawn apart
    unsure = (seldom & (u <= some) & (some < u + _GRAIN)).nonzero().squeeze(1)
    finer = torch.rand(len(unsure), dtype=torch.float64, generator=for_unsure)
    positive = seldom & (u + _GRAIN <= some)
    positive[unsure] = u[unsure].double() + _GRAIN * finer < some[unsure].double()
    at = positive.nonzero().squeeze(1)
    counts[at] = _positive(mu[at].double(), theta[at].double(), for_positive)
    return counts.reshape(shape)


def _positive(mu: Tensor, theta: Tensor, generator: torch.Generator) -> Tensor:
    """Draw from negative binomials that are known not to be zero, by inversion, ``(n,)`` each."""
    share = mu / (mu + theta)
    log_zero = theta * torch.log1p(-share)
    counts = torch.ones_like(mu)
    left = -torch.expm1(log_zero) * torch.rand(len(mu), dtype=mu.dtype, generator=generator)
    mass = log_zero.exp() * theta * share
    at = torch.arange(len(mu))
    count = 1
    while True:
        left = left - mass
        # where the mass has run out, what is left is rounding
        on = (left >= 0) & (mass > _NO_MASS)
        if not on.any():
            return counts.float()
        at, left, mass, share, theta = (x[on] for x in (at, left, mass, share, theta))
        count += 1
        counts[at] = count
        mass = mass * (count - 1 + theta) / count * share


def _gamma_poisson(
    mu: Tensor, theta: Tensor, for_gamma: torch.Generator, for_poisson: torch.Generator
) -> Tensor:
    rate = torch._standard_gamma(theta, generator=for_gamma) * (mu / theta)
    return _poisson(rate, for_poisson)


def _poisson(rate: Tensor, generator: torch.Generator) -> Tensor:
    _require_finite(rate)
    return torch.poisson(rate.clamp(max=LARGEST_COUNT), generator=generator)


def _require_finite(rate: Tensor) -> None:
    if not rate.isfinite().all():
        raise ValueError(
            "The decoder gives rates that are not finite: latents or library sizes lie far "
            "outside those of the training data."
        )


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
