"""Couplings: which noise goes with which data in training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
import ot
import torch
from torch import Tensor

__all__ = ["COUPLINGS", "Coupling", "Independent", "OptimalTransport"]


class Coupling(ABC):
    """Pairs the data of a minibatch with noise."""

    @abstractmethod
    def pair(self, x_0: Tensor, noise: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """Return the noise in the order in which it goes with the data.

        Parameters
        ----------
        x_0, noise
            Data and standard normal draws, ``(n, d)`` each.
        conditions
            Encoded conditions of the data, each ``(n, k)``; NaN where dropped.
        """


class Independent(Coupling):
    """Any noise with any data."""

    def pair(self, x_0: Tensor, noise: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        return noise


class OptimalTransport(Coupling):
    """The pairing with the least sum of squared distances, within each condition.

    Paths then cross less and are straighter, so that fewer steps follow them. Pairs are exchanged
    between cells with the same conditions only: across them, noise would come to mean the
    condition, and asking for a condition would no longer start from all of the noise (Cheng and
    Schwing 2025, *The curse of conditions*). Conditions with a value of its own for each cell
    leave nothing to exchange.

    References
    ----------
    Tong et al. (2024), *Improving and generalizing flow-based generative models with minibatch
    optimal transport*, algorithm 3; Pooladian et al. (2023), *Multisample flow matching*.
    """

    def pair(self, x_0: Tensor, noise: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        paired = torch.empty_like(noise)
        for rows in _alike(conditions, len(x_0)):
            cost = ot.dist(x_0[rows].double().cpu().numpy(), noise[rows].double().cpu().numpy())
            plan = ot.emd([], [], cost)
            paired[rows] = noise[rows[torch.from_numpy(plan.argmax(axis=1)).to(rows.device)]]
        return paired


def _alike(conditions: Mapping[str, Tensor], n: int) -> list[Tensor]:
    """Return the rows of each set of equal conditions."""
    if not conditions:
        return [torch.arange(n)]
    table = torch.cat([value.nan_to_num(torch.inf) for value in conditions.values()], dim=1)
    groups = torch.unique(table, dim=0, return_inverse=True)[1].cpu().numpy()
    order = np.argsort(groups, kind="stable")
    ends = np.flatnonzero(np.diff(groups[order])) + 1
    return [torch.from_numpy(rows).to(table.device) for rows in np.split(order, ends)]


COUPLINGS: dict[str, type[Coupling]] = {
    "independent": Independent,
    "optimal_transport": OptimalTransport,
}
