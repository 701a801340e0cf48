"""Who answers: scldm's methods, simple baselines, and scGen where it is installed."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable

import anndata as ad
import numpy as np
import scanpy as sc
import scvi
from scipy import sparse

import scldm
from scldm import baselines

from .tasks import CONTROL, Question, Task

__all__ = ["PREDICTORS", "log_normalised"]

N_SAMPLES = 5
METHODS = ("flow", "delta", "arithmetic", "conditional", "inversion")
WITH_RESIDUALS = ("flow", "arithmetic")
SCGEN_EPOCHS = 100

Answers = dict[str, dict[str, np.ndarray]]
"""By method and question, predicted cells, log-normalised."""


def log_normalised(counts: np.ndarray | sparse.spmatrix) -> np.ndarray:
    """Scale cells to a total of 10,000 and take log(1 + x)."""
    dense = counts.toarray() if sparse.issparse(counts) else np.asarray(counts)
    return np.log1p(1e4 * dense / np.maximum(dense.sum(axis=1, keepdims=True), 1))


def ours(task: Task, seed: int) -> Answers:
    """All methods of scldm, by one model with default settings."""
    scvi.settings.seed = seed
    data = task.train.copy()
    keys = {f"{task.context}_key": task.context} if task.context else {}
    scldm.SCLDM.setup_anndata(data, perturbation_key="perturbation", **keys)
    model = scldm.SCLDM(data)
    model.train(enable_progress_bar=False)

    def cells(method: str, question: Question, **kept: bool) -> np.ndarray:
        control = data[question.control.obs_names].copy()
        made = model.predict_perturbation(
            control, question.perturbation, method=method, n_samples=N_SAMPLES, seed=seed, **kept
        )
        return log_normalised(made.X)

    ways = {f"scldm, {method}": {"method": method} for method in METHODS}
    ways |= {
        f"scldm, {method}, residuals kept": {"method": method, "keep_residuals": True}
        for method in WITH_RESIDUALS
    }
    return {
        title: {name: cells(question=q, **way) for name, q in task.questions.items()}
        for title, way in ways.items()
    }


def simple(task: Task, seed: int) -> Answers:
    """Means and additive changes of log-normalised expression."""
    kinds = {
        "perturbed mean": baselines.PerturbedMean(),
        "matching mean": baselines.MatchingMean(),
        "additive": baselines.Additive(),
    }
    return _answered(task, kinds)


def _answered(task: Task, kinds: dict[str, baselines.PerturbationBaseline]) -> Answers:
    x = log_normalised(task.train.X)
    context = task.train.obs[task.context] if task.context else None
    answers: Answers = {}
    for name, baseline in kinds.items():
        baseline.fit(x, task.train.obs["perturbation"], context)
        answers[name] = {
            asked: baseline.predict(log_normalised(q.control.X), q.perturbation)
            for asked, q in task.questions.items()
        }
    return answers


def members(task: Task, seed: int) -> Answers:
    """Regressions on the members of combinations, and the combination that shares most of them."""
    labels = sorted(set(task.train.obs["perturbation"]) - {CONTROL})
    parts = sorted({part for label in labels for part in label.split("+")})
    if not any("+" in label for label in labels):
        # of one member each, all are what the additive change is
        return {}
    unit = dict(zip(parts, np.eye(len(parts)), strict=True))
    kinds = {
        "ridge": baselines.Ridge(unit),
        "bilinear": baselines.Bilinear(unit),
        "nearest perturbation": baselines.NearestPerturbation(unit),
    }
    return _answered(task, kinds)


def scgen(task: Task, seed: int) -> Answers:
    """ScGen (Lotfollahi et al. 2019) as in its tutorial, where there is one perturbation."""
    labels = set(task.train.obs["perturbation"])
    if importlib.util.find_spec("pertpy") is None or len(labels) != 2 or task.context is None:
        return {}
    import pertpy

    logging.getLogger("scvi").setLevel(logging.ERROR)
    scvi.settings.seed = seed
    data = task.train.copy()
    sc.pp.normalize_total(data, target_sum=1e4)
    sc.pp.log1p(data)
    kind = pertpy.tl.Scgen
    kind.setup_anndata(data, batch_key="perturbation", labels_key=task.context)
    model = kind(data)
    model.train(
        max_epochs=SCGEN_EPOCHS,
        batch_size=32,
        early_stopping=True,
        early_stopping_patience=25,
        enable_progress_bar=False,
    )
    found = {}
    for name, question in task.questions.items():
        context = question.true.obs[task.context].iloc[0]
        predicted: ad.AnnData = model.predict(
            ctrl_key=CONTROL, stim_key=question.perturbation, celltype_to_predict=context
        )[0]
        found[name] = _dense(predicted.X)
    return {"scGen": found}


def _dense(x: np.ndarray | sparse.spmatrix) -> np.ndarray:
    return x.toarray() if sparse.issparse(x) else np.asarray(x)


PREDICTORS: dict[str, Callable[[Task, int], Answers]] = {
    "scldm": ours,
    "simple": simple,
    "members": members,
    "scgen": scgen,
}
"""By name; each makes rows of its own."""
