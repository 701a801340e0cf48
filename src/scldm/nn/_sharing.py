"""Cells that are steered alike: what steers them is computed once.

When cells are sampled, all are at the same time and many have the same conditions. Their embeddings and
what blocks make of them are then the same too, and take about half of the arithmetic of a small network.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["shared_rows"]

_FEWEST = 16
"""Matrix products of fewer rows are rounded otherwise, and results should not depend on sharing."""


def shared_rows(
    t: Tensor, conditions: Mapping[str, Tensor] | None
) -> tuple[Tensor, Tensor] | None:
    """Find cells with the same time and conditions.

    Parameters
    ----------
    t
        Times, ``(n,)``; they count as the same where they are one number, expanded.
    conditions
        Encoded conditions, each ``(n, k)``; compared byte by byte, so NaN equals NaN.

    Returns
    -------
    One cell of each kind, ``(u,)``, some of them more than once; and the place there of each cell's kind,
    ``(n,)``. ``None`` where little is gained: if cells are as many kinds, if gradients are wanted, and on
    devices that would have to wait for the answer.
    """
    n = len(t)
    idle = torch.is_grad_enabled() or torch.compiler.is_compiling() or t.device.type != "cpu"
    if idle or t.stride() != (0,) or n <= _FEWEST:
        return None
    place: dict[bytes, int] = {}
    rows: list[int] = []
    first: list[int] = []
    for i, key in enumerate(_keys(conditions or {}, n)):
        at = place.setdefault(key, len(place))
        if at == len(first):
            first.append(i)
        rows.append(at)
    if len(first) > n // 2:
        return None
    first += first[:1] * max(_FEWEST - len(first), -len(first) % 4)
    return torch.tensor(first), torch.tensor(rows)


def _keys(conditions: Mapping[str, Tensor], n: int) -> list[bytes]:
    values = [value for value in conditions.values() if value.shape[1]]
    if not values:
        return [b""] * n
    together = torch.cat(values, dim=1).contiguous().numpy()
    return together.view(f"V{together.shape[1] * together.itemsize}")[:, 0].tolist()
