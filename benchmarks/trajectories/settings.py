"""How cells are coupled, compared on cells that no other part of the benchmark scores.

Two differentiations of one sample each, cut into bins of their pseudotime.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scvi

from scldm import SCLDM
from scldm.diffusion import EntropicTransport, ExactTransport, Transport, UnbalancedTransport

from .predictors import encode, fitted, interpolated, predicted
from .rulers import Ruler
from .tasks import TIME, Task, tasks_of

__all__ = ["CHOICES", "setting_rows"]

PSEUDOTIMES = {"pancreas_e15": "pseudotime", "paul15_myeloid": "pseudotime_lineage1"}
N_BINS = 5
CHOICES: dict[str, Transport] = {
    "unbalanced (default)": UnbalancedTransport(),
    "unbalanced, epsilon 0.01": UnbalancedTransport(epsilon=0.01),
    "unbalanced, epsilon 0.2": UnbalancedTransport(epsilon=0.2),
    "unbalanced, slack 0.02": UnbalancedTransport(slack=0.02),
    "unbalanced, slack 0.1": UnbalancedTransport(slack=0.1),
    "unbalanced, slack 5": UnbalancedTransport(slack=5.0),
    "unbalanced, arrivals": UnbalancedTransport(later_slack=0.5),
    "entropic": EntropicTransport(),
    "exact": ExactTransport(),
}


def setting_rows(
    folder: Path, seed: int, done: Callable[..., bool]
) -> Iterator[dict[str, object]]:
    """Yield a row for each set, inner bin, choice and method, but for choices that are done."""
    for name, column in PSEUDOTIMES.items():
        for task in tasks_of(_binned(folder / f"{name}.h5ad", column), name, seed):
            about = {"data": name, "time": task.time}
            missing = [
                choice
                for choice in CHOICES
                if not done(**about, seed=seed, method=f"scldm, flow: {choice}")
            ]
            if not missing:
                continue
            model = fitted(task, seed)
            ruler = Ruler(task, lambda cells, model=model: encode(model, cells), seed)
            yield {**about, "method": "ceiling", **ruler.ceiling()}
            for method, found in interpolated(task, model, ruler, seed).items():
                if method.startswith("McCann"):
                    row = ruler.row(found.latent, found.pcs, found.counts)
                    yield {**about, "method": method, **row}
            for choice in missing:
                for method, row in _rows(task, model, ruler, seed, CHOICES[choice]):
                    yield {**about, "method": f"{method}: {choice}", **row}


def _rows(
    task: Task, model: SCLDM, ruler: Ruler, seed: int, transport: Transport
) -> Iterator[tuple[str, dict[str, float]]]:
    scvi.settings.seed = seed
    model.train_trajectory(transport=transport, enable_progress_bar=False)
    for method, found in predicted(task, model, ("rollout", "flow"), seed).items():
        yield method, ruler.row(found.latent, found.pcs, found.counts)


def _binned(path: Path, column: str) -> ad.AnnData:
    """Return cells with the mean pseudotime of their bin; those of no lineage are left out."""
    adata = ad.read_h5ad(path)
    time = adata.obs[column].astype(float)
    adata = adata[(time >= 0).to_numpy()].copy()
    time = adata.obs[column].astype(float)
    bins = pd.qcut(time, N_BINS, labels=False, duplicates="drop")
    adata.obs[TIME] = time.groupby(bins).transform("mean").round(6).to_numpy(np.float64)
    return adata
