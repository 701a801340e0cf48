"""Time courses with one time held out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import scanpy as sc

__all__ = ["TASKS", "TIME", "Task", "tasks", "tasks_of"]

TIME = "when"
N_GENES = 2000
RULER_SHARE = 0.2
TASKS = {
    "worm_embryo_timecourse": "time_bin",
    "mouse_retina_timecourse": "time",
    "a549_scicar_rna": "time",
}
"""Data sets, and the column whose values are one time each."""


@dataclass
class Task:
    """Cells of all times but one.

    Parameters
    ----------
    name
        The data set.
    time
        The time that is held out.
    train
        Cells of the other times to learn from.
    ruler
        Further cells of the other times, on which nothing but the axes of the comparison is fitted.
    true
        Cells of the held-out time.
    before
        The last time before it.
    """

    name: str
    time: float
    train: ad.AnnData
    ruler: ad.AnnData
    true: ad.AnnData
    before: float


def read(path: Path, column: str) -> ad.AnnData:
    """Return cells with the mean time of each value of a column in ``obs["when"]``."""
    adata = ad.read_h5ad(path)
    means = adata.obs.groupby(column, observed=True)["time"].mean().astype(float)
    adata.obs[TIME] = adata.obs[column].map(means).astype(float)
    return adata


def tasks(path: Path, column: str, seed: int, *, last: bool = False) -> Iterator[Task]:
    """Yield a task for each inner time, or one for the last.

    Genes are the 2,000 most variable ones of the training cells.

    Parameters
    ----------
    path
        File with counts in ``X``.
    column
        Column of ``obs`` whose values are one time each.
    seed
        Of the choice of cells for the ruler.
    last
        Whether to hold out the last time.
    """
    yield from tasks_of(read(path, column), path.stem, seed, last=last)


def tasks_of(adata: ad.AnnData, name: str, seed: int, *, last: bool = False) -> Iterator[Task]:
    """Yield the tasks of cells whose times are in ``obs["when"]``."""
    times = np.unique(adata.obs[TIME])
    rng = np.random.default_rng(seed)
    for k in [len(times) - 1] if last else range(1, len(times) - 1):
        held = (adata.obs[TIME] == times[k]).to_numpy()
        rest = adata[~held].copy()
        if rest.n_vars > N_GENES:
            scaled = sc.pp.log1p(sc.pp.normalize_total(rest, target_sum=1e4, copy=True), copy=True)
            genes = sc.pp.highly_variable_genes(scaled, n_top_genes=N_GENES, inplace=False)
            keep = genes["highly_variable"].to_numpy()
        else:
            keep = np.ones(rest.n_vars, dtype=bool)
        rest, true = rest[:, keep].copy(), adata[held][:, keep].copy()
        for cells in (rest, true):
            sc.pp.filter_cells(cells, min_counts=1)
        aside = rng.random(rest.n_obs) < RULER_SHARE
        train, ruler = rest[~aside].copy(), rest[aside].copy()
        yield Task(name, float(times[k]), train, ruler, true, float(times[k - 1]))
