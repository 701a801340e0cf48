"""Populations compared in latents, components and counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import ot
from scipy import sparse
from sklearn.decomposition import PCA

from scldm.metrics import energy_distance, gene_w1

from .tasks import Task

__all__ = ["Ruler", "log_normalised"]

Array = np.ndarray

N_COMPONENTS = 50
REPEATS, MOST = 10, 300


def log_normalised(counts: Any) -> Array:
    """Return log(1 + counts per ten thousand)."""
    dense = counts.toarray() if sparse.issparse(counts) else np.asarray(counts)
    return np.log1p(dense / np.maximum(dense.sum(axis=1, keepdims=True), 1) * 1e4)


class Ruler:
    """Compares drawn cells with halves of the true ones.

    Ten times the true cells are cut in halves at random: cells of a method, and the other half as the
    ceiling, are as many as there are in a half, 300 at most, since the Wasserstein distance of samples
    depends on their size.

    Parameters
    ----------
    task
        The task.
    encode
        Takes cells, returns draws of their latents.
    seed
        Of the halves.
    """

    def __init__(self, task: Task, encode: Callable[[Any], Array], seed: int) -> None:
        aside = log_normalised(task.ruler.X)
        components = min(N_COMPONENTS, *(n - 1 for n in aside.shape))
        self.pca = PCA(components, random_state=0).fit(aside)
        latents = encode(task.ruler)
        self.shift, self.scale = latents.mean(axis=0), latents.std(axis=0)
        self.true = {
            "latent": (encode(task.true) - self.shift) / self.scale,
            "pcs": self.components(task.true.X),
            "counts": np.asarray(task.true.X.toarray()),
        }
        n = task.true.n_obs
        rng = np.random.default_rng(seed)
        size = min(n // 2, MOST)
        self.halves = [np.split(rng.permutation(n)[: 2 * size], 2) for _ in range(REPEATS)]
        self.size = size
        self.seed = seed

    def components(self, counts: Any) -> Array:
        """Return principal components of log-normalised counts."""
        return self.pca.transform(log_normalised(counts))

    def row(
        self, latent: Array | None = None, pcs: Array | None = None, counts: Any = None
    ) -> dict[str, float]:
        """Return distances of drawn cells, as far as they are known in a space."""
        drawn: dict[str, Array] = {}
        if latent is not None:
            drawn["latent"] = (latent - self.shift) / self.scale
        if counts is not None:
            drawn["counts"] = counts.toarray() if sparse.issparse(counts) else np.asarray(counts)
            drawn["pcs"] = self.components(counts)
        if pcs is not None:
            drawn["pcs"] = pcs
        rng = np.random.default_rng(self.seed)
        parts = []
        for _, half in self.halves:
            rows = {
                space: cells[rng.choice(len(cells), self.size, replace=len(cells) < self.size)]
                for space, cells in drawn.items()
            }
            parts.append(self._distances(rows, half))
        return {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}

    def ceiling(self) -> dict[str, float]:
        """Return the distances of true cells from other true cells."""
        parts = [
            self._distances({space: cells[own] for space, cells in self.true.items()}, half)
            for own, half in self.halves
        ]
        return {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}

    def _distances(self, drawn: dict[str, Array], half: Array) -> dict[str, float]:
        found = {}
        for space, cells in drawn.items():
            true = self.true[space][half]
            if space == "counts":
                found["gene_w1"] = gene_w1(log_normalised(cells), log_normalised(true))
                continue
            cost = ot.dist(cells, true, "euclidean")
            found[f"w1_{space}"] = float(ot.emd2([], [], cost, numItermax=1_000_000))
            found[f"energy_{space}"] = energy_distance(cells, true)
            found[f"variance_{space}"] = cells.var(axis=0).sum() / true.var(axis=0).sum()
        return found
