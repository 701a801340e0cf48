r"""What a network predicts, how the clean data follow from it, and how errors are weighted.

With :math:`x_t = \alpha_t x_0 + \sigma_t \epsilon`, noise, data, velocity and flow are affine in
each other for a given :math:`x_t`. An error of the clean data of size 1 is therefore an error of
the prediction of a known size, whose square is the parametrisation's ``precision``; a loss weight
on clean data, :math:`w(t) |\hat x_0 - x_0|^2`, is the weight :math:`w(t)` / precision on the
network's own error.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

__all__ = [
    "LOSS_WEIGHTS",
    "PARAMETRISATIONS",
    "Data",
    "EDMWeight",
    "Flow",
    "LossWeight",
    "MinSNR",
    "Noise",
    "Parametrisation",
    "PlainWeight",
    "Velocity",
]

# on the straight path no data are left at t = 1 and no noise at t = 0
_SMALLEST_ALPHA = 1e-3
_SMALLEST_SIGMA = 1e-2
_LARGEST_FACTOR = 100.0


class Parametrisation(ABC):
    """What a network predicts, and how the clean data follow from it."""

    @abstractmethod
    def target(self, x_0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return what the network should predict."""

    @abstractmethod
    def clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return the clean data that a prediction means."""

    @abstractmethod
    def precision(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return the squared error of a prediction whose clean data are wrong by 1."""


class Data(Parametrisation):
    """Predict the clean data itself."""

    def target(self, x_0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return x_0

    def clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return output

    def precision(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return torch.ones_like(alpha)


class Noise(Parametrisation):
    """Predict the noise (Ho et al. 2020, equation 14).

    Where no data are left, the noise says nothing about them, and the clean estimate is zero, the
    centre of standardised data.
    """

    def target(self, x_0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return eps

    def clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        clean = (x_t - sigma * output) / alpha.clamp_min(_SMALLEST_ALPHA)
        return torch.where(alpha < _SMALLEST_ALPHA, 0.0, clean)

    def precision(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (alpha / sigma).square()


class Velocity(Parametrisation):
    r"""Predict :math:`v = (\alpha_t \epsilon - \sigma_t x_0) / \sqrt{\alpha_t^2 + \sigma_t^2}`.

    For variance-preserving schedules the root is 1 and this is the velocity of Salimans and Ho
    (2022, appendix D). For variance-exploding ones it is, but for its sign, the network output of
    Karras et al. (2022, equation 7) for data of variance 1.
    """

    def target(self, x_0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (alpha * eps - sigma * x_0) / torch.hypot(alpha, sigma)

    def clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        norm = torch.hypot(alpha, sigma)
        return (alpha * x_t / norm - sigma * output) / norm

    def precision(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return 1 + (alpha / sigma).square()


class Flow(Parametrisation):
    r"""Predict the straight path's velocity :math:`\epsilon - x_0` (Liu et al. 2023)."""

    def target(self, x_0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return eps - x_0

    def clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (x_t - sigma * output) / (alpha + sigma)

    def precision(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (1 + alpha / sigma).square()


PARAMETRISATIONS: dict[str, type[Parametrisation]] = {
    "data": Data,
    "noise": Noise,
    "velocity": Velocity,
    "flow": Flow,
}


class LossWeight(ABC):
    """The weight of the squared error at a time."""

    @abstractmethod
    def on_clean(self, snr: Tensor) -> Tensor | None:
        """Return the weight of the error of clean data, or ``None`` for the network's own."""

    def factor(self, parametrisation: Parametrisation, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return the weight of the squared error of the network's prediction, at most 100.

        Without the bound, a few times near an end would drown the others where the prediction
        says little of the data there.
        """
        alpha, sigma = alpha.clamp_min(_SMALLEST_ALPHA), sigma.clamp_min(_SMALLEST_SIGMA)
        weight = self.on_clean((alpha / sigma).square())
        if weight is None:
            return torch.ones_like(alpha)
        return (weight / parametrisation.precision(alpha, sigma)).clamp(max=_LARGEST_FACTOR)


class PlainWeight(LossWeight):
    """Every error of the network alike."""

    def on_clean(self, snr: Tensor) -> Tensor | None:
        return None


class MinSNR(LossWeight):
    r"""The signal-to-noise ratio :math:`\alpha_t^2 / \sigma_t^2`, cut.

    Parameters
    ----------
    gamma
        Where it is cut.

    References
    ----------
    Hang et al. (2023), *Efficient diffusion training via min-SNR weighting strategy*, section 3.4.
    """

    def __init__(self, gamma: float = 5.0) -> None:
        self.gamma = gamma

    def on_clean(self, snr: Tensor) -> Tensor | None:
        return snr.clamp(max=self.gamma)


class EDMWeight(LossWeight):
    r""":math:`1 + \alpha_t^2 / \sigma_t^2`, made for the velocity, whose plain loss it is.

    References
    ----------
    Karras et al. (2022), table 1, for data of variance 1.
    """

    def on_clean(self, snr: Tensor) -> Tensor | None:
        return 1 + snr


LOSS_WEIGHTS: dict[str, type[LossWeight]] = {
    "plain": PlainWeight,
    "min_snr": MinSNR,
    "edm": EDMWeight,
}
