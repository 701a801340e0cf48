"""Generated cells of each type against real test cells, beside scVI's.

    python benchmarks/generation.py --data DIR [--quick]

Prints a table for each data set, averaged over seeds, and writes it beside the rows as Markdown.
On pbmc3k there are rows for other kinds of stage 1 and for stage 3 too. Rows are kept as they finish;
a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scvi
import torch
from common import Results, split
from scipy import sparse

import scldm

DATA = ("pbmc3k", "pbmc10k_cite")
LABEL = "cell_type"
COPIES = 4
FLOOR = "floor (real training cells)"
COLUMNS = ("w2", "w2_to_floor", "auc_genes", "auc_pcs", "label_f1", "mmd2", "library_size_w1")
VARIANTS = {
    "scldm, vector-quantised": {"autoencoder": "vq"},
    "scldm, adversarial term": {"adversarial_weight": 1.0},
}
FINE_TUNED = "scldm, fine-tuned jointly"
WITH_VARIANTS = ("pbmc3k",)
TIMES = ("train_to_scvi", "stage_2_to_stage_1", "generate_to_decode")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data sets")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--sets", nargs="+", default=DATA)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    results = Results(args.out / "generation.csv", ["data", "seed", "method"])
    for name in args.sets:
        for seed in range(1 if args.quick else 3):
            path = args.data / f"{name}.h5ad"
            if not results.has(data=name, seed=seed, method="scldm"):
                run(results, path, name, seed)
            if name in WITH_VARIANTS and not results.has(data=name, seed=seed, method=FINE_TUNED):
                run_variants(results, path, name, seed)
    report(results, args.out / "generation.md")


def run(results: Results, path: Path, name: str, seed: int) -> None:
    """Add the rows of one data set and seed; ours comes last, as it has the times of all."""
    train, test = split(path, seed)
    rows = Rows(results, name, seed, train, test)
    scvi.settings.seed = seed
    model, times = train_scldm(train)
    new, generate_time = timed(lambda: model.generate(cell_type=rows.labels, seed=seed))
    z, what = model.sample_latent(cell_type=rows.labels, seed=seed)
    _, decode_time = timed(lambda: model.decode(z, seed=seed, **what))
    rival, scvi_time = train_scvi(train, seed)
    rows.add("scVI, N(0, I)", scvi_from_prior(rival, test.n_obs, seed), labelled=False)
    rows.add("scVI, posterior of the test cells", predictive(rival, test), labelled=True)
    rows.add(
        "scldm",
        new,
        labelled=True,
        train_to_scvi=(times[0] + times[1]) / scvi_time,
        stage_2_to_stage_1=times[1] / times[0],
        generate_to_decode=generate_time / decode_time,
    )


def run_variants(results: Results, path: Path, name: str, seed: int) -> None:
    """Add the rows of other autoencoders and of the third stage."""
    train, test = split(path, seed)
    rows = Rows(results, name, seed, train, test)
    for method, options in VARIANTS.items():
        if not results.has(data=name, seed=seed, method=method):
            scvi.settings.seed = seed
            model, _ = train_scldm(train, **options)
            rows.add(method, model.generate(cell_type=rows.labels, seed=seed), labelled=True)
    scvi.settings.seed = seed
    model, _ = train_scldm(train)
    if not results.has(data=name, seed=seed, method="scldm"):
        rows.add("scldm", model.generate(cell_type=rows.labels, seed=seed), labelled=True)
    model.fine_tune(enable_progress_bar=False)
    rows.add(FINE_TUNED, model.generate(cell_type=rows.labels, seed=seed), labelled=True)


class Rows:
    """Measures cells of one data set and seed, and adds them to the table beside the floor."""

    def __init__(
        self, results: Results, name: str, seed: int, train: ad.AnnData, test: ad.AnnData
    ) -> None:
        self.results = results
        self.key = {"data": name, "seed": seed}
        self.train = train
        self.test = test
        self.labels = test.obs[LABEL].tolist() * COPIES

    def add(self, method: str, cells: ad.AnnData, labelled: bool, **times: float) -> None:
        """Add a row; distances take as many cells as there are test cells, of the same types."""
        train, test, seed = self.train, self.test, self.key["seed"]
        table = scldm.metrics.evaluate(test, cells[: test.n_obs].copy(), train, seed=seed)
        floor, made = table.iloc[0], table.iloc[1]
        floor["label_f1"], made["label_f1"] = label_f1(train, test, cells if labelled else None)
        for which, row in ((FLOOR, floor), (method, made)):
            if not self.results.has(**self.key, method=which):
                ratio = row["w2"] / floor["w2"]
                extra = times if which == method else {}
                self.results.add(**self.key, method=which, **row, w2_to_floor=ratio, **extra)
        print(*self.key.values(), method, made.round(3).to_dict(), times, flush=True)


def label_f1(train: ad.AnnData, test: ad.AnnData, cells: ad.AnnData | None) -> tuple[float, float]:
    """Return the ceiling, of real test cells, and the score of all the cells."""
    projection = scldm.metrics.Projection(30).fit(train.X)
    fidelity = scldm.metrics.LabelFidelity().fit(projection.transform(train.X), train.obs[LABEL])
    ceiling = fidelity.score(projection.transform(test.X), test.obs[LABEL])
    if cells is None:
        return ceiling, float("nan")
    return ceiling, fidelity.score(projection.transform(cells.X), cells.obs[LABEL])


def timed(call: Callable):
    """Return a call's result and its seconds."""
    start = time.perf_counter()
    return call(), time.perf_counter() - start


