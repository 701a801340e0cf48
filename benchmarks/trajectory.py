"""Cells of times that no model has seen, branches, futures and lineages.

    python benchmarks/trajectory.py --data DIR [--quick]

Each inner time of three time courses is held out in turn; everything is fitted on cells of the other
times. Distances are Wasserstein-1 (exact) and energy, on latents of the model's autoencoder, on principal
components of log-normalised counts (axes fitted on cells that nothing else uses), and Wasserstein-1 of single
genes. Interpolation runs on latents, whose points are then decoded to counts, and on components, where it
makes no counts. Further parts hold out the last time, ask for the fates of early worm cells, whose
lineage is on record, take apart a simulated branch of which all is known, and compare ways to couple cells
on two differentiations by pseudotime that no other part looks at.

Rows are kept as they finish. The authors' OT-CFM needs ``pip install --no-deps torchcfm==1.0.7``
with ``torchdyn`` left out, and is skipped where that is missing.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import scvi
from common import Results
from trajectories import PREDICTORS, TASKS, Ruler, Task, tasks
from trajectories.further import branching_rows, lineage_rows
from trajectories.predictors import encode, fitted
from trajectories.settings import setting_rows

QUICK = ("a549_scicar_rna",)
PARTS = ("interpolation", "extrapolation", "lineage", "branching", "settings")
DISTANCES = ["w1_latent", "energy_latent", "w1_pcs", "energy_pcs", "gene_w1"]
REFERENCE = "McCann"
WORM = "worm_embryo_timecourse"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data sets")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--sets", nargs="+", choices=TASKS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--predictors", nargs="+", choices=PREDICTORS, default=list(PREDICTORS))
    parser.add_argument("--quick", action="store_true", help="one seed of one data set")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    scvi.settings.verbosity = logging.ERROR
    tables = {
        part: Results(args.out / f"trajectory_{part}.csv", keys)
        for part, keys in {
            "interpolation": ["data", "seed", "time", "method"],
            "extrapolation": ["data", "seed", "time", "method"],
            "lineage": ["seed", "method"],
            "branching": ["seed", "method"],
            "settings": ["data", "seed", "time", "method"],
        }.items()
    }
    done = Results(args.out / "trajectory_done.csv", ["part", "data", "seed", "time", "predictor"])
    names = args.sets or (QUICK if args.quick else TASKS)
    for seed in [0] if args.quick else args.seeds:
        for part in ("interpolation", "extrapolation"):
            for name in names if part in args.parts else ():
                path = args.data / f"{name}.h5ad"
                for task in tasks(path, TASKS[name], seed, last=part == "extrapolation"):
                    held_out(tables[part], done, part, task, seed, args.predictors)
        if "branching" in args.parts:
            further(tables["branching"], seed, branching_rows(seed))
        if "lineage" in args.parts and not args.quick:
            further(tables["lineage"], seed, lineage_rows(args.data / f"{WORM}.h5ad", seed))
        if "settings" in args.parts and not args.quick:
            for row in setting_rows(args.data, seed, tables["settings"].has):
                tables["settings"].add(seed=seed, **row)
                print(row, flush=True)
    report(tables, args.out / "trajectory.md")


def held_out(
    results: Results, done: Results, part: str, task: Task, seed: int, predictors: list[str]
) -> None:
    """Add the rows of a time, unless they are there."""
    about = {"part": part, "data": task.name, "seed": seed, "time": task.time}
    missing = [name for name in predictors if not done.has(**about, predictor=name)]
    if not missing:
        return
    start = time.process_time()
    model = fitted(task, seed)
    ruler = Ruler(task, lambda cells: encode(model, cells), seed)
    own = {"data": task.name, "seed": seed, "time": task.time}
    results.add(**own, method="ceiling", **ruler.ceiling())
    for name in missing:
        for method, found in PREDICTORS[name](task, model, ruler, seed).items():
            results.add(**own, method=method, **ruler.row(found.latent, found.pcs, found.counts))
        done.add(**about, predictor=name)
    seconds = time.process_time() - start
    print(f"{part} {task.name} {seed} {task.time:g} {missing}: {seconds:.0f} s", flush=True)


def further(results: Results, seed: int, rows) -> None:
    """Add the rows of a part, unless they are there."""
    if not results.has(seed=seed):
        for row in rows:
            results.add(seed=seed, **row)
            print(row, flush=True)


def report(tables: dict[str, Results], path: Path) -> None:
    """Print the tables and write them as Markdown."""
    parts = []
    for part in ("interpolation", "extrapolation", "settings"):
        rows = tables[part].rows
        if rows.empty:
            continue
        parts.append(f"## {part.capitalize()}\n")
        parts.append(_table(rows, ["data", "method"]))
        parts.append("### Over all held-out times, McCann's = 1\n")
        parts.append(relative(rows))
    for part in ("branching", "lineage"):
        if not tables[part].rows.empty:
            parts += [f"## {part.capitalize()}\n", _table(tables[part].rows, ["method"])]
    text = "\n".join(parts)
    print(text)
    path.write_text(text)


def _table(rows: pd.DataFrame, by: list[str]) -> str:
    numbers = [c for c in rows.select_dtypes("number") if c not in ("seed", "time")]
    means = rows.groupby(by, sort=False)[numbers].mean()
    means.insert(0, "rows", rows.groupby(by, sort=False).size())
    # one data set after the other, whichever was finished first
    means = means.sort_index(level=0, sort_remaining=False) if len(by) > 1 else means
    return means.round(4).reset_index().to_markdown(index=False) + "\n"


def relative(rows: pd.DataFrame) -> str:
    """Return mean ratios to McCann's interpolation on the same space, and the worst of them.

    Energy distances can be near zero, so their ratio is that of means over a data set.
    """
    lines = []
    keys = ["data", "seed", "time"]
    for column in DISTANCES:
        space = "PCs" if column.endswith("pcs") else "latents"
        reference = rows[rows["method"] == f"{REFERENCE}, {space}"].set_index(keys)[column]
        for method, own in rows.groupby("method", sort=False):
            pair = pd.DataFrame({"own": own.set_index(keys)[column], "ref": reference}).dropna()
            if pair.empty:
                continue
            if column.startswith("energy"):
                pair = pair.groupby("data").mean()
            ratio = pair["own"] / pair["ref"]
            lines.append(
                {"method": method, "distance": column, "mean": ratio.mean(), "worst": ratio.max()}
            )
    table = pd.DataFrame(lines).pivot(index="method", columns="distance", values=["mean", "worst"])
    order = list(dict.fromkeys(rows["method"]))
    table = table.reindex(order)
    table.columns = [f"{distance}, {kind}" for kind, distance in table.columns]
    return table.round(3).to_markdown() + "\n"


if __name__ == "__main__":
    np.set_printoptions(precision=3)
    main()
