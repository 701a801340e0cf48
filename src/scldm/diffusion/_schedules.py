r"""Noise schedules: a time goes in, the scales of data and noise come out.

.. math:: x_t = \alpha_t x_0 + \sigma_t \epsilon, \qquad \epsilon \sim N(0, I)

Times run from 0 (data) to 1 (noise) in every schedule and are float64, so that differences of
neighbouring times keep their digits; scales are cast to the data's type where they meet it. What
schedules have in common is the ratio :math:`r_t = \sigma_t / \alpha_t`, the noise level of
Karras et al. (2022): two schedules at the same ratio differ by a factor of :math:`x_t` alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

__all__ = [
    "SCHEDULES",
    "RectifiedFlow",
    "Schedule",
    "VarianceExploding",
    "VariancePreserving",
    "VariancePreservingCosine",
]


class Schedule(nn.Module, ABC):
    """Scales of data and noise as functions of time."""

    @abstractmethod
    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(alpha_t, sigma_t)``, each of the shape of ``t``.

        Parameters
        ----------
        t
            Times between 0 (data) and 1 (noise), any shape.
        """

    @abstractmethod
    def time(self, ratio: Tensor) -> Tensor:
        """Return the time at which noise stands to data as ``ratio``, at most 1.

        Parameters
        ----------
        ratio
            Values of sigma / alpha from 0 to infinity, any shape.
        """

    def times(self, steps: int, spacing: float = 1.0) -> Tensor:
        r"""Return ``steps + 1`` decreasing times from noise to data for ``steps`` sampler steps.

        The k-th from the end has the share of noise :math:`\sigma / (\alpha + \sigma)`, which is
        the time of the straight path, of :math:`(k / \mathrm{steps})^p` of the first. On that
        clock the flow is smooth up to both ends; a schedule whose noise begins as the square root
        of time costs second-order rules most of their gain on evenly spaced times.

        Parameters
        ----------
        steps
            Number of steps.
        spacing
            The power p; above 1, steps are shorter near the data.
        """
        alpha, sigma = self(torch.ones((), dtype=torch.float64))
        even = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)
        share = even**spacing * sigma / (alpha + sigma)
        times = self.time(share / (1 - share))
        times[0] = 1.0
        return times


class RectifiedFlow(Schedule):
    r"""The straight path, :math:`\alpha_t = 1 - t` and :math:`\sigma_t = t`.

    References
    ----------
    Liu, Gong and Liu (2023), *Flow straight and fast*, equation 1; Lipman et al. (2023), *Flow
    matching for generative modeling*, equation 22 with sigma_min of 0 (their time runs from
    noise to data).
    """

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t, t

    def time(self, ratio: Tensor) -> Tensor:
        # this way round it is 1 where the ratio is infinite
        return 1 / (1 + 1 / ratio)


class VariancePreserving(Schedule):
    r"""DDPM's schedule with linearly growing variances.

    :math:`\alpha_t^2 = \prod_{i \le k} (1 - \beta_i)` at the times :math:`t = k / T`, with
    :math:`\beta` from ``beta_start`` to ``beta_end``; in between, :math:`\log \alpha_t` is
    linear in time, so any number of steps can be taken. The end, :math:`t = 1`, keeps a trace of
    data (:math:`\alpha_1 \approx 0.006` by default), as in the original.

    Parameters
    ----------
    n_timesteps
        Number T of discrete times.
    beta_start, beta_end
        First and last variance added per discrete time.

    References
    ----------
    Ho, Jain and Abbeel (2020), *Denoising diffusion probabilistic models*, equation 4 and
    section 4.
    """

    def __init__(
        self, n_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02
    ) -> None:
        super().__init__()
        beta = torch.linspace(beta_start, beta_end, n_timesteps, dtype=torch.float64)
        log_alpha = 0.5 * torch.log1p(-beta).cumsum(0)
        # a plain attribute: a buffer would be cast to float32 with the rest of the module
        self._log_alpha = torch.cat([torch.zeros(1, dtype=torch.float64), log_alpha])

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        table = self._log_alpha.to(t.device)
        position = t.double() * (len(table) - 1)
        below = position.floor().long().clamp(0, len(table) - 2)
        log_alpha = torch.lerp(table[below], table[below + 1], position - below)
        # expm1 keeps sigma's digits where alpha is close to one
        return log_alpha.exp().to(t.dtype), (-torch.expm1(2 * log_alpha)).sqrt().to(t.dtype)

    def time(self, ratio: Tensor) -> Tensor:
        table = -self._log_alpha.to(ratio.device)
        wanted = 0.5 * torch.log1p(ratio.double().square())
        above = torch.searchsorted(table, wanted).clamp(1, len(table) - 1)
        share = (wanted - table[above - 1]) / (table[above] - table[above - 1])
        position = above - 1 + share.clamp(0, 1)
        return (position / (len(table) - 1)).to(ratio.dtype)


class VariancePreservingCosine(Schedule):
    r"""The variance-preserving cosine, :math:`\alpha_t = \cos(\pi t / 2)`.

    References
    ----------
    Nichol and Dhariwal (2021), *Improved denoising diffusion probabilistic models*, equation 17
    without its offset, which the continuous-time form does not need.
    """

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        angle = t * (torch.pi / 2)
        return torch.cos(angle), torch.sin(angle)

    def time(self, ratio: Tensor) -> Tensor:
        return ratio.atan() * (2 / torch.pi)


class VarianceExploding(Schedule):
    r"""Noise on data that keep their scale: :math:`\alpha_t = 1`, :math:`\sigma_t = \sigma_1 t^\rho`.

    Steps are evenly spaced in :math:`\sigma^{1/\rho}` from ``sigma_max`` to ``sigma_min``, and a
    last one goes to zero, whatever spacing a sampler asks for.

    Parameters
    ----------
    sigma_min, sigma_max
        Smallest noise of a step before the last, and the noise at time 1.
    rho
        The larger, the shorter are the steps near the data.

    References
    ----------
    Karras et al. (2022), *Elucidating the design space of diffusion-based generative models*,
    equation 5 and table 1.
    """

    def __init__(
        self, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
    ) -> None:
        super().__init__()
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max
        self.rho = rho

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), self.sigma_max * t**self.rho

    def time(self, ratio: Tensor) -> Tensor:
        return (ratio / self.sigma_max).clamp(max=1) ** (1 / self.rho)

    def times(self, steps: int, spacing: float = 1.0) -> Tensor:
        last = (self.sigma_min / self.sigma_max) ** (1 / self.rho)
        noisy = torch.linspace(1.0, last, steps, dtype=torch.float64)
        return torch.cat([noisy, noisy.new_zeros(1)])


SCHEDULES: dict[str, type[Schedule]] = {
    "rectified_flow": RectifiedFlow,
    "vp_linear": VariancePreserving,
    "vp_cosine": VariancePreservingCosine,
    "ve": VarianceExploding,
}
