"""What :func:`scldm.metrics.evaluate` found: by source, and by number of steps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from scldm.pl._style import (
    FLOOR_BAND,
    GENERATED,
    LETTER,
    MUTED,
    REAL,
    ROW,
    category_styles,
    finish,
    panels,
    style,
)
from scldm.pl._table import ALL, BETTER, FLOOR, chosen, reading, require_scores

__all__ = ["scores", "steps"]

HEADLINES = (
    "auc_genes",
    "w2",
    "precision",
    "recall",
    "library_size_w1",
    "mean_variance_gap",
    "gene_correlation_rmse",
    "label_f1",
)
PANEL = 2.15
"""Width of a panel, in inches."""
ACROSS = 4


def scores(
    table: pd.DataFrame,
    metrics: Sequence[str] | None = None,
    sources: Sequence[str] | None = None,
    group: str = ALL,
    *,
    show: bool | None = None,
    save: str | Path | None = None,
) -> list[Axes] | None:
    """Each source of cells by each metric, with the floor to read them by.

    A dot is a value, the line through it its 95% interval. The vertical line is the floor, what
    real cells reach in the place of generated ones, and the band its interval.

    Parameters
    ----------
    table
        From :func:`scldm.metrics.evaluate`.
    metrics
        Which metrics, a panel for each. By default eight, first those that say different things.
    sources
        Which sources, a row for each, from above. By default all.
    group
        ``"all"``, or one of the groups of cells.
    show
        Whether to show the figure; by default as scanpy is set, but not when it is saved.
    save
        Path of the file to write.

    Returns
    -------
    The axes, one for each metric, or ``None`` if they were shown.

    Raises
    ------
    ValueError
        If it is another table, or a metric, a source or the group is not in it.
    """
    rows = require_scores(table, group)
    known = rows["metric"].unique().tolist()
    default = [*HEADLINES, *(name for name in known if name not in HEADLINES)]
    default = [name for name in default if name in known][:8]
    metrics = chosen("metrics", metrics, known, default)
    named = [name for name in rows["source"].unique() if name != FLOOR]
    sources = chosen("sources", sources, named, named)
    across = min(ACROSS, len(metrics))
    down = -(-len(metrics) // across)
    width = LETTER * max(map(len, sources)) + PANEL * across + 0.2
    with style():
        height = down * (0.85 + ROW * len(sources)) + 0.35 + 0.25 * (group != ALL)
        axes = panels(len(metrics), across, width, height)
        for i, (ax, metric) in enumerate(zip(axes, metrics, strict=True)):
            own = rows[rows["metric"] == metric].set_index("source")
            _draw_sources(ax, own, sources)
            ax.set_title(reading(metric).label)
            ax.set_xlabel(BETTER.get(own["better"].iloc[0], ""), color=MUTED)
            ax.tick_params(axis="y", length=0, labelleft=i % across == 0)
        _legend(axes[0], {}, group)
        return finish(axes, show, save)


def steps(
    table: pd.DataFrame | Mapping[str, pd.DataFrame],
    metrics: Sequence[str] = ("auc_genes", "w2"),
    *,
    group: str = ALL,
    show: bool | None = None,
    save: str | Path | None = None,
) -> list[Axes] | None:
    """Quality against the number of steps of the sampler.

    The horizontal line is the floor, what real cells reach in the place of generated ones, and the
    band its 95% interval; with several samplers, that of the first.

    Parameters
    ----------
    table
        From :func:`scldm.metrics.evaluate` where its sets of generated cells are named by their
        numbers of steps, such as ``{"3": cells, "10": other_cells}``; or such a table for each
        sampler by name.
    metrics
        Which metrics, a panel for each.
    group
        ``"all"``, or one of the groups of cells.
    show
        Whether to show the figure; by default as scanpy is set, but not when it is saved.
    save
        Path of the file to write.

    Returns
    -------
    The axes, one for each metric, or ``None`` if they were shown.

    Raises
    ------
    ValueError
        If it is another table, a metric or the group is not in it, or a source is no number of
        steps.
    """
    tables = dict(table) if isinstance(table, Mapping) else {"": table}
    if not tables:
        raise ValueError("`table` is empty; at least one table is needed.")
    curves = {str(name): _by_steps(own, group) for name, own in tables.items()}
    for own in curves.values():
        metrics = chosen("metrics", metrics, own["metric"].unique().tolist(), ())
    first = next(iter(curves.values()))
    styles = category_styles(list(curves)) if len(curves) > 1 else {"": (GENERATED, "o")}
    across = min(ACROSS - 1, len(metrics))
    with style():
        axes = panels(len(metrics), across, 3.3 * across, -(-len(metrics) // across) * 2.7 + 0.3)
        for ax, metric in zip(axes, metrics, strict=True):
            _draw_floor(ax, _of_floor(first[first["metric"] == metric].set_index("source")), "y")
            for name, own in curves.items():
                _draw_curve(ax, own[own["metric"] == metric], styles[name])
            _number_steps(ax, [n for own in curves.values() for n in own["steps"].dropna()])
            better = first.loc[first["metric"] == metric, "better"].iloc[0]
            ax.set(ylabel=BETTER.get(better, ""))
            ax.set_title(reading(metric).label)
        _legend(axes[0], {name: look for name, look in styles.items() if name}, group)
        return finish(axes, show, save)


def _draw_sources(ax: Axes, rows: pd.DataFrame, sources: Sequence[str]) -> None:
    """Dots with their intervals; ``rows`` is indexed by source."""
    _draw_floor(ax, _of_floor(rows), "x")
    rows = rows.reindex(sources)
    places = np.arange(len(sources))
    ax.hlines(places, rows["low"], rows["high"], color=GENERATED, lw=1.4, alpha=0.8)
    ax.plot(rows["value"], places, "o", color=GENERATED, ms=4.5, mew=0)
    for place in places[rows["value"].isna()]:
        at: dict[str, Any] = {
            "transform": ax.get_yaxis_transform(),
            "ha": "center",
            "va": "center",
        }
        ax.text(0.5, place, "no value", color=MUTED, size=7, **at)
    ax.set_yticks(places, [str(source) for source in sources])
    ax.set_ylim(len(sources) - 0.4, -0.6)
    ax.xaxis.set_major_locator(MaxNLocator(3))
    ax.spines["left"].set_visible(False)
    ax.margins(x=0.08)


def _by_steps(table: pd.DataFrame, group: str) -> pd.DataFrame:
    """The rows of a group with their number of steps; the floor has none."""
    rows = require_scores(table, group)
    names = rows["source"].astype(str)
    wrong = [n for n in names.unique() if n != FLOOR and not (n.isdecimal() and int(n) > 0)]
    if wrong or (names == FLOOR).all():
        raise ValueError(
            f"`table` has the sources {wrong or [FLOOR]}; they must be numbers of steps. Name the "
            'sets of generated cells by them: `evaluate(real, {"3": cells, "10": other_cells})`.'
        )
    return rows.assign(steps=pd.to_numeric(names, errors="coerce")).sort_values("steps")


def _draw_curve(ax: Axes, rows: pd.DataFrame, look: tuple[str, str]) -> None:
    colour, marker = look
    rows = rows[rows["steps"].notna() & rows["value"].notna()]
    ax.vlines(rows["steps"], rows["low"], rows["high"], color=colour, lw=1.2, alpha=0.6)
    ax.plot(rows["steps"], rows["value"], color=colour, marker=marker, ms=4.5, mew=0, lw=1.4)


def _number_steps(ax: Axes, numbers: Sequence[float]) -> None:
    """A logarithmic axis with the steps that were taken as its ticks."""
    ax.set(xscale="log", xlabel="steps")
    kept: list[float] = []
    for number in sorted(set(numbers)):
        # No two ticks closer than their labels are wide.
        if not kept or number >= 1.35 * kept[-1]:
            kept.append(number)
    ax.xaxis.set_major_locator(FixedLocator(kept))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_locator(MaxNLocator(5))


def _of_floor(rows: pd.DataFrame) -> pd.Series | None:
    return rows.loc[FLOOR] if FLOOR in rows.index and pd.notna(rows.at[FLOOR, "value"]) else None


def _draw_floor(ax: Axes, floor: pd.Series | None, axis: str) -> None:
    """A line, and a band where there is an interval, across the given axis."""
    if floor is None:
        return
    line, band = (ax.axvline, ax.axvspan) if axis == "x" else (ax.axhline, ax.axhspan)
    if pd.notna(floor["low"]) and pd.notna(floor["high"]):
        band(floor["low"], floor["high"], color=FLOOR_BAND, lw=0, zorder=0)
    line(floor["value"], color=REAL, lw=1.2, zorder=1)


def _legend(ax: Axes, styles: Mapping[str, tuple[str, str]], group: str) -> None:
    """Say below the panels what the floor is and which line is whose, above whose cells."""
    if group != ALL:
        ax.figure.suptitle(group, x=0.01, ha="left", size=10)
    handles: list = [
        Line2D([], [], color=colour, marker=marker, ms=4.5, mew=0)
        for colour, marker in styles.values()
    ]
    handles.append((Patch(color=FLOOR_BAND, lw=0), Line2D([], [], color=REAL, lw=1.2)))
    names = [*styles, "floor: real against real cells"]
    ax.figure.legend(handles, names, loc="outside lower center", ncols=len(names))
