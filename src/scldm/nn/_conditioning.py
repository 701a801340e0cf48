r"""How time and conditions steer a network: residual blocks around any branch.

With h the hidden state, B the branch (a small network, self-attention, a convolution), c the
signal of time and conditions, and s, b, g linear in it:

.. math::

    \text{AdaLN} &: h + g \odot B(s \odot \mathrm{LN}(h) + b) \\
    \text{FiLM} &: h + s \odot B(\mathrm{LN}(h)) + b \\
    \text{concatenation} &: h + B(W [\mathrm{LN}(h), c]) \\
    \text{cross-attention} &: h' + O\,\mathrm{softmax}(q(h') k(c)^T / \sqrt{d})\, v(c), \quad
        h' = \mathrm{AdaLN}(h)

AdaLN's gates g start at zero, so each block starts as the identity (AdaLN-zero; Peebles and Xie
2023, *Scalable diffusion models with transformers*, section 3.2); s starts at one. FiLM is Perez
et al. (2018), *FiLM: visual reasoning with a general conditioning layer*, equation 2. In
cross-attention (Rombach et al. 2022, *High-resolution image synthesis with latent diffusion
models*, section 3.3) time steers by AdaLN and conditions are what the state attends to.

Hidden states are ``(n, length, width)``; a network on one vector for each cell has length 1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._conditions import ConditionEmbedder

__all__ = [
    "CONDITIONINGS",
    "AdaLN",
    "Concatenation",
    "CrossAttention",
    "CrossAttentionLayer",
    "FiLM",
    "Signal",
    "Steered",
]

Conditions = Mapping[str, Tensor] | None


class Signal(NamedTuple):
    """What steers all blocks of a network, computed once for each pass.

    ``vector`` is ``(n, 1, k)``; ``tokens`` ``(n, n_tokens, width)`` and ``in_use``
    ``(n, n_tokens)`` are for those that attend. Where cells are steered alike, these have a row for
    each kind of cell, ``rows`` ``(n,)`` says of which kind each cell is, and ``made`` has what layers
    made of the vector.
    """

    vector: Tensor
    tokens: Tensor | None = None
    in_use: Tensor | None = None
    rows: Tensor | None = None
    made: dict[nn.Module, Tensor] | None = None

    def through(self, layer: nn.Module) -> Tensor:
        """Return what a layer makes of the vector, a row for each cell."""
        if self.made is None:
            return self.spread(layer(self.vector))
        if layer not in self.made:
            self.made[layer] = layer(self.vector)
        return self.spread(self.made[layer])

    def spread(self, of_kinds: Any) -> Any:
        """Return a row for each cell, given those of the kinds."""
        return of_kinds if self.rows is None else of_kinds.index_select(0, self.rows)


class Steered(nn.Module, ABC):
    """A residual block: a branch, steered by the signal.

    Parameters
    ----------
    branch
        Maps ``(n, length, width)`` to the same shape.
    width
        Width of the hidden state.
    signal_width
        Width of the embeddings of time and conditions.
    """

    def __init__(self, branch: nn.Module, width: int, signal_width: int) -> None:
        super().__init__()
        self.branch = branch
        self.norm = nn.LayerNorm(width, elementwise_affine=False)

    @classmethod
    def further(cls, branch: nn.Module, width: int, signal_width: int) -> Steered:
        """Steer a further branch, where a block of the network has more than one."""
        return cls(branch, width, signal_width)

    @staticmethod
    @abstractmethod
    def signal(time: Tensor, embedder: ConditionEmbedder, conditions: Conditions) -> Signal:
        """Make the signal of embedded times ``(n, width)`` and encoded conditions."""

    @abstractmethod
    def forward(self, h: Tensor, signal: Signal) -> Tensor:
        """Update the hidden state ``(n, length, width)``."""


def _affine(signal_width: int, scale: list[float], width: int) -> nn.Linear:
    """Return a linear map to several vectors of ``width`` that start as the constants given."""
    layer = nn.Linear(signal_width, len(scale) * width)
    nn.init.zeros_(layer.weight)
    with torch.no_grad():
        layer.bias.copy_(torch.tensor(scale).repeat_interleave(width))
    return layer


class AdaLN(Steered):
    """The signal scales and shifts the branch's normalised input, and gates its output."""

    def __init__(self, branch: nn.Module, width: int, signal_width: int) -> None:
        super().__init__(branch, width, signal_width)
        self.modulation = _affine(signal_width, [0.0, 1.0, 0.0], width)

    @staticmethod
    def signal(time: Tensor, embedder: ConditionEmbedder, conditions: Conditions) -> Signal:
        return Signal(F.silu(time + embedder(conditions)).unsqueeze(1))

    def forward(self, h: Tensor, signal: Signal) -> Tensor:
        shift, scale, gate = signal.through(self.modulation).chunk(3, dim=-1)
        return torch.addcmul(h, gate, self.branch(torch.addcmul(shift, scale, self.norm(h))))


