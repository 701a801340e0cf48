"""Noise added on the way, which corrects the errors of earlier steps."""

from __future__ import annotations

import math

from ._samplers import Heun, Sampler, StepSampler, normal_like

__all__ = ["Churn"]

_MOST = math.sqrt(2) - 1


class Churn(Sampler):
    r"""EDM's stochastic sampler: before each step, go back to a higher noise level.

    The noise level :math:`r = \sigma / \alpha` is raised to :math:`(1 + \gamma) r` with fresh
    noise, :math:`\gamma = \min(\mathrm{churn} / N, \sqrt 2 - 1)` for N steps, and the step is
    taken from there.

    Parameters
    ----------
    churn
        Amount of noise over all steps; 0 is the deterministic rule.
    low, high
        Noise levels between which it is added.
    inflation
        Factor of the noise's standard deviation, against the loss of variance that estimates
        which are slightly too much alike cause.
    rule
        The rule of the steps, :class:`Heun` by default.

    References
    ----------
    Karras et al. (2022), *Elucidating the design space of diffusion-based generative models*,
    algorithm 2.
    """

    default_steps = 20
    deterministic = False

    def __init__(
        self,
        churn: float = 5.0,
        low: float = 0.0,
        high: float = math.inf,
        inflation: float = 1.0,
        rule: StepSampler | None = None,
    ) -> None:
        self.churn = churn
        self.low = low
        self.high = high
        self.inflation = inflation
        self.rule = rule or Heun()
        self.spacing = self.rule.spacing

    def integrate(self, denoiser, x, times, conditions=None, generator=None):
        gamma = min(self.churn / (len(times) - 1), _MOST)
        for t, s in zip(times[:-1], times[1:], strict=True):
            alpha, sigma = denoiser.schedule(t)
            # no noise level is above the schedule's end
            if t < 1 and self.low <= sigma / alpha <= self.high:
                x, t = self._raised(denoiser, x, t, gamma, generator)
            x = self.rule.step(denoiser, x, t, s, conditions, generator)
        return x

    def _raised(self, denoiser, x, t, gamma, generator):
        """Return the sample at the higher noise level, and the time of that level."""
        alpha, sigma = denoiser.schedule(t)
        # the schedule ends at time 1, so the level reached is read off it
        higher = denoiser.schedule.time((1 + gamma) * sigma / alpha)
        alpha_t, sigma_t = denoiser.scales(t, x)
        alpha_h, sigma_h = denoiser.scales(higher, x)
        ratio = alpha_h / alpha_t
        added = (sigma_h.square() - (ratio * sigma_t).square()).clamp_min(0).sqrt()
        return ratio * x + self.inflation * added * normal_like(x, generator), higher
