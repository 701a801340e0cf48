"""What all figures share: colours, restrained defaults, and where a figure goes."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import scanpy as sc
from matplotlib.figure import Figure

__all__ = ["BACKDROP", "GENERATED", "MUTED", "REAL", "category_styles", "finish", "style"]

# Vermillion and grey differ in lightness too, so they stay apart in print and for every eye.
REAL = "#5f6a72"
GENERATED = "#d55e00"
MUTED = "#8a8a8a"
BACKDROP = "#e6e6e6"

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


def style() -> AbstractContextManager[None]:
    """Drawing settings of this package, for the time of one figure."""
    return plt.rc_context(DEFAULTS)


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


def finish(figure: Figure, show: bool | None, save: str | Path | None) -> Figure | None:
    """Save the figure and show it, or hand it back.

    Parameters
    ----------
    figure
        The figure.
    show
        Whether to show it. If ``None``, as scanpy is set (``scanpy.settings.autoshow``), but not
        when it is saved.
    save
        Path of the file to write; the ending chooses the format.

    Returns
    -------
    The figure, or ``None`` if it was shown.
    """
    if save is not None:
        figure.savefig(save)
    if show is None:
        show = save is None and sc.settings.autoshow
    if not show:
        return figure
    plt.show()
    return None
