r"""A one-dimensional convolutional U-Net over a learned sequence.

A linear map makes a short sequence of the vector. Each level of the U has half the length and
twice the channels of the one above; what goes down is kept and joined to what comes up.
Halving folds neighbours into channels, :math:`(l, c) \to (l / 2, 2 c)`, and nothing is lost by it.

Ronneberger et al. (2015), *U-Net: convolutional networks for biomedical image segmentation*;
Ho et al. (2020), *Denoising diffusion probabilistic models*, appendix B, for residual blocks with
time in them; Liu et al. (2021), *Swin transformer*, section 3.1, for folding ("patch merging").
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._backbone import Backbone, require_positive, zeroed
from ._conditioning import Signal
from ._conditions import ConditionEmbedder

__all__ = ["UNet"]


class Convolutions(nn.Module):
    """Two convolutions of neighbours, on ``(n, length, channels)``."""

    def __init__(self, channels: int, dropout_rate: float) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv1d(channels, channels, 3, padding=1),
            nn.SiLU(),
            nn.Dropout(dropout_rate),
            nn.Conv1d(channels, channels, 3, padding=1),
        )

    def forward(self, h: Tensor) -> Tensor:
        return self.network(h.transpose(1, 2)).transpose(1, 2)


class Halve(nn.Module):
    """One level down: ``(n, length, channels)`` to ``(n, length / 2, 2 channels)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Linear(2 * channels, 2 * channels)

    def forward(self, h: Tensor) -> Tensor:
        return self.mix(h.reshape(len(h), h.shape[1] // 2, -1))


class Join(nn.Module):
    """One level up: ``(n, length / 2, 2 channels)`` and what went down to that of what went."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Linear(2 * channels, channels)

    def forward(self, h: Tensor, skipped: Tensor) -> Tensor:
        return self.mix(torch.cat([h.reshape(skipped.shape), skipped], dim=-1))


class UNet(Backbone):
    """A one-dimensional U-Net.

    Parameters
    ----------
    n_dims
        Number of dimensions of the data.
    conditions
        Embeds the conditions; its width is that of the network's deepest level.
    depth
        Number of residual blocks: one for each level down and up, the others at the bottom.
    conditioning
        How time and conditions steer the blocks, one of :data:`scldm.nn.CONDITIONINGS`.
    dropout_rate
        Dropout within the blocks.
    checkpointing
        Whether training computes the blocks' activations anew in the backward pass.
    length
        Length of the sequence at the top.
    levels
        Number of levels; fewer where ``depth`` has no blocks for them, so ``depth=4`` has two.

    Raises
    ------
    ValueError
        If length or width cannot be halved from level to level.
    """

    def __init__(
        self,
        n_dims: int,
        conditions: ConditionEmbedder,
        depth: int = 4,
        conditioning: str = "adaln",
        dropout_rate: float = 0.0,
        checkpointing: bool = False,
        length: int = 8,
        levels: int = 3,
    ) -> None:
        super().__init__(conditions, conditioning, checkpointing)
        require_positive(length=length, levels=levels)
        width = conditions.width
        self.n_halvings = min(levels, (depth + 1) // 2) - 1
        for name, value in (("length", length), ("width", width)):
            if value % 2**self.n_halvings:
                raise ValueError(
                    f"`{name}={value}` cannot be halved {self.n_halvings} times; give a multiple "
                    f"of {2**self.n_halvings}, or fewer `levels`."
                )
        # levels of the blocks, such as 0, 1, 2, 2, 1, 0
        level = [min(i, depth - 1 - i, self.n_halvings) for i in range(depth)]
        channels = [width // 2 ** (self.n_halvings - i) for i in range(self.n_halvings + 1)]
        top = channels[0]
        self.enter = nn.Sequential(nn.Linear(n_dims, length * top), nn.Unflatten(1, (length, top)))
        self.blocks = nn.ModuleList(
            self.steered(Convolutions(channels[i], dropout_rate), channels[i], width)
            for i in level
        )
        self.halvings = nn.ModuleList(Halve(c) for c in channels[:-1])
        self.joins = nn.ModuleList(Join(c) for c in channels[:-1][::-1])
        self.norm = nn.LayerNorm(top)
        self.leave = nn.Sequential(nn.Flatten(1), zeroed(nn.Linear(length * top, n_dims)))

    def body(self, h: Tensor, signal: Signal) -> Tensor:
        blocks = iter(self.blocks)
        skipped = []
        for halve in self.halvings:
            skipped.append(self.run(next(blocks), h, signal))
            h = halve(skipped[-1])
        for _ in range(len(self.blocks) - 2 * self.n_halvings):
            h = self.run(next(blocks), h, signal)
        for join in self.joins:
            h = self.run(next(blocks), join(h, skipped.pop()), signal)
        return h