def train_scldm(train: ad.AnnData, **options: object) -> tuple[scldm.SCLDM, tuple[float, float]]:
    """Train with default settings but for those given."""
    data = train.copy()
    scldm.SCLDM.setup_anndata(data, cell_type_key=LABEL)
    model = scldm.SCLDM(data, **options)
    _, stage_1 = timed(lambda: model.train_autoencoder(enable_progress_bar=False))
    _, stage_2 = timed(lambda: model.train_diffusion(enable_progress_bar=False))
    return model, (stage_1, stage_2)


def train_scvi(train: ad.AnnData, seed: int) -> tuple[scvi.model.SCVI, float]:
    """Train scVI with its default settings."""
    scvi.settings.seed = seed
    data = train.copy()
    scvi.model.SCVI.setup_anndata(data)
    model = scvi.model.SCVI(data)
    _, seconds = timed(lambda: model.train(enable_progress_bar=False))
    return model, seconds


@torch.inference_mode()
def scvi_from_prior(model: scvi.model.SCVI, n_cells: int, seed: int) -> ad.AnnData:
    """Decode standard normal latents with library sizes of random training cells."""
    torch.manual_seed(seed)
    totals = torch.as_tensor(np.asarray(model.adata.X.sum(axis=1)).ravel())
    library = totals[torch.randint(len(totals), (n_cells,))].log().unsqueeze(1)
    z = torch.randn(n_cells, model.module.n_latent)
    outputs = model.module.generative(z, library, torch.zeros(n_cells, 1).long())
    return _cells(outputs["px"].sample().numpy(), model.adata.var_names)


def predictive(model: scvi.model.base.BaseModelClass, cells: ad.AnnData) -> ad.AnnData:
    """Draw each cell once from its posterior predictive."""
    drawn = model.posterior_predictive_sample(cells.copy(), n_samples=1).todense()
    return _cells(drawn, cells.var_names, cells.obs[[LABEL]])


def _cells(counts: np.ndarray, genes: pd.Index, obs: pd.DataFrame | None = None) -> ad.AnnData:
    cells = ad.AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs)
    cells.var_names = genes
    cells.obs_names = [f"drawn_{i}" for i in range(cells.n_obs)]
    return cells[np.asarray(cells.X.sum(axis=1)).ravel() > 0].copy()


def report(results: Results, path: Path) -> None:
    """Print the table of each data set and write all of them as Markdown."""
    table = results.table(["data", "method"])
    columns = [c for c in (*COLUMNS, *TIMES) if c in table]
    seeds = results.rows.groupby("data")["seed"].nunique()
    parts = []
    for name, rows in table.groupby(level="data", sort=False):
        title = f"## {name}, mean of {seeds[name]} seeds"
        parts.append(f"{title}\n\n{rows.droplevel('data')[columns].round(3).to_markdown()}\n")
    print("\n".join(parts))
    path.write_text("\n".join(parts))


if __name__ == "__main__":
    main()
