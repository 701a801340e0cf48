r"""A diffusion transformer on the dimensions of one latent vector.

The vector is cut into tokens of a few dimensions, each with a linear embedding of its own,
:math:`h_i = W_i x_i + p_i`, whose constant is the token's learned position. Blocks of
self-attention and MLP follow, each steered. Attention over a single token would be a linear
layer, so there are at least two.

Peebles and Xie (2023), *Scalable diffusion models with transformers*.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._backbone import Backbone, require_positive, small_network, zeroed
from ._conditioning import Signal, Steered
from ._conditions import ConditionEmbedder

__all__ = ["DiT"]


class TokensIn(nn.Module):
    """Cuts vectors into tokens, each embedded by its own linear map."""

    def __init__(self, n_tokens: int, token_size: int, width: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(token_size)
        self.shape = (n_tokens, token_size)
        self.weight = nn.Parameter(torch.empty(*self.shape, width).uniform_(-bound, bound))
        self.position = nn.Parameter(torch.empty(n_tokens, 1, width).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (0, math.prod(self.shape) - x.shape[1]))
        pieces = padded.unflatten(1, self.shape).transpose(0, 1)
        return torch.baddbmm(self.position, pieces, self.weight).transpose(0, 1)


class TokensOut(nn.Module):
    """Reads each token out into its dimensions by its own linear map."""

    def __init__(self, n_tokens: int, token_size: int, width: int, n_dims: int) -> None:
        super().__init__()
        self.n_dims = n_dims
        self.weight = nn.Parameter(torch.empty(n_tokens, width, token_size))
        self.bias = nn.Parameter(torch.empty(n_tokens, 1, token_size))

    def forward(self, h: Tensor) -> Tensor:
        pieces = torch.baddbmm(self.bias, h.transpose(0, 1), self.weight)
        return pieces.transpose(0, 1).flatten(1)[:, : self.n_dims]


class SelfAttention(nn.Module):
    """Attention of a cell's tokens to each other (Vaswani et al. 2017)."""

    def __init__(self, width: int, n_heads: int, dropout_rate: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout_rate)

    def forward(self, h: Tensor) -> Tensor:
        parts = self.query_key_value(h).unflatten(-1, (3, self.n_heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        heads = F.scaled_dot_product_attention(query, key, value)
        return self.dropout(self.out(heads.transpose(1, 2).flatten(2)))


class TransformerBlock(nn.Module):
    """Steered self-attention, then a steered MLP."""

    def __init__(
        self, steered: type[Steered], width: int, n_heads: int, dropout_rate: float
    ) -> None:
        super().__init__()
        self.attention = steered(SelfAttention(width, n_heads, dropout_rate), width, width)
        self.network = steered.further(small_network(width, dropout_rate), width, width)

    def forward(self, h: Tensor, signal: Signal) -> Tensor:
        return self.network(self.attention(h, signal), signal)


class DiT(Backbone):
    """A diffusion transformer.

    Parameters
    ----------
    n_dims
        Number of dimensions of the data.
    conditions
        Embeds the conditions; its width is the network's.
    depth
        Number of blocks.
    conditioning
        How time and conditions steer the blocks, one of :data:`scldm.nn.CONDITIONINGS`.
    dropout_rate
        Dropout within the blocks.
    checkpointing
        Whether training computes the blocks' activations anew in the backward pass.
    token_size
        Consecutive dimensions that make a token; the last token may have fewer. Where the
        autoencoder has tokens of its own, their size.
    n_heads
        Attention heads; divides the width.

    Raises
    ------
    ValueError
        If there would be fewer than two tokens, or the heads do not divide the width.
    """

    def __init__(
        self,
        n_dims: int,
        conditions: ConditionEmbedder,
        depth: int = 4,
        conditioning: str = "adaln",
        dropout_rate: float = 0.0,
        checkpointing: bool = False,
        token_size: int = 4,
        n_heads: int = 4,
    ) -> None:
        super().__init__(conditions, conditioning, checkpointing)
        require_positive(token_size=token_size, n_heads=n_heads)
        width = conditions.width
        n_tokens = math.ceil(n_dims / token_size)
        if n_tokens < 2:
            raise ValueError(
                f"`token_size={token_size}` makes one token of {n_dims} dimensions, and attention "
                f"over one token is a linear layer. Give less than {n_dims} (as an option of the "
                "backbone), or use the MLP."
            )
        if width % n_heads:
            raise ValueError(f"`n_heads={n_heads}` does not divide the width, {width}.")
        self.enter = TokensIn(n_tokens, token_size, width)
        self.blocks = nn.ModuleList(
            TransformerBlock(self.steered, width, n_heads, dropout_rate) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.leave = zeroed(TokensOut(n_tokens, token_size, width, n_dims))
