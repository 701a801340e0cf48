"""Which times a denoiser is trained on."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ._schedules import Schedule

__all__ = [
    "TIME_DISTRIBUTIONS",
    "LogNormalNoise",
    "LogitNormalTimes",
    "TimeDistribution",
    "UniformTimes",
]


class TimeDistribution(ABC):
    """A distribution over times between 0 and 1, given by its quantile function."""

    @abstractmethod
    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        """Map probabilities to times of a schedule, same shape."""

    def draw(
        self,
        n: int,
        schedule: Schedule,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw ``(n,)`` float64 times, one from each n-th of the distribution, in random order.

        The order keeps cells that come sorted from having times of their own. Stratifying takes most of the variance of the loss over times away (Kingma et al. 2021,
        *Variational diffusion models*, appendix I.1).
        """
        jitter = torch.rand(n, device=device, generator=generator, dtype=torch.float64)
        stratum = torch.randperm(n, device=device, generator=generator)
        return self.quantile((stratum + jitter) / n, schedule)


class UniformTimes(TimeDistribution):
    """Every time alike."""

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
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

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        return torch.sigmoid(self.location + self.scale * torch.special.ndtri(u))


class LogNormalNoise(TimeDistribution):
    r"""Times at which the noise level :math:`\sigma_t / \alpha_t` is log-normal, as in EDM.

    Parameters
    ----------
    location, scale
        Mean and standard deviation of the logarithm of the noise level. Karras et al. (2022,
        table 1) use -1.2 and 1.2 for data of standard deviation 0.5; the default location adds
        log 2, for data of standard deviation 1.
    """

    def __init__(self, location: float = -1.2 + math.log(2), scale: float = 1.2) -> None:
        self.location = location
        self.scale = scale

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        return schedule.time((self.location + self.scale * torch.special.ndtri(u)).exp())


TIME_DISTRIBUTIONS: dict[str, type[TimeDistribution]] = {
    "uniform": UniformTimes,
    "logit_normal": LogitNormalTimes,
    "log_normal": LogNormalNoise,
}
