"""Quality of generated cells against the number of network calls, for samplers and backbones.

    python benchmarks/sampling.py --data DIR [--quick] [--validation]

On the RNA of pbmc10k_cite: one autoencoder for each seed, one diffusion for each backbone on its
latents, every sampler at every number of calls, an adaptive solver at a tolerance of 1e-5, and
students of one to four steps of the default backbone; a thousand calls for every sampler of the
default backbone and for DDPM of the others, which are also judged at fewer numbers of calls. Cells
get the test cells' types. W2 and MMD are taken on 50 principal components of training cells that are
not in the floor's sample, the forest's AUC on genes. With ``--validation`` a fifth of the training
cells takes the place of the test cells. Rows are kept as they finish; a run that was stopped goes on
where it was.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from pathlib import Path

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import scvi
import torch
from common import Results, split
from sklearn.model_selection import train_test_split

import scldm
from scldm.diffusion import SAMPLERS, Adaptive

NAME, LABEL = "pbmc10k_cite", "cell_type"
CALLS = (1, 2, 4, 8, 16, 32, 50, 1000)
BACKBONES = ("mlp", "dit", "unet")
MORE = 9
"""Calls of five steps of Heun's rule; the default, four, makes seven and is in the row of eight."""
STUDENTS = (1, 2, 4)
FEWER_CALLS = (1, 4, 8, 16, 50, 1000)
FLOOR = "floor (real training cells)"
TWO_CALLS = ("heun", "churn")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data sets")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--quick", action="store_true", help="one seed, the default backbone")
    parser.add_argument("--validation", action="store_true", help="judge by validation cells")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    stem = "sampling_validation" if args.validation else "sampling"
    results = Results(args.out / f"{stem}.csv", ["seed", "backbone", "sampler", "wanted_calls"])
    for seed in args.seeds[:1] if args.quick else args.seeds:
        for backbone in args.backbones[:1] if args.quick else args.backbones:
            run(results, args, seed, backbone)
    report(results, args.out / stem)


def run(results: Results, args: argparse.Namespace, seed: int, backbone: str) -> None:
    """Add the rows of one seed and backbone."""
    default = backbone == BACKBONES[0]
    wanted = [
        (sampler, calls)
        for sampler in SAMPLERS
        for calls in (CALLS if default else FEWER_CALLS)
        if sampler != "adaptive" and (calls < 1000 or default or sampler == "ddpm")
    ]
    wanted += [("heun", MORE), ("adaptive", 0)]
    if default:
        wanted += [("distilled", n) for n in STUDENTS]
    key = {"seed": seed, "backbone": backbone}
    missing = [(s, n) for s, n in wanted if not results.has(**key, sampler=s, wanted_calls=n)]
    if not missing:
        return
    train, test = split(args.data / f"{NAME}.h5ad", seed)
    if args.validation:
        kept, aside = train_test_split(range(train.n_obs), test_size=0.2, random_state=seed)
        train, test = train[kept].copy(), train[aside].copy()
    judge = Judge(train, test, seed)
    if not results.has(seed=seed, sampler=FLOOR):
        results.add(seed=seed, backbone="-", sampler=FLOOR, wanted_calls=0, **judge.floor())
    model, seconds = trained(train, seed, backbone)
    labels = test.obs[LABEL].tolist()
    for sampler, calls in missing:
        if sampler == "distilled" and (model.student_ or {}).get("steps") != calls:
            start = time.perf_counter()
            model.distill(calls, enable_progress_bar=False)
            seconds = time.perf_counter() - start
        rule, steps = rule_and_steps(sampler, calls)
        counted = Counter(model)
        start = time.perf_counter()
        cells = model.generate(cell_type=labels, seed=seed, sampler=rule, steps=steps)
        row = {
            "calls": counted.calls(),
            "generate_seconds": time.perf_counter() - start,
            "train_seconds": seconds,
            **judge(cells),
        }
        results.add(**key, sampler=sampler, wanted_calls=calls, **row)
        print(seed, backbone, sampler, calls, {k: round(v, 4) for k, v in row.items()}, flush=True)


def rule_and_steps(sampler: str, calls: int):
    """Return a sampler and the steps in which it makes at most so many calls, one at least."""
    if sampler == "adaptive":
        return Adaptive(rtol=1e-5, atol=1e-5), None
    if sampler == "distilled":
        return sampler, calls
    # the last step of a rule with two calls a step makes one
    return sampler, (calls + 1) // 2 if sampler in TWO_CALLS else calls


