r"""Scores of gene sets as a condition of which any part may be given.

With :math:`m_j` the membership of set j, scaled to unit length, and
:math:`\phi(s) = [1, s, \sin, \cos]` the features of its score, the token of a set that is given is

.. math:: v_j = (W m_j) \odot L \phi(s_j)

and that of one that is not is :math:`W m_j + a`. Identity comes from membership, so that sets
which share genes are alike, and the score enters linearly besides its waves, so that a larger
score goes on meaning more. Where one vector is wanted it is
:math:`\sum_j v_j / \sqrt{k}` over the k sets given, whose size stays the same whatever k.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ._dropping import drop_rows, random_rows
from ._embedders import Embedder
from ._fourier import FourierFeatures

__all__ = ["GeneSetEmbedder"]


class GeneSetEmbedder(Embedder):
    """Embeds standardised scores of gene sets, ``(n, n_sets)``; NaN where a set is not given.

    Parameters
    ----------
    membership
        Which genes are in which set, or with what weight, ``(n_genes, n_sets)``.
    width
        Length of the vectors.
    labels
        Names of the sets, for attention maps; numbers if ``None``.

    Raises
    ------
    ValueError
        If a set has no genes.
    """

    membership: Tensor

    def __init__(
        self, membership: Tensor, width: int, labels: Sequence[str] | None = None
    ) -> None:
        super().__init__(width)
        length = membership.float().norm(dim=0)
        if (length == 0).any():
            empty = (length == 0).nonzero().flatten().tolist()
            raise ValueError(f"`membership` has sets without genes, at columns {empty}.")
        self.register_buffer("membership", (membership / length).float().T.contiguous())
        n_sets, n_genes = self.membership.shape
        self.labels = [str(i + 1) for i in range(n_sets)] if labels is None else list(labels)
        # random directions of about unit features keep the sets apart from the start
        self.identity = nn.Parameter(torch.randn(n_genes, width))
        # few octaves: what a score means should not turn round within a standard deviation
        self.features = FourierFeatures(1, n_octaves=3)
        self.loadings = nn.Parameter(0.5 * torch.randn(1 + self.features.n_features, width))

    def _factors(self, value: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return ``given (n, sets)``, ``features (n, sets, f)``, ``table (sets, f, width)``, W m.

        Features are zero where a set is not given, so that it adds nothing to a sum.
        """
        given = ~value.isnan()
        scores = value.masked_fill(~given, 0.0).reshape(-1, 1)
        waves = self.features(scores).reshape(*value.shape, -1)
        features = torch.cat([torch.ones_like(waves[..., :1]), waves], dim=-1)
        identities = self.membership @ self.identity
        table = identities.unsqueeze(1) * self.loadings
        return given, features * given.unsqueeze(-1), table, identities

    def forward(self, value: Tensor) -> Tensor:
        given, features, table, _ = self._factors(value)
        count = given.sum(1, keepdim=True)
        # one product over sets and features: the tokens themselves need not be held
        total = features.flatten(1) @ table.flatten(0, 1)
        return torch.where(count > 0, total / count.clamp_min(1).sqrt(), self.absent)

    def tokens(self, value: Tensor) -> Tensor:
        """Map scores to one token for each set, ``(n, n_sets, width)``."""
        given, features, table, identities = self._factors(value)
        tokens = torch.einsum("nsf,sfw->nsw", features, table)
        return torch.where(given.unsqueeze(-1), tokens, identities + self.absent)

    def in_use(self, value: Tensor) -> Tensor:
        return torch.ones_like(value, dtype=torch.bool)

    def token_labels(self, value: Tensor) -> list[str]:
        return self.labels

    def drop(self, value: Tensor, rate: float, generator: torch.Generator | None = None) -> Tensor:
        """Drop sets at random so that any number of them can be asked for, one alone too.

        Half of the cells lose all sets; the others keep each set with a probability that is
        drawn for the cell, uniformly from 0 to 1. Whole cells are dropped at ``rate`` besides.
        """
        keep = torch.rand(len(value), 1, device=value.device, generator=generator)
        keep = keep.masked_fill(random_rows(value, 0.5, generator), 0.0)
        lost = torch.rand(value.shape, device=value.device, generator=generator) >= keep
        return drop_rows(value.masked_fill(lost, torch.nan), rate, generator)
