"""The tables and figures of the generation benchmark."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from generators import FAMILIES

__all__ = ["report"]

FLOOR = "floor"
DECODING = "scVI, N(0, I)"
"""The method whose training and drawing the others' times are given relative to."""

HEADLINE = {
    "w2_to_floor": "W2, floor = 1",
    "mmd2": "1000 MMD²",
    "auc_genes": "forest's AUC, genes",
    "label_f1": "label F1",
    "nn_ratio": "nearest-neighbour ratio",
}
UNITS = {"mmd2": 1000}
"""By what values are multiplied in the table."""

COSTS = {
    "train_to_scvi": "train, scVI = 1",
    "cells_to_scvi": "cells per s, scVI = 1",
    "peak_mib": "peak MiB",
    "stage_2_to_stage_1": "stage 2 / stage 1",
    "generate_to_decode": "generate / decode",
    "train_steps": "steps",
}
MEASURED = ("train_seconds", "cells_per_second")
METHODS = {name: m for family in FAMILIES.values() for name, m in family.methods.items()}


def report(rows: pd.DataFrame, stem: Path) -> None:
    """Print the tables, write them as Markdown, and draw a figure for each data set.

    Parameters
    ----------
    rows
        A row for each data set, seed and method.
    stem
        Path of what is written, without suffix.
    """
    parts = []
    for name, part in rows.groupby("data", sort=False):
        part = part.assign(method=pd.Categorical(part["method"], [FLOOR, *METHODS]))
        part = relative(part.sort_values("method"))
        parts.append(section(str(name), part))
        draw(part, stem.with_name(f"{stem.name}_{name}.png"))
    text = "\n".join(parts)
    print(text)
    stem.with_suffix(".md").write_text(text)


def relative(rows: pd.DataFrame) -> pd.DataFrame:
    """Add times relative to scVI's of the same seed."""
    scvi = rows[rows["method"] == DECODING].set_index("seed")
    return rows.assign(
        train_to_scvi=rows["train_seconds"] / rows["seed"].map(scvi["train_seconds"]),
        cells_to_scvi=rows["cells_per_second"] / rows["seed"].map(scvi["cells_per_second"]),
    )


def section(name: str, rows: pd.DataFrame) -> str:
    """Return the tables of a data set: the headline, and all other metrics."""
    seeds = rows["seed"].nunique()
    grouped = rows.drop(columns=["data", "seed"]).groupby("method", observed=True)
    means, spreads, counts = grouped.mean(), grouped.std(), grouped.size()
    headline = pd.DataFrame(index=means.index)
    if counts.nunique() > 1:
        headline["seeds"] = counts.astype(str)
    for metric, title in HEADLINE.items():
        times = UNITS.get(metric, 1)
        cells = [
            f"{times * m:.3f} ± {times * s:.3f}"
            for m, s in zip(means[metric], spreads[metric], strict=True)
        ]
        headline[title] = [c.replace(" ± nan", "").replace("nan", "") for c in cells]
        best = nearest_to_floor(means[metric])
        headline.loc[best, title] = f"**{headline.loc[best, title]}**"
    for cost, title in COSTS.items():
        if cost in means and means[cost].notna().any():
            headline[title] = [f"{value:.3g}".replace("nan", "") for value in means[cost]]
    others = means.drop(columns=[*HEADLINE, *COSTS, *MEASURED], errors="ignore")
    return (
        f"## {name}, mean of {seeds} seeds\n\n{headline.to_markdown(disable_numparse=True)}\n\n"
        f"{others.map('{:.3g}'.format).replace('nan', '').T.to_markdown(disable_numparse=True)}\n"
    )


def nearest_to_floor(values: pd.Series) -> str:
    """Return the rival whose value is nearest to that of real cells.

    Neither the lowest distance nor the highest score is best: cells that are too much alike lie
    below the floor and are easier to classify than real ones.
    """
    rivals = [name for name in values.index if name != FLOOR and not METHODS[name].sees_test]
    return (values[rivals] - values[FLOOR]).abs().idxmin()


def draw(rows: pd.DataFrame, path: Path) -> None:
    """Draw a panel for each headline metric: a dot for each seed, a bar at their mean."""
    methods = [name for name in METHODS if (rows["method"] == name).any()]
    height = 1.2 + 0.28 * len(methods)
    rows = rows.assign(**{metric: times * rows[metric] for metric, times in UNITS.items()})
    figure, axes = plt.subplots(1, len(HEADLINE), figsize=(15, height), sharey=True)
    for ax, (metric, title) in zip(axes, HEADLINE.items(), strict=True):
        for y, name in enumerate(methods):
            values = rows.loc[rows["method"] == name, metric].to_numpy()
            color = "0.6" if METHODS[name].sees_test else "C3" if name == "scldm" else "C0"
            ax.plot(values, np.full(len(values), y), "o", color=color, alpha=0.6, markersize=5)
            ax.plot(values.mean(), y, "|", color=color, markersize=14)
        floor = rows.loc[rows["method"] == FLOOR, metric]
        ax.axvspan(floor.min(), floor.max(), color="0.9", zorder=0)
        ax.axvline(floor.mean(), color="black", linestyle=":", linewidth=1)
        ax.set(title=title)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(methods)), methods)
    axes[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
