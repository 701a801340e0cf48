"""A million cells: made on disk, made again through two kills, and trained on from there.

    python benchmarks/scale.py --folder DIR [--cells 1000000] [--quick]

A model is trained on 5,000 simulated cells of 2,000 genes. Then, each in a process of its own so that its
peak memory is its own:

- ``generate``: so many cells to ``DIR/cells.zarr``;
- ``killed``: the same call for ``DIR/again.zarr``, killed (SIGKILL) at a third and at two thirds, then
  finished; all arrays of both files are compared byte by byte;
- ``from disk``: registering the file, one epoch of stage 1, the latents and 1,000 steps of stage 2;
- ``from memory``: the same with its first tenth in memory.

The folder needs some 8 bytes for each count that is not zero. Rows are kept as they finish.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scvi
import zarr
from anndata import AnnData
from common import Results
from scipy import sparse

import scldm
from scldm.data import read_on_disk

N_GENES = 2000
KEYS = {"cell_type_key": "cell_type", "batch_key": "batch"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="where the files go")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--quick", action="store_true", help="50,000 cells")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    n_cells = 50_000 if args.quick else args.cells
    if args.part:
        print(json.dumps(PARTS[args.part](args.folder, n_cells)))
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    results = Results(args.out / "scale.csv", ["cells", "part"])
    if not (args.folder / "model").exists():
        train_small(args.folder / "model")
    for part in ("generate", "killed", "from disk", "from memory"):
        if results.has(cells=n_cells, part=part):
            continue
        row = (
            killed(args.folder, n_cells) if part == "killed" else in_a_process(args, part, n_cells)
        )
        results.add(cells=n_cells, part=part, **row)
        print(results.rows.tail(1).to_string(), flush=True)
    report(results.rows, args.out / "scale.md")


def simulated(n_cells: int, seed: int) -> AnnData:
    """Negative binomial counts of eight types in three batches, three in ten of them not zero."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 8, n_cells)
    logits = rng.normal(-1, 1.5, N_GENES) + rng.normal(0, 1, (8, N_GENES))[kind]
    share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    mu = rng.lognormal(7.6, 0.35, (n_cells, 1)) * share
    counts = rng.poisson(rng.gamma(3.0, mu / 3.0)).astype(np.float32)
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical([f"type {k}" for k in kind]),
            "batch": pd.Categorical([f"batch {k}" for k in rng.integers(0, 3, n_cells)]),
        },
        index=[f"cell {i}" for i in range(n_cells)],
    )
    return AnnData(sparse.csr_matrix(counts), obs=obs)


def train_small(folder: Path) -> None:
    cells = simulated(5000, 0)
    scvi.settings.seed = 0
    scldm.SCLDM.setup_anndata(cells, **KEYS)
    model = scldm.SCLDM(cells)
    model.train(max_epochs=30, max_steps=1500, enable_progress_bar=False)
    model.save(folder)


def generate(folder: Path, n_cells: int, name: str = "cells.zarr") -> dict[str, float]:
    model = scldm.SCLDM.load(folder / "model", adata=False)
    start = time.perf_counter()
    model.generate(n_cells, out=folder / name, seed=0)
    return measured(start, n_cells)


def again(folder: Path, n_cells: int) -> dict[str, float]:
    return generate(folder, n_cells, "again.zarr")


def trained(cells: AnnData) -> dict[str, float]:
    scvi.settings.seed = 0
    begin = time.perf_counter()
    scldm.SCLDM.setup_anndata(cells, **KEYS)
    model = scldm.SCLDM(cells)
    # the processor's time, as the two may not run under the same load
    start = time.process_time()
    model.train_autoencoder(1, enable_progress_bar=False)
    stage_1 = time.process_time() - start
    model.train_diffusion(1000, enable_progress_bar=False)
    return {"stage_1_cells_per_second": cells.n_obs / stage_1, **measured(begin, cells.n_obs)}


def from_disk(folder: Path, n_cells: int) -> dict[str, float]:
    return trained(read_on_disk(folder / "cells.zarr"))


def from_memory(folder: Path, n_cells: int) -> dict[str, float]:
    cells = read_on_disk(folder / "cells.zarr")
    return trained(cells[: n_cells // 10].to_memory())


def measured(start: float, n_cells: int) -> dict[str, float]:
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": seconds, "cells_per_second": n_cells / seconds, "peak_gib": peak}


PARTS = {
    "generate": generate,
    "again": again,
    "from disk": from_disk,
    "from memory": from_memory,
}


def in_a_process(args: argparse.Namespace, part: str, n_cells: int) -> dict[str, Any]:
    done = subprocess.run(command(args.folder, n_cells, part), check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout.splitlines()[-1])


def command(folder: Path, n_cells: int, part: str) -> list[str]:
    here = [sys.executable, "-W", "ignore", __file__]
    return [*here, "--folder", str(folder), "--cells", str(n_cells), "--part", part]


def killed(folder: Path, n_cells: int) -> dict[str, Any]:
    """Kill the call twice, finish it, and compare the files."""
    target, parts = folder / "again.zarr", folder / ".again.zarr.parts"
    start = time.perf_counter()
    for share in (1 / 3, 2 / 3):
        process = subprocess.Popen(command(folder, n_cells, "again"), stdout=subprocess.DEVNULL)
        while len(list(parts.glob("*"))) * 4096 < share * n_cells:
            if process.poll() is not None:
                raise RuntimeError("The call ended before it was killed; ask for more cells.")
            time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
        process.wait()
    if target.exists():
        raise RuntimeError(f"A call that was killed left {target}.")
    subprocess.run(command(folder, n_cells, "again"), check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "arrays_that_differ": different(folder / "cells.zarr", target)}


def different(one: Path, other: Path) -> int:
    """Return how many arrays of two stores differ, apart from the call that names the file."""
    arrays = [
        dict(zarr.open_group(path, mode="r").members(max_depth=None)) for path in (one, other)
    ]
    if arrays[0].keys() != arrays[1].keys():
        return len(arrays[0].keys() ^ arrays[1].keys())
    return sum(
        not _equal(arrays[0][name], arrays[1][name])
        for name in arrays[0]
        if not name.endswith("scldm/call")
    )


def _equal(one: Any, other: Any, at_a_time: int = 50_000_000) -> bool:
    if not isinstance(one, zarr.Array):
        return dict(one.attrs) == dict(other.attrs)
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not one.shape:
        return one[()] == other[()]
    return all(
        np.array_equal(one[i : i + at_a_time], other[i : i + at_a_time])
        for i in range(0, one.shape[0], at_a_time)
    )


def report(rows: pd.DataFrame, path: Path) -> None:
    lines = [
        "# A million cells",
        "",
        "Stage 1 in seconds of the processor, the rest by the clock.",
        "",
    ]
    lines.append(rows.round(2).to_markdown(index=False))
    for n_cells, group in rows.groupby("cells"):
        rate = group.set_index("part")["stage_1_cells_per_second"].dropna()
        if {"from disk", "from memory"} <= set(rate.index):
            ratio = rate["from memory"] / rate["from disk"]
            lines += ["", f"{n_cells} cells: stage 1 takes {ratio:.2f} times as long from disk."]
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
