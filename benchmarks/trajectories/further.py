"""Fates whose truth is known: by simulation, and by the recorded lineage of the worm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import scvi
from scipy.stats import rankdata
from sklearn.neighbors import NearestNeighbors

from scldm import SCLDM, baselines
from scldm.data import simulate_branching
from scldm.diffusion import EntropicTransport, UnbalancedTransport
from scldm.metrics import energy_distance

from .rulers import log_normalised
from .tasks import N_GENES, TIME, read

__all__ = ["branching_rows", "lineage_rows"]

N_BINS, FEWEST = 10, 20
N_SAMPLES = 50
TERMINAL = "580-650"
MAY_BECOME = {
    "ADL_parent": {"ADL"},
    "Neuroblast_ASG_AWA": {"ASG", "AWA"},
    "ASG_AWA": {"ASG", "AWA"},
    "AWB": {"AWB"},
    "AWC": {"AWC"},
    "ADL": {"ADL"},
    "ASG": {"ASG"},
    "AWA": {"AWA"},
}
"""Which types a cell type of the C. elegans embryo can become (Sulston et al. 1983; Packer et al. 2019)."""


def branching_rows(seed: int) -> Iterator[dict[str, object]]:
    """Yield what is recovered of a simulated branch, with growth given, estimated or left out."""
    adata = simulate_branching(400, seed=seed)
    scvi.settings.seed = seed
    SCLDM.setup_anndata(adata, time_key="time")
    model = SCLDM(adata)
    model.train_autoencoder(enable_progress_bar=False)
    branch = adata.uns["branching"]["branch_time"]
    early = np.flatnonzero(adata.obs["time"] < branch)
    truth = adata.obs["p_A"].to_numpy()[early]
    for name, settings in {
        "growth estimated": {},
        "growth given": {"growth_key": "growth"},
        "growth left out": {"transport": "entropic"},
    }.items():
        scvi.settings.seed = seed
        model.train_trajectory(enable_progress_bar=False, **settings)
        fates = model.fate_probabilities(targets="fate", n_samples=N_SAMPLES, seed=seed)
        p = fates["probability", "A"].to_numpy()[early]
        points = model.branch_points("fate", n_samples=N_SAMPLES, seed=seed)
        found = float(points.table["time"].iloc[0])
        drivers = model.driver_genes(fates)
        role = adata.var["role"].to_numpy()
        row = {
            "method": f"scldm, {name}",
            "calibration_error": calibration_error(p, truth),
            "correlation": np.corrcoef(p, truth)[0, 1],
            "branch_time_error": abs(found - branch) / np.ptp(adata.obs["time"]),
        }
        for fate in ("A", "B"):
            score = drivers.loc[fate].reindex(adata.var_names)["correlation"].to_numpy()
            row[f"driver_auroc_{fate}"] = auroc(score, role == fate)
        yield row
    yield from _middle(adata, branch, seed)


def _middle(adata: ad.AnnData, branch: float, seed: int) -> Iterator[dict[str, object]]:
    """Yield distances at a time in the midst of the branch that is held out with its neighbours."""
    times = np.unique(adata.obs["time"])
    held = times[times > branch][1]
    out = np.isin(adata.obs["time"], times[np.abs(times - held) <= 1])
    train, true = adata[~out].copy(), adata[adata.obs["time"] == held].copy()
    before = train.obs["time"][train.obs["time"] < held].max()
    scvi.settings.seed = seed
    SCLDM.setup_anndata(train, time_key="time")
    model = SCLDM(train)
    model.train_autoencoder(enable_progress_bar=False)
    model.train_trajectory(enable_progress_bar=False)
    truth = model.get_latent_representation(true, give_mean=False)
    latents = model.get_latent_representation(give_mean=False)
    scale = latents.std(axis=0)
    time = train.obs["time"].to_numpy()
    start = np.flatnonzero(time == before)
    new = model.predict_trajectory(train, held, indices=start, n_samples=5, seed=seed)
    share = new.obs["weight"].to_numpy() / new.obs["weight"].sum()
    rows = np.random.default_rng(seed).choice(new.n_obs, new.n_obs, p=share)
    populations = {
        "scldm, rollout": new.obsm["X_scldm"][rows],
        "mixture": baselines.Mixture().fit(latents, time).predict(held),
        "McCann": baselines.McCann().fit(latents, time).predict(held),
    }
    for name, cells in populations.items():
        yield {
            "method": f"middle time, {name}",
            "energy": energy_distance(cells / scale, truth / scale),
        }


def calibration_error(p: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean gap of predicted and true probability in ten bins, weighted by cells."""
    part = np.clip((p * N_BINS).astype(int), 0, N_BINS - 1)
    table = pd.DataFrame({"part": part, "gap": p - truth}).groupby("part")["gap"]
    return float((table.mean().abs() * table.size()).sum() / len(p))


