"""Embedders: one encoded condition in; one vector, or a few tokens, for each cell out.

A condition reaches the network as a float tensor with one row for each cell. A row of NaN means
"not given": no legal value can be mistaken for it. Each embedder has a learned vector for that
case, which is what classifier-free guidance trains and uses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ._dropping import drop_rows
from ._fourier import FourierFeatures
from ._vectors import vectors_for

__all__ = ["CategoryEmbedder", "Embedder", "FourierEmbedder", "SetEmbedder", "VectorEmbedder"]


class Embedder(nn.Module, ABC):
    """Embeds one condition.

    Parameters
    ----------
    width
        Length of the vectors.

    Attributes
    ----------
    absent
        The learned vector of a condition that is not given, ``(width,)``.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.absent = nn.Parameter(torch.randn(width) * 0.02)

    @abstractmethod
    def forward(self, value: Tensor) -> Tensor:
        """Map encoded values ``(n, k)``, rows of NaN where not given, to ``(n, width)``."""

    def tokens(self, value: Tensor) -> Tensor:
        """Map encoded values to what cross-attention attends to, ``(n, n_tokens, width)``."""
        return self(value).unsqueeze(1)

    def in_use(self, value: Tensor) -> Tensor:
        """Say which tokens may be attended to, ``(n, n_tokens)``; at least one for each cell."""
        return torch.ones(len(value), 1, dtype=torch.bool, device=value.device)

    def token_labels(self, value: Tensor) -> list[str]:
        """Return what tells the tokens apart, an empty label where there is but one."""
        return [""]

    def drop(self, value: Tensor, rate: float, generator: torch.Generator | None = None) -> Tensor:
        """Drop values at random, cell by cell, for training without them."""
        return drop_rows(value, rate, generator)


class _OneVector(Embedder):
    """An embedder whose value is given or not given as a whole."""

    def forward(self, value: Tensor) -> Tensor:
        absent = value.isnan().any(1, keepdim=True)
        # the stand-in keeps NaN out of the gradient of the branch that is not taken
        return torch.where(absent, self.absent, self.embed(value.masked_fill(absent, 0.0)))

    @abstractmethod
    def embed(self, value: Tensor) -> Tensor:
        """Embed values that are given, ``(n, k)``."""


class CategoryEmbedder(_OneVector):
    """A vector for each category; the encoded value is the category's code.

    Parameters
    ----------
    n_categories
        Number of categories.
    width
        Length of the vectors.
    table
        Embeddings of the categories from elsewhere, ``(n_categories, d)``: of genes, drugs,
        text. The vectors are then projected from it, and categories that training never saw
        have one too.
    """

    def __init__(self, n_categories: int, width: int, table: Tensor | None = None) -> None:
        super().__init__(width)
        self.vectors = vectors_for(n_categories, width, table)

    def embed(self, value: Tensor) -> Tensor:
        return self.vectors(value[:, 0].long())


class SetEmbedder(Embedder):
    """A sum over the members of a set, each with a dose; the empty set has its own vector.

    The encoded value holds the codes of the members, then their doses: ``(n, 2 k)`` for sets of
    at most k members. Code -1 fills unused places. The sum makes combinations that were never
    seen meaningful and the order of members irrelevant (deep sets; Zaheer et al. 2017). Each
    member's vector is scaled, feature by feature, by a learned function of its standardised
    dose. The members are the tokens.

    Parameters
    ----------
    n_items
        Number of possible members.
    width
        Length of the vectors.
    table
        Embeddings of the items from elsewhere, ``(n_items, d)``, as in
        :class:`CategoryEmbedder`.
    """

    def __init__(self, n_items: int, width: int, table: Tensor | None = None) -> None:
        super().__init__(width)
        self.vectors = vectors_for(n_items, width, table)
        self.empty = nn.Parameter(torch.randn(width) * 0.02)
        features = FourierFeatures(1)
        self.gain = nn.Sequential(features, nn.Linear(features.n_features, width))

    @staticmethod
    def _parts(value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return which cells have no value, ``(n, 1)``, codes and doses; no codes for those."""
        absent = value.isnan().any(1, keepdim=True)
        codes, doses = value.masked_fill(absent, -1.0).chunk(2, dim=1)
        return absent, codes, doses

    def forward(self, value: Tensor) -> Tensor:
        return self.tokens(value).sum(1)

    def tokens(self, value: Tensor) -> Tensor:
        """Map encoded values to one token for each place, zero where unused."""
        absent, codes, doses = self._parts(value)
        member = (codes >= 0).unsqueeze(-1)
        gain = 1 + self.gain(doses.reshape(-1, 1)).reshape(*codes.shape, -1)
        members = self.vectors(codes.clamp_min(0).long()) * gain * member
        # a cell without members is one token, which stands in the first place
        alone = torch.where(absent, self.absent, self.empty) * ~member.any(1)
        return torch.cat([members[:, :1] + alone.unsqueeze(1), members[:, 1:]], dim=1)

    def in_use(self, value: Tensor) -> Tensor:
        member = self._parts(value)[1] >= 0
        alone = ~member.any(1, keepdim=True)
        return torch.cat([member[:, :1] | alone, member[:, 1:]], dim=1)

    def token_labels(self, value: Tensor) -> list[str]:
        return [str(i + 1) for i in range(value.shape[1] // 2)]


class FourierEmbedder(_OneVector):
    """A small network on the Fourier features of standardised continuous values.

    Parameters
    ----------
    n_dims
        Number of coordinates.
    width
        Length of the vectors.
    n_octaves
        Number of frequencies for each coordinate.
    dropout_rate
        Of the small network.
    """

    def __init__(
        self, n_dims: int, width: int, n_octaves: int = 6, dropout_rate: float = 0.0
    ) -> None:
        super().__init__(width)
        features = FourierFeatures(n_dims, n_octaves)
        self.network = nn.Sequential(
            features,
            nn.Linear(features.n_features, width),
            nn.SiLU(),
            *([nn.Dropout(dropout_rate)] if dropout_rate else []),
            nn.Linear(width, width),
        )

    def embed(self, value: Tensor) -> Tensor:
        return self.network(value)


class VectorEmbedder(_OneVector):
    """A small network on a standardised vector, such as another cell's latent.

    Parameters
    ----------
    n_dims
        Number of dimensions.
    width
        Length of the vectors.
    """

    def __init__(self, n_dims: int, width: int) -> None:
        super().__init__(width)
        self.network = nn.Sequential(nn.Linear(n_dims, width), nn.SiLU(), nn.Linear(width, width))

    def embed(self, value: Tensor) -> Tensor:
        return self.network(value)
