"""Which real cells are compared, and which only prepare the comparison."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Split", "draw", "split_held_out", "split_one"]

MINIMUM = 20


class Split(NamedTuple):
    """Row numbers of real cells in their own matrix, all sorted."""

    test: NDArray[np.intp]
    """Cells that generated cells are compared with."""
    floor: NDArray[np.intp]
    """Training cells that take the place of generated cells in the floor."""
    projection: NDArray[np.intp]
    """Training cells that fit depth and components, and stand on neither side."""


def split_held_out(
    n_test: int, n_train: int, n_generated: int, max_cells: int, rng: np.random.Generator
) -> Split:
    """Split where test cells and training cells are two matrices.

    All sides have the same size: that of the smallest of the test cells, the generated cells, half
    of the training cells and ``max_cells``.

    Parameters
    ----------
    n_test, n_train, n_generated
        Numbers of cells.
    max_cells
        The most cells on one side.
    rng
        Source of the random order.

    Raises
    ------
    ValueError
        If less than 20 cells would stand on one side.
    """
    n = min(n_test, n_generated, n_train // 2, max_cells)
    _require_enough(n, f"{n_test} test, {n_train} training and {n_generated} generated cells")
    train = rng.permutation(n_train)
    return Split(draw(n_test, n, rng), np.sort(train[:n]), np.sort(train[n:]))


def split_one(n_real: int, n_generated: int, max_cells: int, rng: np.random.Generator) -> Split:
    """Split where there is one matrix of real cells: a third of it for each part.

    Parameters
    ----------
    n_real, n_generated
        Numbers of cells.
    max_cells
        The most cells on one side.
    rng
        Source of the random order.

    Raises
    ------
    ValueError
        If less than 20 cells would stand on one side.
    """
    n = min(n_real // 3, n_generated, max_cells)
    _require_enough(n, f"{n_real} real and {n_generated} generated cells")
    order = rng.permutation(n_real)
    return Split(*(np.sort(part) for part in (order[:n], order[n : 2 * n], order[2 * n :])))


def draw(n_cells: int, n: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Sorted row numbers of ``n`` of ``n_cells`` cells, without replacement."""
    return np.sort(rng.permutation(n_cells)[:n])


def _require_enough(n: int, given: str) -> None:
    if n < MINIMUM:
        raise ValueError(
            f"With {given}, {n} cells would stand on each side, and a comparison needs {MINIMUM}."
        )
