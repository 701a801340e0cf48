"""Cells that generators make under the test cells' conditions, against the test cells.

    python benchmarks/generation.py --data DIR [--quick] [--validation] [--recompute]

Every generator learns from the same training cells (at most 5,000, 2,000 variable genes) and is asked
for cells of exactly the test cells' types and batches. Distances are taken on as many cells as there
are test cells, the score of types on four times as many. The floor are training cells in the place of
generated ones. For each data set there is a table of means over seeds and a figure; rows are kept as
they finish, in one CSV file, and cells beside it, so a run that was stopped goes on where it was, and
``--recompute`` measures the cells again without training. Two processes may share the work, by
``--seeds`` or ``--sets``.

Times are of the processor and given relative to scVI's, trained with its defaults and decoding draws
from its prior. Peak memory is that of a process of its own, less what it held with the data loaded.
"""

from __future__ import annotations

import argparse
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from common import Results, split
from generators import DEFAULT, FAMILIES
from generators.making import make
from reporting import report

import scldm

SETS = {
    "pbmc3k": ["cell_type"],
    "pbmc10k_cite": ["cell_type"],
    "spleen_ln_sln111_d2": ["cell_type"],
    "pbmc_ding2020_10xv2v3": ["cell_type", "batch"],
    "mouse_hpc_4batches": ["batch"],
}
"""Conditions in each data set; the first is the one that cells are scored by."""

QUICK = ("pbmc3k", "pbmc_ding2020_10xv2v3")
LONG = {"pbmc3k": ("genes_10x",)}
"""Families that only some data sets have time for."""

MAX_TRAIN = 5000
COPIES = 4
FLOOR = "floor"
OURS = "scldm"


def main() -> None:
    args = arguments()
    warnings.simplefilter("ignore")
    stem = "generation_validation" if args.validation else "generation"
    results = Results(args.out / f"{stem}.csv", ["data", "seed", "method"])
    for name in args.sets or (QUICK if args.quick else SETS):
        for seed in [0] if args.quick else args.seeds:
            long = () if args.quick else LONG.get(name, ())
            families = args.methods or [*DEFAULT, *long]
            Run(args, results, stem, name, seed).finish(families)
    report(results.rows, args.out / stem)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data sets")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--sets", nargs="+", choices=SETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=FAMILIES, help=f"default: {DEFAULT}")
    parser.add_argument("--quick", action="store_true", help="one seed of two data sets")
    parser.add_argument("--validation", action="store_true", help="judge by validation cells")
    parser.add_argument("--recompute", action="store_true", help="measure kept cells again")
    return parser.parse_args()


