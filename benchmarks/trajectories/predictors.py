"""What draws the population of a time that was held out."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anndata as ad
import numpy as np
import scvi
import torch
from torch import nn

from scldm import SCLDM, baselines

from .rulers import Ruler, log_normalised
from .tasks import TIME, Task

__all__ = ["PREDICTORS", "Population", "encode", "fitted", "interpolated", "predicted"]

N_CELLS = 1000


@dataclass
class Population:
    """Cells that a method drew, in the spaces in which it knows them."""

    latent: np.ndarray | None = None
    pcs: np.ndarray | None = None
    counts: Any = None


def fitted(task: Task, seed: int) -> SCLDM:
    """Return a model whose autoencoder is trained on the cells of the other times."""
    scvi.settings.seed = seed
    SCLDM.setup_anndata(task.train, time_key=TIME)
    model = SCLDM(task.train)
    model.train_autoencoder(enable_progress_bar=False)
    return model


def encode(model: SCLDM, cells: ad.AnnData, seed: int = 0) -> np.ndarray:
    """Return a draw of each cell's latent."""
    torch.manual_seed(seed)
    return model.get_latent_representation(cells, give_mean=False)


def scldm(task: Task, model: SCLDM, ruler: Ruler, seed: int) -> dict[str, Population]:
    """Rollouts and the flow, from the cells of the time before."""
    scvi.settings.seed = seed
    model.train_trajectory(enable_progress_bar=False)
    return predicted(task, model, ("rollout", "flow"), seed)


def expected(task: Task, model: SCLDM, ruler: Ruler, seed: int) -> dict[str, Population]:
    """Components of what rollouts are expected to express, without the noise of counting."""
    if not model.trajectory_trained_:
        scvi.settings.seed = seed
        model.train_trajectory(enable_progress_bar=False)
    ((_, drawn),) = predicted(task, model, ("rollout",), seed).items()
    sizes = np.asarray(drawn.counts.sum(axis=1), dtype=float).ravel()
    means = model.decode(
        drawn.latent, np.maximum(sizes, 1), return_mean=True, seed=seed, time=task.time
    )
    return {"scldm, rollout, expected": Population(pcs=ruler.components(means))}


def marginal(task: Task, model: SCLDM, ruler: Ruler, seed: int) -> dict[str, Population]:
    """New cells of that time from the second stage."""
    scvi.settings.seed = seed
    model.train_diffusion(enable_progress_bar=False)
    new = model.generate(N_CELLS, time=task.time, seed=seed)
    return {"scldm, marginal": Population(new.obsm["X_scldm"], counts=new.X)}


def predicted(
    task: Task, model: SCLDM, methods: tuple[str, ...], seed: int
) -> dict[str, Population]:
    start = np.flatnonzero(task.train.obs[TIME] == task.before)
    copies = -(-N_CELLS // len(start))
    rng = np.random.default_rng(seed)
    found = {}
    for method in methods:
        new = model.predict_trajectory(
            task.train, task.time, indices=start, method=method, n_samples=copies, seed=seed
        )
        # paths stand for the descendants of a cell, where growth is known or estimated
        weight = new.obs["weight"].to_numpy() if "weight" in new.obs else np.ones(new.n_obs)
        rows = rng.choice(new.n_obs, new.n_obs, p=weight / weight.sum())
        found[f"scldm, {method}"] = Population(new.obsm["X_scldm"][rows], counts=new.X[rows])
    return found


def copies(task: Task, model: SCLDM, ruler: Ruler, seed: int) -> dict[str, Population]:
    """Real cells of other times, with their own counts."""
    time = task.train.obs[TIME].to_numpy()
    places = np.arange(task.train.n_obs)[:, None]
    latents = encode(model, task.train)
    found = {}
    for name, kind in (
        ("copy of the time before", baselines.PreviousTime),
        ("copy of the time after", baselines.NextTime),
        ("mixture", baselines.Mixture),
    ):
        rows = kind().fit(places, time).predict(task.time, N_CELLS, seed=seed)[:, 0].astype(int)
        found[name] = Population(latents[rows], counts=task.train.X[rows])
    return found


def interpolated(task: Task, model: SCLDM, ruler: Ruler, seed: int) -> dict[str, Population]:
    """Interpolation of latents with library sizes, decoded, and of components."""
    time = task.train.obs[TIME].to_numpy()
    sizes = np.log(np.asarray(task.train.X.sum(axis=1), dtype=float).reshape(-1, 1))
    cells = np.concatenate([encode(model, task.train), sizes], axis=1)
    scale = cells.std(axis=0)
    pcs = ruler.components(task.train.X)
    found = {}
    for name, kind in _interpolators(seed).items():
        new = kind().fit(cells / scale, time).predict(task.time, N_CELLS, seed=seed) * scale
        z, size = new[:, :-1], np.exp(np.clip(new[:, -1], sizes.min(), sizes.max()))
        counts = model.decode(z, size, seed=seed, time=task.time)
        found[f"{name}, latents"] = Population(z, counts=counts)
        drawn = kind().fit(pcs, time).predict(task.time, N_CELLS, seed=seed)
        found[f"{name}, PCs"] = Population(pcs=drawn)
    return found


def _interpolators(seed: int) -> dict[str, Callable[[], baselines.TrajectoryBaseline]]:
    found: dict[str, Callable[[], baselines.TrajectoryBaseline]] = {
        "independent midpoint": baselines.IndependentMidpoint,
        "McCann": baselines.McCann,
        "OT-CFM": baselines.OTCFM,
    }
    if importlib.util.find_spec("torchcfm") is not None:
        found["OT-CFM of torchcfm"] = lambda: TorchCFM(seed)
    return found


class TorchCFM(baselines.OTCFM):
    """OT-CFM by its authors' package, with the settings of their single-cell examples."""

    def __init__(self, seed: int, sigma: float = 0.1) -> None:
        super().__init__()
        self.seed = seed
        self.sigma = sigma

    def _learn(self) -> None:
        from torchcfm.conditional_flow_matching import ExactOptimalTransportConditionalFlowMatcher
        from torchcfm.models.models import MLP

        everything = np.concatenate(self._cells)
        self._shift, spread = everything.mean(axis=0), everything.std(axis=0)
        self._scale = np.where(spread > 0, spread, 1.0)
        cells = [torch.from_numpy((c - self._shift) / self._scale).float() for c in self._cells]
        torch.manual_seed(self.seed)
        np.random.seed(self.seed)
        matcher = ExactOptimalTransportConditionalFlowMatcher(sigma=self.sigma)
        network: nn.Module = MLP(dim=everything.shape[1], time_varying=True, w=self.width)
        optimizer = torch.optim.Adam(network.parameters(), self.lr)
        unit = self.times_[-1] - self.times_[0]
        starts = (self.times_ - self.times_[0]) / unit
        for _ in range(self.steps):
            points, slopes = [], []
            for k in range(len(cells) - 1):
                early, late = (
                    c[torch.randint(len(c), (self.batch_size,))] for c in cells[k : k + 2]
                )
                t, x, slope = matcher.sample_location_and_conditional_flow(early, late)
                length = starts[k + 1] - starts[k]
                when = (starts[k] + t * length).float()
                points.append(torch.cat([x, when[:, None]], dim=1))
                slopes.append(slope / length)
            loss = (network(torch.cat(points)) - torch.cat(slopes).float()).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        self._network = network


PREDICTORS = {
    "copies": copies,
    "interpolated": interpolated,
    "scldm": scldm,
    "expected": expected,
    "marginal": marginal,
}
"""Predictors by name; all share the autoencoder."""

__all__ += ["log_normalised"]
