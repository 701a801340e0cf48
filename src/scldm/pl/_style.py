"""What all figures share: colours, restrained defaults, and where a figure goes."""

import errno
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import matplotlib.pyplot as plt
import scanpy as sc
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

__all__ = [
    "BACKDROP",
    "COLOURS",
    "FLOOR_BAND",
    "GENERATED",
    "LETTER",
    "MUTED",
    "REAL",
    "ROW",
    "WIDTH",
    "category_styles",
    "colour_bar",
    "dots",
    "finish",
    "natural",
    "new_figure",
    "one_panel",
    "panels",
    "style",
    "tidy_colour_bar",
    "write_whole",
]

# Vermillion and grey differ in lightness too, so they stay apart in print and for every eye.
REAL = "#5f6a72"
GENERATED = "#d55e00"
MUTED = "#8a8a8a"
BACKDROP = "#e6e6e6"
FLOOR_BAND = "#d3dadf"
COLOURS = (REAL, GENERATED)

WIDTH = 9.0
"""Inches of a full figure."""
ROW = 0.2
"""Height of a row of text, in inches."""
LETTER = 0.07
"""Width of a letter, in inches."""

# The "muted" scheme of Paul Tol (https://sros.nl/pault), made for colour-blind readers, and a
# dark grey as the tenth. More than ten hues cannot be told apart: then the marker changes.
CATEGORIES = (
    "#332288", "#88ccee", "#117733", "#ddaa33", "#cc6677",
    "#aa4499", "#44aa99", "#882255", "#999933", "#555555",
)  # fmt: skip
MARKERS = ("o", "^", "s", "D", "v", "P")

DEFAULTS: dict[Any, Any] = {
    "axes.labelcolor": "#333333",
    "axes.edgecolor": "#8a8a8a",
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.facecolor": "white",
    "font.size": 9,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "savefig.dpi": 160,
    "xtick.color": "#8a8a8a",
    "xtick.labelcolor": "#333333",
    "xtick.labelsize": 8,
    "ytick.color": "#8a8a8a",
    "ytick.labelcolor": "#333333",
    "ytick.labelsize": 8,
}

Drawn = TypeVar("Drawn", Axes, list[Axes])


def style() -> AbstractContextManager[None]:
    """Drawing settings of this package, for the time of one figure."""
    return plt.rc_context(DEFAULTS)


def new_figure(width: float, height: float, pad: float = 0.07) -> Figure:
    """A figure whose parts make room for each other; sizes in inches."""
    engine = ConstrainedLayoutEngine(w_pad=pad, h_pad=pad)
    return plt.figure(figsize=(width, height), layout=engine)


def panels(n: int, columns: int, width: float, height: float, **options: Any) -> list[Axes]:
    """Small panels in rows, on a new figure.

    Parameters
    ----------
    n
        How many.
    columns
        The most in a row.
    width, height
        Inches of the whole figure.
    **options
        For :meth:`matplotlib.figure.Figure.subplots`.
    """
    columns = min(columns, n)
    axes = new_figure(width, height).subplots(
        -(-n // columns), columns, **{"squeeze": False} | options
    )
    for ax in axes.flat[n:]:
        ax.remove()
    return list(axes.flat[:n])


def one_panel(
    draw: Callable[[Axes], None],
    ax: Axes | None,
    size: tuple[float, float],
    show: bool | None,
    save: str | Path | None,
) -> Axes | None:
    """Draw on the axes of the user, or on a figure made for it.

    Parameters
    ----------
    draw
        Draws on axes.
    ax
        Axes of the user. Their figure and its style are left alone, and it is not shown unasked.
    size
        Inches of a new figure.
    show, save
        As in :func:`finish`.

    Returns
    -------
    The axes, or ``None`` if they were shown.
    """
    if ax is not None:
        draw(ax)
        return finish(ax, bool(show), save, ours=False)
    with style():
        ax = new_figure(*size).subplots()
        draw(ax)
        return finish(ax, show, save)


def finish(
    axes: Drawn, show: bool | None, save: str | Path | None, *, ours: bool = True
) -> Drawn | None:
    """Save the figure and show it, or hand its axes back.

    Parameters
    ----------
    axes
        The axes of the figure.
    show
        Whether to show it. If ``None``, as scanpy is set (``scanpy.settings.autoshow``), but not
        when it is saved.
    save
        Path of the file to write; the ending chooses the format.
    ours
        Whether the figure was made here. Then it is closed once it is saved, as scanpy does.

    Returns
    -------
    ``axes``, or ``None`` if they were shown.
    """
    first = axes[0] if isinstance(axes, list) else axes
    figure = first.figure.canvas.figure
    for text in figure.findobj(Text):
        # names are no formulas; the numbers of logarithmic axes, which are, come when it is drawn
        if "$" in text.get_text():
            text.set_parse_math(False)
    try:
        if save is not None:
            write_whole("save", Path(save), figure.savefig)
        if show is None:
            show = save is None and sc.settings.autoshow
        if show:
            plt.show()
    finally:
        if save is not None and ours:
            plt.close(figure)
    return None if show else axes


def write_whole(argument: str, path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file beside its place and move it there, so that it is whole or as it was.

    Parameters
    ----------
    argument
        The argument that named the path.
    path
        Where.
    write
        Takes a path to write to; it may add an ending.

    Raises
    ------
    OSError
        If nothing can be written there.
    """
    folder = path.absolute().parent
    try:
        with TemporaryDirectory(prefix=f".{path.name}-", dir=folder) as drafts:
            write(Path(drafts) / path.name)
            for draft in Path(drafts).iterdir():
                draft.replace(folder / draft.name)
    except OSError as error:
        raise OSError(
            error.errno or errno.EIO,
            f"`{argument}={str(path)!r}` could not be written ({error.strerror or error})",
        ) from error


def natural(name: str) -> list[tuple[bool, int, str]]:
    """Order in which cluster 10 follows cluster 9, and case does not matter."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return [(not p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in parts if p]


def category_styles(categories: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each category; no two are alike among the first sixty.

    Parameters
    ----------
    categories
        Names, in the order of the legend.
    """
    n = len(CATEGORIES)
    return {
        name: (CATEGORIES[i % n], MARKERS[i // n % len(MARKERS)])
        for i, name in enumerate(categories)
    }


def dots(styles: dict[str, tuple[str, str]], size: float = 5.5) -> list[Line2D]:
    """Handles of a legend of points.

    Parameters
    ----------
    styles
        Colour and marker of each name.
    size
        Diameter of a point.
    """
    return [
        Line2D([], [], ls="", marker=marker, color=colour, ms=size, mew=0, label=name)
        for name, (colour, marker) in styles.items()
    ]


def colour_bar(axes: Sequence[Axes], norm: Normalize, colours: str, label: str) -> Colorbar:
    """One bar for panels that share their colours.

    Parameters
    ----------
    axes
        All panels.
    norm
        From values to the range of colours.
    colours
        Name of the colour map.
    label
        What the values are.
    """
    figure = axes[0].figure
    shrink = min(1.0, 1.8 / figure.canvas.figure.get_figheight())
    # A list of axes, even of one, or the bar takes its height from a single panel.
    bar = figure.colorbar(
        ScalarMappable(norm, colours), ax=list(axes), shrink=shrink, aspect=14, pad=0.02
    )
    tidy_colour_bar(bar, label)
    return bar


def tidy_colour_bar(bar: Colorbar, label: str) -> None:
    """Few ticks, no frame."""
    bar.set_label(label)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    bar.locator = MaxNLocator(5)
    bar.update_ticks()
