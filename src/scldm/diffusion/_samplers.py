r"""Samplers: the way from noise to data in steps.

Deterministic rules integrate the probability-flow equation. It can be written in many coordinates
:math:`y = x / m` against a clock :math:`c`, which differ by a change of scale and clock (Karras et
al. 2022, section 3). The default are those of the straight path, :math:`m = \alpha + \sigma` and
:math:`c = \sigma / m`,

.. math:: \frac{dy}{dc} = \hat\epsilon(x_t) - \hat x_0(x_t),

which are regular at both ends of every schedule, where the equation in t often is not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ._denoisers import Denoiser

__all__ = [
    "DDIM",
    "DDPM",
    "Euler",
    "Heun",
    "Resample",
    "Sampler",
    "StepSampler",
    "noise_estimate",
    "normal_like",
]

_CORRECTIONS = 3

SMALLEST_RATIO = 1e-3
"""Noise level at which ways that cannot touch zero noise begin or end, for data of variance 1."""


class Sampler(ABC):
    """A way from noise to data."""

    default_steps: int = 50
    """Number of steps beyond which results change little."""

    spacing: float = 1.0
    """How much shorter steps are near the data, see :meth:`Schedule.times`."""

    deterministic: bool = True
    """Whether noise alone decides the result, so that it can be inverted."""

    chooses_steps: bool = False
    """Whether the rule finds the number of steps itself."""

    @abstractmethod
    def integrate(
        self,
        denoiser: Denoiser,
        x: Tensor,
        times: Tensor,
        conditions: Mapping[str, Any] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Take a sample at the first time to the last.

        Parameters
        ----------
        denoiser
            Gives the clean-data estimate and the schedule.
        x
            Sample at ``times[0]``, ``(n, d)``.
        times
            Times from the first to the last, ``(steps + 1,)``.
        conditions
            Passed on to the denoiser.
        generator
            Source of the noise that stochastic rules add.

        Returns
        -------
        Sample at ``times[-1]``, ``(n, d)``.
        """

    @torch.no_grad()
    def sample(
        self,
        denoiser: Denoiser,
        noise: Tensor,
        steps: int | None = None,
        conditions: Mapping[str, Any] | None = None,
        generator: torch.Generator | None = None,
        times: Tensor | None = None,
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
        times
            The times themselves, decreasing, instead of ``steps`` of the schedule's.

        Returns
        -------
        Samples, ``(n, d)``.
        """
        if times is None:
            times = denoiser.schedule.times(steps or self.default_steps, self.spacing)
        times = times.to(noise.device)
        x = noise * denoiser.scales(times[0], noise)[1]
        return self.integrate(denoiser, x, times, conditions, generator)

    @torch.no_grad()
    def invert(
        self,
        denoiser: Denoiser,
        x_0: Tensor,
        steps: int | None = None,
        conditions: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Take data to the noise that :meth:`sample` makes them of.

        Parameters
        ----------
        denoiser
            The denoiser.
        x_0
            Data, ``(n, d)``.
        steps
            Number of steps; the more, the closer the way back comes to the way there.
        conditions
            Those of the data.

        Returns
        -------
        Noise, ``(n, d)``.

        Raises
        ------
        ValueError
            If the rule adds noise of its own.
        """
        if not self.deterministic:
            raise ValueError(
                f"{type(self).__name__} adds noise at every step, which has no way back."
            )
        schedule = denoiser.schedule
        times = schedule.times(steps or self.default_steps, self.spacing).flip(0).to(x_0.device)
        # the equation has no slope at noise zero; there is nearly none yet at this level
        lowest = schedule.time(times.new_tensor(SMALLEST_RATIO))
        times[0] = lowest if lowest < times[1] else times[1] / 2
        x = x_0 * denoiser.scales(times[0], x_0)[0]
        if not self.chooses_steps:
            x = self.integrate(denoiser, x, times[:2], conditions)
            times = times[1:]
            # the last step of sampling takes the clean estimate, which should be the data
            alpha, _ = denoiser.scales(times[0], x)
            for _ in range(_CORRECTIONS):
                x = x + alpha * (x_0 - denoiser(x, times[0], conditions))
        x = self.integrate(denoiser, x, times, conditions)
        return x / denoiser.scales(times[-1], x)[1]


class StepSampler(Sampler):
    """A sampler whose steps know nothing of each other."""

    @abstractmethod
    def step(
        self,
        denoiser: Denoiser,
        x_t: Tensor,
        t: Tensor,
        s: Tensor,
        conditions: Mapping[str, Any] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the sample at time ``s``, given the one at ``t``.

        Parameters
        ----------
        denoiser
            Gives the clean-data estimate and the schedule.
        x_t
            Sample at time ``t``, ``(n, d)``.
        t, s
            Scalars; ``s`` is the earlier time, closer to the data, except on the way back.
        conditions
            Passed on to the denoiser.
        generator
            Source of any noise the rule adds.
        """

    def integrate(self, denoiser, x, times, conditions=None, generator=None):
        for t, s in zip(times[:-1], times[1:], strict=True):
            x = self.step(denoiser, x, t, s, conditions, generator)
        return x


def noise_estimate(x_t: Tensor, x_0: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return the noise that a clean estimate means."""
    return (x_t - alpha * x_0) / sigma


def normal_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw standard normal numbers in the shape, type and place of ``x``."""
    return torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)


class Euler(StepSampler):
    """First order; on the straight path it is rectified flow's step, on others DDIM's."""

    default_steps = 20

    def step(self, denoiser, x_t, t, s, conditions=None, generator=None):
        alpha_t, sigma_t = denoiser.scales(t, x_t)
        alpha_s, sigma_s = denoiser.scales(s, x_t)
        x_0 = denoiser(x_t, t, conditions)
        return alpha_s * x_0 + sigma_s * noise_estimate(x_t, x_0, alpha_t, sigma_t)


class Heun(StepSampler):
    r"""Second order: an Euler step, then the mean of the slopes at both its ends.

    Two denoiser calls a step, one for the last step, which ends at noise zero where the slope is
    not defined (Karras et al. 2022, algorithm 1).

    Parameters
    ----------
    straight
        Whether slopes are averaged in the coordinates of the straight path. If not, it is in those
        of Karras et al., :math:`x / \alpha` against :math:`\sigma / \alpha`, which cannot start
        where no data are left (:math:`\alpha_1 = 0`).
    """

    default_steps = 4
    # on latents of real cells, few evenly spaced steps make cells of a type too much alike
    spacing = 1.5

    def __init__(self, straight: bool = True) -> None:
        self.straight = straight

    def step(self, denoiser, x_t, t, s, conditions=None, generator=None):
        alpha_t, sigma_t = denoiser.scales(t, x_t)
        alpha_s, sigma_s = denoiser.scales(s, x_t)
        x_0 = denoiser(x_t, t, conditions)
        eps = noise_estimate(x_t, x_0, alpha_t, sigma_t)
        x_s = alpha_s * x_0 + sigma_s * eps
        if sigma_s == 0:
            return x_s
        x_0_s = denoiser(x_s, s, conditions)
        eps_s = noise_estimate(x_s, x_0_s, alpha_s, sigma_s)
        slope = (eps + eps_s) / 2
        scale_t, scale_s = alpha_t, alpha_s
        if self.straight:
            slope = slope - (x_0 + x_0_s) / 2
            scale_t, scale_s = alpha_t + sigma_t, alpha_s + sigma_s
        return scale_s * (x_t / scale_t + (sigma_s / scale_s - sigma_t / scale_t) * slope)


def _posterior_std(
    alpha_t: Tensor, sigma_t: Tensor, alpha_s: Tensor, sigma_s: Tensor
) -> tuple[Tensor, Tensor]:
    """Return alpha_t / alpha_s and the standard deviation of x_s given x_t and x_0."""
    ratio = alpha_t / alpha_s
    added = (sigma_t.square() - (ratio * sigma_s).square()).clamp_min(0).sqrt()
    return ratio, added * sigma_s / sigma_t


class DDIM(StepSampler):
    r"""Song et al. (2021), *Denoising diffusion implicit models*, equation 12.

    Parameters
    ----------
    eta
        Share of the ancestral noise that each step adds: 0 is deterministic, 1 is DDPM.
    """

    default_steps = 50

    def __init__(self, eta: float = 0.0) -> None:
        self.eta = eta
        self.deterministic = eta == 0

    def step(self, denoiser, x_t, t, s, conditions=None, generator=None):
        alpha_t, sigma_t = denoiser.scales(t, x_t)
        alpha_s, sigma_s = denoiser.scales(s, x_t)
        x_0 = denoiser(x_t, t, conditions)
        eps = noise_estimate(x_t, x_0, alpha_t, sigma_t)
        if self.eta == 0:
            return alpha_s * x_0 + sigma_s * eps
        std = self.eta * _posterior_std(alpha_t, sigma_t, alpha_s, sigma_s)[1]
        direction = (sigma_s.square() - std.square()).clamp_min(0).sqrt()
        return alpha_s * x_0 + direction * eps + std * normal_like(x_t, generator)


class DDPM(StepSampler):
    """Ancestral sampling: draw from q(x_s | x_t, x_0) (Ho et al. 2020, equations 6 and 7)."""

    default_steps = 250
    deterministic = False

    def step(self, denoiser, x_t, t, s, conditions=None, generator=None):
        alpha_t, sigma_t = denoiser.scales(t, x_t)
        alpha_s, sigma_s = denoiser.scales(s, x_t)
        x_0 = denoiser(x_t, t, conditions)
        ratio, std = _posterior_std(alpha_t, sigma_t, alpha_s, sigma_s)
        keep = ratio * (sigma_s / sigma_t).square()
        mean = keep * x_t + (alpha_s - keep * alpha_t) * x_0
        return mean + std * normal_like(x_t, generator)


class Resample(StepSampler):
    r"""The textbook's rule: to each clean estimate, fresh noise.

    .. math:: x_s = \alpha_s \hat x_0(x_t) + \sigma_s \epsilon', \qquad \epsilon' \sim N(0, I)

    A chain of estimates that forgets the noise it came from; marginals are right only where the
    estimate is a draw and not a mean, so that cells come out too much alike. It is here because
    write-ups of latent diffusion use it; it is also how consistency models take several steps
    (Song et al. 2023, algorithm 1).
    """

    default_steps = 50
    deterministic = False

    def step(self, denoiser, x_t, t, s, conditions=None, generator=None):
        alpha_s, sigma_s = denoiser.scales(s, x_t)
        return alpha_s * denoiser(x_t, t, conditions) + sigma_s * normal_like(x_t, generator)
