"""Embedders: encoded conditions in, one vector for each cell out.

A condition reaches the network as a float tensor with one row for each cell. A row of NaN means
"not given": no legal value can be mistaken for it. Each embedder has a learned vector for that
case, which is what classifier-free guidance trains and uses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ._fourier import FourierFeatures

__all__ = [
    "CategoryEmbedder",
    "ConditionEmbedder",
    "FourierEmbedder",
    "SetEmbedder",
    "drop_all",
    "drop_at_random",
]


def drop_all(conditions: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the conditions with every one of them dropped."""
    return {name: torch.full_like(value, torch.nan) for name, value in conditions.items()}


def drop_at_random(
    conditions: Mapping[str, Tensor], rate: float, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """Drop conditions, cell by cell, for training classifier-free guidance.

    Each condition of each cell is dropped with probability ``rate``, independently, so that any
    subset can be asked for; and once more all together with probability ``rate``, because with
    many conditions the empty subset would otherwise hardly be seen.

    Parameters
    ----------
    conditions
        Encoded conditions, each ``(n, width)``.
    rate
        Probability between 0 and 1.
    generator
        Source of randomness, on the device of the conditions.
    """

    def drawn(n: int, device: torch.device) -> Tensor:
        return torch.rand(n, 1, device=device, generator=generator) < rate

    if not conditions:
        return {}
    first = next(iter(conditions.values()))
    everything = drawn(len(first), first.device)
    return {
        name: value.masked_fill(everything | drawn(len(value), value.device), torch.nan)
        for name, value in conditions.items()
    }


class _Embedder(nn.Module, ABC):
    """Shared by the embedders: the learned vector of a condition that is not given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.absent = nn.Parameter(torch.randn(width) * 0.02)

    def forward(self, value: Tensor) -> Tensor:
        """Map encoded values ``(n, k)``, rows of NaN where not given, to ``(n, width)``."""
        absent = value.isnan().any(1, keepdim=True)
        # the stand-in keeps NaN out of the gradient of the branch that is not taken
        return torch.where(absent, self.absent, self.embed(value.masked_fill(absent, 0.0)))

    @abstractmethod
    def embed(self, value: Tensor) -> Tensor:
        """Embed values that are given, ``(n, k)``."""


class CategoryEmbedder(_Embedder):
    """A learned vector for each category; the encoded value is the category's code.

    Parameters
    ----------
    n_categories
        Number of categories.
    width
        Length of the vectors.
    """

    def __init__(self, n_categories: int, width: int) -> None:
        super().__init__(width)
        self.vectors = nn.Embedding(n_categories, width)

    def embed(self, value: Tensor) -> Tensor:
        """Embed values that are given, ``(n, k)``."""
        return self.vectors(value[:, 0].long())


class SetEmbedder(_Embedder):
    """A sum over the members of a set, each with a dose; the empty set has its own vector.

    The encoded value holds the codes of the members, then their doses: ``(n, 2 k)`` for sets of
    at most k members. Code -1 fills unused places. The sum makes combinations that were never
    seen meaningful and the order of members irrelevant. Each member's vector is scaled, feature
    by feature, by a learned function of its standardised dose.

    Parameters
    ----------
    n_items
        Number of possible members.
    width
        Length of the vectors.
    """

    def __init__(self, n_items: int, width: int) -> None:
        super().__init__(width)
        self.vectors = nn.Embedding(n_items, width)
        self.empty = nn.Parameter(torch.randn(width) * 0.02)
        features = FourierFeatures(1)
        self.gain = nn.Sequential(features, nn.Linear(features.n_features, width))

    def embed(self, value: Tensor) -> Tensor:
        """Embed values that are given, ``(n, k)``."""
        codes, doses = value.chunk(2, dim=1)
        member = codes >= 0
        gain = 1 + self.gain(doses.reshape(-1, 1)).reshape(*codes.shape, -1)
        vectors = self.vectors(codes.clamp_min(0).long()) * gain
        total = (vectors * member.unsqueeze(-1)).sum(1)
        return torch.where(member.any(1, keepdim=True), total, self.empty)


class FourierEmbedder(_Embedder):
    """A small network on the Fourier features of standardised continuous values.

    Parameters
    ----------
    n_dims
        Number of coordinates.
    width
        Length of the vectors.
    n_octaves
        Number of frequencies for each coordinate.
    """

    def __init__(self, n_dims: int, width: int, n_octaves: int = 6) -> None:
        super().__init__(width)
        features = FourierFeatures(n_dims, n_octaves)
        self.network = nn.Sequential(
            features, nn.Linear(features.n_features, width), nn.SiLU(), nn.Linear(width, width)
        )

    def embed(self, value: Tensor) -> Tensor:
        """Embed values that are given, ``(n, k)``."""
        return self.network(value)


class ConditionEmbedder(nn.Module):
    """The sum of the embeddings of all conditions.

    Parameters
    ----------
    embedders
        One embedder for each condition, by name; all of the same width.
    width
        Length of the vectors.
    """

    def __init__(self, embedders: Mapping[str, nn.Module], width: int) -> None:
        super().__init__()
        # a list, as names are users' column names, which a ModuleDict does not always take
        self.names = list(embedders)
        self.embedders = nn.ModuleList(embedders.values())
        self.width = width

    def forward(self, conditions: Mapping[str, Tensor] | None) -> Tensor | float:
        """Return ``(n, width)``, or 0 when there are no conditions at all."""
        conditions = conditions or {}
        if set(conditions) != set(self.names):
            raise ValueError(
                f"`conditions` has {sorted(conditions)}, the network was built for "
                f"{sorted(self.names)}."
            )
        total: Tensor | float = 0.0
        for name, embedder in zip(self.names, self.embedders, strict=True):
            total = total + embedder(conditions[name])
        return total
