"""What a model has learned: genes of latents, latents of conditions, and attention."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scldm.pl._checks import require_at_least, require_columns, require_known
from scldm.pl._style import (
    LETTER,
    MUTED,
    REAL,
    ROW,
    WIDTH,
    category_styles,
    colour_bar,
    dots,
    finish,
    panels,
    style,
)

__all__ = ["attention", "condition_effects", "gene_loadings"]


def gene_loadings(
    frame: pd.DataFrame,
    n_genes: int = 10,
    *,
    latents: Sequence[str] | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> list[Axes] | None:
    """Genes that each latent moves most.

    A bar is the mean over groups, where there are groups, and the points are the groups.

    Parameters
    ----------
    frame
        From ``model.get_gene_loadings()``.
    n_genes
        Genes for each latent, those with the largest absolute mean.
    latents
        Which latents; by default the six that move genes most, in their own order.
    show
        Whether to show the figure; by default as scanpy is set, but not when it is saved.
    save
        Path of the file to write.

    Returns
    -------
    The axes, one for each latent, or ``None`` if they were shown.

    Raises
    ------
    ValueError
        If ``frame`` is another table, ``n_genes`` is below 1, or a latent is not in it.
    """
    columns = ("gene", "latent", "loading")
    require_columns(frame, "frame", columns, "model.get_gene_loadings")
    require_at_least("n_genes", n_genes, 1)
    # in the order of the table: latent 10 comes after latent 9
    table = frame.pivot_table(index="latent", columns="gene", values="loading", sort=False)
    chosen = _strongest(table, 6) if latents is None else list(latents)
    require_known("latents", chosen, list(table.index))
    groups = list(frame["group"].unique()) if "group" in frame else []
    styles = category_styles([str(group) for group in groups])
    across = min(3, len(chosen))
    height = -(-len(chosen) // across) * (0.75 + ROW * min(n_genes, table.shape[1]))
    with style():
        axes = panels(len(chosen), across, WIDTH / 3 * across, height)
        for ax, latent in zip(axes, chosen, strict=True):
            own = frame[frame["latent"] == latent]
            _bars(ax, table.loc[latent], own, groups, styles, n_genes)
            ax.set_title(str(latent))
        for ax in axes[-across:]:
            ax.set_xlabel("change of log mean per SD")
        if groups:
            _group_legend(axes[0].figure.canvas.figure, styles)
        return finish(axes, show, save)


def condition_effects(
    frame: pd.DataFrame,
    n_values: int = 20,
    *,
    show: bool | None = None,
    save: str | Path | None = None,
) -> list[Axes] | None:
    """How far each value of each condition moves each latent.

    Parameters
    ----------
    frame
        From ``model.get_condition_effects()``.
    n_values
        The most values of a condition; those with the largest effects are kept.
    show, save
        As in :func:`gene_loadings`.

    Returns
    -------
    The axes, one for each condition, or ``None`` if they were shown.

    Raises
    ------
    ValueError
        If ``frame`` is another table or ``n_values`` is below 1.
    """
    columns = ("condition", "value", "latent", "effect")
    require_columns(frame, "frame", columns, "model.get_condition_effects")
    require_at_least("n_values", n_values, 1)
    tables = {}
    for condition, own in frame.groupby("condition", sort=False):
        table = own.pivot_table(index="value", columns="latent", values="effect", sort=False)
        tables[condition] = table.loc[_strongest(table, n_values)]
    heights = [len(table) for table in tables.values()]
    limit = max(float(np.abs(table.to_numpy()).max()) for table in tables.values())
    norm = Normalize(-limit or -1, limit or 1)
    n_latents = max(table.shape[1] for table in tables.values())
    labels = [str(value) for table in tables.values() for value in table.index]
    width = float(np.clip(1.6 + LETTER * max(map(len, labels)) + 0.3 * n_latents, 4, 14))
    with style():
        height = 0.9 + ROW * sum(heights) + 0.34 * len(tables)
        axes = panels(len(tables), 1, width, height, height_ratios=heights)
        for ax, (condition, table) in zip(axes, tables.items(), strict=True):
            _heatmap(ax, table, norm, "RdBu_r", rotation=90)
            ax.set_title(str(condition))
            ax.tick_params(labelbottom=ax is axes[-1])
        colour_bar(axes, norm, "RdBu_r", "SD of the latent")
        return finish(axes, show, save)


def attention(
    frame: pd.DataFrame,
    *,
    show: bool | None = None,
    save: str | Path | None = None,
) -> list[Axes] | None:
    """How much each block of the denoiser attends to each condition.

    Parameters
    ----------
    frame
        From ``model.get_attention()``.
    show, save
        As in :func:`gene_loadings`.

    Returns
    -------
    The axes, one for each group, or ``None`` if they were shown.

    Raises
    ------
    ValueError
        If ``frame`` is another table.
    """
    require_columns(frame, "frame", ("block", "token", "weight"), "model.get_attention")
    groups = list(frame.groupby("group", sort=False)) if "group" in frame else [("", frame)]
    tables = {
        name: own.pivot_table(index="token", columns="block", values="weight", sort=False)
        for name, own in groups
    }
    first = next(iter(tables.values()))
    norm = Normalize(0, max(float(table.to_numpy().max()) for table in tables.values()))
    columns = min(4, len(tables))
    rows = -(-len(tables) // columns)
    panel = max(0.42 * first.shape[1], LETTER * 1.3 * max(len(str(name)) for name in tables))
    margin = 1.3 + LETTER * max(len(str(token)) for token in first.index)
    with style():
        width = margin + columns * (panel + 0.2)
        axes = panels(len(tables), columns, width, rows * (0.65 + 0.25 * len(first)) + 0.2)
        for i, (ax, (name, table)) in enumerate(zip(axes, tables.items(), strict=True)):
            _heatmap(ax, table, norm, "Oranges")
            _write_shares(ax, table, norm)
            ax.set_title(str(name))
            ax.tick_params(labelleft=i % columns == 0)
            if i + columns >= len(tables):
                ax.set_xlabel("block")
        bar = colour_bar(axes, norm, "Oranges", "attention")
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        return finish(axes, show, save)


def _strongest(table: pd.DataFrame, n: int) -> list:
    """Return the rows with the largest mean square, in the table's order."""
    strength = np.square(table.to_numpy()).mean(axis=1)
    return list(table.index[np.sort(np.argsort(-strength, kind="stable")[:n])])


