"""What predicts expression at places that were not measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import anndata as ad
import numpy as np
import scvi

from scldm import SCLDM, baselines

from .tasks import Task

__all__ = ["PREDICTORS", "Answer"]

Array = np.ndarray

N_SAMPLES = 20
N_MEAN = 50
"""Draws that the model's mean is taken of."""
LABELS = "region mean (uses labels)"
TRUTH = "the truth"


@dataclass
class Answer:
    """Values at the places a task asks for.

    Parameters
    ----------
    method
        Who made them.
    mean
        Expected values, (n, n_genes).
    samples
        Draws, (n_samples, n, n_genes).
    seconds
        The processor's time, for training and drawing.
    """

    method: str
    mean: Array
    samples: Array
    seconds: float


def simple(task: Task) -> Iterator[Answer]:
    """Baselines, fitted on values of the training cells."""
    x = task.values(task.train.X)
    where = np.asarray(task.train.obsm[task.key], dtype=float)
    groups, new_groups = (task.column(task.sections, asked=a) for a in (False, True))
    labels, new_labels = (task.column(task.labels, asked=a) for a in (False, True))
    for name, make in _baselines(task).items():
        start = time.process_time()
        fitted = make().fit(where, x, groups=groups, labels=labels)
        mean = fitted.predict(task.asked, groups=new_groups, labels=new_labels)
        samples = fitted.sample(
            task.asked, N_SAMPLES, groups=new_groups, labels=new_labels, seed=task.seed
        )
        yield Answer(name, mean, samples, time.process_time() - start)


def _baselines(task: Task) -> dict[str, Callable[[], baselines.SpatialBaseline]]:
    found: dict[str, Callable[[], baselines.SpatialBaseline]] = {}
    if task.labels is not None:
        found[LABELS] = baselines.RegionMean
    if task.call == "impute_sections":
        for n in (1, 5):
            found[f"nearest section, {n} places"] = lambda n=n: baselines.NearestSection(n)
            found[f"blend of sections, {n} places"] = lambda n=n: baselines.SectionBlend(n)
    return found | {
        "nearest place": baselines.NearestPlace,
        "mean of 10 nearest": lambda: baselines.NeighbourMean(10),
        "mean of 50 nearest": lambda: baselines.NeighbourMean(50),
        "inverse distance": baselines.InverseDistance,
        "Gaussian kernel": baselines.GaussianKernel,
        "Gaussian process": baselines.GaussianProcess,
        "ridge": baselines.CoordinateRidge,
    }


def truth(task: Task) -> Iterator[Answer]:
    """New draws from the law of simulated counts: the best that can be."""
    if task.known is None:
        return
    start = time.process_time()
    samples = task.values(task.known.draw(task.asked, N_SAMPLES, seed=task.seed + 1))
    yield Answer(TRUTH, task.expected(task.seed + 2), samples, time.process_time() - start)


def scldm(task: Task) -> Iterator[Answer]:
    """Our model; its methods share what was trained, and each is given the time of it."""
    start = time.process_time()
    scvi.settings.seed = task.seed
    SCLDM.setup_anndata(task.train, spatial_key=task.key, batch_key=task.sections)
    model = SCLDM(task.train)
    model.train_autoencoder(enable_progress_bar=False)
    model.train_spatial(enable_progress_bar=False)
    trained = time.process_time() - start
    for name, ask in _asks(task, model).items():
        start = time.process_time()
        values = task.values(places_by_samples(ask(), len(task.asked)))
        samples = np.ascontiguousarray(values[:, :N_SAMPLES].swapaxes(0, 1))
        mean = values.mean(axis=1, dtype=float)
        yield Answer(name, mean, samples, trained + time.process_time() - start)


def _asks(task: Task, model: SCLDM) -> dict[str, Callable[[], ad.AnnData]]:
    """Return the calls of the model, by name of the method."""
    settings = {"n_samples": N_MEAN, "seed": task.seed}
    where = task.asked
    if task.call == "impute_sections":
        depth = float(where[0, 2])
        own = {"z": depth, "coordinates": where[:, :2], **settings}
        return {
            "scldm": lambda: model.impute_sections(**own),
            "scldm, depth as asked": lambda: model.impute_sections(adjacent=False, **own),
        }
    if task.sections is not None:
        settings["batch"] = task.column(task.sections, asked=True)
    found = {
        f"scldm, {method}": lambda method=method: model.impute_region(
            coordinates=where, method=method, **settings
        )
        for method in ("context", "coordinates", "inverse_distance")
    }
    if task.call == "super_resolve":
        # the same draws as those of `impute_region`, so it is one row
        found["scldm, context"] = lambda: model.super_resolve(coordinates=where, **settings)
    return found


def places_by_samples(drawn: ad.AnnData, n_places: int) -> Array:
    """Return counts of the model's draws, (n_places, n_samples, n_genes)."""
    sample, place = (drawn.obs[name].to_numpy().astype(int) for name in ("sample", "place"))
    counts = drawn.X[np.lexsort((sample, place))].toarray().astype(np.float32)
    return counts.reshape(n_places, -1, drawn.n_vars)


PREDICTORS: dict[str, Callable[[Task], Iterator[Answer]]] = {
    "truth": truth,
    "baselines": simple,
    "scldm": scldm,
}
"""Predictors by name."""
