"""Fourier features of continuous values."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["FourierFeatures"]


class FourierFeatures(nn.Module):
    r"""Sines and cosines of each coordinate at octaves of frequency, beside the value itself.

    .. math:: x \mapsto [x, \sin(2 \pi f_k x), \cos(2 \pi f_k x)], \qquad f_k = f_0 2^k

    The value itself keeps extrapolation orderly where the waves repeat.

    Parameters
    ----------
    n_dims
        Number of coordinates.
    n_octaves
        Number of frequencies for each coordinate.
    lowest
        The lowest frequency, in cycles per unit.

    References
    ----------
    Tancik et al. (2020), *Fourier features let networks learn high frequency functions in low
    dimensional domains*, section 6 ("positional encoding").
    """

    frequencies: Tensor

    def __init__(self, n_dims: int, n_octaves: int = 6, lowest: float = 0.125) -> None:
        super().__init__()
        self.register_buffer("frequencies", lowest * 2.0 ** torch.arange(n_octaves))
        self.n_features = n_dims * (1 + 2 * n_octaves)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, n_dims)`` to ``(n, n_features)``."""
        phase = (2 * torch.pi * x.unsqueeze(-1) * self.frequencies).flatten(1)
        return torch.cat([x, phase.sin(), phase.cos()], dim=1)
