"""Dropping conditions: a row of NaN means "not given"."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

__all__ = ["drop_all", "drop_rows", "random_rows"]


def random_rows(value: Tensor, rate: float, generator: torch.Generator | None = None) -> Tensor:
    """Draw ``(n, 1)`` booleans for the rows of ``value``, true with probability ``rate``."""
    return torch.rand(len(value), 1, device=value.device, generator=generator) < rate


def drop_rows(value: Tensor, rate: float, generator: torch.Generator | None = None) -> Tensor:
    """Return ``value``, ``(n, k)``, with rows dropped independently at ``rate``."""
    return value.masked_fill(random_rows(value, rate, generator), torch.nan)


def drop_all(
    conditions: Mapping[str, Tensor], names: Collection[str] | None = None
) -> dict[str, Tensor]:
    """Return the conditions with some of them dropped for every cell.

    Parameters
    ----------
    conditions
        Encoded conditions, each ``(n, k)``.
    names
        Those to drop; ``None`` drops all.

    Raises
    ------
    ValueError
        If ``names`` has one that is not among the conditions.
    """
    names = set(conditions if names is None else names)
    if unknown := sorted(names - set(conditions)):
        raise ValueError(f"`names` has {unknown}, which is not among {sorted(conditions)}.")
    return {
        name: torch.full_like(value, torch.nan) if name in names else value
        for name, value in conditions.items()
    }
