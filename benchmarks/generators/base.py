"""What every rival offers: it learns from training cells and draws cells under given conditions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

__all__ = ["Generator", "Method", "Strata"]

FEWEST = 5


@dataclass(frozen=True)
class Method:
    """One way of drawing cells from a model.

    Parameters
    ----------
    draw
        Called as ``draw(generator, asked, seed)``; returns counts, one row for each of those asked.
    ignores
        Conditions that it cannot be given; its cells come without them.
    sees_test
        Whether it is given the test cells themselves and not only their conditions, which makes
        it a reference and not a rival.
    """

    draw: Callable[[Any, Any, int], sparse.csr_matrix]
    ignores: tuple[str, ...] = ()
    sees_test: bool = False


class Generator(ABC):
    """A model, and by name the ways of drawing cells from it."""

    methods: Mapping[str, Method]
    trains_for: float | None = None
    """Training time as a multiple of scldm's; ``None`` where the recipe has its own length."""

    @abstractmethod
    def fit(self, train: ad.AnnData, seed: int, reference: float) -> None:
        """Learn from cells.

        Parameters
        ----------
        train
            Cells with counts in ``X``; every column of ``obs`` is a condition.
        seed
            Seed of the training.
        reference
            Seconds of the processor in which scldm learned from these cells.
        """

    def generate(self, name: str, test: ad.AnnData, seed: int) -> ad.AnnData:
        """Draw as many cells as ``test`` has, under the same conditions.

        Parameters
        ----------
        name
            One of :attr:`methods`.
        test
            Cells of which only references see more than ``obs``.
        seed
            Seed of the draw.
        """
        method = self.methods[name]
        obs = test.obs.drop(columns=list(method.ignores), errors="ignore")
        counts = method.draw(self, test if method.sees_test else obs, seed)
        cells = ad.AnnData(counts.astype(np.float32), obs=obs.reset_index(drop=True))
        cells.var_names = test.var_names
        cells.obs_names = [f"generated_{i}" for i in range(cells.n_obs)]
        return cells

    def measure(self, obs: pd.DataFrame, seed: int) -> dict[str, float]:
        """Return what else is worth a column: ratios of times, numbers of steps."""
        return {}


class Strata:
    """Finds the training cells that match what is asked for.

    Those with all of its conditions, or, where fewer than five have them, with the first.

    Parameters
    ----------
    obs
        Conditions of the training cells; without columns, all cells match.
    """

    def __init__(self, obs: pd.DataFrame) -> None:
        self.obs = obs.astype(str).reset_index(drop=True)

    def groups(self, asked: pd.DataFrame) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield rows of ``asked`` with the same conditions, and the training rows that match."""
        names = list(self.obs)
        if not names:
            yield np.arange(len(asked)), np.arange(len(self.obs))
            return
        wanted = asked[names].astype(str).reset_index(drop=True)
        for _, part in wanted.groupby(names, sort=False):
            same = self.obs == part.iloc[0]
            rows = np.flatnonzero(same.all(axis=1))
            if len(rows) < FEWEST:
                rows = np.flatnonzero(same[names[0]])
            yield part.index.to_numpy(), rows

    def draw(self, asked: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
        """Draw a training row for each row of ``asked``."""
        drawn = np.empty(len(asked), dtype=int)
        for positions, rows in self.groups(asked):
            drawn[positions] = rng.choice(rows, len(positions))
        return drawn
