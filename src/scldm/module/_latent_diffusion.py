r"""Diffusion over latents and library sizes together.

The diffused vector is :math:`[z, \log l]`, standardised dimension by dimension. With the library
size inside, depth follows the condition as everything else does, and no generated cell borrows
the depth of a real one.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn

from scldm.diffusion import (
    Denoiser,
    GuidedDenoiser,
    NetworkDenoiser,
    Parametrisation,
    Sampler,
    Schedule,
    TimeDistribution,
)
from scldm.nn import drop_all, drop_at_random

__all__ = ["LatentDiffusion"]


class LatentDiffusion(nn.Module):
    """A denoising network on standardised latents, with the averaged weights that sample.

    Parameters
    ----------
    network
        Called as ``network(x_t, t, conditions)`` on ``(n, n_latent + 1)``.
    n_latent
        Number of latent dimensions, without the library size.
    schedule, parametrisation, times
        Noise schedule, what the network predicts, and the times it is trained on.
    condition_dropout
        Rate at which conditions are dropped in training, see
        :func:`scldm.nn.drop_at_random`.
    ema_decay
        Decay of the exponential moving average of the weights, per step, once past its warm-up.

    References
    ----------
    Rombach et al. (2022), *High-resolution image synthesis with latent diffusion models*; Karras
    et al. (2022), *Elucidating the design space of diffusion-based generative models*, on
    averaged weights.
    """

    shift: Tensor
    scale: Tensor
    n_averaged: Tensor

    def __init__(
        self,
        network: nn.Module,
        n_latent: int,
        schedule: Schedule,
        parametrisation: Parametrisation,
        times: TimeDistribution,
        condition_dropout: float = 0.1,
        ema_decay: float = 0.999,
    ) -> None:
        super().__init__()
        self.n_latent = n_latent
        self.times = times
        self.condition_dropout = condition_dropout
        self.ema_decay = ema_decay
        self.trained = NetworkDenoiser(network, schedule, parametrisation, n_latent + 1)
        self.averaged = deepcopy(self.trained).requires_grad_(False)
        self.register_buffer("shift", torch.zeros(n_latent + 1))
        self.register_buffer("scale", torch.ones(n_latent + 1))
        self.register_buffer("n_averaged", torch.zeros((), dtype=torch.long))

    def fit_standardisation(self, mean: Tensor, variance: Tensor, log_library: Tensor) -> None:
        """Set shift and scale to the moments of latents drawn from the posteriors, and bounds.

        Parameters
        ----------
        mean, variance
            Moments of each cell's posterior, ``(n, n_latent)``.
        log_library
            Log library sizes, ``(n, 1)``.
        """
        within = torch.cat([variance.mean(0), torch.zeros_like(log_library[0])])
        x = torch.cat([mean, log_library], dim=1)
        self.shift.copy_(x.mean(0))
        # a dimension without spread is left as it is
        spread = (x.var(0, correction=0) + within).sqrt()
        self.scale.copy_(torch.where(spread > 1e-6, spread, 1.0))
        # half as far again as any cell's mean, and never within the bulk of the posteriors
        reach = ((x - self.shift) / self.scale).abs().amax(0)
        bound = torch.maximum(1.5 * reach, torch.full_like(reach, 4.0))
        self.trained.bound.copy_(bound)
        self.averaged.bound.copy_(bound)

    def standardise(self, z: Tensor, log_library: Tensor) -> Tensor:
        """Join latents and log library sizes into the diffused vector, ``(n, n_latent + 1)``."""
        return (torch.cat([z, log_library], dim=1) - self.shift) / self.scale

    def unstandardise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Take the diffused vector apart into latents and log library sizes."""
        x = x * self.scale + self.shift
        return x[:, : self.n_latent], x[:, self.n_latent :]

    def loss(
        self,
        x_0: Tensor,
        conditions: Mapping[str, Tensor],
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the training loss at random times, noise and dropped conditions, ``(n,)``."""
        t = self.times.draw(len(x_0), x_0.device, generator)
        eps = torch.randn(x_0.shape, device=x_0.device, generator=generator)
        dropped = drop_at_random(conditions, self.condition_dropout, generator)
        return self.trained.loss(x_0, t, eps, dropped)

    @torch.no_grad()
    def validation_loss(
        self, x_0: Tensor, conditions: Mapping[str, Tensor], generator: torch.Generator
    ) -> Tensor:
        """Return the loss of the averaged weights with all conditions given, ``(n,)``."""
        t = self.times.draw(len(x_0), x_0.device, generator)
        eps = torch.randn(x_0.shape, device=x_0.device, generator=generator)
        return self.averaged.loss(x_0, t, eps, conditions)

    @torch.no_grad()
    def update_average(self) -> None:
        """Move the averaged weights towards the trained ones; call after each training step.

        The decay grows with the steps taken, min(decay, (1 + n) / (10 + n)), so that the random
        start is forgotten at once.
        """
        n = int(self.n_averaged)
        decay = min(self.ema_decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(
            list(self.averaged.parameters()), list(self.trained.parameters()), 1 - decay
        )
        self.n_averaged += 1

    def denoiser(self, guidance_scale: float = 1.0) -> Denoiser:
        """Return the denoiser that samples, guided where ``guidance_scale`` is not 1."""
        if guidance_scale == 1:
            return self.averaged
        return GuidedDenoiser(self.averaged, guidance_scale, drop_all)

    @torch.no_grad()
    def sample(
        self,
        noise: Tensor,
        conditions: Mapping[str, Tensor],
        sampler: Sampler,
        steps: int | None = None,
        guidance_scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draw latents and log library sizes.

        Parameters
        ----------
        noise
            Standard normal draws, ``(n, n_latent + 1)``.
        conditions
            Encoded conditions, each ``(n, width)``, rows of NaN where not given.
        sampler, steps, guidance_scale
            How to sample.
        generator
            Source of the noise that stochastic samplers add.

        Returns
        -------
        ``(n, n_latent)`` and ``(n, 1)``.
        """
        denoiser = self.denoiser(guidance_scale)
        return self.unstandardise(sampler.sample(denoiser, noise, steps, conditions, generator))