@dataclass
class Run:
    """One seed of one data set.

    Parameters
    ----------
    args
        Of the command line.
    results
        The table.
    stem
        Name of the table, and of the folder within that of the cells.
    name
        The data set.
    seed
        Seed of the split, the training, the draws and the metrics.
    """

    args: argparse.Namespace
    results: Results
    stem: str
    name: str
    seed: int

    def finish(self, families: list[str]) -> None:
        """Make what cells are missing, and measure those that have no row yet."""
        unmade = [] if self.args.recompute else self._unmade(families)
        methods = [method for key in families for method in FAMILIES[key].methods]
        if self.args.recompute:
            wanted = [method for method in methods if self._path(method).is_file()]
        else:
            wanted = [method for method in methods if not self._has(method)]
        if not wanted:
            return
        train, test = self._data()
        for key in unmade:
            self._make(key, train, test)
        made = {method: ad.read_h5ad(self._path(method)) for method in wanted}
        scores = judge(train, test, made, SETS[self.name][0], self.seed)
        for source, row in scores.iterrows():
            measured = made[source].uns if source in made else {}
            key = {"data": self.name, "seed": self.seed, "method": source}
            self.results.add(**key, **row, **measured)

    def _has(self, method: str) -> bool:
        return self.results.has(data=self.name, seed=self.seed, method=method)

    def _unmade(self, families: list[str]) -> list[str]:
        """Return families with a method that has neither a row nor cells."""
        return [
            key
            for key in families
            if not all(self._has(m) or self._path(m).is_file() for m in FAMILIES[key].methods)
        ]

    def _path(self, method: str) -> Path:
        folder = self.args.out / "cells" / self.stem / f"{self.name}_{self.seed}"
        return folder / f"{re.sub('[^a-z0-9]+', '_', method.lower()).strip('_')}.h5ad"

    def _data(self) -> tuple[ad.AnnData, ad.AnnData]:
        """Return training cells, and cells to be judged by of types that those have."""
        conditions = SETS[self.name]
        train, test = split(
            self.args.data / f"{self.name}.h5ad",
            self.seed,
            conditions[0],
            max_train=MAX_TRAIN,
            validation=self.args.validation,
        )
        for cells in (train, test):
            cells.obs = cells.obs[conditions].astype(str)
            cells.var = cells.var[[]]
            cells.uns.clear()
        return train, test[test.obs[conditions[0]].isin(train.obs[conditions[0]])].copy()

    def _make(self, family: str, train: ad.AnnData, test: ad.AnnData) -> None:
        """Keep a family's cells."""
        asked = test[np.tile(np.arange(test.n_obs), COPIES)].copy()
        asked.obs_names_make_unique()
        made = make(family, train, asked, self.seed, self._reference(family))
        for method, cells in made.items():
            path = self._path(method)
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            cells.write_h5ad(partial, compression="gzip")
            partial.replace(path)
            seconds, speed = cells.uns["train_seconds"], cells.uns["cells_per_second"]
            print(
                f"{self.name} {self.seed} {method}: {seconds:.0f} s, {speed:.0f} cells/s",
                flush=True,
            )

    def _reference(self, family: str) -> float:
        """Return the seconds in which scldm learned from these cells, where they matter."""
        if FAMILIES[family].trains_for is None:
            return float("nan")
        if self._path(OURS).is_file():
            return float(ad.read_h5ad(self._path(OURS)).uns["train_seconds"])
        if self._has(OURS):
            rows = self.results.rows.set_index(["data", "seed", "method"])
            return float(rows.loc[(self.name, self.seed, OURS), "train_seconds"])
        raise SystemExit(f"`{family}` trains for a multiple of scldm's time: run `{OURS}` first.")


def judge(
    train: ad.AnnData, test: ad.AnnData, made: dict[str, ad.AnnData], groupby: str, seed: int
) -> pd.DataFrame:
    """Return every metric of every source, the floor among them.

    Parameters
    ----------
    train, test
        Real cells.
    made
        Generated cells by method, for each test cell the same number.
    groupby
        The condition that cells are scored by; cells of methods that ignore it have no column of
        that name.
    seed
        Seed of the metrics.
    """

    def evaluated(cells: dict[str, ad.AnnData], by: str | None, **options: object) -> pd.DataFrame:
        # intervals over cells say nothing that seeds do not say better
        return scldm.metrics.evaluate(test, cells, train, by, n_bootstrap=0, seed=seed, **options)

    labelled = {name: cells for name, cells in made.items() if groupby in cells.obs}
    parts = []
    for by, sources in (
        (groupby, labelled),
        (None, {n: made[n] for n in made if n not in labelled}),
    ):
        if sources:
            once = {name: cells[: test.n_obs].copy() for name, cells in sources.items()}
            parts.append(wide(evaluated(once, by)))
    scores = pd.concat(parts)
    scores = scores[~scores.index.duplicated()]
    if labelled:
        # unlike a distance, a score does not depend on the number of cells, and rare types need many
        most = COPIES * test.n_obs
        more = evaluated(labelled, groupby, metrics=["label_f1"], max_cells=most)
        scores["label_f1"] = wide(more)["label_f1"]
    scores["w2_to_floor"] = scores["w2"] / scores.loc[FLOOR, "w2"]
    return scores


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each source: metrics of all cells, and means over types of those within."""
    scores = scldm.metrics.side_by_side(table).T
    within = (
        table[table["group"] != "all"].groupby(["source", "metric"], sort=False)["value"].mean()
    )
    return scores.join(within.unstack().add_suffix("_within_types"))


if __name__ == "__main__":
    main()
