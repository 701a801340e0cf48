"""Perturbed cells that no model has seen, predicted from control cells.

    python benchmarks/perturbation.py --data DIR [--quick]

Held out are: the stimulated cells of each type (Kang), the treated cells of each patient
(panobinostat), three knock-downs of each cell line (McFaline-Figueroa), and, in two halves, the
combinations of which both members were seen alone (Norman). Two simulations follow: a dose between those that were seen,
and a drug to which only some cells respond. Models learn from all other cells, and are asked for the held-out
ones given control cells of the same context. Expression is log-normalised. Beside each method stand no
change and the ceiling, one half of the true cells against the other; all are compared with halves.

``seconds`` is the processor's time for training and for all methods of a model. Rows are kept as they
finish. scGen needs ``pip install 'pertpy[scgen]==1.0.3' 'statsmodels<0.15'``
and is left out where that is missing.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from common import Results
from perturbations import CONTROL, PREDICTORS, TASKS, Task
from perturbations.predictors import Answers, log_normalised
from perturbations.simulated import dose_rows, responder_rows

from scldm.metrics import perturbation as metrics

N_COMPONENTS = 50
QUICK = ("kang2018_ifnb_labelled",)
SHOWN = [
    "pearson_delta_top",
    "cosine_delta",
    "pearson_centroid",
    "r2_delta",
    "weighted_r2",
    "de_overlap",
    "energy",
    "energy_pcs",
    "mmd2",
    "variance_ratio",
    "zero_fraction_gap",
    "rank",
    "seconds",
]
REFERENCES = ("no change", "ceiling")
SIMULATIONS: dict[str, Callable[[int], Iterator[dict[str, object]]]] = {
    "dose": dose_rows,
    "responders": responder_rows,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data sets")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--sets", nargs="+", choices=TASKS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--predictors", nargs="+", choices=PREDICTORS, default=list(PREDICTORS))
    parser.add_argument("--quick", action="store_true", help="one seed of one data set")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    results = Results(args.out / "perturbation.csv", ["data", "seed", "question", "method"])
    done = Results(args.out / "perturbation_done.csv", ["data", "seed", "task", "predictor"])
    for seed in [0] if args.quick else args.seeds:
        for name in args.sets or (QUICK if args.quick else TASKS):
            tasks, context = TASKS[name]
            for task in tasks(args.data / f"{name}.h5ad", context, seed):
                for key in args.predictors:
                    finish(results, done, name, seed, task, key, PREDICTORS[key])
        if not (args.sets or args.quick):
            simulate(results_of_simulations(args.out), seed)
    report(results.rows, results_of_simulations(args.out), args.out / "perturbation.md")


def results_of_simulations(folder: Path) -> dict[str, Results]:
    """Return a table for each simulation."""
    return {
        name: Results(folder / f"perturbation_{name}.csv", ["seed", "type", "method"])
        for name in SIMULATIONS
    }


def simulate(tables: dict[str, Results], seed: int) -> None:
    """Add the rows of the simulations, unless they are there."""
    for name, results in tables.items():
        if not results.has(seed=seed):
            for row in list(SIMULATIONS[name](seed)):
                results.add(seed=seed, **row)
            print(f"{name} {seed}", flush=True)


def finish(
    results: Results,
    done: Results,
    name: str,
    seed: int,
    task: Task,
    key: str,
    predict: Callable[[Task, int], Answers],
) -> None:
    """Add the rows of a predictor on a task, unless they are there."""
    about = {"data": name, "seed": seed, "task": task.name, "predictor": key}
    if done.has(**about):
        return
    start = time.process_time()
    answers = predict(task, seed)
    if not answers:
        return
    seconds = time.process_time() - start
    for question, rows in judge(task, answers, seed).items():
        for method, row in rows.iterrows():
            known = {} if method in REFERENCES else {"seconds": seconds}
            results.add(data=name, seed=seed, question=question, method=method, **row, **known)
    done.add(**about)
    print(f"{name} {seed} {task.name} {key}: {seconds:.0f} s", flush=True)


def judge(task: Task, answers: Answers, seed: int) -> dict[str, pd.DataFrame]:
    """Return the table of each question."""
    x = log_normalised(task.train.X)
    directions = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)[2][:N_COMPONENTS].T
    tables = {
        name: metrics.compare(
            log_normalised(question.true.X),
            {method: found[name] for method, found in answers.items()},
            log_normalised(question.control.X),
            components=directions,
            centroid=x[(task.train.obs["perturbation"] != CONTROL).to_numpy()],
            seed=seed,
        ).drop(index="mean")  # the baselines have one that is told of contexts
        for name, question in task.questions.items()
    }
    if len(tables) > 1:
        true = {name: log_normalised(q.true.X) for name, q in task.questions.items()}
        control = {name: log_normalised(q.control.X) for name, q in task.questions.items()}
        ranks = metrics.compare_discrimination(true, answers, control, seed=seed)["rank"]
        tables = {name: table.assign(rank=ranks) for name, table in tables.items()}
    return tables


def report(rows: pd.DataFrame, simulations: dict[str, Results], path: Path) -> None:
    """Print means over questions and seeds, and the distance of each question."""
    parts = []
    for name, part in rows.groupby("data", sort=False):
        seeds = part["seed"].nunique()
        shown = [column for column in SHOWN if column in part and part[column].notna().any()]
        means = part.groupby("method", sort=False)[shown].mean().sort_values("energy_pcs")
        parts.append(f"## {name}, {part['question'].nunique()} questions, {seeds} seeds\n")
        parts.append(means.round(3).to_markdown() + "\n")
        each = part.pivot_table(index="method", columns="question", values="energy_pcs")
        parts.append(f"E-distance in {N_COMPONENTS} principal components:\n")
        parts.append(each.loc[means.index].round(2).to_markdown() + "\n")
    for name, results in simulations.items():
        if len(results.rows):
            parts.append(f"## simulated: {name}, {results.rows['seed'].nunique()} seeds\n")
            parts.append(results.table(["type", "method"]).round(3).to_markdown() + "\n")
    text = "\n".join(parts)
    print(text)
    path.write_text(text)


if __name__ == "__main__":
    main()
