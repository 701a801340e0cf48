r"""A residual MLP: the default network for latents that are one vector for each cell.

.. math:: h \leftarrow h + g(c) \odot \mathrm{MLP}(s(c) \odot \mathrm{LN}(h) + b(c))

with adaptive layer norms; :mod:`._conditioning` has the other ways of steering.
"""

from __future__ import annotations

from torch import nn

from ._backbone import Backbone, small_network, zeroed
from ._conditions import ConditionEmbedder

__all__ = ["MLP"]


class MLP(Backbone):
    """A residual MLP.

    Parameters
    ----------
    n_dims
        Number of dimensions of the data.
    conditions
        Embeds the conditions; its width is the network's.
    depth
        Number of residual blocks.
    conditioning
        How time and conditions steer the blocks, one of :data:`scldm.nn.CONDITIONINGS`.
    dropout_rate
        Dropout within the blocks.
    checkpointing
        Whether training computes the blocks' activations anew in the backward pass.
    """

    def __init__(
        self,
        n_dims: int,
        conditions: ConditionEmbedder,
        depth: int = 4,
        conditioning: str = "adaln",
        dropout_rate: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(conditions, conditioning, checkpointing)
        width = conditions.width
        # the hidden state is a sequence of length one
        self.enter = nn.Sequential(nn.Linear(n_dims, width), nn.Unflatten(1, (1, width)))
        self.blocks = nn.ModuleList(
            self.steered(small_network(width, dropout_rate), width, width) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Sequential(nn.Flatten(1), zeroed(nn.Linear(width, n_dims)))
