"""How closely few steps follow the learned flow, by the spacing of steps.

    python benchmarks/steps.py --data DIR [--quick]

On latents of pbmc3k, for deterministic rules and several spacings (the power of the share of noise
that evenly spaced numbers are taken to): the root-mean-square distance, in standard deviations, of
sampled latents from those of four hundred steps from the same noise, and the variance within cell
types relative to theirs. No cell is generated and no test cell looked at; the rules' spacings were
chosen by this table. Rows are kept as they finish.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path

import scvi
import torch
from common import Results, split

import scldm
from scldm.diffusion import SAMPLERS, Heun

NAME, LABEL = "pbmc3k", "cell_type"
SPACINGS = (1.0, 1.5, 2.0, 2.5)
RULES = ("heun", "dpm_solver", "euler")
CALLS = (5, 7, 9, 15, 31)
N_CELLS, FEWEST = 2048, 60


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
    results = Results(args.out / "steps.csv", ["seed", "sampler", "spacing", "calls"])
    for seed in range(1 if args.quick else 3):
        if not results.has(seed=seed, sampler=RULES[-1], spacing=SPACINGS[-1]):
            run(results, args.data / f"{NAME}.h5ad", seed)
    report(results, args.out / "steps.md")


def run(results: Results, path: Path, seed: int) -> None:
    """Add the rows of one seed."""
    train, _ = split(path, seed)
    scvi.settings.seed = seed
    scldm.SCLDM.setup_anndata(train, cell_type_key=LABEL)
    model = scldm.SCLDM(train)
    model.train(enable_progress_bar=False)
    denoiser = model.module.diffusion.averaged
    generator = torch.Generator().manual_seed(seed)
    codes = torch.from_numpy(model.conditions[0].encode(model.training_frame_))
    types = codes[torch.randint(len(codes), (N_CELLS,), generator=generator)]
    noise = torch.randn(N_CELLS, model.module.diffusion.n_latent + 1, generator=generator)
    given = {"cell_type": types}
    exact = Heun().sample(denoiser, noise, 400, given)
    for sampler in RULES:
        for spacing in SPACINGS:
            for calls in CALLS:
                steps = (calls + 1) // 2 if sampler == "heun" else calls
                times = denoiser.schedule.times(steps, spacing)
                x = SAMPLERS[sampler]().sample(denoiser, noise, None, given, times=times)
                row = {
                    "distance": float((x - exact).square().mean().sqrt()),
                    "variance_ratio": float(within(x, types) / within(exact, types)),
                }
                results.add(seed=seed, sampler=sampler, spacing=spacing, calls=calls, **row)
    print(seed, "done", flush=True)


def within(x: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
    """Return the variance within types, mean over dimensions."""
    groups = [x[types[:, 0] == code] for code in types.unique()]
    large = [group for group in groups if len(group) > FEWEST]
    total = sum(len(group) * group.var(0) for group in large)
    return (total / sum(map(len, large))).mean()


def report(results: Results, path: Path) -> None:
    """Print the tables and write them as Markdown."""
    rows, parts = results.rows, []
    for name, title in (("distance", "Distance"), ("variance_ratio", "Variance within types")):
        table = rows.pivot_table(index=["sampler", "spacing"], columns="calls", values=name)
        parts.append(
            f"## {title}, by calls of the network\n\n{table.reset_index().round(3).to_markdown(index=False)}\n"
        )
    text = f"{NAME}, mean of {rows['seed'].nunique()} seeds\n\n" + "\n".join(parts)
    print(text)
    path.write_text(text)


if __name__ == "__main__":
    main()
