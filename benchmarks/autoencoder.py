"""How the settings of stage 1 change the realism of sampled counts, on validation cells.

    python benchmarks/autoencoder.py --data DIR [--quick]

A fifth of the training cells is set aside; the other training cells are encoded, and counts drawn
from their posteriors are compared with those set aside. No test cell is looked at. This is how the
defaults were chosen. Each setting is one change of an autoencoder of one hidden layer whose encoder
sees all counts.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import scvi
from common import Results, split
from generation import MAX_TRAIN, SETS
from scipy import sparse

import scldm

SETTINGS: dict[str, dict] = {
    "one layer": {},
    "two layers": {"model": {"n_layers": 2}},
    "two layers, thinning (default)": {"model": {"n_layers": 2, "thinning": 0.8}},
    "two layers, thinning by half": {"model": {"n_layers": 2, "thinning": 0.5}},
    "dispersion of gene": {"model": {"dispersion": "gene"}},
    "dispersions at the networks' rate": {
        "model": {"dispersion": "gene"},
        "train": {"plan_kwargs": {"dispersion_lr": 1e-3}},
    },
    "two layers, KL weight 0.2": {"model": {"n_layers": 2, "kl_weight": 0.2}},
    "two layers, KL weight 0.3": {"model": {"n_layers": 2, "kl_weight": 0.3}},
    "KL weight 1": {"model": {"kl_weight": 1.0}},
    "KL weight 0.03": {"model": {"kl_weight": 0.03}},
    "8 latents": {"model": {"n_latent": 8}},
    "32 latents": {"model": {"n_latent": 32}},
    "128 units": {"model": {"n_hidden": 128}},
    "256 units": {"model": {"n_hidden": 256}},
    "512 units": {"model": {"n_hidden": 512}},
    "no dropout": {"model": {"dropout_rate": 0.0}},
    "twice the epochs": {"epochs": 2.0},
    "half the epochs": {"epochs": 0.5},
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
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="one seed of the smallest set")
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    results = Results(args.out / "autoencoder.csv", ["data", "seed", "setting"])
    for name in ["pbmc3k"] if args.quick else args.sets:
        for seed in [0] if args.quick else args.seeds:
            train, aside = split(
                args.data / f"{name}.h5ad", seed, SETS[name][0], MAX_TRAIN, validation=True
            )
            for setting in args.settings:
                if not results.has(data=name, seed=seed, setting=setting):
                    row = measure(train, aside, SETS[name], seed, setting)
                    results.add(data=name, seed=seed, setting=setting, **row)
                    print(name, seed, setting, row, flush=True)
    table = results.table(["data", "setting"]).round(3).reset_index()
    text = table.sort_values("data", kind="stable").to_markdown(index=False) + "\n"
    print(text)
    (args.out / "autoencoder.md").write_text(text)


def measure(
    train: ad.AnnData, aside: ad.AnnData, conditions: list[str], seed: int, setting: str
) -> dict[str, float]:
    """Train stage 1 and compare draws from the posteriors with the cells set aside."""
    choices = SETTINGS[setting]
    scvi.settings.seed = seed
    data = train.copy()
    scldm.SCLDM.setup_anndata(data, **{f"{name}_key": name for name in conditions})
    model = scldm.SCLDM(data, **{"n_layers": 1, "thinning": 0.0, **choices.get("model", {})})
    epochs = round(choices.get("epochs", 1.0) * model.recipe.max_epochs)
    model.train_autoencoder(epochs, enable_progress_bar=False, **choices.get("train", {}))
    rows = np.random.default_rng(seed).permutation(train.n_obs)
    counts = model.posterior_predictive_sample(indices=rows, n_samples=1).todense()
    drawn = ad.AnnData(
        sparse.csr_matrix(counts.astype(np.float32)), train.obs.iloc[rows], train.var
    )
    drawn.obs_names = [f"drawn_{i}" for i in range(drawn.n_obs)]
    table = scldm.metrics.evaluate(
        aside, drawn, train, conditions[0], metrics=METRICS, n_bootstrap=0, seed=seed
    )
    scores = scldm.metrics.side_by_side(table)
    floor, made = scores["floor"], scores["generated"]
    return {
        "auc_genes": made["auc_genes"],
        "w2_to_floor": made["w2"] / floor["w2"],
        "label_f1": made["label_f1"],
        "label_f1_ceiling": floor["label_f1"],
    }


if __name__ == "__main__":
    main()
