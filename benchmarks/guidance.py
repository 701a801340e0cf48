"""Guidance: types against diversity on real cells, and two conditions composed on simulated ones.

    python benchmarks/guidance.py --data DIR [--quick]

On pbmc3k: F1 of the type that cells were asked for, by a classifier of real training
cells, against recall, the share of real test cells among neighbours of generated ones, as the
guidance scale grows; plain, in a limited interval of times, and rescaled. On simulated cells: a
type and a perturbation, each with genes of its own; the share of cells asked for with both that
express both sets of genes, with plain conditioning and with a scale for each condition, where
training cells have the combination and where none has. Rows are kept as they finish.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scvi
from common import Results, split
from scipy import sparse

import scldm

NAME, LABEL = "pbmc3k", "cell_type"
SCALES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0)
WAYS = {
    "plain": {},
    "times 0.2 to 0.8": {"guidance_interval": (0.2, 0.8)},
    "rescaled by 0.7": {"guidance_rescale": 0.7},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data sets")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--quick", action="store_true", help="one seed")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    seeds = range(1 if args.quick else 3)
    scales = Results(args.out / "guidance.csv", ["seed", "way", "scale"])
    composed = Results(args.out / "composition.csv", ["seed", "combination", "way"])
    for seed in seeds:
        compose(composed, seed)
    for seed in seeds:
        real_cells(scales, args.data / f"{NAME}.h5ad", seed)
    report(scales, composed, args.out)


def real_cells(results: Results, path: Path, seed: int) -> None:
    """Add the rows of one seed."""
    if results.has(seed=seed, way=list(WAYS)[-1], scale=SCALES[-1]):
        return
    train, test = split(path, seed)
    projection = scldm.metrics.Projection(30).fit(train.X)
    points = projection.transform(test.X)
    fidelity = scldm.metrics.LabelFidelity().fit(projection.transform(train.X), train.obs[LABEL])
    rows = np.sort(np.random.default_rng(seed).permutation(train.n_obs)[: test.n_obs])
    floor = scldm.metrics.precision_recall(points, projection.transform(train[rows].X))
    ceiling = fidelity.score(points, test.obs[LABEL])
    results.add(seed=seed, way="real cells", scale=np.nan, label_f1=ceiling, **floor._asdict())
    scvi.settings.seed = seed
    data = train.copy()
    scldm.SCLDM.setup_anndata(data, cell_type_key=LABEL)
    model = scldm.SCLDM(data)
    model.train(enable_progress_bar=False)
    labels = test.obs[LABEL].tolist()
    for way, options in WAYS.items():
        for scale in SCALES:
            if scale == 1 and options:
                # without guidance there is no interval and nothing to rescale
                continue
            cells = model.generate(cell_type=labels, seed=seed, guidance_scale=scale, **options)
            made = projection.transform(cells.X)
            row = scldm.metrics.precision_recall(points, made)._asdict()
            row["label_f1"] = fidelity.score(made, labels)
            results.add(seed=seed, way=way, scale=scale, **row)
            print(seed, way, scale, {k: round(v, 3) for k, v in row.items()}, flush=True)


def simulated(n: int, rng: np.random.Generator, kind: str, treated: bool) -> ad.AnnData:
    """Return cells whose type raises genes 0 to 19 and whose perturbation raises 20 to 39."""
    logits = np.tile(np.linspace(-1, 1, 100), (n, 1))
    logits[:, :20] += 1.5 * (kind == "B")
    logits[:, 20:40] += 1.5 * treated
    logits += 0.3 * rng.normal(size=(n, 1)) * np.sin(np.arange(100))
    scale = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    mu = rng.lognormal(7, 0.3, (n, 1)) * scale
    counts = rng.poisson(rng.gamma(5.0, mu / 5.0)).astype(np.float32)
    obs = pd.DataFrame({"type": kind, "guide": "drug" if treated else "control"}, index=range(n))
    return ad.AnnData(sparse.csr_matrix(counts), obs=obs.set_index(obs.index.astype(str)))


def expresses(cells: ad.AnnData, cut: tuple[float, float]) -> np.ndarray:
    """Say for each set of genes which cells express it, ``(n, 2)``."""
    x = cells.X.toarray()
    share = np.log1p(1e4 * x / x.sum(1, keepdims=True))
    return np.stack([share[:, :20].mean(1) > cut[0], share[:, 20:40].mean(1) > cut[1]], axis=1)


def compose(results: Results, seed: int) -> None:
    """Add the rows of one simulation, with and without the combination in the training cells."""
    if results.has(seed=seed, combination="left out", way="scales of 2"):
        return
    rng = np.random.default_rng(seed)
    pairs = [("A", False), ("A", True), ("B", False), ("B", True)]
    parts = {(kind, treated): simulated(600, rng, kind, treated) for kind, treated in pairs}
    cut = cuts(parts)
    truth = simulated(600, rng, "B", True)
    for combination, seen in (("in the data", pairs), ("left out", pairs[:3])):
        train = ad.concat([parts[pair] for pair in seen], index_unique="-")
        scvi.settings.seed = seed
        scldm.SCLDM.setup_anndata(train, cell_type_key="type", perturbation_key="guide")
        model = scldm.SCLDM(train)
        model.train(enable_progress_bar=False)
        for way, cells in composed_cells(model, truth, seed).items():
            on = expresses(cells, cut)
            row = {"type": on[:, 0].mean(), "perturbation": on[:, 1].mean()}
            row["both"] = on.all(axis=1).mean()
            results.add(seed=seed, combination=combination, way=way, **row)
            print(seed, combination, way, row, flush=True)


def composed_cells(model: scldm.SCLDM, truth: ad.AnnData, seed: int) -> dict[str, ad.AnnData]:
    """Return cells of type B with the drug, asked for in several ways."""
    scales = {
        "plain": 1.0,
        "one scale of 2": 2.0,
        "scales of 1": {"cell_type": 1.0, "perturbation": 1.0},
        "scales of 2": {"cell_type": 2.0, "perturbation": 2.0},
    }
    made = {
        way: model.generate(
            truth.n_obs, cell_type="B", perturbation="drug", seed=seed, guidance_scale=scale
        )
        for way, scale in scales.items()
    }
    return {"true cells": truth, **made}


def cuts(parts: dict[tuple[str, bool], ad.AnnData]) -> tuple[float, ...]:
    """Return for each set of genes the level halfway between cells with and without it."""

    def level(pair: tuple[str, bool], genes: slice) -> float:
        x = parts[pair].X.toarray()
        return np.log1p(1e4 * x / x.sum(1, keepdims=True))[:, genes].mean()

    raised = ((("B", False), slice(0, 20)), (("A", True), slice(20, 40)))
    return tuple((level(("A", False), genes) + level(pair, genes)) / 2 for pair, genes in raised)


def report(scales: Results, composed: Results, out: Path) -> None:
    """Print both tables, write them as Markdown, and draw the figure."""
    table = scales.table(["way", "scale"]).reset_index()
    real = scales.rows[scales.rows["way"] == "real cells"].mean(numeric_only=True)
    n = scales.rows["seed"].nunique()
    text = (
        f"## {NAME}, mean of {n} seeds\n\n"
        f"Real training cells: F1 {real['label_f1']:.3f}, precision {real['precision']:.3f}, "
        f"recall {real['recall']:.3f}.\n\n{table.round(3).to_markdown(index=False)}\n\n"
        "## Simulated: share of cells that express the genes of the type, of the perturbation, "
        f"of both\n\n{composed.table(['combination', 'way']).round(3).to_markdown()}\n"
    )
    print(text)
    (out / "guidance.md").write_text(text)
    figure, ax = plt.subplots(figsize=(6.5, 4.5))
    for way, part in table[table["way"] != "real cells"].groupby("way", sort=False):
        part = part[part["scale"] >= 0.5].sort_values("scale")
        ax.plot(part["recall"], part["label_f1"], ".-", label=way)
        for _, point in part.iterrows():
            ax.annotate(f"{point['scale']:g}", (point["recall"], point["label_f1"]), fontsize=7)
    ax.plot(real["recall"], real["label_f1"], "k*", ms=10, label="real training cells")
    ax.set(xlabel="recall (diversity)", ylabel="F1 of the type asked for", title="guidance scale")
    ax.legend()
    figure.tight_layout()
    figure.savefig(out / "guidance.png", dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
