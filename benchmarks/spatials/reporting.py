"""Tables of the benchmark in space, one file of Markdown for each part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from .genes import WITHIN
from .predictors import LABELS, TRUTH
from .scores import FLOOR

__all__ = ["report"]

KEYS = ["data", "seed", "task", "method"]
HIGH = ("pcc", "smoothed_pcc", "ssim", "morans_correlation", "pcc_law", "spearman", "pearson")
RIGHT = {"variance_ratio": 1.0, "coverage_50": 0.5, "coverage_90": 0.9, "gradient_slope": 1.0}
UNMARKED = ("seconds", "genes", "seeds")
APART = (FLOOR, LABELS, TRUTH)
"""Rows that know what others do not, and are not marked."""
BEST = "Means over seeds; the best of each column is bold."
LEGEND = (
    "Means over seeds; the best of each column is bold (`variance_ratio` and `gradient_slope` should be "
    "1, `coverage_50` 0.5, `coverage_90` 0.9). Rows of real halves, of labels and of the truth know what "
    "the others do not, and take no part. `seconds` is the processor's time for training and drawing; "
    "our methods share their training. An energy distance below zero is so by chance, and as good as zero; "
    "`energy_within` compares each section with itself."
)
NOTES = {
    "region": "The 15% of places nearest to the middle of each section are taken away.",
    "half": "A random half of the places of each section is taken away.",
    "every_second": "Every second spot of each row is taken away.",
    "section": "An inner section of four is taken away; the 1,000 genes with most counts in the others.",
    "genes": (
        "Genes held out in five folds of those that both panels have, and predicted from the others. "
        f"The reference is another tissue and technique, or ({WITHIN}) cells of the same tissue without "
        "coordinates. Correlations over cells, mean over genes (0 where a prediction is constant)."
    ),
    "simulated": (
        "A disc of 15%, and a random half, of a simulated tissue. `_law` compares with expected values, "
        "without the noise of cells (`pcc_law`: of genes that vary); `gradient_` is of genes with "
        "gradients (slope: median; bias: mean absolute). Markers of the two layers at the middle boundary "
        "are 0 below it and 1 above: `boundary_error` is the mean distance from that, within seven "
        "spacings of cells; `boundary_offset` and `boundary_width` (from a quarter to three quarters) "
        "are those of a fitted step in units of the spacing, medians over eleven lines. A smooth "
        "prediction has a small offset by symmetry, and one place alone no width."
    ),
    "coordinates_3d": (
        "Real places in 3-D, simulated counts (the file's own are intensities); a ball of 15%, in units "
        "of the block's sides, is taken away from the middle."
    ),
}


def report(rows: pd.DataFrame, part: str, path: Path) -> str:
    """Write the tables of a part, and return them.

    Parameters
    ----------
    rows
        Of the part, one of each method, data set, task and seed.
    part
        Its name.
    path
        File of Markdown.
    """
    parts = [f"# {part}\n\n{NOTES[part]} {LEGEND if part != 'genes' else BEST}\n"]
    parts.append(f"    python benchmarks/spatial.py --data DIR --parts {part}\n")
    for (data, task), own in rows.groupby(["data", "task"]):
        title = f"{data}, {task}" if task != part else data
        parts.append(f"## {title}, seeds: {own['seed'].nunique()}\n\n{_table(own)}\n")
    text = "\n".join(parts)
    path.write_text(text)
    return text


def _table(rows: pd.DataFrame) -> str:
    numbers = rows.drop(columns=[k for k in KEYS if k != "method"])
    means = numbers.groupby("method", sort=False).mean().dropna(axis=1, how="all")
    seeds = numbers.groupby("method").size()
    if seeds.nunique() > 1:
        means["seeds"] = seeds
    means = means.loc[sorted(means.index, key=_order)]
    text = pd.DataFrame(
        {name: _marked(name, means[name]) for name in means}, index=means.index
    ).reset_index()
    return text.to_markdown(index=False, disable_numparse=True)


def _order(method: str) -> int:
    """Put the rows that know most first, ours last, and leave the others as they are."""
    return (method not in APART) + method.startswith("scldm")


def _marked(name: str, values: pd.Series) -> list[str]:
    """Return numbers as text, the best in bold."""
    digits = 0 if name == "seeds" else 1 if name in UNMARKED else 3
    text = ["" if np.isnan(v) else f"{v:.{digits}f}" for v in values]
    loss = -values if name in HIGH else (values - RIGHT.get(name, 0.0)).abs()
    # below zero is chance
    loss = values.clip(lower=0) if name.startswith("energy") else loss
    loss = loss[~values.index.isin(APART)].dropna().round(digits)
    if name in UNMARKED or loss.empty:
        return text
    best = loss.index[loss == loss.min()]
    return [
        f"**{shown}**" if method in best else shown
        for method, shown in zip(values.index, text, strict=True)
    ]
