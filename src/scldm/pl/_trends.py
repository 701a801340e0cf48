"""Expression along a number, such as dose or time."""

from collections.abc import Sequence

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from numpy.typing import NDArray

from scldm.metrics._anndata import counts_of
from scldm.pl._checks import require_known

__all__ = ["draw_trend", "log_expression", "numbers", "trend"]

TARGET_SUM = 1e4
LEVEL = (0.05, 0.95)
MOST_PLACES, PARTS = 30, 12

Array = NDArray[np.float64]


def numbers(adata: AnnData, key: str, argument: str) -> Array:
    """Return a column of ``obs`` as numbers.

    Raises
    ------
    ValueError
        If the column is missing, there are no cells, or a value is missing or no number.
    """
    require_known(argument, [key], list(adata.obs))
    try:
        values = adata.obs[key].to_numpy(dtype=float)
    except (TypeError, ValueError):
        raise ValueError(f"`{argument}={key!r}` does not hold numbers.") from None
    if not len(values):
        raise ValueError("A set of cells is empty.")
    if not np.isfinite(values).all():
        raise ValueError(f"`{argument}={key!r}` has missing values.")
    return values


def log_expression(adata: AnnData, genes: Sequence[str], layer: str | None) -> Array:
    """Return log(1 + counts per ten thousand) of some genes, ``(n_cells, n_genes)``.

    Raises
    ------
    ValueError
        If a gene is missing.
    """
    require_known("genes", genes, list(adata.var_names))
    counts = counts_of(adata, layer if layer in adata.layers else None, "cells")
    sizes = np.maximum(np.asarray(counts.sum(axis=1)), 1)
    return np.log1p(TARGET_SUM * counts[:, adata.var_names.get_indexer(genes)].toarray() / sizes)


def trend(at: Array, values: Array, weights: Array | None = None) -> Array:
    """Return by place: the place, mean, standard error, and the ends of the band, ``(n, 5)``.

    Parameters
    ----------
    at
        Where each cell is; more than thirty places are put together in twelve.
    values
        Its expression.
    weights
        How much it counts; places without weight are left out.
    """
    weights = np.ones(len(at)) if weights is None else weights
    at = _places(at)
    rows = []
    for place in np.unique(at):
        own, w = values[at == place], weights[at == place]
        if not w.sum() > 0:
            continue
        w = w / w.sum()
        mean, size = w @ own, 1 / np.square(w).sum()
        error = np.sqrt(w @ np.square(own - mean) / (size - 1)) if size > 1.5 else 0.0
        rows.append([place, mean, error, *_quantiles(own, w)])
    return np.array(rows).reshape(-1, 5)


def _places(at: Array) -> Array:
    """Return numbers as they are or, where they are many, the mean of the part that each is in."""
    if len(np.unique(at)) <= MOST_PLACES:
        return at
    edges = np.unique(np.quantile(at, np.linspace(0, 1, PARTS + 1)))
    part = np.clip(np.searchsorted(edges, at, side="right") - 1, 0, len(edges) - 2)
    means = np.bincount(part, at) / np.maximum(np.bincount(part), 1)
    return means[part]


def _quantiles(values: Array, weights: Array) -> Array:
    if np.ptp(weights) == 0:
        return np.quantile(values, LEVEL)
    order = np.argsort(values)
    middle = weights[order].cumsum() - weights[order] / 2
    return np.interp(LEVEL, middle, values[order])


def draw_trend(
    ax: Axes, summary: Array, colour: str, marker: str = "o", band: bool = True
) -> None:
    """Draw means with two standard errors, and the band that holds nine in ten cells."""
    at, mean, error, low, high = summary.T
    ax.plot(at, mean, color=colour, marker=marker, ms=4, mew=0, lw=1.4)
    if band and len(at) > 1:
        ax.fill_between(at, low, high, color=colour, alpha=0.13, lw=0)
    ax.vlines(at, mean - 2 * error, mean + 2 * error, color=colour, lw=1.2)
