"""Whole cells from noise, and cells of which a batch lacks a modality."""

from __future__ import annotations

from collections.abc import Iterator

import mudata as md
import numpy as np
import scvi
import torch
from sklearn.decomposition import PCA

import scldm
from scldm.metrics import classifier_auc, gene_moments, wasserstein2
from scldm.metrics import translation as metrics

from .predictors import N_SAMPLES, proteins_of
from .tasks import Task, counts_of, normalised, trained

__all__ = ["joint_rows", "missing_rows"]

N_COMPONENTS = 20

Cells = dict[str, np.ndarray]


def joint_rows(task: Task) -> Iterator[dict[str, object]]:
    """Cells from noise against test cells, all modalities together.

    Axes are fitted on a half of the training cells; the floor is drawn from the other half.
    """
    train, test, seed = task.train, task.test, task.seed
    rng = np.random.default_rng(seed)
    order = rng.permutation(train.n_obs)
    axes, floor = order[: len(order) // 2], order[len(order) // 2 :]
    n = min(test.n_obs, len(floor))
    real = _cells(test)
    judge = _Judge(_some(_cells(train), axes), _some(real, rng.permutation(test.n_obs)[:n]))
    yield {"method": "floor", **judge(_some(_cells(train), floor[:n]))}
    yield {"method": "scldm", **judge(_cells(task.model.generate(n, seed=seed)))}
    if set(train.mod) == {"rna", "protein"}:
        yield {"method": "totalVI, N(0, I)", **judge(_prior_of_totalvi(task, n))}


def _cells(mdata: md.MuData) -> Cells:
    return {name: counts_of(mdata, name) for name in mdata.mod}


def _some(cells: Cells, rows: np.ndarray) -> Cells:
    return {name: x[rows] for name, x in cells.items()}


class _Judge:
    """Scores of generated cells, on axes of cells that stand on neither side."""

    def __init__(self, for_axes: Cells, real: Cells) -> None:
        self.real = real
        self.axes = {
            name: PCA(min(N_COMPONENTS, x.shape[1], len(x)), random_state=0).fit(
                normalised(x, name)
            )
            for name, x in for_axes.items()
        }

    def _components(self, cells: Cells) -> Cells:
        return {
            name: pca.transform(normalised(cells[name], name)) for name, pca in self.axes.items()
        }

    def __call__(self, cells: Cells) -> dict[str, float]:
        values = {name: normalised(x, name) for name, x in cells.items()}
        true = {name: normalised(x, name) for name, x in self.real.items()}
        first, second = list(values)[:2]
        here, there = self._components(self.real), self._components(cells)
        row = {
            "joint_energy": metrics.joint_energy(here, there),
            "cross_correlation_error": metrics.cross_correlation_error(
                (true[first], true[second]), (values[first], values[second])
            ),
        }
        for name in values:
            row[f"w2_{name}"] = wasserstein2(here[name], there[name])
            row[f"auc_{name}"] = classifier_auc(true[name], values[name])
            moments = [gene_moments(side[name]) for side in (self.real, cells)]
            row[f"variance_ratio_{name}"] = float(
                moments[1].variance.sum() / moments[0].variance.sum()
            )
        return row


def _prior_of_totalvi(task: Task, n: int) -> Cells:
    """Return cells that totalVI's decoder makes of standard normal latents.

    Library sizes are those of training cells, as the model has no prior of them apart from the data's.
    """
    module = task.totalvi.module.eval()
    n_train = task.train.n_obs
    rng = np.random.default_rng(task.seed)
    torch.manual_seed(task.seed)
    sizes = counts_of(task.train, "rna").sum(axis=1)[rng.integers(n_train, size=n)]
    with torch.inference_mode():
        z = torch.randn(n, module.n_latent)
        outputs = module.generative(
            z=z,
            library_gene=torch.from_numpy(sizes)[:, None].float(),
            # the batch that has proteins
            batch_index=torch.ones(n, 1, dtype=torch.long),
            label=torch.zeros(n, 1, dtype=torch.long),
        )
        px, py = outputs["px_"], outputs["py_"]
        rna = scvi.distributions.NegativeBinomial(mu=px["rate"], theta=px["r"]).sample()
        protein = proteins_of(py)
    return {"rna": rna.numpy(), "protein": protein.numpy()}


def missing_rows(task: Task) -> Iterator[dict[str, object]]:
    """Proteins of test cells by a model of which half of the training cells lacked them."""
    if ("rna", "protein") not in task.directions:
        return
    train, seed = task.train, task.seed
    lacking = np.random.default_rng(seed).permutation(train.n_obs)[: train.n_obs // 2]
    lacking = np.sort(lacking)
    kept = np.setdiff1d(np.arange(train.n_obs), lacking)
    partial = md.MuData({"rna": train["rna"], "protein": train["protein"][kept].copy()})
    models = {"all have proteins": task.model, "half lack them": trained(partial, seed)}
    true = normalised(counts_of(task.test, "protein"), "protein")
    for name, model in models.items():
        yield {"method": name, "rmse": _rmse(model, task.test, true, seed)}
    unseen = normalised(counts_of(train, "protein")[lacking], "protein")
    cells = train[lacking].copy()
    rmse = _rmse(models["half lack them"], cells, unseen, seed)
    yield {"method": "half lack them, these cells", "rmse": rmse}


def _rmse(model: scldm.MultiLDM, cells: md.MuData, true: np.ndarray, seed: int) -> float:
    n = N_SAMPLES["protein"]
    drawn = model.translate(cells, source="rna", target="protein", n_samples=n, seed=seed)
    values = normalised(drawn.X.toarray(), "protein")
    return metrics.rmse(true, values.reshape(len(true), n, -1).mean(axis=1))
