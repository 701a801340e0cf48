r"""Samplers: the rule for one step from a time t to an earlier time s.

All deterministic rules integrate the probability-flow equation in the coordinates of the
straight path, :math:`y = x / (\alpha + \sigma)` against :math:`c = \sigma / (\alpha + \sigma)`,

.. math:: \frac{dy}{dc} = \hat\epsilon(x_t) - \hat x_0(x_t),

which holds for every schedule (Karras et al. 2022, section 3: schedules are changes of scale and
clock) and is regular at both ends, where the equation in t is not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ._denoisers import Denoiser

__all__ = ["DDIM", "DDPM", "SAMPLERS", "Euler", "Heun", "Sampler"]


class Sampler(ABC):
    """One step of the way from noise to data."""

    default_steps: int = 50
    """Number of steps beyond which results change little."""

    @abstractmethod
    def step(
        self,
        denoiser: Denoiser,
        x_t: Tensor,
        t: Tensor,
        s: Tensor,
        conditions: Mapping[str, Any] | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Return the sample at the earlier time ``s``, given the one at ``t``.

        Parameters
        ----------
        denoiser
            Gives the clean-data estimate and the schedule.
        x_t
            Sample at time ``t``, ``(n, d)``.
        t, s
            Scalars, ``s < t``.
        conditions
            Passed on to the denoiser.
        generator
            Source of any noise the rule adds.
        """

    @torch.no_grad()
    def sample(
        self,
        denoiser: Denoiser,
        noise: Tensor,
        steps: int | None = None,
        conditions: Mapping[str, Any] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Take noise to data.

        Parameters
        ----------
        denoiser
            The denoiser.
        noise
            Standard normal draws, ``(n, d)``.
        steps
            Number of steps, at least 1. ``None`` takes the sampler's own.
        conditions
            Passed on to the denoiser.
        generator
            Source of the noise that stochastic rules add.

        Returns
        -------
        Samples, ``(n, d)``.
        """
        times = denoiser.schedule.times(steps or self.default_steps).to(noise.device)
        x = noise * denoiser.scales(times[0], noise)[1]
        for t, s in zip(times[:-1], times[1:], strict=True):
            x = self.step(denoiser, x, t, s, conditions, generator)
        return x


def _noise_estimate(x_t: Tensor, x_0: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    return (x_t - alpha * x_0) / sigma


def _posterior_std(
    alpha_t: Tensor, sigma_t: Tensor, alpha_s: Tensor, sigma_s: Tensor
) -> tuple[Tensor, Tensor]:
    """Return alpha_t / alpha_s and the standard deviation of x_s given x_t and x_0."""
    ratio = alpha_t / alpha_s
    added = (sigma_t.square() - (ratio * sigma_s).square()).clamp_min(0).sqrt()
    return ratio, added * sigma_s / sigma_t


def _normal_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)


class Euler(Sampler):
    """First order; on the straight path it is rectified flow's step, on others DDIM's."""

    default_steps = 20

    def step(self, denoiser, x_t, t, s, conditions, generator):
        alpha_t, sigma_t = denoiser.scales(t, x_t)
        alpha_s, sigma_s = denoiser.scales(s, x_t)
        x_0 = denoiser(x_t, t, conditions)
        return alpha_s * x_0 + sigma_s * _noise_estimate(x_t, x_0, alpha_t, sigma_t)


class Heun(Sampler):
    """Second order: an Euler step, then the mean of the slopes at both its ends.

    Two denoiser calls a step, one for the last step, which ends at noise zero where the slope is
    not defined (Karras et al. 2022, algorithm 1).
    """

    default_steps = 5

    def step(self, denoiser, x_t, t, s, conditions, generator):
        alpha_t, sigma_t = denoiser.scales(t, x_t)
        alpha_s, sigma_s = denoiser.scales(s, x_t)
        x_0 = denoiser(x_t, t, conditions)
        eps = _noise_estimate(x_t, x_0, alpha_t, sigma_t)
        x_s = alpha_s * x_0 + sigma_s * eps
        if sigma_s == 0:
            return x_s
        x_0_s = denoiser(x_s, s, conditions)
        eps_s = _noise_estimate(x_s, x_0_s, alpha_s, sigma_s)
        scale_t, scale_s = alpha_t + sigma_t, alpha_s + sigma_s
        slope = (eps - x_0 + eps_s - x_0_s) / 2
        return scale_s * (x_t / scale_t + (sigma_s / scale_s - sigma_t / scale_t) * slope)


class DDIM(Sampler):
    r"""Song et al. (2021), *Denoising diffusion implicit models*, equation 12.

    Parameters
    ----------
    eta
        Share of the ancestral noise that each step adds: 0 is deterministic, 1 is DDPM.
    """

    default_steps = 50

    def __init__(self, eta: float = 0.0) -> None:
        self.eta = eta

    def step(self, denoiser, x_t, t, s, conditions, generator):
        alpha_t, sigma_t = denoiser.scales(t, x_t)
        alpha_s, sigma_s = denoiser.scales(s, x_t)
        x_0 = denoiser(x_t, t, conditions)
        std = self.eta * _posterior_std(alpha_t, sigma_t, alpha_s, sigma_s)[1]
        direction = (sigma_s.square() - std.square()).clamp_min(0).sqrt()
        x_s = alpha_s * x_0 + direction * _noise_estimate(x_t, x_0, alpha_t, sigma_t)
        return x_s + std * _normal_like(x_t, generator) if self.eta > 0 else x_s


class DDPM(Sampler):
    """Ancestral sampling: draw from q(x_s | x_t, x_0) (Ho et al. 2020, equations 6 and 7)."""

    default_steps = 250

    def step(self, denoiser, x_t, t, s, conditions, generator):
        alpha_t, sigma_t = denoiser.scales(t, x_t)
        alpha_s, sigma_s = denoiser.scales(s, x_t)
        x_0 = denoiser(x_t, t, conditions)
        ratio, std = _posterior_std(alpha_t, sigma_t, alpha_s, sigma_s)
        keep = ratio * (sigma_s / sigma_t).square()
        mean = keep * x_t + (alpha_s - keep * alpha_t) * x_0
        return mean + std * _normal_like(x_t, generator)


SAMPLERS: dict[str, type[Sampler]] = {
    "euler": Euler,
    "heun": Heun,
    "ddim": DDIM,
    "ddpm": DDPM,
}
