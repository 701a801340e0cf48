r"""A residual MLP whose layer norms are steered by time and conditions.

.. math:: h \leftarrow h + g(c) \odot \mathrm{MLP}((1 + s(c)) \odot \mathrm{LN}(h) + b(c))

The gates g start at zero, so each block starts as the identity (AdaLN-zero; Peebles and Xie
2023, *Scalable diffusion models with transformers*, section 3.2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ._embedders import ConditionEmbedder

__all__ = ["AdaLNMLP"]


class TimeEmbedder(nn.Module):
    """Sinusoids of the diffusion time, as in Ho et al. (2020), then a small network."""

    frequencies: Tensor

    def __init__(self, width: int, n_frequencies: int = 64) -> None:
        super().__init__()
        exponents = torch.linspace(0, 1, n_frequencies)
        self.register_buffer("frequencies", torch.exp(math.log(1000.0) * exponents))
        self.network = nn.Sequential(
            nn.Linear(2 * n_frequencies, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, t: Tensor) -> Tensor:
        phase = t.unsqueeze(1) * self.frequencies
        return self.network(torch.cat([phase.sin(), phase.cos()], dim=1))


class AdaLNBlock(nn.Module):
    """One residual block."""

    def __init__(self, width: int, dropout_rate: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        steer = nn.Linear(width, 3 * width)
        nn.init.zeros_(steer.weight)
        nn.init.zeros_(steer.bias)
        self.modulation = nn.Sequential(nn.SiLU(), steer)
        self.network = nn.Sequential(
            nn.Linear(width, 2 * width),
            nn.SiLU(),
            nn.Dropout(dropout_rate),
            nn.Linear(2 * width, width),
        )

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(c).chunk(3, dim=1)
        return h + gate * self.network(self.norm(h) * (1 + scale) + shift)


class AdaLNMLP(nn.Module):
    """The default denoising network for latents that are one vector for each cell.

    Parameters
    ----------
    n_dims
        Number of dimensions of the data.
    conditions
        Embeds the conditions; its width is the network's.
    depth
        Number of residual blocks.
    dropout_rate
        Dropout within the blocks.
    """

    def __init__(
        self,
        n_dims: int,
        conditions: ConditionEmbedder,
        depth: int = 4,
        dropout_rate: float = 0.0,
    ) -> None:
        super().__init__()
        width = conditions.width
        self.conditions = conditions
        self.time = TimeEmbedder(width)
        self.enter = nn.Linear(n_dims, width)
        self.blocks = nn.ModuleList(AdaLNBlock(width, dropout_rate) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, n_dims)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(
        self, x: Tensor, t: Tensor, conditions: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Map noisy data ``(n, n_dims)`` at times ``(n,)`` to the prediction ``(n, n_dims)``."""
        c = self.time(t) + self.conditions(conditions)
        h = self.enter(x)
        for block in self.blocks:
            h = block(h, c)
        return self.leave(self.norm(h))
