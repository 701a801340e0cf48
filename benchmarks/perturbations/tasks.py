"""Perturbed cells that are held out, one task for each training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import scanpy as sc

__all__ = ["CONTROL", "TASKS", "Question", "Task"]

CONTROL = "control"
N_GENES = 2000
FEWEST = 45
N_KNOCKDOWNS = 3


@dataclass
class Question:
    """Control cells, a perturbation, and the cells that had it.

    Parameters
    ----------
    perturbation
        The label.
    control, true
        Cells of one context, with counts in ``X``.
    """

    perturbation: str
    control: ad.AnnData
    true: ad.AnnData


@dataclass
class Task:
    """Training cells and questions about cells that are not among them.

    Parameters
    ----------
    name
        What was held out.
    train
        Cells with counts in ``X`` and ``perturbation`` in ``obs``.
    context
        The column of ``obs`` within which perturbed and control cells are compared, if any.
    questions
        By name.
    """

    name: str
    train: ad.AnnData
    context: str | None
    questions: dict[str, Question]


def _read(path: Path, context: str | None) -> ad.AnnData:
    adata = ad.read_h5ad(path)
    columns = ["perturbation", *([context] if context else [])]
    adata.obs = adata.obs[columns].astype(str)
    adata.uns.clear()
    return adata


def _task(
    adata: ad.AnnData, name: str, context: str | None, held_out: dict[str, np.ndarray]
) -> Task:
    """Return a task.

    Parameters
    ----------
    adata
        All cells.
    name, context
        Of the task.
    held_out
        By the name of a question, which cells it is about; of one perturbation and context each.
    """
    out = np.logical_or.reduce(list(held_out.values()))
    train = adata[~out].copy()
    if train.n_vars > N_GENES:
        sc.pp.highly_variable_genes(train, n_top_genes=N_GENES, flavor="seurat_v3")
        train = train[:, train.var["highly_variable"].to_numpy()].copy()
    sc.pp.filter_cells(train, min_counts=1)
    questions = {}
    for asked, rows in held_out.items():
        true = adata[rows, train.var_names].copy()
        sc.pp.filter_cells(true, min_counts=1)
        control = train.obs["perturbation"] == CONTROL
        if context is not None:
            control &= train.obs[context] == true.obs[context].iloc[0]
        label = true.obs["perturbation"].iloc[0]
        questions[asked] = Question(label, train[control.to_numpy()].copy(), true)
    return Task(name, train, context, questions)


def one_context(path: Path, context: str, seed: int) -> Iterator[Task]:
    """One perturbation: each context's perturbed cells are held out in turn."""
    adata = _read(path, context)
    treated = (adata.obs["perturbation"] != CONTROL).to_numpy()
    for name in sorted(adata.obs[context].unique()):
        here = (adata.obs[context] == name).to_numpy()
        if min((here & treated).sum(), (here & ~treated).sum()) >= FEWEST:
            yield _task(adata, name, context, {name: here & treated})


def knockdowns_in_a_line(path: Path, context: str, seed: int) -> Iterator[Task]:
    """Many perturbations: three of them are held out of one cell line."""
    adata = _read(path, context)
    labels = sorted(set(adata.obs["perturbation"]) - {CONTROL})
    for i, line in enumerate(sorted(adata.obs[context].unique())):
        chosen = np.random.default_rng((seed, i)).choice(labels, N_KNOCKDOWNS, replace=False)
        here = (adata.obs[context] == line).to_numpy()
        rows = {
            f"{line}, {label}": here & (adata.obs["perturbation"] == label).to_numpy()
            for label in chosen
        }
        yield _task(adata, line, context, rows)


def combinations(path: Path, context: None, seed: int) -> Iterator[Task]:
    """Combinations of which every member was seen alone, held out in two halves.

    The other half tells how far combinations are from sums.
    """
    adata = _read(path, None)
    labels = set(adata.obs["perturbation"])
    known = [x for x in sorted(labels) if "+" in x and set(x.split("+")) <= labels]
    order = np.random.default_rng(seed).permutation(known)
    for i, chosen in enumerate(np.array_split(order, 2)):
        rows = {str(label): (adata.obs["perturbation"] == label).to_numpy() for label in chosen}
        yield _task(adata, f"combinations {i}", None, rows)


TASKS: dict[str, tuple[Callable[[Path, str | None, int], Iterator[Task]], str | None]] = {
    "kang2018_ifnb_labelled": (one_context, "cell_type"),
    "gbm_panobinostat": (one_context, "batch"),
    "norman2019_crispra": (combinations, None),
    "mcfaline2024_gbm_crispri": (knockdowns_in_a_line, "cell_type"),
    "kang2018_ifnb_2k": (one_context, "cell_type"),
}
"""By data set, what makes its tasks and the context of its cells."""
