"""Cells that are steered alike: what steers them is computed once.

When cells are sampled, all are at the same time and many have the same conditions. Their embeddings and
what blocks make of them are then the same too, and take about half of the arithmetic of a small network.
They are also the same in the next block of cells that asks for the same kinds, for as long as the network
does not change.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

__all__ = ["keeping_signals", "recalled", "shared_rows"]

T = TypeVar("T")

_FEWEST = 16
"""Matrix products of fewer rows are rounded otherwise, and results should not depend on sharing."""

_MOST_KEPT = 32
"""Kinds of cells in a signal that is kept, and number of these: a few MiB for the default network."""

_kept: ContextVar[dict[Hashable, Any] | None] = ContextVar("kept", default=None)


@contextmanager
def keeping_signals(signals: dict[Hashable, Any]) -> Iterator[None]:
    """Let networks keep what steers them in a dictionary.

    It must not be used any more when their weights, mode, type or device have changed.
    """
    token = _kept.set(signals)
    try:
        yield
    finally:
        _kept.reset(token)


def recalled(key: Hashable, size: int, make: Callable[[], T]) -> T:
    """Return what was made for a key before, or make it; what was used last is kept."""
    kept = _kept.get()
    if kept is None:
        return make()
    made = kept.pop(key) if key in kept else make()
    if size <= _MOST_KEPT:
        kept[key] = made
    if len(kept) > _MOST_KEPT:
        kept.pop(next(iter(kept)))
    return made


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
    first, rows = _kinds(conditions or {}, n)
    if len(first) > n // 2:
        return None
    spare = max(_FEWEST - len(first), -len(first) % 4)
    return torch.from_numpy(np.append(first, np.repeat(first[:1], spare))), torch.from_numpy(rows)


def _kinds(conditions: Mapping[str, Tensor], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return one cell of each kind and the number of each cell's kind."""
    values = [value for value in conditions.values() if value.shape[1]]
    if not values:
        return np.zeros(1, np.int64), np.zeros(n, np.int64)
    together = torch.cat(values, dim=1).contiguous().numpy()
    n_bytes = together.shape[1] * together.itemsize
    # numbers are sorted faster than strings of bytes
    keys = together.view({4: "i4", 8: "i8"}.get(n_bytes, f"V{n_bytes}"))[:, 0]
    _, first, rows = np.unique(keys, return_index=True, return_inverse=True)
    return first, rows
