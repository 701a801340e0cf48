"""Modalities translated, generated together, and filled in where a batch lacks them.

    python benchmarks/translation.py --data DIR [--quick]

One model of each data set translates in both directions, beside simple baselines and totalVI (RNA to
protein). Values are compared as log(1 + counts) of proteins, log-normalised RNA, and peaks as they are;
methods that draw give the mean of their draws, others add their errors in cross-validation. Whole cells
from noise stand beside totalVI's prior samples and the floor, training cells; test cells of proteins that
half of the training cells lack, beside the model that had all.

``seconds`` is the processor's time for training and drawing. Rows are kept as they finish.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path

import pandas as pd
from common import Results
from translations import PREDICTORS, TASKS, Task, joint_rows, missing_rows, task
from translations.tasks import counts_of, normalised

from scldm.metrics import translation as metrics

QUICK = ("pbmc_eccite_500",)
FURTHER = {"generated": joint_rows, "missing": missing_rows}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data sets")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--sets", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--parts", nargs="+", choices=[*PREDICTORS, *FURTHER])
    parser.add_argument("--quick", action="store_true", help="one seed of one data set")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    parts = args.parts or [*PREDICTORS, *FURTHER]
    tables = {
        "translated": Results(args.out / "translation.csv", ["data", "seed", "task", "method"]),
        **{
            name: Results(args.out / f"translation_{name}.csv", ["data", "seed", "method"])
            for name in FURTHER
        },
    }
    done = Results(args.out / "translation_done.csv", ["data", "seed", "part"])
    for seed in [0] if args.quick else args.seeds:
        for name in QUICK if args.quick else args.sets:
            left = [p for p in parts if not done.has(data=name, seed=seed, part=p)]
            if not left:
                continue
            suffix, pair = TASKS[name]
            cells = task(args.data / f"{name}.{suffix}", pair, seed)
            for part in left:
                finish(tables, name, cells, part)
                done.add(data=name, seed=seed, part=part)
    report(tables, args.out / "translation.md")


def finish(tables: dict[str, Results], name: str, cells: Task, part: str) -> None:
    """Add the rows of one part of the benchmark on a data set."""
    known = {"data": name, "seed": cells.seed}
    if part in FURTHER:
        for row in FURTHER[part](cells):
            tables[part].add(**known, **row)
    else:
        for answer in PREDICTORS[part](cells):
            true = normalised(counts_of(cells.test, answer.target), answer.target)
            means, samples = {answer.method: answer.mean}, {answer.method: answer.samples}
            row = metrics.compare(true, means, samples, binary=answer.target == "atac").iloc[0]
            tables["translated"].add(
                **known,
                task=f"{answer.source} to {answer.target}",
                method=answer.method,
                **row,
                seconds=answer.seconds,
            )
    print(f"{name} {cells.seed} {part}", flush=True)


def report(tables: dict[str, Results], path: Path) -> None:
    """Print means over seeds."""
    parts = []
    for title, by in (
        ("translated", ["data", "task"]),
        ("generated", ["data"]),
        ("missing", ["data"]),
    ):
        rows = tables[title].rows
        if not len(rows):
            continue
        for names, part in rows.groupby(by, sort=False):
            seeds = part["seed"].nunique()
            parts.append(f"## {title}: {', '.join(map(str, names))}, {seeds} seeds\n")
            numbers = part.drop(columns=["seed"]).groupby("method", sort=False)
            means = numbers.mean(numeric_only=True).dropna(axis=1, how="all")
            parts.append(means.round(3).to_markdown() + "\n")
    text = "\n".join(parts)
    print(text)
    path.write_text(text)


if __name__ == "__main__":
    pd.set_option("display.width", 200)
    main()
