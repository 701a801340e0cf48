"""Rows of the table: predictions against what was measured, and against the law where it is known."""

from __future__ import annotations

import numpy as np

from scldm.metrics import energy_distance
from scldm.metrics import spatial as metrics
from scldm.metrics.translation import rmse

from .predictors import Answer
from .simulated import boundary
from .tasks import Task

__all__ = ["FLOOR", "floor", "score"]

Row = dict[str, float]

FLOOR = "real: another half"
REPEATS, MOST = 10, 1000
LEAST_SPREAD = 0.1
"""Of the expected values of a gene over places, where their pattern is asked for."""


def score(task: Task, answer: Answer) -> Row:
    """Return a row for an answer."""
    n = task.true.n_obs
    true, where = task.values(task.true.X), np.asarray(task.true.obsm[task.key], dtype=float)
    row = metrics.compare(
        true,
        answer.mean[:n],
        where,
        samples=answer.samples[:, :n],
        groups=task.column(task.sections, asked=True),
        seed=task.seed,
    )
    if task.known is not None:
        row |= _known(task, answer)
    return row | {"seconds": answer.seconds}


def floor(task: Task) -> Row:
    """Return the energy distance between halves of the places that were taken away."""
    true = task.values(task.true.X)
    section = task.column(task.sections, asked=True)
    section = np.zeros(len(true)) if section is None else section[: len(true)]
    rng = np.random.default_rng(task.seed)
    own = [true[section == name] for name in np.unique(section)]
    within = np.average([_halves(x, rng) for x in own], weights=[len(x) for x in own])
    return {"energy": _halves(true, rng), "energy_within": float(within)}


def _halves(x: np.ndarray, rng: np.random.Generator) -> float:
    """Return the energy distance between halves of cells, mean over several cuts."""
    size = min(len(x) // 2, MOST)
    cuts = [np.split(rng.permutation(len(x))[: 2 * size], 2) for _ in range(REPEATS)]
    return float(np.mean([energy_distance(x[first], x[second]) for first, second in cuts]))


def _known(task: Task, answer: Answer) -> Row:
    """Compare means with expected values, which have no noise of cells."""
    n = task.true.n_obs
    law = task.law
    varies = law[:n].std(axis=0) > LEAST_SPREAD
    pcc = metrics.gene_pcc(law[:n, varies], answer.mean[:n, varies])
    row = {"rmse_law": rmse(law[:n], answer.mean[:n]), "pcc_law": float(np.nanmean(pcc))}
    kind = task.known.cells.var.get("kind")
    every = np.ones(law.shape[1], dtype=bool)
    genes = every if kind is None else (kind == "gradient").to_numpy()
    row |= _gradient(law[:n, genes], answer.mean[:n, genes])
    if task.probes is not None:
        cells = task.known.cells
        row |= boundary(task.probes, cells, law[n:], answer.mean[n:])
    return row


def _gradient(law: np.ndarray, mean: np.ndarray) -> Row:
    """Return the median slope of predicted on expected values over genes, and the mean bias."""
    x, y = law - law.mean(axis=0), mean - mean.mean(axis=0)
    slope = (x * y).sum(axis=0) / np.square(x).sum(axis=0)
    bias = np.abs((mean - law).mean(axis=0)).mean()
    return {"gradient_slope": float(np.median(slope)), "gradient_bias": float(bias)}
