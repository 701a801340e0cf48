r"""Denoisers: the clean-data estimate, whatever the network was trained to predict.

A network may predict the noise, the data, the velocity or the flow. With
:math:`x_t = \alpha_t x_0 + \sigma_t \epsilon` each of them determines the others, so every
denoiser returns :math:`\hat x_0 = E[x_0 | x_t]` and samplers ask for nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ._schedules import Schedule

__all__ = [
    "PARAMETRISATIONS",
    "Data",
    "Denoiser",
    "Flow",
    "GaussianDenoiser",
    "NetworkDenoiser",
    "Noise",
    "Parametrisation",
    "Velocity",
]


class Parametrisation(ABC):
    """What a network predicts, and how the clean data follow from it."""

    @abstractmethod
    def target(self, x_0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return what the network should predict."""

    @abstractmethod
    def clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return the clean data that a prediction means."""


class Data(Parametrisation):
    """Predict the clean data itself."""

    def target(self, x_0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return x_0

    def clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return output


class Noise(Parametrisation):
    """Predict the noise (Ho et al. 2020, equation 14)."""

    def target(self, x_0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return eps

    def clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        # on the straight path no data is left at t = 1, and no noise estimate can bring it back
        return (x_t - sigma * output) / alpha.clamp_min(1e-3)


class Velocity(Parametrisation):
    r"""Predict :math:`v = \alpha_t \epsilon - \sigma_t x_0` (Salimans and Ho 2022, appendix D)."""

    def target(self, x_0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha * eps - sigma * x_0

    def clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        # the squared norm is one for variance-preserving schedules and makes it right for others
        return (alpha * x_t - sigma * output) / (alpha.square() + sigma.square())


class Flow(Parametrisation):
    r"""Predict the straight path's velocity :math:`\epsilon - x_0` (Liu et al. 2023)."""

    def target(self, x_0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return eps - x_0

    def clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (x_t - sigma * output) / (alpha + sigma)


PARAMETRISATIONS: dict[str, type[Parametrisation]] = {
    "data": Data,
    "noise": Noise,
    "velocity": Velocity,
    "flow": Flow,
}


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
    """A network with a parametrisation, as a denoiser.

    Parameters
    ----------
    network
        Called as ``network(x_t, t, conditions)`` with ``t`` of shape ``(n,)``; returns the shape
        of ``x_t``.
    schedule
        The schedule that noised the training data.
    parametrisation
        What the network predicts.
    n_dims
        Number of dimensions of the data, for the bound below.

    Attributes
    ----------
    bound
        Largest absolute value of the estimate in each dimension, ``(n_dims,)``; infinite until it
        is set. It matters at high noise, where a small error of the network means a large one of
        the data (Saharia et al. 2022, section 2.3, static thresholding).
    """

    bound: Tensor

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        parametrisation: Parametrisation,
        n_dims: int = 1,
    ) -> None:
        super().__init__(schedule)
        self.network = network
        self.parametrisation = parametrisation
        self.register_buffer("bound", torch.full((n_dims,), torch.inf))

    def forward(
        self, x_t: Tensor, t: Tensor, conditions: Mapping[str, Any] | None = None
    ) -> Tensor:
        alpha, sigma = self.scales(t, x_t)
        output = self.network(x_t, t.to(x_t).expand(len(x_t)), conditions)
        return self.parametrisation.clean(output, x_t, alpha, sigma).clamp(-self.bound, self.bound)

    def loss(
        self, x_0: Tensor, t: Tensor, eps: Tensor, conditions: Mapping[str, Any] | None = None
    ) -> Tensor:
        """Return the squared error of the network's prediction, mean over dimensions, ``(n,)``."""
        alpha, sigma = self.scales(t, x_0)
        output = self.network(alpha * x_0 + sigma * eps, t.to(x_0), conditions)
        target = self.parametrisation.target(x_0, eps, alpha, sigma)
        return (output - target).square().flatten(1).mean(1)


class GaussianDenoiser(Denoiser):
    r"""The exact denoiser of Gaussian data, for tests and for reading samplers against truth.

    For :math:`x_0 \sim N(\mu, \mathrm{diag}(s^2))`,
    :math:`E[x_0 | x_t] = \mu + \frac{\alpha_t s^2}{\alpha_t^2 s^2 + \sigma_t^2}
    (x_t - \alpha_t \mu)`.

    Parameters
    ----------
    schedule
        The schedule.
    mean, std
        Mean and standard deviation of the data, ``(d,)``.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, schedule: Schedule, mean: Tensor, std: Tensor) -> None:
        super().__init__(schedule)
        self.register_buffer("mean", torch.as_tensor(mean))
        self.register_buffer("variance", torch.as_tensor(std).square())

    def forward(
        self, x_t: Tensor, t: Tensor, conditions: Mapping[str, Any] | None = None
    ) -> Tensor:
        alpha, sigma = self.scales(t, x_t)
        gain = alpha * self.variance / (alpha.square() * self.variance + sigma.square())
        return self.mean + gain * (x_t - alpha * self.mean)
