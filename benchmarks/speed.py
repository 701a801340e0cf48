"""How long training and generation take, as ratios measured in one run, and how they grow.

    python benchmarks/speed.py --data DIR [--quick] [--million]

Ratios: scVI with the same network, stage 1, stage 2 and generation take turns, seed by seed and in changing
order, on training cells of a real data set. A ratio is taken within a seed; the table has the median and the
range over seeds, of wall time and of processor time. Both stages run a tenth of the epochs and steps of their
defaults, scVI as many epochs as stage 1; `train()` is the sum of the stages. The floor of generation is what no
generator of counts can do without: the decoder and the draw of counts of given latents, to a sparse matrix.

Growth: each size in a process of its own, on simulated counts, with the process's peak memory. Rows are kept
as they finish.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import subprocess
import sys
import tempfile
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
from scldm.module import sample_counts

LABEL = "cell_type"
SHARE = 0.1
N_DRAWN, TURNS = 5120, 5
BLOCK, PART = 256, 1024
TRAINING = ("scvi", "scvi_gene", "stage_1", "stage_2")
QUIET = {"enable_progress_bar": False}

RATIOS = {
    "stage 1 / scVI": ("stage_1", "scvi", "1"),
    "stage 2 / stage 1": ("stage_2", "stage_1", ""),
    "train() / scVI": ("train", "scvi", "at most 1.5"),
    "train() / scVI, its default dispersion": ("train", "scvi_gene", ""),
    "floor / generate()": ("floor", "generate", "at least 0.6"),
    "floor / generate(), guided": ("floor", "guided", ""),
}
"""Numerator, denominator and goal."""

GROWTH: dict[str, tuple[int, ...]] = {
    "cells": (1_000, 10_000, 100_000),
    "genes": (500, 2_000, 5_000, 20_000),
    "steps": (2, 4, 10, 20),
}
MILLION = 1_000_000
DEFAULTS = {"cells": N_DRAWN, "genes": 2_000, "steps": 4}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of the real data sets")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--name", default="pbmc10k_cite", help="real data set")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--quick", action="store_true", help="pbmc3k, three seeds, less growth")
    parser.add_argument("--million", action="store_true", help="generate a million cells, too")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(args.threads)
    if args.one:
        print(json.dumps(grown(args.one[0], int(args.one[1]))))
        return
    if args.data is None:
        parser.error("the following arguments are required: --data")
    name = "pbmc3k" if args.quick else args.name
    ratios = Results(args.out / "speed_ratios.csv", ["data", "threads", "seed"])
    for seed in args.seeds[:3] if args.quick else args.seeds:
        if not ratios.has(data=name, threads=args.threads, seed=seed):
            row = measured(args.data / f"{name}.h5ad", seed)
            ratios.add(data=name, threads=args.threads, seed=seed, **row)
            print(name, seed, row, flush=True)
    growth = Results(args.out / "speed_growth.csv", ["axis", "size", "threads"])
    for axis, sizes in GROWTH.items():
        further = (MILLION,) if args.million and axis == "cells" else ()
        for size in (*(sizes[:2] if args.quick else sizes), *further):
            if not growth.has(axis=axis, size=size, threads=args.threads):
                row = in_own_process(axis, size, args.threads)
                growth.add(axis=axis, size=size, threads=args.threads, **row)
                print(axis, size, row, flush=True)
    text = report(ratios.rows, growth.rows)
    print(text)
    (args.out / "speed.md").write_text(text)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of wall and of processor time that something takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def measured(path: Path, seed: int) -> dict[str, float]:
    """Let all take their turns once."""
    train, _ = split(path, seed)
    scvi.settings.seed = seed
    scldm.SCLDM.setup_anndata(train, cell_type_key=LABEL)
    model = scldm.SCLDM(train)
    epochs = max(1, round(SHARE * model.recipe.max_epochs))
    steps = max(1, round(SHARE * model.recipe.max_steps))
    network = {name: getattr(model.recipe, name) for name in ("n_hidden", "n_latent", "n_layers")}
    other = train.copy()
    scvi.model.SCVI.setup_anndata(other)
    references = {
        "scvi": scvi.model.SCVI(other, **network, dispersion="gene-cell"),
        "scvi_gene": scvi.model.SCVI(other, **network),
    }
    training: dict[str, Callable[[], object]] = {
        name: lambda m=reference: m.train(epochs, train_size=0.9, batch_size=128, **QUIET)
        for name, reference in references.items()
    }
    training["stage_1"] = lambda: model.train_autoencoder(epochs, batch_size=128, **QUIET)
    training["stage_2"] = lambda: model.train_diffusion(steps, **QUIET)
    row: dict[str, float] = {"epochs": epochs, "steps": steps}
    # the first training in a process has more to do, and none is to be always the one that follows another
    scvi.model.SCVI(other, **network).train(1, **QUIET)
    for name in TRAINING if seed % 2 == 0 else TRAINING[2:] + TRAINING[:2]:
        work = training[name]
        row[f"{name}_wall"], row[f"{name}_cpu"] = timed(work)
    z, what = model.sample_latent(N_DRAWN, seed=seed)
    log_library = np.log(what["library_size"])[:, None].astype(np.float32)
    cells = {
        "z": torch.from_numpy(z),
        "log_library": torch.from_numpy(log_library),
        "batch_index": torch.zeros(N_DRAWN, 1, dtype=torch.long),
    }
    sampling: dict[str, Callable[[], object]] = {
        "generate": lambda: model.generate(N_DRAWN, seed=seed),
        "guided": lambda: model.generate(N_DRAWN, seed=seed, guidance_scale=2.0),
        "floor": lambda: drawn(model, cells, seed),
    }
    turns = [{name: timed(work) for name, work in sampling.items()} for _ in range(TURNS)]
    for name in sampling:
        row[f"{name}_wall"], row[f"{name}_cpu"] = np.median([t[name] for t in turns], 0).tolist()
    for clock in ("wall", "cpu"):
        row[f"train_{clock}"] = row[f"stage_1_{clock}"] + row[f"stage_2_{clock}"]
    return row


@torch.inference_mode()
def drawn(model: scldm.SCLDM, cells: dict[str, torch.Tensor], seed: int) -> sparse.csr_matrix:
    """Decode latents and draw counts, and nothing else."""
    model.module.eval()
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for start in range(0, N_DRAWN, PART):
        counts = []
        for i in range(start, start + PART, BLOCK):
            block = {name: value[i : i + BLOCK] for name, value in cells.items()}
            counts.append(sample_counts(model.module.autoencoder.decode(**block), generator))
        parts.append(sparse.csr_matrix(torch.cat(counts).numpy()))
    return sparse.vstack(parts, format="csr")


def simulated(n_cells: int, n_genes: int) -> ad.AnnData:
    """Return counts of ten types; about 2,000 in a cell, whatever the number of genes."""
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.full(n_genes, 0.1), 10)
    kind = rng.integers(0, 10, n_cells)
    mu = rng.lognormal(7.6, 0.4, (n_cells, 1)) * shares[kind]
    counts = sparse.csr_matrix(rng.poisson(rng.gamma(2.0, mu / 2.0)).astype(np.float32))
    obs = pd.DataFrame({LABEL: kind.astype(str)}, index=[f"cell_{i}" for i in range(n_cells)])
    return ad.AnnData(counts, obs)


def in_own_process(axis: str, size: int, threads: int) -> dict[str, float]:
    """Measure one size where nothing else has used memory."""
    command = [sys.executable, __file__, "--threads", str(threads), "--one", axis, str(size)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def grown(axis: str, size: int) -> dict[str, float]:
    """Train a little on 2,000 simulated cells, and generate."""
    sizes = {**DEFAULTS, axis: size}
    scvi.settings.seed = 0
    adata = simulated(2_000, sizes["genes"])
    scldm.SCLDM.setup_anndata(adata, cell_type_key=LABEL)
    model = scldm.SCLDM(adata)
    model.train_autoencoder(1, **QUIET)
    training = timed(lambda: model.train_autoencoder(3, **QUIET))
    model.train_diffusion(20, **QUIET)
    model.generate(PART, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        # only many cells go to disk; what others cost is not to have the disk's speed in it
        out = {"out": Path(folder) / "cells.zarr"} if axis == "cells" else {}
        steps = sizes["steps"]
        drawing = timed(lambda: model.generate(sizes["cells"], seed=0, steps=steps, **out))
    return {
        "stage_1_epoch_wall": training[0] / 3,
        "stage_1_epoch_cpu": training[1] / 3,
        "cells_per_second_wall": sizes["cells"] / drawing[0],
        "cells_per_second_cpu": sizes["cells"] / drawing[1],
        "peak_mib": peak_mib(),
    }


def peak_mib() -> float:
    """Return the most memory that this process has used.

    The kernel's other account of it, of ``getrusage``, counts what the parent used, too.
    """
    line = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert line is not None
    return int(line[1]) / 1024


def report(ratios: pd.DataFrame, growth: pd.DataFrame) -> str:
    """Return the tables as Markdown."""
    lines = ["| data | threads | seeds | ratio | wall time | processor time | goal |"]
    lines.append("|:--|--:|--:|:--|:--|:--|:--|")
    for (name, threads), rows in ratios.groupby(["data", "threads"], sort=False):
        for title, (above, below, goal) in RATIOS.items():
            cells = []
            for clock in ("wall", "cpu"):
                r = rows[f"{above}_{clock}"] / rows[f"{below}_{clock}"]
                cells.append(f"{r.median():.2f} ({r.min():.2f} to {r.max():.2f})")
            row = [name, threads, len(rows), title, *cells, goal]
            lines.append(f"| {' | '.join(map(str, row))} |")
        speed = N_DRAWN / rows["generate_wall"].median()
        lines.append(f"\n`generate()` on {name}: {speed:.0f} cells a second.\n")
    titles = {
        "stage_1_epoch_wall": "s per epoch of 2,000 cells, stage 1",
        "cells_per_second_wall": "cells per s, wall time",
        "cells_per_second_cpu": "cells per s, processor time",
        "peak_mib": "peak MiB",
    }
    table = growth.sort_values(["threads", "axis", "size"])[["axis", "size", "threads", *titles]]
    table = table.rename(columns={**titles, "axis": "growing", "size": "to"})
    return "\n".join(lines) + "\n" + table.to_markdown(index=False, floatfmt=".4g") + "\n"


if __name__ == "__main__":
    main()