class Counter:
    """Counts the calls of a model's network, for each block of cells."""

    def __init__(self, model: scldm.SCLDM) -> None:
        diffusion = model.module.diffusion
        self.n = 0
        self.blocks = 0
        networks = [d.network for d in (diffusion.averaged, diffusion.student) if d is not None]
        self.hooks = [network.register_forward_hook(self._count) for network in networks]
        self.hooks.append(model.module.autoencoder.decoder.register_forward_hook(self._block))

    def _count(self, *_: object) -> None:
        self.n += 1

    def _block(self, *_: object) -> None:
        self.blocks += 1

    def calls(self) -> float:
        """Return the calls for each block and stop counting."""
        for hook in self.hooks:
            hook.remove()
        return self.n / self.blocks


class Judge:
    """Compares cells with the test cells, always with the same projection and forests."""

    def __init__(self, train: ad.AnnData, test: ad.AnnData, seed: int) -> None:
        self.seed = seed
        rows = np.random.default_rng(seed).permutation(train.n_obs)
        self.sample = train[np.sort(rows[: test.n_obs])].copy()
        self.projection = scldm.metrics.Projection(50).fit(train[rows[test.n_obs :]].X)
        self.points = self.projection.transform(test.X)
        self.genes = self.projection.log_normalize(test.X)

    def __call__(self, cells: ad.AnnData) -> dict[str, float]:
        points = self.projection.transform(cells.X)
        auc = scldm.metrics.classifier_auc(
            self.genes, self.projection.log_normalize(cells.X), n_folds=3, seed=self.seed
        )
        return {
            "w2": scldm.metrics.wasserstein2(self.points, points),
            "mmd2": scldm.metrics.mmd2(self.points, points),
            "auc_genes": auc,
        }

    def floor(self) -> dict[str, float]:
        """Return the values of real training cells."""
        return self(self.sample)


_autoencoders: dict[int, dict[str, torch.Tensor]] = {}


def trained(train: ad.AnnData, seed: int, backbone: str) -> tuple[scldm.SCLDM, float]:
    """Return a model and the seconds of its stage 2; stage 1 is shared by the backbones."""
    scvi.settings.seed = seed
    data = train.copy()
    scldm.SCLDM.setup_anndata(data, cell_type_key=LABEL)
    model = scldm.SCLDM(data, backbone=backbone)
    if seed in _autoencoders:
        model.module.autoencoder.load_state_dict(_autoencoders[seed])
        model.autoencoder_trained_ = model.is_trained_ = True
    else:
        model.train_autoencoder(enable_progress_bar=False)
        _autoencoders[seed] = model.module.autoencoder.state_dict()
    scvi.settings.seed = seed
    start = time.perf_counter()
    model.train_diffusion(enable_progress_bar=False)
    return model, time.perf_counter() - start


def report(results: Results, stem: Path) -> None:
    """Print the table, write it as Markdown, and draw the figure."""
    table = results.table(["backbone", "sampler", "wanted_calls"]).reset_index()
    seeds = results.rows["seed"].nunique()
    text = f"## {NAME}, mean of {seeds} seeds\n\n{table.round(4).to_markdown(index=False)}\n"
    print(text)
    stem.with_suffix(".md").write_text(text)
    draw(table, stem.with_suffix(".png"))


def draw(table, path: Path) -> None:
    """Draw each measure against the number of calls, a row of panels for each backbone."""
    floor = table[table["sampler"] == FLOOR].iloc[0]
    backbones = [b for b in BACKBONES if (table["backbone"] == b).any()]
    samplers = [*SAMPLERS, "distilled"]
    measures = {"w2": "W2", "mmd2": "MMD²", "auc_genes": "forest's AUC, genes"}
    figure, axes = plt.subplots(
        len(backbones), 3, figsize=(13, 3.2 * len(backbones)), squeeze=False, sharex=True
    )
    for row, backbone in zip(axes, backbones, strict=True):
        part = table[table["backbone"] == backbone]
        for ax, (name, title) in zip(row, measures.items(), strict=True):
            for color, sampler in enumerate(samplers):
                curve = part[part["sampler"] == sampler].sort_values("calls")
                marker = "*-" if len(curve) == 1 else ".-"
                ax.plot(curve["calls"], curve[name], marker, color=f"C{color}", label=sampler)
            ax.axhline(floor[name], color="black", linestyle=":", label="floor")
            ax.set(xscale="log", title=f"{backbone}: {title}")
            low = min(part[name].min(), floor[name])
            good = part[part["calls"] >= 4][name]
            ax.set_ylim(low - 0.05 * abs(low), good.max() + 0.1 * (good.max() - low))
    for ax in axes[-1]:
        ax.set_xlabel("network calls")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.tight_layout()
    figure.legend(handles, labels, ncols=5, loc="upper center", bbox_to_anchor=(0.5, 0.0))
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)


if __name__ == "__main__":
    main()
