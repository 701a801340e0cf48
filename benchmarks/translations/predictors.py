"""What translates modalities: this package, simple baselines, totalVI."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import scvi
from scipy import sparse

from scldm.baselines import (
    FeatureMean,
    KernelRidgeTranslation,
    NearestCells,
    RidgeTranslation,
    TranslationBaseline,
)

from .tasks import Task, counts_of, normalised

__all__ = ["N_SAMPLES", "PREDICTORS", "Answer", "fit_totalvi"]

N_SAMPLES = {"protein": 100, "rna": 100, "atac": 30}
SCVI_EPOCHS = 400


class Answer(NamedTuple):
    """One method's translation: means ``(n, p)`` and samples ``(s, n, p)`` on the scale of comparison."""

    source: str
    target: str
    method: str
    mean: np.ndarray
    samples: np.ndarray
    seconds: float


def ours(task: Task) -> Iterator[Answer]:
    """One model for all directions."""
    start = time.process_time()
    model = task.model
    spent = time.process_time() - start
    for source, target in task.directions:
        start, n = time.process_time(), N_SAMPLES[target]
        asked = {"source": source, "target": target, "seed": task.seed}
        drawn = model.translate(task.test, n_samples=n, **asked)
        values = normalised(drawn.X.toarray(), target)
        samples = values.reshape(task.test.n_obs, n, -1).swapaxes(0, 1)
        mean = samples.mean(axis=0)
        if target == "atac":
            # there the expectation needs no draws of counts
            mean = model.translate(task.test, n_samples=100, return_mean=True, **asked).X
        yield Answer(source, target, "scldm", mean, samples, spent + time.process_time() - start)


def simple(task: Task) -> Iterator[Answer]:
    """Baselines, which learn on the scale of comparison."""
    methods: dict[str, Callable[[], TranslationBaseline]] = {
        "mean": FeatureMean,
        "kNN": NearestCells,
        "ridge": RidgeTranslation,
        "kernel ridge": KernelRidgeTranslation,
    }
    for source, target in task.directions:
        x, y = (normalised(counts_of(task.train, m), m) for m in (source, target))
        new = normalised(counts_of(task.test, source), source)
        for name, kind in methods.items():
            start = time.process_time()
            fitted = kind().fit(x, y)
            samples = fitted.sample(new, N_SAMPLES[target], task.seed).astype(np.float32)
            mean = fitted.predict(new)
            yield Answer(source, target, name, mean, samples, time.process_time() - start)


def totalvi(task: Task) -> Iterator[Answer]:
    """Proteins of cells in a batch without them, as its authors impute them."""
    if ("rna", "protein") not in task.directions:
        return
    start = time.process_time()
    model, n_train = fit_totalvi(task)
    n = N_SAMPLES["protein"]
    _, rates = model.get_normalized_expression(
        indices=np.arange(n_train, model.adata.n_obs),
        n_samples=n,
        transform_batch="train",
        include_protein_background=True,
        scale_protein=False,
        return_mean=False,
        return_numpy=True,
    )
    rates = (
        rates.reshape(task.test.n_obs, -1, n)
        if rates.shape[-1] == n
        else np.moveaxis(rates, 0, -1)
    )
    theta = model.module.py_r.detach().exp().numpy().reshape(-1)[None, :, None]
    rng = np.random.default_rng(task.seed)
    counts = rng.poisson(rng.gamma(theta, np.maximum(rates, 1e-8) / theta))
    samples = np.moveaxis(normalised(counts, "protein"), -1, 0)
    seconds = time.process_time() - start
    yield Answer("rna", "protein", "totalVI", samples.mean(axis=0), samples, seconds)


def fit_totalvi(task: Task) -> tuple[Any, int]:
    """Return a trained totalVI, which saw the RNA of all cells, and the number of training cells."""
    parts = {"train": task.train, "test": task.test}
    joined = ad.AnnData(
        sparse.vstack([sparse.csr_matrix(m["rna"].X) for m in parts.values()], format="csr"),
        obs=pd.DataFrame(
            {"batch": np.repeat(list(parts), [m.n_obs for m in parts.values()])},
            index=[name for m in parts.values() for name in m.obs_names],
        ),
    )
    known = counts_of(task.train, "protein")
    joined.obsm["protein"] = np.vstack(
        [known, np.zeros((task.test.n_obs, known.shape[1]), np.float32)]
    )
    scvi.model.TOTALVI.setup_anndata(
        joined, batch_key="batch", protein_expression_obsm_key="protein"
    )
    scvi.settings.seed = task.seed
    model = scvi.model.TOTALVI(joined)
    model.train(max_epochs=SCVI_EPOCHS, enable_progress_bar=False)
    return model, task.train.n_obs


PREDICTORS: dict[str, Callable[[Task], Iterator[Answer]]] = {
    "scldm": ours,
    "simple": simple,
    "totalvi": totalvi,
}
"""What answers the tasks of a data set, by name."""
