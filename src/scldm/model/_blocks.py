"""Blocks of cells that share a random stream and a pass through the networks.

Random numbers and arithmetic are laid out in blocks of one size, the last one padded, so that
the same request with the same seed gives the same cells, whatever the batch size and torch's
global random state.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum

import numpy as np
import torch

__all__ = ["BLOCK_SIZE", "Stream", "blocks", "generator", "resolved_seed"]

BLOCK_SIZE = 256


class Stream(IntEnum):
    """What random numbers are for; each purpose has streams of its own."""

    REQUEST = 0
    LATENT = 1
    COUNTS = 2
    POSTERIOR = 3
    PROBES = 4
    SECTIONS = 5


def generator(
    device: torch.device | str, seed: int, stream: Stream, block: int
) -> torch.Generator:
    """Return a generator whose numbers depend on the arguments alone."""
    state = np.random.SeedSequence((seed, stream, block)).generate_state(1, dtype=np.uint64)
    # torch takes seeds of 63 bits
    return torch.Generator(device).manual_seed(int(state[0]) >> 1)


def blocks(n: int) -> Iterator[tuple[int, slice, np.ndarray]]:
    """Yield each block's number, its rows, and the rows with which to fill it up."""
    for block, start in enumerate(range(0, n, BLOCK_SIZE)):
        rows = slice(start, min(start + BLOCK_SIZE, n))
        yield block, rows, np.minimum(np.arange(start, start + BLOCK_SIZE), n - 1)


def resolved_seed(seed: int | None) -> int:
    """Return the seed, or one drawn from torch's global state.

    Raises
    ------
    ValueError
        If it is not a whole number of 0 or more, or needs more than 63 bits, which no file of
        cells could record.
    """
    if seed is None:
        return int(torch.randint(2**31, ()))
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"`seed={seed!r}` must be a whole number of 0 or more, or None.")
    if seed >= 2**63:
        raise ValueError(f"`seed={seed!r}` is too large; it must be below 2**63.")
    return int(seed)
