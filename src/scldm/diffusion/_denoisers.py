r"""Denoisers: the clean-data estimate, whatever the network was trained to predict.

Every denoiser returns :math:`\hat x_0 = E[x_0 | x_t]`, from which noise, velocity and score
follow, and samplers ask for nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ._parametrisations import LossWeight, Parametrisation, PlainWeight
from ._schedules import Schedule

__all__ = ["Denoiser", "GaussianMixtureDenoiser", "NetworkDenoiser"]


class Denoiser(nn.Module, ABC):
    """Estimates clean data from noisy data; knows the schedule the noise followed."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule

    @abstractmethod
    def forward(
        self, x_t: Tensor, t: Tensor, conditions: Mapping[str, Any] | None = None
    ) -> Tensor:
        """Return the estimate of the clean data.

        Parameters
        ----------
        x_t
            Noisy data, ``(n, d)``.
        t
            Times, ``(n,)`` or a scalar.
        conditions
            What the data depend on, passed on to the network.

        Returns
        -------
        ``(n, d)``
        """

    def scales(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the schedule's scales at ``t``, shaped and typed to multiply ``x``."""
        alpha, sigma = self.schedule(t.double())
        shape = (-1,) + (1,) * (x.ndim - 1)
        return alpha.to(x).reshape(shape), sigma.to(x).reshape(shape)


class NetworkDenoiser(Denoiser):
    r"""A network with a parametrisation, as a denoiser.

    The network sees :math:`x_t / \sqrt{\alpha_t^2 + \sigma_t^2}`, of variance 1 for data of
    variance 1 (Karras et al. 2022, equation 7).

    Parameters
    ----------
    network
        Called as ``network(x, t, conditions)`` with ``t`` of shape ``(n,)``; returns the shape
        of ``x``.
    schedule
        The schedule that noised the training data.
    parametrisation
        What the network predicts.
    n_dims
        Number of dimensions of the data, for the bounds below.
    weight
        Weight of the loss over times.

    Attributes
    ----------
    bounds
        Lowest and highest value of the estimate in each dimension, ``(2, n_dims)``; infinite until
        they are set. They matter at high noise, where a small error of the network means a large
        one of the data (Saharia et al. 2022, section 2.3, static thresholding).
    """

    bounds: Tensor

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        parametrisation: Parametrisation,
        n_dims: int = 1,
        weight: LossWeight | None = None,
    ) -> None:
        super().__init__(schedule)
        self.network = network
        self.parametrisation = parametrisation
        self.weight = weight or PlainWeight()
        infinite = torch.full((n_dims,), torch.inf)
        self.register_buffer("bounds", torch.stack([-infinite, infinite]))

    def forward(
        self, x_t: Tensor, t: Tensor, conditions: Mapping[str, Any] | None = None
    ) -> Tensor:
        alpha, sigma = self.scales(t, x_t)
        # expanded last: networks see by it that all cells are at one time
        t = t.to(x_t).expand(len(x_t))
        output = self._predict(x_t, t, alpha, sigma, conditions)
        return self.parametrisation.clean(output, x_t, alpha, sigma).clamp(*self.bounds)

    def loss(
        self, x_0: Tensor, t: Tensor, eps: Tensor, conditions: Mapping[str, Any] | None = None
    ) -> Tensor:
        """Return the weighted squared error of the prediction, mean over dimensions, ``(n,)``."""
        alpha, sigma = self.scales(t, x_0)
        output = self._predict(alpha * x_0 + sigma * eps, t, alpha, sigma, conditions)
        target = self.parametrisation.target(x_0, eps, alpha, sigma)
        factor = self.weight.factor(self.parametrisation, alpha, sigma)
        return (factor * (output - target).square()).flatten(1).mean(1)

    def _predict(
        self,
        x_t: Tensor,
        t: Tensor,
        alpha: Tensor,
        sigma: Tensor,
        conditions: Mapping[str, Any] | None,
    ) -> Tensor:
        return self.network(x_t / torch.hypot(alpha, sigma), t.to(x_t), conditions)


class GaussianMixtureDenoiser(Denoiser):
    r"""The exact denoiser of a mixture of Gaussians, to hold samplers against the truth.

    For :math:`x_0 \sim \sum_k w_k N(\mu_k, \mathrm{diag}(s_k^2))`,

    .. math:: E[x_0 | x_t] = \sum_k p(k | x_t) \Big(\mu_k + \frac{\alpha_t s_k^2}
              {\alpha_t^2 s_k^2 + \sigma_t^2} (x_t - \alpha_t \mu_k)\Big)

    with :math:`p(k | x_t) \propto w_k N(x_t; \alpha_t \mu_k, \alpha_t^2 s_k^2 + \sigma_t^2)`.

    Parameters
    ----------
    schedule
        The schedule.
    means, stds
        Means and standard deviations of the components, ``(k, d)``, or ``(d,)`` for one.
    weights
        Shares of the components, ``(k,)``; equal by default.
    """

    means: Tensor
    variances: Tensor
    log_weights: Tensor

    def __init__(
        self, schedule: Schedule, means: Tensor, stds: Tensor, weights: Tensor | None = None
    ) -> None:
        super().__init__(schedule)
        means, stds = torch.atleast_2d(means), torch.atleast_2d(stds)
        weights = means.new_ones(len(means)) if weights is None else weights
        self.register_buffer("means", means)
        self.register_buffer("variances", stds.square())
        self.register_buffer("log_weights", (weights / weights.sum()).log())

    def forward(
        self, x_t: Tensor, t: Tensor, conditions: Mapping[str, Any] | None = None
    ) -> Tensor:
        alpha, sigma = (scale.unsqueeze(-1) for scale in self.scales(t, x_t))
        marginal = alpha.square() * self.variances + sigma.square()
        deviation = x_t.unsqueeze(1) - alpha * self.means
        log_density = -0.5 * (deviation.square() / marginal + marginal.log()).sum(-1)
        share = (self.log_weights + log_density).softmax(1)
        posterior = self.means + alpha * self.variances / marginal * deviation
        return (share.unsqueeze(-1) * posterior).sum(1)
