"""Which times a denoiser is trained on."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

__all__ = ["TIME_DISTRIBUTIONS", "LogitNormalTimes", "TimeDistribution", "UniformTimes"]


class TimeDistribution(ABC):
    """A distribution over times between 0 and 1, given by its quantile function."""

    @abstractmethod
    def quantile(self, u: Tensor) -> Tensor:
        """Map probabilities to times, same shape."""

    def draw(
        self, n: int, device: torch.device | str, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw ``(n,)`` float64 times, one from each n-th of the distribution.

        Stratifying takes most of the variance of the loss over times away (Kingma et al. 2021,
        *Variational diffusion models*, appendix I.1).
        """
        jitter = torch.rand(n, device=device, generator=generator, dtype=torch.float64)
        return self.quantile((torch.arange(n, device=device) + jitter) / n)


class UniformTimes(TimeDistribution):
    """Every time alike."""

    def quantile(self, u: Tensor) -> Tensor:
        return u


class LogitNormalTimes(TimeDistribution):
    """More training in the middle, where the estimate is hardest (Esser et al. 2024, section 3.1).

    Parameters
    ----------
    location, scale
        Mean and standard deviation of the logit of the time.
    """

    def __init__(self, location: float = 0.0, scale: float = 1.0) -> None:
        self.location = location
        self.scale = scale

    def quantile(self, u: Tensor) -> Tensor:
        return torch.sigmoid(self.location + self.scale * torch.special.ndtri(u))


TIME_DISTRIBUTIONS: dict[str, type[TimeDistribution]] = {
    "uniform": UniformTimes,
    "logit_normal": LogitNormalTimes,
}
