r"""A discriminator of sampled cells, and sampled expression that lets gradients through.

A count is drawn as :math:`x \sim \mathrm{Poisson}(\lambda)` with
:math:`\lambda \sim \mathrm{Gamma}(\theta, \mu / \theta)`. The rate has an implicit
reparametrisation gradient (Figurnov et al. 2018). For the Poisson draw

.. math:: \frac{d}{d\lambda} E[f(x)] = E[f(x + 1) - f(x)]

because :math:`p_\lambda'(x) = p_\lambda(x - 1) - p_\lambda(x)`, so the expression :math:`f(x)`
gets the gradient :math:`f(x + 1) - f(x)` of a unit step. The slope :math:`f'(x)`, which a
straight-through draw would take, is several times too steep at the zeros that fill these data.
Likewise the expression has the gradient :math:`f(x) - f(0)` in the chance that a zero-inflated
count is kept.
"""

from __future__ import annotations

import torch
from scvi.distributions import NegativeBinomial, ZeroInflatedNegativeBinomial
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.func import functional_call
from torch.nn.functional import softplus

__all__ = ["Discriminator", "log_normalised", "sampled_expression"]

_TARGET_SUM = 1e4


def log_normalised(counts: Tensor, total: Tensor | None = None) -> Tensor:
    """Scale counts to a total of 10,000 a cell and take log(1 + x).

    Parameters
    ----------
    counts
        ``(n, n_genes)``.
    total
        What the cell is scaled by, ``(n, 1)``; its own total by default.
    """
    total = counts.sum(1, keepdim=True) if total is None else total
    return torch.log1p(_TARGET_SUM * counts / total.clamp_min(1.0))


def sampled_expression(distribution: Distribution) -> Tensor:
    """Draw counts and return their log-normalised expression, with gradients.

    Parameters
    ----------
    distribution
        A negative binomial or zero-inflated one of :mod:`scvi.distributions`, or a Poisson, over
        ``(n, n_genes)``.
    """
    rate = distribution.mean
    if isinstance(distribution, NegativeBinomial):
        rate = _gamma_rate(distribution)
    kept = torch.ones_like(rate)
    if isinstance(distribution, ZeroInflatedNegativeBinomial):
        kept = 1 - distribution.zi_probs
    drawn, mask = torch.poisson(rate.detach()), torch.bernoulli(kept.detach())
    # the cell's total is held constant: means of all genes sum to the library size anyway
    total = (drawn * mask).sum(1, keepdim=True)
    expression = log_normalised(drawn, total)
    step = log_normalised(drawn + 1, total) - expression
    return (
        mask * expression
        + mask * step * (rate - rate.detach())
        + expression * (kept - kept.detach())
    )


def _gamma_rate(distribution: NegativeBinomial) -> Tensor:
    mu, theta = distribution.mu, distribution.theta
    theta = theta.expand_as(mu)
    return torch._standard_gamma(theta) * (mu / theta)


class Discriminator(nn.Module):
    r"""Tells real cells from sampled ones by their log-normalised expression.

    With the logit D of being real, both sides train at once on (Goodfellow et al. 2014)

    .. math:: E[\mathrm{softplus}(-D(y))] + E[\mathrm{softplus}(D(\tilde y))], \qquad
              E[\mathrm{softplus}(-D(\tilde y))]

    for the discriminator and for what makes :math:`\tilde y`. The second is not the first with its
    gradient reversed, which fades away once the discriminator is sure.

    Both kinds of cells must be scaled by their own totals: a real cell's total is its library size
    exactly, a sampled one's only on average, which would give it away.

    Parameters
    ----------
    n_genes
        Number of genes.
    n_hidden
        Width of the two hidden layers.
    """

    def __init__(self, n_genes: int, n_hidden: int = 128) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Dropout(0.2),
            nn.Linear(n_genes + 1, n_hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(n_hidden, n_hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(n_hidden, 1),
        )

    def forward(self, expression: Tensor, log_library: Tensor) -> Tensor:
        """Return the logit of being real, ``(n,)``.

        Parameters
        ----------
        expression
            Log-normalised, ``(n, n_genes)``.
        log_library
            Log library size of the real cell, ``(n, 1)``.
        """
        return self.network(torch.cat([expression, log_library], dim=1)).squeeze(1)

    def loss(self, real: Tensor, sampled: Tensor, log_library: Tensor) -> Tensor:
        """Return the discriminator's loss; no gradient reaches the cells."""
        is_real = softplus(-self(real.detach(), log_library))
        is_sampled = softplus(self(sampled.detach(), log_library))
        return (is_real + is_sampled).mean()

    def deception(self, sampled: Tensor, log_library: Tensor) -> Tensor:
        """Return the loss of what makes cells; no gradient reaches the discriminator."""
        fixed = {name: value.detach() for name, value in self.named_parameters()}
        return softplus(-functional_call(self, fixed, (sampled, log_library))).mean()