def auroc(score: np.ndarray, positive: np.ndarray) -> float:
    """Return the chance that a positive one scores higher than another."""
    ranks = rankdata(score)
    n, m = positive.sum(), (~positive).sum()
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m))


def lineage_rows(path: Path, seed: int) -> Iterator[dict[str, object]]:
    """Yield how much of early worm cells' fates goes to what their lineage can become."""
    adata = read(path, "time_bin")
    end = float(adata.obs.loc[adata.obs["time_bin"] == TERMINAL, TIME].iloc[0])
    adata = adata[adata.obs[TIME] <= end].copy()
    scaled = sc.pp.log1p(sc.pp.normalize_total(adata, target_sum=1e4, copy=True), copy=True)
    genes = sc.pp.highly_variable_genes(scaled, n_top_genes=N_GENES, inplace=False)
    adata = adata[:, genes["highly_variable"].to_numpy()].copy()
    # what is a fate must be a type that no longer divides
    fates = sorted(set.union(*MAY_BECOME.values()) & set(adata.obs["cell_type"].astype(str)))
    scvi.settings.seed = seed
    SCLDM.setup_anndata(adata, time_key=TIME)
    model = SCLDM(adata)
    model.train_autoencoder(enable_progress_bar=False)
    last = (adata.obs[TIME] == end).to_numpy()
    kinds = adata.obs["cell_type"].astype(str).to_numpy()
    fates = [fate for fate in fates if (kinds[last] == fate).sum() >= 5]
    early = (adata.obs[TIME] < np.unique(adata.obs[TIME])[2]).to_numpy()
    early &= np.isin(kinds, [k for k, v in MAY_BECOME.items() if v & set(fates)])
    right = np.array([[fate in MAY_BECOME[kind] for fate in fates] for kind in kinds[early]])
    scvi.settings.seed = seed
    for name, rule in {
        "unbalanced": UnbalancedTransport(),
        "unbalanced, arrivals allowed": UnbalancedTransport(later_slack=0.5),
        "entropic": EntropicTransport(),
    }.items():
        model.train_trajectory(transport=rule, enable_progress_bar=False)
        p = model.fate_probabilities(
            targets="cell_type",
            at=end,
            fates=fates,
            indices=np.flatnonzero(early),
            n_samples=N_SAMPLES,
            seed=seed,
        )["probability"][fates].to_numpy()
        yield {"method": f"scldm, {name}", **_scores(p, right)}
    at_end = last & np.isin(kinds, fates)
    share = np.array([(kinds[at_end] == fate).mean() for fate in fates])
    yield {"method": "chance", **_scores(np.tile(share, (early.sum(), 1)), right)}
    for space, x in (
        ("latents", model.get_latent_representation()),
        ("PCs", sc.pp.pca(log_normalised(adata.X), n_comps=50)),
    ):
        p = _nearest(x, adata.obs[TIME].to_numpy(), end, kinds, fates)[early]
        yield {"method": f"nearest neighbours, {space}", **_scores(p, right)}


def _nearest(
    x: np.ndarray, time: np.ndarray, end: float, kinds: np.ndarray, fates: list[str], k: int = 15
) -> np.ndarray:
    """Return fates by passing them back from time to time, each cell from its nearest later ones."""
    p = np.zeros((len(x), len(fates)))
    times = np.unique(time)
    here = np.flatnonzero((time == end) & np.isin(kinds, fates))
    p[here] = kinds[here, None] == np.array(fates)
    for t in times[times < end][::-1]:
        own = np.flatnonzero(time == t)
        near = NearestNeighbors(n_neighbors=min(k, len(here))).fit(x[here])
        p[own] = p[here[near.kneighbors(x[own], return_distance=False)]].mean(axis=1)
        here = own
    return p


def _scores(p: np.ndarray, right: np.ndarray) -> dict[str, float]:
    """Return the mean probability of right fates, and how often the likeliest is right."""
    best = right[np.arange(len(p)), p.argmax(axis=1)]
    return {"right_probability": float((p * right).sum(axis=1).mean()), "right_best": best.mean()}
