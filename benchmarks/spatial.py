"""Expression where a tissue was not measured: regions, spots, sections and genes.

    python benchmarks/spatial.py --data DIR [--quick]

Places are taken away and predicted from the others. All methods are compared on log(1 + counts / their
sum * median sum of training cells): baselines are fitted on these values, the model's draws are counts,
and its mean is that of the values of 50 draws. Distributions are those of 20 draws. Seeds change what is
taken away at random, training and draws. Tissues are

- region, half: a disc in the middle, and a random half, of osmFISH, STARmap (three sections) and Visium,
- every_second: every second spot of Visium,
- section: an inner one of four sections of a breast cancer,
- genes: of osmFISH, from STARmap, and from cells without coordinates; Tangram beside it where installed,
- simulated: layers and gradients whose truth is known,
- coordinates_3d: real places in 3-D, with simulated counts.

Rows are kept as they finish. Tangram needs ``pip install '.[tangram]'``, and is skipped where
that is missing.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path

import scvi
from common import Results
from spatials import METHODS, PARTS, PREDICTORS, Task, gene_rows, report, score, tasks
from spatials.scores import FLOOR, floor

QUICK = {"region": ("osmfish_ss_cortex",), "simulated": ("simulated_layers",)}
PREDICTOR_NAMES = [*PREDICTORS, "tangram"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    every_set = list(dict.fromkeys(name for names in PARTS.values() for name in names))
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data sets")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--sets", nargs="+", choices=every_set, default=every_set)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--predictors", nargs="+", choices=PREDICTOR_NAMES, default=PREDICTOR_NAMES
    )
    parser.add_argument("--quick", action="store_true", help="one seed of two parts")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    scvi.settings.verbosity = logging.ERROR
    chosen = QUICK if args.quick else {part: PARTS[part] for part in args.parts}
    done = Results(args.out / "spatial_done.csv", ["part", "data", "seed", "task", "predictor"])
    for seed in [0] if args.quick else args.seeds:
        for part, names in chosen.items():
            results = table(args.out, part)
            for name in (name for name in names if name in args.sets):
                if part == "genes":
                    genes(results, done, args.data, name, seed, args.predictors)
                    continue
                for task in tasks(part, args.data, name, seed):
                    places(results, done, part, task, args.predictors)
    for part in PARTS:
        rows = table(args.out, part).rows
        if len(rows):
            print(report(rows, part, args.out / f"spatial_{part}.md"))


def table(out: Path, part: str) -> Results:
    """Return the rows of a part."""
    return Results(out / f"spatial_{part}.csv", ["data", "seed", "task", "method"])


def places(results: Results, done: Results, part: str, task: Task, predictors: list[str]) -> None:
    """Add the rows of a task, unless they are there."""
    own = {"data": task.data, "seed": task.seed, "task": task.name}
    if not results.has(**own, method=FLOOR):
        results.add(**own, method=FLOOR, **floor(task))
    for name in (name for name in predictors if name in PREDICTORS):
        if done.has(part=part, **own, predictor=name):
            continue
        for answer in PREDICTORS[name](task):
            row = score(task, answer)
            results.add(**own, method=answer.method, **row)
            print(part, *own.values(), answer.method, f"{answer.seconds:.0f} s", flush=True)
        done.add(part=part, **own, predictor=name)


def genes(
    results: Results, done: Results, folder: Path, data: str, seed: int, predictors: list[str]
) -> None:
    """Add the rows of held-out genes, unless they are there."""
    own = {"data": data, "seed": seed}
    for name in (name for name in predictors if name in METHODS):
        about = {"part": "genes", **own, "task": "genes", "predictor": name}
        if done.has(**about):
            continue
        found = list(gene_rows(folder, seed, [name]))
        for row in found:
            results.add(**own, **row)
            print("genes", *own.values(), row["task"], row["method"], flush=True)
        # what is not installed is tried again
        if found:
            done.add(**about)


if __name__ == "__main__":
    main()
