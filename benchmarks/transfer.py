"""A trained model taken to new cells: to another batch, and to a cell type that it has not seen.

    python benchmarks/transfer.py --data DIR [--quick]

PBMC of two 10x chemistries (``pbmc_ding2020_10xv2v3``). *Batch*: the reference is trained on cells of the
v2 chemistry, and few of v3 are given. *Type*: it is trained on both, without CD16+ monocytes, and few of
those are given. Held-out cells, a fifth, stratified by type and batch, judge what is generated under
their own types and batches, the new ones and the old ones apart:

- *reference*, as it is: for new cells it is asked for the old batch, or for any type;
- *adapted*, by ``load_query_data`` and ``train`` with default settings;
- *adapted, old parts frozen*, where only what is new in the networks is trained;
- *from scratch*, a model of the few cells alone;
- *everything*, a model of all training cells, which the others cannot have.

The floor are real cells in the place of generated ones. Rows are kept as they finish, and trained models
beside them in ``cells/transfer``.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import scvi
from common import Results
from sklearn.model_selection import train_test_split

import scldm

DATA = "pbmc_ding2020_10xv2v3"
LABEL, BATCH = "cell_type", "batch"
OLD_BATCH, NEW_BATCH = "10x Chromium (v2)", "10x Chromium (v3)"
NEW_TYPE = "CD16+ monocyte"
TASKS = {"batch": (BATCH, NEW_BATCH), "type": (LABEL, NEW_TYPE)}
SIZES = {"batch": (50, 200), "type": (20, 50)}
"""Numbers of new cells; the data have some 120 of the type to train on."""

PARTS = ("encoder", "decoder", "denoiser", "conditions")
METRICS = ["energy", "w2", "auc_genes"]
MOST = 700
"""The most cells on one side of a comparison."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data sets")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--quick", action="store_true", help="one seed, the larger number of cells"
    )
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    results = Results(args.out / "transfer.csv", ["task", "cells", "seed", "method", "judged"])
    for seed in [0] if args.quick else args.seeds:
        for task in args.tasks:
            job = Job(args.data / f"{DATA}.h5ad", task, seed, args.out / "cells" / "transfer")
            for n in SIZES[task][-1:] if args.quick else SIZES[task]:
                job.finish(results, n)
    report(results, args.out / "transfer.md")


class Job:
    """One seed of one task.

    Parameters
    ----------
    path
        File with counts in ``X``.
    task
        What is new.
    seed
        Seed of the split, of which cells are the few, of training, draws and metrics.
    folder
        Where trained models are kept.
    """

    def __init__(self, path: Path, task: str, seed: int, folder: Path) -> None:
        adata = ad.read_h5ad(path)
        adata.obs = adata.obs[[LABEL, BATCH]].astype(str)
        strata = adata.obs[LABEL] + adata.obs[BATCH]
        strata = strata.where(strata.map(strata.value_counts()) >= 10, "rare")
        rows = np.arange(adata.n_obs)
        train, test = train_test_split(rows, test_size=0.2, random_state=seed, stratify=strata)
        self.train, self.test = adata[train].copy(), adata[test].copy()
        self.task, self.seed, self.folder = task, seed, folder

    def _part(self, cells: ad.AnnData, new: bool) -> ad.AnnData:
        column, value = TASKS[self.task]
        return cells[(cells.obs[column] == value).to_numpy() == new].copy()

    def _kept(self, name: str, cells: ad.AnnData) -> scldm.SCLDM:
        """Return a model of some cells, trained now or before."""
        path = self.folder / f"{name}_{self.seed}"
        if not path.is_dir():
            trained(cells, self.seed).save(path)
        return scldm.SCLDM.load(path, adata=False)

    def finish(self, results: Results, n: int) -> None:
        """Add the rows of a number of new cells, unless they are there."""
        key = {"task": self.task, "cells": n, "seed": self.seed}
        # the old ones are judged last
        if results.has(**key, judged="old"):
            return
        new = self._part(self.train, True)
        rows = np.random.default_rng(self.seed).permutation(new.n_obs)
        few, rest = new[rows[:n]].copy(), new[rows[n:]].copy()
        models = self._models(few)
        for judged, test, train in (
            ("new", self._part(self.test, True), rest),
            ("old", self._part(self.test, False), self._part(self.train, False)),
        ):
            test = test[np.random.default_rng(0).permutation(test.n_obs)[:MOST]].copy()
            made = {
                name: generated(model, test, self.seed)
                for name, model in models.items()
                if (name, judged) != ("from scratch", "old")
            }
            scores = scldm.metrics.evaluate(
                test, made, train, metrics=METRICS, n_bootstrap=0, seed=self.seed
            )
            wide = scores[scores["group"] == "all"].pivot(
                index="source", columns="metric", values="value"
            )
            for method, row in wide.iterrows():
                results.add(**key, method=method, judged=judged, **row)
            print(key, judged, wide.round(4), sep="\n", flush=True)

    def _models(self, few: ad.AnnData) -> dict[str, scldm.SCLDM]:
        reference = self._kept(self.task, self._part(self.train, False))
        models = {"reference": reference}
        for name, options in {
            "adapted": {},
            "adapted, old parts frozen": {"frozen": PARTS},
        }.items():
            scvi.settings.seed = self.seed
            query = scldm.SCLDM.load_query_data(few.copy(), reference, **options)
            query.train(enable_progress_bar=False)
            models[name] = query
        models["from scratch"] = trained(few, self.seed)
        models["everything"] = self._kept("everything", self.train)
        return models


def trained(cells: ad.AnnData, seed: int) -> scldm.SCLDM:
    """A model with default settings."""
    scvi.settings.seed = seed
    cells = cells.copy()
    scldm.SCLDM.setup_anndata(cells, cell_type_key=LABEL, batch_key=BATCH)
    model = scldm.SCLDM(cells)
    model.train(enable_progress_bar=False)
    return model


def generated(model: scldm.SCLDM, like: ad.AnnData, seed: int) -> ad.AnnData:
    """Cells of the types and batches of others; of any where the model does not know them."""
    conditions = {c.name: c for c in model.conditions}
    types, batches = like.obs[LABEL].to_numpy(), like.obs[BATCH].to_numpy()
    known = set(conditions["batch"].observed)
    if not set(batches) <= known:
        batches = np.array([b if b in known else OLD_BATCH for b in batches])
    unknown = ~np.isin(types, conditions["cell_type"].observed)
    made = []
    for rows, asked in ((unknown, {}), (~unknown, {"cell_type": types[~unknown]})):
        if rows.any():
            n = int(rows.sum())
            made.append(model.generate(n, batch=batches[rows], seed=seed, **asked))
    return ad.concat(made, merge="first", index_unique="-")


def report(results: Results, path: Path) -> None:
    """Print the tables of means over seeds and write them as Markdown."""
    parts = []
    for (task, judged), rows in results.rows.groupby(["task", "judged"], sort=False):
        grouped = rows.groupby(["cells", "method"], sort=False)
        means = grouped[METRICS].mean().round(3)
        means.insert(0, "seeds", grouped.size())
        title = f"## New {task}: cells of {judged} {'batches' if task == 'batch' else 'types'}\n"
        parts += [title, means.reset_index().to_markdown(index=False), ""]
    text = "\n".join(parts)
    print(text)
    path.write_text(text)


if __name__ == "__main__":
    main()
