"""Cells with a programme of genes raised or lowered.

    python benchmarks/gene_sets.py --data DIR [--quick]

A model is trained with sets of genes as a condition: two programmes that are known in the data's
cells and five unrelated sets, drawn at random among genes of like means and chosen because their
scores do not go along with the programmes' in real cells of the type. Cells of the type are asked
for with one programme at five quantiles of what real cells of the type have, the other sets left
free. The table has the mean score of the programme in the generated cells, and the largest change
of an unrelated set from the request of the median, in standard deviations of real cells of the
type; beside it what the same set does between real cells of the type with the lowest and the
highest fifth of the programme's score. Rows are kept as they finish.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scvi
from common import Results, split

import scldm

LABEL, KEY = "cell_type", "programmes"
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
N_UNRELATED = 5
PROGRAMMES = {
    "interferon": """ISG15 IFI6 IFIT1 IFIT2 IFIT3 MX1 MX2 OAS1 OAS2 OAS3 IRF7 STAT1 ISG20 IFI35 IFI44
        IFI44L RSAD2 XAF1 LY6E BST2 SAMD9 HERC5 TNFSF10 CXCL10 IFITM3 IFITM1 EIF2AK2 SP110 PLSCR1""",
    "MHC class II": "HLA-DRA HLA-DRB1 HLA-DPA1 HLA-DPB1 HLA-DQA1 HLA-DQB1 HLA-DMA CD74",
    "MHC class I": "HLA-A HLA-B HLA-C HLA-E HLA-F B2M TAP1 PSMB8 PSMB9",
}
SETS = {
    "kang2018_ifnb_labelled": ("CD14+ Monocytes", ("interferon", "MHC class I")),
    "pbmc10k_cite": ("CD14+ Monocytes", ("interferon", "MHC class II")),
}


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
    results = Results(args.out / "gene_sets.csv", ["data", "seed", "asked", "quantile", "set"])
    for name, (kind, asked) in SETS.items():
        for seed in range(1 if args.quick else 3):
            if not results.has(data=name, seed=seed, asked=asked[-1], quantile=QUANTILES[-1]):
                run(results, args.data / f"{name}.h5ad", name, kind, asked, seed)
    report(results, args.out)


def run(
    results: Results, path: Path, name: str, kind: str, asked: tuple[str, ...], seed: int
) -> None:
    """Add the rows of one data set and seed."""
    train, _ = split(path, seed)
    sets = gene_sets(train, kind, asked, seed)
    scldm.data.add_gene_sets(train, sets, key=KEY)
    scvi.settings.seed = seed
    scldm.SCLDM.setup_anndata(train, cell_type_key=LABEL, gene_sets_key=KEY)
    model = scldm.SCLDM(train)
    model.train(enable_progress_bar=False)
    real = model.get_gene_set_scores()[(train.obs[LABEL] == kind).to_numpy()]
    spread = real.std()
    for programme in asked:
        low, high = np.quantile(real[programme], [0.2, 0.8])
        fifths = real[real[programme] >= high].mean() - real[real[programme] <= low].mean()
        levels = np.quantile(real[programme], QUANTILES)
        scores = [
            model.get_gene_set_scores(
                model.generate(500, cell_type=kind, gene_sets={programme: level}, seed=seed)
            ).mean()
            for level in levels
        ]
        median = scores[QUANTILES.index(0.5)]
        for quantile, level, score in zip(QUANTILES, levels, scores, strict=True):
            for which in sets:
                results.add(
                    data=name,
                    seed=seed,
                    asked=programme,
                    quantile=quantile,
                    set=which,
                    level=level,
                    score=score[which],
                    change_in_sd=(score[which] - median[which]) / spread[which],
                    real_fifths_in_sd=fifths[which] / spread[which],
                )
        told = [round(float(score[programme]), 2) for score in scores]
        print(name, seed, programme, levels.round(2), told, flush=True)


def gene_sets(
    train: ad.AnnData, kind: str, asked: tuple[str, ...], seed: int
) -> dict[str, list[str]]:
    """Return the genes of the programmes, and of sets that do not go along with them."""
    genes = train.var_names
    sets = {p: [g for g in PROGRAMMES[p].split() if g in genes] for p in asked}
    cells = train[train.obs[LABEL] == kind].X.toarray()
    expression = np.log1p(1e4 * cells / cells.sum(1, keepdims=True))
    expression = pd.DataFrame(expression - expression.mean(1, keepdims=True), columns=genes)
    programmes = [expression[members].mean(axis=1) for members in sets.values()]
    mean = pd.Series(np.asarray(train.X.mean(axis=0)).ravel(), index=genes)
    free = mean.drop([gene for members in sets.values() for gene in members]).sort_values()
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(200):
        places = np.searchsorted(free, mean[sets[asked[0]]])
        places = np.clip(places + rng.integers(-20, 21, len(places)), 0, len(free) - 1)
        members = free.index[np.unique(places)].tolist()
        score = expression[members].mean(axis=1)
        drawn.append((max(abs(score.corr(programme)) for programme in programmes), members))
    drawn.sort(key=lambda pair: pair[0])
    return sets | {f"unrelated {i}": drawn[i][1] for i in range(N_UNRELATED)}


def report(results: Results, out: Path) -> None:
    """Print the table, write it as Markdown, and draw the figure."""
    rows = results.rows
    own = rows[rows["set"] == rows["asked"]]
    other = rows[rows["set"].str.startswith("unrelated")]
    by = ["data", "asked", "quantile"]
    table = own.groupby(by, sort=False)[["level", "score"]].mean()
    table["lowest seed"] = own.groupby(by)["score"].min()
    table["highest seed"] = own.groupby(by)["score"].max()
    for name, column in (("generated", "change_in_sd"), ("real fifths", "real_fifths_in_sd")):
        largest = other[column].abs().groupby([other[name] for name in by]).max()
        table[f"unrelated, largest, {name} (SD)"] = largest
    table.insert(0, "seeds", own.groupby(by)["seed"].nunique())
    shown = table.reset_index().round(2).to_markdown(index=False)
    text = f"## Mean score of the programme asked for\n\n{shown}\n"
    print(text)
    (out / "gene_sets.md").write_text(text)
    groups = list(rows.groupby(["data", "asked"], sort=False))
    figure, axes = plt.subplots(1, len(groups), figsize=(4 * len(groups), 3.6), squeeze=False)
    for ax, ((name, asked), part) in zip(axes[0], groups, strict=True):
        level = part.groupby("quantile")["level"].mean()
        means = part.groupby(["set", "quantile"])["score"].mean().unstack("quantile")
        for which in means.index:
            mine = which == asked
            if mine or which.startswith("unrelated"):
                style = {"color": "C3", "lw": 2} if mine else {"color": "0.6", "lw": 1}
                ax.plot(level, means.loc[which], ".-", **style)
        ax.plot(level, level, "k:", lw=1)
        ax.set(xlabel="score asked for (SD)", ylabel="mean score", title=f"{name}\n{asked}")
    figure.tight_layout()
    figure.savefig(out / "gene_sets.png", dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
