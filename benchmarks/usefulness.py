"""What generated cells are good for: rare types and batches.

    python benchmarks/usefulness.py --data DIR [--quick]

*Rare types.* All but fifteen training cells of a type are taken away and become test cells. A model
is trained on what is left and generates cells of the type, until it has as many as the median
type. A classifier of types learns from the real cells; from these and rare cells drawn again (the
control, which costs nothing); and from these and generated cells. The table has the F1 of the
rare type on test cells, over five seeds.

*Batches.* Two batches of the same tissue: cells as they are, latents of scVI and scANVI with the batch as
a condition, and counts that our model has moved to the first batch. Mixing of batches is read against
separation of types. Our model and scANVI are told the types, scVI is not.

Rows are kept as they finish.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import scvi
from common import Results, split

import scldm

LABEL, BATCH = "cell_type", "batch"
RARE = {
    "pbmc3k": "FCGR3A+ Monocytes",
    "paul15_myeloid": "Neutrophils",
    "pbmc_ding2020_10xv2v3": "CD16+ monocyte",
}
BATCHES = "pbmc_ding2020_10xv2v3"
N_RARE = 15
N_SEEDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data sets")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--sets", nargs="+", choices=RARE, default=list(RARE))
    parser.add_argument("--quick", action="store_true", help="one seed")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    rare = Results(args.out / "augmentation.csv", ["data", "seed", "type"])
    mixing = Results(args.out / "batch_mixing.csv", ["data", "seed", "cells"])
    for seed in range(1 if args.quick else N_SEEDS):
        for name in args.sets:
            kind = RARE[name]
            if not rare.has(data=name, seed=seed, type=kind):
                scores = augment(args.data / f"{name}.h5ad", kind, seed)
                rare.add(data=name, seed=seed, type=kind, **scores)
                print(name, seed, kind, scores, flush=True)
        if seed < 3 and BATCHES in args.sets:
            mix(mixing, args.data / f"{BATCHES}.h5ad", seed)
    report(rare, mixing, args.out / "usefulness.md")


def augment(path: Path, kind: str, seed: int) -> dict[str, float]:
    """F1 of a type that few training cells have."""
    train, test = split(path, seed)
    own = np.flatnonzero(train.obs[LABEL] == kind)
    spare = np.random.default_rng(seed).permutation(own)[N_RARE:]
    test = ad.concat([test, train[spare]])
    train = train[np.setdiff1d(np.arange(train.n_obs), spare)].copy()
    sizes = train.obs[LABEL].value_counts()
    n_new = int(sizes[sizes > 0].median()) - N_RARE
    model = trained(train, seed)
    made = model.generate(n_new, cell_type=kind, seed=seed)
    projection = scldm.metrics.Projection(30, seed=seed).fit(train.X)
    scores = scldm.metrics.augmentation(
        projection.transform(train.X),
        train.obs[LABEL],
        projection.transform(made.X),
        projection.transform(test.X),
        test.obs[LABEL],
        label=kind,
        seed=seed,
    )
    return {"n_new": n_new, **scores._asdict()}


def mix(results: Results, path: Path, seed: int) -> None:
    """Add the rows of cells as they are and corrected that are not there."""
    train, _ = split(path, seed)
    projection = scldm.metrics.Projection(30, seed=seed).fit(train.X)
    for rows, embed in EMBEDDINGS.items():
        if all(results.has(data=path.stem, seed=seed, cells=name) for name in rows):
            continue
        for name, x in zip(rows, embed(train, projection, seed), strict=True):
            scores = scldm.metrics.batch_mixing(x, train.obs[BATCH], train.obs[LABEL])
            results.add(data=path.stem, seed=seed, cells=name, **scores._asdict())
            print(path.stem, seed, name, scores, flush=True)


def as_they_are(
    train: ad.AnnData, projection: scldm.metrics.Projection, seed: int
) -> Iterator[np.ndarray]:
    yield projection.transform(train.X)


def rivals(
    train: ad.AnnData, projection: scldm.metrics.Projection, seed: int
) -> Iterator[np.ndarray]:
    """Yield latents of scVI, and of scANVI that starts from it."""
    scvi.settings.seed = seed
    data = train.copy()
    scvi.model.SCVI.setup_anndata(data, batch_key=BATCH)
    model = scvi.model.SCVI(data)
    model.train(enable_progress_bar=False)
    yield model.get_latent_representation()
    told = scvi.model.SCANVI.from_scvi_model(model, "not known", labels_key=LABEL)
    told.train(enable_progress_bar=False)
    yield told.get_latent_representation()


def ours(
    train: ad.AnnData, projection: scldm.metrics.Projection, seed: int
) -> Iterator[np.ndarray]:
    """Yield our latents, and counts that were moved to the first batch."""
    model = trained(train, seed, batch_key=BATCH)
    yield model.get_latent_representation()
    moved = model.counterfactual(batch=train.obs[BATCH].astype(str).min(), seed=seed)
    yield projection.transform(moved.X)


EMBEDDINGS = {
    ("as they are, principal components",): as_they_are,
    ("scVI, latents", "scANVI, latents"): rivals,
    ("scldm, latents", "scldm, counts moved to one batch, principal components"): ours,
}
"""What each function yields, in order."""


def trained(train: ad.AnnData, seed: int, **keys: str) -> scldm.SCLDM:
    """A model with default settings."""
    scvi.settings.seed = seed
    data = train.copy()
    scldm.SCLDM.setup_anndata(data, cell_type_key=LABEL, **keys)
    model = scldm.SCLDM(data)
    model.train(enable_progress_bar=False)
    return model


def report(rare: Results, mixing: Results, path: Path) -> None:
    """Print both tables and write them as Markdown."""
    wins = rare.rows.assign(
        wins_over_oversampling=(rare.rows["augmented"] > rare.rows["oversampled"]).astype(float)
    )
    groups = wins.groupby(["data", "type"], sort=False)
    means = groups.mean(numeric_only=True).drop(columns="seed")
    means.insert(0, "seeds", groups.size())
    parts = [
        f"## F1 of a type with {N_RARE} training cells, means over seeds\n",
        means.round(3).reset_index().to_markdown(index=False),
    ]
    if len(mixing.rows):
        parts += [
            f"\n## Batches, mean of {mixing.rows['seed'].nunique()} seeds\n",
            mixing.table(["data", "cells"]).round(3).reset_index().to_markdown(index=False),
        ]
    text = "\n".join(parts) + "\n"
    print(text)
    path.write_text(text)


if __name__ == "__main__":
    main()
