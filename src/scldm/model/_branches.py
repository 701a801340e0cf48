"""Where fates part and by which genes, from probabilities and expression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.stats import norm, rankdata

__all__ = [
    "BranchPoints",
    "correlation",
    "crossings",
    "curve_of",
    "differing",
    "log_normalised",
    "q_values",
]

_CLOSE = 0.5
_LEAST_FALL = 0.2
_FEWEST_CELLS = 5
_TARGET_SUM = 1e4


@dataclass
class BranchPoints:
    """Where fates part.

    Attributes
    ----------
    table
        A row for each pair of fates, the earliest split first: ``first`` and ``second``; ``time``,
        when the split begins, a fifth of the uncertainty between the two being gone; ``half`` and
        ``end``, when half and four fifths are; ``entropy_before`` and ``entropy_after`` in bits. The
        times are NaN where less than 0.2 bits are lost: those fates do not part.
    curves
        By pair and time point: mean ``entropy`` in bits of the choice between the two,
        ``separation`` (how far the cells that lean to either are apart along the line between them,
        in standard deviations, Ashman's D), and ``n_cells``.
    genes
        By pair, genes that differ between cells of the two fates at the first time point at which
        half of the uncertainty is gone: ``log2_fold_change`` (second against first), ``auroc`` (chance that a cell of the
        second has more), ``p_value`` and ``q_value`` (Mann-Whitney, Benjamini-Hochberg). The cells were
        told apart by their expression, so these p-values order genes and test nothing. Pairs that do
        not part, or of which few cells are certain, have no rows.
    """

    table: pd.DataFrame
    curves: pd.DataFrame
    genes: pd.DataFrame


def curve_of(p: np.ndarray, knot: np.ndarray, x: np.ndarray, knots: np.ndarray) -> pd.DataFrame:
    """Return entropy and separation of two fates at each time point.

    Cells that are likely to be of neither count for nothing.
    """
    total = p.sum(axis=1)
    share = p[:, 1] / np.maximum(total, 1e-12)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -(share * np.log2(share) + (1 - share) * np.log2(1 - share))
    entropy = np.nan_to_num(entropy)
    rows = []
    for k, time in enumerate(knots):
        here = (knot == k) & (total > _CLOSE)
        known = here.sum() >= _FEWEST_CELLS
        rows.append(
            {
                "time": time,
                "entropy": np.average(entropy[here], weights=total[here]) if known else np.nan,
                "separation": _separation(x[here], share[here]) if known else np.nan,
                "n_cells": int(here.sum()),
            }
        )
    return pd.DataFrame(rows)


def _separation(x: np.ndarray, share: np.ndarray) -> float:
    """Return Ashman's D between cells that lean to either side, along the line between them."""
    sides = [x[share < 0.5], x[share >= 0.5]]
    if min(map(len, sides)) < _FEWEST_CELLS:
        return np.nan
    line = sides[1].mean(axis=0) - sides[0].mean(axis=0)
    first, second = (side @ line for side in sides)
    spread = np.sqrt((first.var() + second.var()) / 2)
    return float(abs(second.mean() - first.mean()) / max(spread, 1e-12))


def crossings(curve: pd.DataFrame) -> dict[str, float]:
    """Return when shares of the entropy that two fates lose are gone."""
    known = curve.dropna(subset="entropy")
    if len(known) < 2:
        nothing = ("time", "half", "end", "entropy_before", "entropy_after")
        return dict.fromkeys(nothing, np.nan)
    time, entropy = known["time"].to_numpy(), known["entropy"].to_numpy()
    # from the last time at which it was highest on
    start = len(entropy) - 1 - int(entropy[::-1].argmax())
    time, falling = time[start:], np.minimum.accumulate(entropy[start:])
    top, end = falling[0], falling[-1]
    ends = {"entropy_before": float(top), "entropy_after": float(end)}
    if top - end < _LEAST_FALL:
        return {"time": np.nan, "half": np.nan, "end": np.nan, **ends}

    def when(gone: float) -> float:
        below = np.flatnonzero(falling <= top - gone * (top - end))
        k = max(int(below[0]), 1)
        rise = falling[k - 1] - falling[k]
        share = (falling[k - 1] - (top - gone * (top - end))) / rise if rise > 0 else 1.0
        return float(time[k - 1] + share * (time[k] - time[k - 1]))

    return {
        "time": when(0.2),
        "half": when(0.5),
        "end": when(0.8),
        **ends,
    }


def differing(
    x: np.ndarray, first: np.ndarray, second: np.ndarray, names: pd.Index
) -> pd.DataFrame:
    """Return genes that differ between two sets of cells, the most telling first."""
    columns = ["log2_fold_change", "auroc", "p_value", "q_value"]
    n, m = int(first.sum()), int(second.sum())
    if min(n, m) < _FEWEST_CELLS:
        return pd.DataFrame(columns=columns, index=pd.Index([], name="gene"), dtype=float)
    a, b = x[first], x[second]
    ranks = rankdata(np.concatenate([a, b]), axis=0)
    auroc = (ranks[n:].sum(axis=0) - m * (m + 1) / 2) / (n * m)
    ties = np.array([(np.unique(g, return_counts=True)[1] ** 3).sum() for g in ranks.T])
    total = n + m
    variance = n * m / 12 * (total + 1 - (ties - total) / (total * (total - 1)))
    z = (auroc - 0.5) * n * m / np.sqrt(np.maximum(variance, 1e-12))
    p_value = 2 * norm.sf(np.abs(z))
    means = [np.expm1(part).mean(axis=0) + 1 for part in (a, b)]
    table = pd.DataFrame(
        {
            "log2_fold_change": np.log2(means[1] / means[0]),
            "auroc": auroc,
            "p_value": p_value,
            "q_value": q_values(p_value),
        },
        index=names.rename("gene"),
    )
    return table.iloc[np.argsort(-np.abs(auroc - 0.5), kind="stable")]


def q_values(p: np.ndarray) -> np.ndarray:
    """Return the least false discovery rates at which each would be called (Benjamini-Hochberg)."""
    order = np.argsort(p)
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    q = np.empty_like(p)
    q[order] = np.minimum.accumulate(scaled[::-1])[::-1].clip(max=1)
    return q


def correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation of each column with y, 0 where either does not vary."""
    x, y = x - x.mean(axis=0), y - y.mean()
    size = np.sqrt(np.square(x).sum(axis=0) * np.square(y).sum())
    return np.divide(x.T @ y, size, out=np.zeros(x.shape[1]), where=size > 0)


def log_normalised(counts: Any) -> np.ndarray:
    dense = counts.toarray() if sparse.issparse(counts) else np.asarray(counts)
    sizes = np.maximum(dense.sum(axis=1, keepdims=True), 1)
    return np.log1p(dense / sizes * _TARGET_SUM).astype(np.float64)
