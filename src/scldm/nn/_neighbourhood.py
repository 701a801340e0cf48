"""What lies around a place, as a condition."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._dropping import drop_rows
from ._embedders import Embedder

__all__ = ["NeighbourhoodEmbedder"]

_NEAR = 1e-6


class NeighbourhoodEmbedder(Embedder):
    r"""Learned queries attend to the cells around a place.

    The encoded value holds, neighbour after neighbour, its offset in units of the spacing of cells and
    its features: ``(n, n_neighbors * (n_dims + n_features))``. Places of neighbours that are not there
    are NaN, and so is a whole row without any. Each head :math:`h` weighs neighbours :math:`j`,

    .. math:: w_{hj} \propto \exp\left(q_h^\top k(o_j, x_j)\right), \qquad
        \left[\sum_j w_{hj} v(o_j, x_j), \; \sum_j w_{hj} x_j\right],

    so that the weighted mean of the neighbours' own features, which is kernel regression with a kernel
    that is learned, is at hand from the start (the second part), and corrections to it are learned.

    Parameters
    ----------
    n_dims
        Number of coordinates.
    n_features
        Features of each neighbour.
    n_neighbors
        Number of neighbours.
    width
        Length of the vectors.
    n_heads
        Number of queries.
    dropout_rate
        Of the network that sees single neighbours.
    drop_rate
        The least rate at which all neighbours are dropped in training. Far from any cell a model has
        nothing but the coordinates, and must have learned to do with them.

    References
    ----------
    Lee et al. (2019), *Set Transformer*, ICML, section 3.2 (pooling by attention); Nadaraya (1964) and
    Watson (1964) on kernel regression.
    """

    def __init__(
        self,
        n_dims: int,
        n_features: int,
        n_neighbors: int,
        width: int,
        n_heads: int = 4,
        dropout_rate: float = 0.1,
        drop_rate: float = 0.4,
    ) -> None:
        super().__init__(width)
        self.n_dims = n_dims
        self.n_neighbors = n_neighbors
        self.drop_rate = drop_rate
        self.value = nn.Sequential(
            nn.Linear(n_features + 2 * n_dims + 2, width),
            nn.SiLU(),
            nn.Dropout(dropout_rate),
            nn.Linear(width, width),
        )
        self.queries = nn.Linear(width, n_heads)
        self.leave = nn.Sequential(
            nn.Linear(width + n_heads * n_features, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, value: Tensor) -> Tensor:
        around = value.unflatten(1, (self.n_neighbors, -1))
        there = ~around.isnan().any(2)
        absent = ~there.any(1, keepdim=True)
        # a stand-in keeps NaN out of the gradient of the branches that are not taken
        around = around.masked_fill(~there.unsqueeze(2), 0.0)
        offset, features = around.tensor_split([self.n_dims], dim=2)
        h = self.value(torch.cat([features, self._geometry(offset, there)], dim=2))
        logits = self.queries(h).masked_fill(
            ~there.unsqueeze(2) & ~absent.unsqueeze(2), -torch.inf
        )
        weights = logits.softmax(1)
        # each head weighs a part of the learned values and all of the features
        parts = h.unflatten(2, (weights.shape[2], -1))
        pooled = torch.einsum("nkh,nkhd->nhd", weights, parts).flatten(1)
        means = torch.einsum("nkh,nkd->nhd", weights, features).flatten(1)
        return torch.where(absent, self.absent, self.leave(torch.cat([pooled, means], dim=1)))

    @staticmethod
    def _geometry(offset: Tensor, there: Tensor) -> Tensor:
        """Return direction and distance of neighbours, and how far the nearest is."""
        distance = offset.norm(dim=2, keepdim=True)
        nearest = distance.masked_fill(~there.unsqueeze(2), torch.inf).amin(1, keepdim=True)
        nearest = nearest.nan_to_num(posinf=0.0).expand_as(distance)
        direction = offset / (distance + _NEAR)
        return torch.cat([direction, offset / 10, distance.log1p(), nearest.log1p()], dim=2)

    def drop(self, value: Tensor, rate: float, generator: torch.Generator | None = None) -> Tensor:
        return drop_rows(value, max(rate, self.drop_rate), generator)
