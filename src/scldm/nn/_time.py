"""The diffusion time, as a vector."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["TimeEmbedder"]


class TimeEmbedder(nn.Module):
    """Sinusoids of the diffusion time, as in Ho et al. (2020), then a small network.

    Parameters
    ----------
    width
        Length of the vectors.
    n_frequencies
        Number of frequencies, from 1 to 1000 radians per unit of time.
    """

    frequencies: Tensor

    def __init__(self, width: int, n_frequencies: int = 64) -> None:
        super().__init__()
        exponents = torch.linspace(0, 1, n_frequencies)
        self.register_buffer("frequencies", torch.exp(math.log(1000.0) * exponents))
        self.network = nn.Sequential(
            nn.Linear(2 * n_frequencies, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, t: Tensor) -> Tensor:
        """Map times ``(n,)`` to ``(n, width)``."""
        phase = t.unsqueeze(1) * self.frequencies
        return self.network(torch.cat([phase.sin(), phase.cos()], dim=1))
