"""What the backbones share: time and conditions become a signal, blocks are steered by it."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ._conditioning import CONDITIONINGS, CrossAttentionLayer, Signal, Steered
from ._conditions import ConditionEmbedder
from ._sharing import recalled, shared_rows
from ._time import TimeEmbedder

__all__ = ["Backbone", "require_positive", "small_network", "zeroed"]


def require_positive(**options: Any) -> None:
    """Raise a ``ValueError`` that names an option which is not a whole number of 1 or more."""
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}={value!r}` must be a whole number of 1 or more.")


def zeroed(layer: nn.Module) -> nn.Module:
    """Set a layer's parameters to zero: the network starts by predicting nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def small_network(width: int, dropout_rate: float) -> nn.Module:
    """Return the network of two layers that is a branch of the blocks."""
    return nn.Sequential(
        nn.Linear(width, 2 * width),
        nn.SiLU(),
        nn.Dropout(dropout_rate),
        nn.Linear(2 * width, width),
    )


class Backbone(nn.Module, ABC):
    """A denoising network; those that derive from it say how to enter, what blocks, how to leave.

    Parameters
    ----------
    conditions
        Embeds the conditions; its width is the network's.
    conditioning
        How time and conditions steer the blocks, one of :data:`scldm.nn.CONDITIONINGS`.
    checkpointing
        Whether training computes the blocks' activations anew in the backward pass, which saves
        memory and costs time (Chen et al. 2016, *Training deep nets with sublinear memory cost*).

    Attributes
    ----------
    enter
        Maps ``(n, n_dims)`` to hidden states ``(n, length, width)``.
    blocks
        The blocks, called with the hidden states and the :class:`Signal`.
    norm
        Normalises the last hidden states.
    leave
        Maps them back to ``(n, n_dims)``; its parameters start at zero.

    Raises
    ------
    ValueError
        If ``conditioning`` is not known.
    """

    enter: nn.Module
    blocks: nn.ModuleList
    norm: nn.Module
    leave: nn.Module

    def __init__(
        self, conditions: ConditionEmbedder, conditioning: str, checkpointing: bool
    ) -> None:
        super().__init__()
        if conditioning not in CONDITIONINGS:
            raise ValueError(
                f"`conditioning={conditioning!r}` is not known. Known: {sorted(CONDITIONINGS)}."
            )
        self.conditions = conditions
        self.conditioning = conditioning
        self.checkpointing = checkpointing
        self.time = TimeEmbedder(conditions.width)

    @property
    def steered(self) -> type[Steered]:
        """The kind of steering."""
        return CONDITIONINGS[self.conditioning]

    def forward(
        self, x: Tensor, t: Tensor, conditions: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Map noisy data ``(n, n_dims)`` at times ``(n,)`` to the prediction ``(n, n_dims)``."""
        signal = self._signal(t, conditions)
        return self.leave(self.norm(self.body(self.enter(x), signal)))

    def _signal(self, t: Tensor, conditions: Mapping[str, Tensor] | None) -> Signal:
        """Make the signal, once for cells that are steered alike."""
        shared = shared_rows(t, conditions)
        if shared is None:
            return self.steered.signal(self.time(t), self.conditions, conditions)
        kinds, rows = shared
        given = {name: value[kinds] for name, value in (conditions or {}).items()}

        def made() -> Signal:
            return self.steered.signal(self.time(t[kinds]), self.conditions, given)._replace(
                made={}
            )

        content = [(name, value.numpy().tobytes()) for name, value in given.items()]
        signal = recalled((self, float(t[0]), *content), len(kinds), made)
        return signal._replace(rows=rows)

    def body(self, h: Tensor, signal: Signal) -> Tensor:
        """Pass hidden states through all blocks."""
        for block in self.blocks:
            h = self.run(block, h, signal)
        return h

    def run(self, block: nn.Module, h: Tensor, signal: Signal) -> Tensor:
        """Pass hidden states through a block, keeping its activations or not."""
        if self.checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(block, h, signal, use_reentrant=False)
        return block(h, signal)

    @torch.no_grad()
    def attention(
        self, x: Tensor, t: Tensor, conditions: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Return how much each block attends to each token of the conditions.

        :meth:`ConditionEmbedder.token_names` names the tokens.

        Returns
        -------
        ``(n, depth, n_tokens)``, mean over heads and over the hidden states' positions; sums to
        one over the tokens.

        Raises
        ------
        ValueError
            If the network does not attend to conditions.
        """
        layers = [module for module in self.modules() if isinstance(module, CrossAttentionLayer)]
        if not layers or not self.conditions.names:
            raise ValueError(
                "`attention` needs a network with conditions and `conditioning="
                f"'cross_attention'`; this one has `conditioning={self.conditioning!r}` and "
                f"conditions {self.conditions.names}."
            )
        with _weights_of(layers) as weights:
            # not through __call__, which a compiled network answers without its hooks
            self.forward(x, t, conditions)
        return torch.stack(weights, dim=1)


@contextmanager
def _weights_of(layers: list[CrossAttentionLayer]) -> Iterator[list[Tensor]]:
    """Collect the attention weights of layers in the order in which they are called."""
    weights: list[Tensor] = []

    def collect(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(layer, CrossAttentionLayer)
        weights.append(layer.weights(*inputs))

    hooks = [layer.register_forward_pre_hook(collect) for layer in layers]
    try:
        yield weights
    finally:
        for hook in hooks:
            hook.remove()
