"""All conditions of a cell together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from ._dropping import random_rows
from ._embedders import Embedder

__all__ = ["ConditionEmbedder"]


class ConditionEmbedder(nn.Module):
    """The embeddings of all conditions, as their sum or as tokens.

    Parameters
    ----------
    embedders
        One :class:`Embedder` for each condition, by name; all of the same width.
    width
        Length of the vectors.
    """

    def __init__(self, embedders: Mapping[str, nn.Module], width: int) -> None:
        super().__init__()
        # a list, as names are users' column names, which a ModuleDict does not always take
        self.names = list(embedders)
        self.embedders = nn.ModuleList(embedders.values())
        self.width = width

    def _each(
        self, conditions: Mapping[str, Tensor] | None
    ) -> Iterator[tuple[str, Embedder, Tensor]]:
        conditions = conditions or {}
        if set(conditions) != set(self.names):
            raise ValueError(
                f"`conditions` has {sorted(conditions)}, the network was built for "
                f"{sorted(self.names)}."
            )
        for name, embedder in zip(self.names, self.embedders, strict=True):
            yield name, cast(Embedder, embedder), conditions[name]

    def forward(self, conditions: Mapping[str, Tensor] | None) -> Tensor | float:
        """Return the sum over conditions, ``(n, width)``, or 0 when there are none at all."""
        total: Tensor | float = 0.0
        for _, embedder, value in self._each(conditions):
            total = total + embedder(value)
        return total

    def tokens(self, conditions: Mapping[str, Tensor]) -> Tensor:
        """Return the tokens of all conditions side by side, ``(n, n_tokens, width)``."""
        return torch.cat([e.tokens(value) for _, e, value in self._each(conditions)], dim=1)

    def in_use(self, conditions: Mapping[str, Tensor]) -> Tensor:
        """Say which tokens may be attended to, ``(n, n_tokens)``."""
        return torch.cat([e.in_use(value) for _, e, value in self._each(conditions)], dim=1)

    def token_names(self, conditions: Mapping[str, Tensor]) -> list[str]:
        """Return the tokens' names: the condition's, with ``": member"`` where it has several."""
        return [
            f"{name}: {label}" if label else name
            for name, embedder, value in self._each(conditions)
            for label in embedder.token_labels(value)
        ]

    def drop_at_random(
        self,
        conditions: Mapping[str, Tensor],
        rate: float,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Drop conditions, cell by cell, for training classifier-free guidance.

        Each condition of each cell is dropped as its embedder does, by default with probability
        ``rate``, independently, so that any subset can be asked for; and once more all together
        with probability ``rate``, because with many conditions the empty subset would otherwise
        hardly be seen.

        Parameters
        ----------
        conditions
            Encoded conditions, each ``(n, k)``.
        rate
            Probability between 0 and 1.
        generator
            Source of randomness, on the device of the conditions.
        """
        if not conditions:
            return {}
        everything = random_rows(next(iter(conditions.values())), rate, generator)
        return {
            name: embedder.drop(value, rate, generator).masked_fill(everything, torch.nan)
            for name, embedder, value in self._each(conditions)
        }
