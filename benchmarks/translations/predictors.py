"""What translates modalities: this package, simple baselines, totalVI."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import scvi
import torch

from scldm.baselines import (
    FeatureMean,
    KernelRidgeTranslation,
    NearestCells,
    RidgeTranslation,
    TranslationBaseline,
)

from .tasks import Task, counts_of, normalised

__all__ = ["N_SAMPLES", "PREDICTORS", "Answer", "proteins_of"]

N_SAMPLES = {"protein": 100, "rna": 100, "atac": 30}


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
    model, n_train = task.totalvi, task.train.n_obs
    n = N_SAMPLES["protein"]
    rows = np.arange(n_train, model.adata.n_obs)
    counts = []
    # as `get_normalized_expression(transform_batch=...)` does, but for draws in place of means
    for tensors in model._make_data_loader(adata=model.adata, indices=rows, batch_size=256):
        with torch.inference_mode():
            _, outputs = model.module.forward(
                tensors,
                inference_kwargs={"n_samples": n},
                generative_kwargs={"transform_batch": 1},
                compute_loss=False,
            )
        counts.append(proteins_of(outputs["py_"]).numpy())
    samples = normalised(np.concatenate(counts, axis=1), "protein")
    seconds = time.process_time() - start
    yield Answer("rna", "protein", "totalVI", samples.mean(axis=0), samples, seconds)


def proteins_of(parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Draw counts of proteins from what totalVI's decoder returns."""
    return scvi.distributions.NegativeBinomialMixture(
        mu1=parameters["rate_back"],
        mu2=parameters["rate_fore"],
        theta1=parameters["r"],
        mixture_logits=parameters["mixing"],
    ).sample()


PREDICTORS: dict[str, Callable[[Task], Iterator[Answer]]] = {
    "scldm": ours,
    "simple": simple,
    "totalvi": totalvi,
}
"""What answers the tasks of a data set, by name."""
