"""What becomes of cells: maps of fates, when they part, and the genes that tell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from scldm.pl._checks import require_known
from scldm.pl._style import category_styles, colour_bar, finish, panels, style
from scldm.pl._trajectory import bare, map_of
from scldm.pl._trends import draw_trend, log_expression, numbers, trend

__all__ = ["fates"]

COLOURS = "magma_r"


class Branches(Protocol):
    """What ``branch_points`` returns."""

    table: pd.DataFrame
    curves: pd.DataFrame


def fates(
    adata: AnnData,
    fates: pd.DataFrame,
    branch_points: Branches | None = None,
    genes: str | Sequence[str] = (),
    time_key: str = "time",
    *,
    basis: str = "X_umap",
    layer: str | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> list[Axes] | None:
    """Maps of the probability of each fate, when fates part, and genes on the way to each.

    Parameters
    ----------
    adata
        Cells with a map, and counts where genes are asked for.
    fates
        From ``fate_probabilities``, of some or all of these cells.
    branch_points
        From ``branch_points``: adds a panel with the uncertainty between each two fates over time, a
        vertical line where half of it is gone, and a band from a fifth to four fifths.
    genes
        Genes to show over time, for each fate. Cells count by their probability of it; the bands hold
        nine in ten.
    time_key
        Column of ``obs`` with the time.
    basis
        The map, in ``obsm``.
    layer
        Layer with the counts, or ``None`` for ``X``.
    show
        Whether to show the figure; by default as scanpy is set, but not when it is saved.
    save
        Path of the file to write.

    Returns
    -------
    The axes (maps, uncertainty, genes), or ``None`` if they were shown.

    Raises
    ------
    ValueError
        If the map, a gene, the layer or the column is missing, or cells of ``fates`` are not there.
    TypeError
        If ``branch_points`` is something else.
    """
    genes = [genes] if isinstance(genes, str) else list(genes)
    place = map_of(adata, basis)
    if not adata.obs_names.is_unique:
        raise ValueError("`adata` has names of cells that are not unique.")
    rows = adata.obs_names.get_indexer(fates.index)
    if (rows < 0).any():
        raise ValueError(f"`fates` has {(rows < 0).sum()} cells that are not in `adata`.")
    p = fates["probability"] if fates.columns.nlevels > 1 else fates
    if branch_points is not None and not hasattr(branch_points, "curves"):
        raise TypeError("`branch_points` is not what `branch_points()` returns.")
    if layer is not None and layer not in adata.layers:
        raise ValueError(f"`layer={layer!r}` is not a layer. Known: {list(adata.layers)}.")
    values = log_expression(adata, genes, layer)[rows] if genes else None
    times = numbers(adata, time_key, "time_key")[rows] if genes else None
    looks = category_styles([str(name) for name in p])
    n = p.shape[1] + (branch_points is not None) + len(genes)
    across = n if n <= 5 else -(-n // 2)
    with style():
        axes = panels(n, across, 2.7 * across + 0.5, 2.6 * -(-n // across) + 0.3)
        maps = axes[: p.shape[1]]
        norm = Normalize(0, 1)
        for ax, fate in zip(maps, p, strict=True):
            order = np.argsort(p[fate].to_numpy())
            x = place[rows[order]]
            colours = p[fate].to_numpy()[order]
            ax.scatter(place[:, 0], place[:, 1], color="#eeeeee", s=5, lw=0)
            ax.scatter(x[:, 0], x[:, 1], c=colours, cmap=COLOURS, norm=norm, s=6, lw=0)
            ax.set_title(str(fate))
            bare(ax)
        colour_bar(maps, norm, COLOURS, "probability")
        if branch_points is not None:
            _draw_entropy(axes[p.shape[1]], branch_points, time_key)
        for i, gene in enumerate(genes):
            ax = axes[n - len(genes) + i]
            assert values is not None and times is not None
            for fate, (colour, marker) in zip(p, looks.values(), strict=True):
                summary = trend(times, values[:, i], p[fate].to_numpy())
                draw_trend(ax, summary, colour, marker)
            ax.set_title(gene)
            ax.set_xlabel(time_key)
            ax.set_ylabel("log expression")
            ax.yaxis.set_major_locator(MaxNLocator(5))
        if genes:
            handles = [Line2D([], [], color=c, marker=m, ms=4.5, mew=0) for c, m in looks.values()]
            axes[0].figure.legend(handles, list(looks), loc="outside lower center", ncols=6)
        return finish(axes, show, save)


def _draw_entropy(ax: Axes, found: Branches, time_key: str) -> None:
    require_known("branch_points.curves", ["time", "entropy"], list(found.curves))
    curves = found.curves.reset_index()
    pairs = list(zip(found.table["first"], found.table["second"], strict=True))
    looks = category_styles([f"{first} / {second}" for first, second in pairs])
    for (first, second), (name, (colour, marker)) in zip(pairs, looks.items(), strict=True):
        own = curves[(curves["first"] == first) & (curves["second"] == second)]
        ax.plot(own["time"], own["entropy"], color=colour, marker=marker, ms=4, mew=0, label=name)
        row = found.table[(found.table["first"] == first) & (found.table["second"] == second)]
        if row["half"].notna().all():
            ax.axvspan(row["time"].iloc[0], row["end"].iloc[0], color=colour, alpha=0.12, lw=0)
            ax.axvline(row["half"].iloc[0], color=colour, lw=1, ls=":")
    ax.set_title("When fates part")
    ax.set_xlabel(time_key)
    ax.set_ylabel("entropy (bits)")
    ax.set_ylim(-0.03, 1.03)
    if len(pairs) <= 6:
        ax.legend(fontsize=7)
