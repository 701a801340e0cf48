"""How the settings of stage 1 change the realism of sampled counts, on validation cells.

    python benchmarks/autoencoder.py --data DIR [--quick]

A fifth of the training cells is set aside; the other training cells are encoded, and counts drawn
from their posteriors are compared with those set aside. No test cell is looked at. This is how the
defaults were chosen.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import scvi
from common import Results, split
from scipy import sparse
from sklearn.model_selection import train_test_split

import scldm

LABEL = "cell_type"
DATA = ("pbmc3k", "pbmc_ding2020_10xv2v3", "pbmc10k_cite")
SETTINGS: dict[str, dict] = {
    "default": {},
    "dispersion of gene": {"model": {"dispersion": "gene"}},
    "dispersions at the networks' rate": {
        "model": {"dispersion": "gene"},
        "train": {"plan_kwargs": {"dispersion_lr": 1e-3}},
    },
    "KL weight 1": {"model": {"kl_weight": 1.0}},
    "KL weight 0.03": {"model": {"kl_weight": 0.03}},
    "32 latents": {"model": {"n_latent": 32}},
    "zero-inflated": {"model": {"gene_likelihood": "zinb"}},
    "early stopping": {"train": {"early_stopping": True}},
}

METRICS = ("auc_genes", "w2", "label_f1")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data sets")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--sets", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="one seed of the smallest set")
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    results = Results(args.out / "autoencoder.csv", ["data", "seed", "setting"])
    for name in DATA[:1] if args.quick else args.sets:
        for seed in [0] if args.quick else args.seeds:
            train, _ = split(args.data / f"{name}.h5ad", seed)
            kept, aside = train_test_split(range(train.n_obs), test_size=0.2, random_state=seed)
            for setting in args.settings:
                if not results.has(data=name, seed=seed, setting=setting):
                    row = measure(train[kept].copy(), train[aside].copy(), seed, setting)
                    results.add(data=name, seed=seed, setting=setting, **row)
                    print(name, seed, setting, row, flush=True)
    table = results.table(["data", "setting"])
    print(table.round(3).to_markdown())
    (args.out / "autoencoder.md").write_text(table.round(3).to_markdown() + "\n")


def measure(train: ad.AnnData, aside: ad.AnnData, seed: int, setting: str) -> dict[str, float]:
    """Train stage 1 and compare draws from the posteriors with the cells set aside."""
    choices = SETTINGS[setting]
    scvi.settings.seed = seed
    data = train.copy()
    scldm.SCLDM.setup_anndata(data, cell_type_key=LABEL)
    model = scldm.SCLDM(data, **choices.get("model", {}))
    start = time.perf_counter()
    model.train_autoencoder(enable_progress_bar=False, **choices.get("train", {}))
    seconds = time.perf_counter() - start
    rows = np.random.default_rng(seed).permutation(train.n_obs)
    counts = model.posterior_predictive_sample(indices=rows, n_samples=1).todense()
    drawn = ad.AnnData(
        sparse.csr_matrix(counts.astype(np.float32)), train.obs.iloc[rows], train.var
    )
    drawn.obs_names = [f"drawn_{i}" for i in range(drawn.n_obs)]
    table = scldm.metrics.evaluate(
        aside, drawn, train, LABEL, metrics=METRICS, n_bootstrap=0, seed=seed
    )
    scores = scldm.metrics.side_by_side(table)
    floor, made = scores["floor"], scores["generated"]
    return {
        "auc_genes": made["auc_genes"],
        "w2_to_floor": made["w2"] / floor["w2"],
        "label_f1": made["label_f1"],
        "label_f1_ceiling": floor["label_f1"],
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()