def _bars(
    ax: Axes,
    mean: pd.Series,
    own: pd.DataFrame,
    groups: list,
    styles: dict[str, tuple[str, str]],
    n_genes: int,
) -> None:
    top = mean.loc[mean.abs().sort_values(ascending=False, kind="stable").index[:n_genes]]
    top = top.sort_values()
    places = np.arange(len(top))
    ax.barh(places, top, height=0.7, color=REAL, alpha=0.35 if groups else 0.8, lw=0)
    for group in groups:
        colour, marker = styles[str(group)]
        values = own[own["group"] == group].set_index("gene")["loading"].loc[top.index]
        ax.plot(values, places, marker, color=colour, ms=3.5, mew=0, alpha=0.9)
    ax.axvline(0, color=MUTED, lw=0.8)
    ax.set_yticks(places, [str(gene) for gene in top.index])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.margins(y=0.02)


def _group_legend(figure: Figure, styles: dict[str, tuple[str, str]]) -> None:
    """Put the groups below the panels, in room that the figure gets for them."""
    width = LETTER * max(map(len, styles)) + 0.4
    columns = int(np.clip(figure.get_figwidth() / width, 1, len(styles)))
    figure.set_figheight(figure.get_figheight() + ROW * -(-len(styles) // columns))
    figure.legend(
        handles=dots(styles, 5),
        loc="outside lower center",
        ncols=columns,
        handletextpad=0.1,
        columnspacing=1.2,
    )


def _heatmap(
    ax: Axes, table: pd.DataFrame, norm: Normalize, colours: str, rotation: int = 0
) -> None:
    ax.pcolormesh(table.to_numpy(), norm=norm, cmap=colours, edgecolors="white", lw=0.6)
    ax.invert_yaxis()
    names = [str(name).replace("_", " ") for name in table.columns]
    ax.set_xticks(np.arange(len(names)) + 0.5, names, rotation=rotation)
    ax.set_yticks(np.arange(len(table)) + 0.5, [str(name) for name in table.index])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def _write_shares(ax: Axes, table: pd.DataFrame, norm: Normalize) -> None:
    """Write the weights into their fields, in per cent."""
    for row, column in np.ndindex(table.shape):
        value = float(table.iloc[row, column])
        colour = "white" if norm(value) > 0.6 else "#333333"
        place = (column + 0.5, row + 0.5)
        ax.text(*place, f"{100 * value:.0f}", color=colour, size=7, ha="center", va="center")