class FiLM(Steered):
    """The signal scales and shifts the branch's output, feature by feature."""

    def __init__(self, branch: nn.Module, width: int, signal_width: int) -> None:
        super().__init__(branch, width, signal_width)
        self.modulation = _affine(signal_width, [0.0, 1.0], width)

    @staticmethod
    def signal(time: Tensor, embedder: ConditionEmbedder, conditions: Conditions) -> Signal:
        return Signal(F.silu(time + embedder(conditions)).unsqueeze(1))

    def forward(self, h: Tensor, signal: Signal) -> Tensor:
        shift, scale = signal.through(self.modulation).chunk(2, dim=-1)
        return h + torch.addcmul(shift, scale, self.branch(self.norm(h)))


class Concatenation(Steered):
    """The branch reads time and conditions beside its input."""

    def __init__(self, branch: nn.Module, width: int, signal_width: int) -> None:
        super().__init__(branch, width, signal_width)
        # a linear map of a concatenation is a sum of maps of its parts; taken apart, that of the
        # signal is computed once for a cell and not once for each position
        self.own = nn.Linear(width, width)
        self.given = nn.Linear(2 * signal_width, width, bias=False)

    @staticmethod
    def signal(time: Tensor, embedder: ConditionEmbedder, conditions: Conditions) -> Signal:
        vector = torch.zeros_like(time) + embedder(conditions)
        return Signal(torch.cat([time, vector], dim=1).unsqueeze(1))

    def forward(self, h: Tensor, signal: Signal) -> Tensor:
        given = signal.through(self.given)
        return h + self.branch(self.own(self.norm(h)) + given)


class CrossAttentionLayer(nn.Module):
    """Attention of the hidden state to the tokens, with an output that starts at zero.

    Keys and values have no bias: softmax does not see the one, the output's makes up for the
    other.
    """

    def __init__(self, width: int, signal_width: int) -> None:
        super().__init__()
        self.n_heads = math.gcd(4, width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(signal_width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)

    def forward(self, h: Tensor, tokens: Tensor, in_use: Tensor) -> Tensor:
        """Map ``(n, length, width)`` to the same shape."""
        key, value = self.key_value(tokens).chunk(2, dim=-1)
        heads = F.scaled_dot_product_attention(
            self._heads(self.query(h)),
            self._heads(key),
            self._heads(value),
            attn_mask=in_use[:, None, None],
        )
        return self.out(heads.transpose(1, 2).flatten(2))

    def weights(self, h: Tensor, tokens: Tensor, in_use: Tensor) -> Tensor:
        """Return the weights of the tokens, mean over heads and positions, ``(n, n_tokens)``."""
        query = self._heads(self.query(h))
        key = self._heads(self.key_value(tokens).chunk(2, dim=-1)[0])
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        scores = scores.masked_fill(~in_use[:, None, None], -torch.inf)
        return scores.softmax(-1).mean((1, 2))


class CrossAttention(AdaLN):
    """Time steers as in AdaLN; then the hidden state attends to the tokens of the conditions."""

    def __init__(self, branch: nn.Module, width: int, signal_width: int) -> None:
        super().__init__(branch, width, signal_width)
        self.attend = CrossAttentionLayer(width, signal_width)

    @classmethod
    def further(cls, branch: nn.Module, width: int, signal_width: int) -> Steered:
        # one look at the conditions is enough for a block
        return AdaLN(branch, width, signal_width)

    @staticmethod
    def signal(time: Tensor, embedder: ConditionEmbedder, conditions: Conditions) -> Signal:
        vector = F.silu(time).unsqueeze(1)
        if not conditions and not embedder.names:
            # softmax needs something to attend to: time, where there is nothing else
            everyone = torch.ones(len(time), 1, dtype=torch.bool, device=time.device)
            return Signal(vector, time.unsqueeze(1), everyone)
        conditions = conditions or {}
        return Signal(vector, embedder.tokens(conditions), embedder.in_use(conditions))

    def forward(self, h: Tensor, signal: Signal) -> Tensor:
        h = super().forward(h, signal)
        tokens, in_use = signal.spread(signal.tokens), signal.spread(signal.in_use)
        return h + self.attend(self.norm(h), tokens, in_use)


CONDITIONINGS: dict[str, type[Steered]] = {
    "adaln": AdaLN,
    "film": FiLM,
    "concat": Concatenation,
    "cross_attention": CrossAttention,
}
"""Ways of steering by name."""
