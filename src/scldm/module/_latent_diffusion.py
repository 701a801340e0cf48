r"""Diffusion over latents and library sizes together.

The diffused vector is :math:`[z, \log l]`, standardised dimension by dimension. With the library
size inside, depth follows the condition as everything else does, and no generated cell borrows
the depth of a real one.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor, nn

from scldm.diffusion import (
    Coupling,
    Denoiser,
    GuidedDenoiser,
    Independent,
    LossWeight,
    NetworkDenoiser,
    Noise,
    Parametrisation,
    Sampler,
    Schedule,
    TimeDistribution,
    Velocity,
    log_prob,
)
from scldm.nn import Backbone, drop_all

__all__ = ["LatentDiffusion"]


class LatentDiffusion(nn.Module):
    """A denoising network on standardised latents, with the averaged weights that sample.

    Parameters
    ----------
    network
        One of :data:`scldm.nn.BACKBONES` on ``n_latent + n_sizes`` dimensions.
    n_latent
        Number of latent dimensions, without the library size.
    schedule, parametrisation, times
        Noise schedule, what the network predicts, and the times it is trained on.
    weight
        Weight of the loss over times.
    coupling
        Which noise goes with which cell in training.
    condition_dropout
        Rate at which conditions are dropped in training, see
        :meth:`scldm.nn.ConditionEmbedder.drop_at_random`.
    ema_decay
        Decay of the exponential moving average of the weights, per step, once past its warm-up.
    n_sizes
        Number of log library sizes; below, where it says ``n_latent + 1``, there is one.

    Attributes
    ----------
    keeps_scale
        Whether shift and scale are those of a trained network, which further cells must not move.
    student
        A denoiser that takes :attr:`n_student_steps` steps where :attr:`averaged` takes many, or
        ``None`` before :meth:`add_student`.

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
        weight: LossWeight | None = None,
        coupling: Coupling | None = None,
        condition_dropout: float = 0.1,
        ema_decay: float = 0.999,
        n_sizes: int = 1,
    ) -> None:
        super().__init__()
        self.n_latent = n_latent
        self.n_dims = n_dims = n_latent + n_sizes
        self.times = times
        self.coupling = coupling or Independent()
        self.condition_dropout = condition_dropout
        self.ema_decay = ema_decay
        self.trained = NetworkDenoiser(network, schedule, parametrisation, n_dims, weight)
        self.averaged = deepcopy(self.trained).requires_grad_(False)
        self.keeps_scale = False
        self.student: NetworkDenoiser | None = None
        self.n_student_steps = 0
        self.register_buffer("shift", torch.zeros(n_dims))
        self.register_buffer("scale", torch.ones(n_dims))
        self.register_buffer("n_averaged", torch.zeros((), dtype=torch.long))

    def fit_standardisation(self, mean: Tensor, variance: Tensor, log_library: Tensor) -> None:
        """Set shift and scale to the moments of latents drawn from the posteriors, and bounds.

        Where :attr:`keeps_scale` is true, shift and scale stay and the bounds only become wider.

        Parameters
        ----------
        mean, variance
            Moments of each cell's posterior, ``(n, n_latent)``; NaN where a cell has none.
        log_library
            Log library sizes, ``(n, 1)``.
        """
        mean, variance, log_library = (x.to(self.shift) for x in (mean, variance, log_library))
        x = torch.cat([mean, log_library], dim=1)
        if self.keeps_scale:
            low, high = self.trained.bounds
            own = self._bounds_of(x)
            self._set_bounds(torch.stack([own[0].minimum(low), own[1].maximum(high)]))
            return
        self.shift.copy_(x.nanmean(0))
        within = torch.cat([variance.nanmean(0), torch.zeros_like(log_library[0])])
        # a dimension without spread is left as it is
        spread = ((x - self.shift).square().nanmean(0) + within).sqrt()
        self.scale.copy_(torch.where(spread > 1e-6, spread, 1.0))
        self._set_bounds(self._bounds_of(x))

    def _bounds_of(self, x: Tensor) -> Tensor:
        x = ((x - self.shift) / self.scale).nan_to_num()
        # half as far again as any cell's mean on either side (a cell of few counts must not allow
        # one of ten times the depth), and never within the bulk of the posteriors
        return 1.5 * torch.stack([x.amin(0).clamp(max=-8 / 3), x.amax(0).clamp(min=8 / 3)])

    def _set_bounds(self, bounds: Tensor) -> None:
        self.trained.bounds.copy_(bounds)
        self.averaged.bounds.copy_(bounds)

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
        start: Tensor | None = None,
    ) -> Tensor:
        """Return the training loss at random times, noise and dropped conditions, ``(n,)``.

        Parameters
        ----------
        x_0
            Standardised cells, ``(n, n_latent + 1)``.
        conditions
            Encoded conditions, each ``(n, width)``.
        generator
            Source of all that is random.
        start
            What the paths to these cells start from, in the place of noise; already paired.
        """
        t, noise = self._draw(x_0, generator)
        dropped = self.drop_at_random(conditions, generator)
        if start is None:
            start = self.coupling.pair(x_0.detach(), noise, dropped)
        return self.trained.loss(x_0, t, start, dropped)

    @torch.no_grad()
    def validation_loss(
        self, x_0: Tensor, conditions: Mapping[str, Tensor], generator: torch.Generator
    ) -> Tensor:
        """Return the loss of the averaged weights with all conditions given, ``(n,)``."""
        t, noise = self._draw(x_0, generator)
        return self.averaged.loss(x_0, t, noise, conditions)

    def _draw(self, x_0: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        t = self.times.draw(len(x_0), self.trained.schedule, x_0.device, generator)
        return t, torch.randn(x_0.shape, device=x_0.device, generator=generator)

    def drop_at_random(
        self, conditions: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Drop conditions as in training."""
        network = cast(Backbone, self.trained.network)
        return network.conditions.drop_at_random(conditions, self.condition_dropout, generator)

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

    def add_student(self, n_steps: int) -> NetworkDenoiser:
        """Make the averaged denoiser's copy that is to learn to take few steps, and return it.

        The copy of a network that predicts noise learns to predict the velocity instead: what the
        noise is says nothing about the data where the student starts.
        """
        self.student = deepcopy(self.averaged)
        if isinstance(self.student.parametrisation, Noise):
            self.student.parametrisation = Velocity()
        self.n_student_steps = n_steps
        return self.student

    def denoiser(self, **guidance: Any) -> Denoiser:
        """Return the denoiser that samples.

        Parameters
        ----------
        **guidance
            Arguments of :class:`scldm.diffusion.GuidedDenoiser`: ``scale``, ``interval``,
            ``rescale``, ``negative``, ``parts``; without a scale, or with one of 1, there is none.
        """
        if guidance.get("scale", 1.0) == 1.0:
            return self.averaged
        return GuidedDenoiser(self.averaged, drop=drop_all, **guidance)

    @torch.no_grad()
    def sample(
        self,
        noise: Tensor,
        conditions: Mapping[str, Tensor],
        sampler: Sampler,
        steps: int | None = None,
        generator: torch.Generator | None = None,
        denoiser: Denoiser | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draw latents and log library sizes.

        Parameters
        ----------
        noise
            Standard normal draws, ``(n, n_latent + 1)``.
        conditions
            Encoded conditions, each ``(n, width)``, NaN where not given.
        sampler, steps
            How to sample.
        generator
            Source of the noise that stochastic samplers add.
        denoiser
            One of :meth:`denoiser`; the averaged one by default.

        Returns
        -------
        ``(n, n_latent)`` and ``(n, 1)``.
        """
        denoiser = denoiser or self.averaged
        return self.unstandardise(sampler.sample(denoiser, noise, steps, conditions, generator))

    @torch.no_grad()
    def invert(
        self,
        z: Tensor,
        log_library: Tensor,
        conditions: Mapping[str, Tensor],
        sampler: Sampler,
        steps: int | None = None,
    ) -> Tensor:
        """Return the noise that the sampler would make these cells of, ``(n, n_latent + 1)``."""
        return sampler.invert(self.averaged, self.standardise(z, log_library), steps, conditions)

    def log_prob(
        self,
        z: Tensor,
        log_library: Tensor,
        conditions: Mapping[str, Tensor],
        n_probes: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the log-density of latents and log library sizes together, in nats, ``(n,)``.

        Parameters
        ----------
        z, log_library
            ``(n, n_latent)`` and ``(n, 1)``.
        conditions
            Encoded conditions, NaN where not given.
        n_probes, generator
            As in :func:`scldm.diffusion.log_prob`.
        """
        x_0 = self.standardise(z, log_library)
        density = log_prob(self.averaged, x_0, conditions, n_probes, generator=generator)
        return density - self.scale.log().sum()
