"""Moments of genes and depth of cells, real against generated."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray

from scldm.metrics import GeneMoments, gene_moments, library_sizes
from scldm.pl._samples import NAMES, Samples
from scldm.pl._style import COLOURS, GENERATED, MUTED, REAL, dots, one_panel

__all__ = [
    "draw_library_size",
    "draw_mean_variance",
    "draw_zeros",
    "library_size",
    "mean_variance",
    "zeros",
]

SIZE = (3.6, 3.0)
POISSON: dict[str, Any] = {"color": MUTED, "ls": (0, (4, 2)), "lw": 1, "zorder": 1}


def mean_variance(
    real: AnnData,
    generated: AnnData,
    *,
    layer: str | None = None,
    names: tuple[str, str] = NAMES,
    max_cells: int = 3000,
    seed: int = 0,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes | None:
    """Variance of the counts of each gene against their mean.

    A point is a gene in one sample, a line the running median. The dashed line is where counts
    would be Poisson; real genes rise above it where cells differ.

    Parameters
    ----------
    real
        Real cells with counts, best those that the generator has not seen.
    generated
        Generated cells with the genes of ``real``, in any order.
    layer
        Layer with the counts; ``X`` if ``None``. In ``generated``, ``X`` is taken if it has no
        such layer.
    names
        What the two samples are called.
    max_cells
        The most cells of each sample. Both are cut at random to the same number, since the rarest
        gene that is seen at all depends on it.
    seed
        Seed of the random choice.
    ax
        Axes to draw on; by default a new figure.
    show
        Whether to show the figure; by default as scanpy is set, but not when it is saved or
        ``ax`` is given.
    save
        Path of the file to write.

    Returns
    -------
    The axes, or ``None`` if they were shown.

    Raises
    ------
    ValueError
        If genes differ, ``layer`` is missing, or there are less than two cells.
    """
    options = {"layer": layer, "names": names, "max_cells": max_cells, "seed": seed}
    return _panel(draw_mean_variance, real, generated, options, ax, show, save)


def zeros(
    real: AnnData,
    generated: AnnData,
    *,
    layer: str | None = None,
    names: tuple[str, str] = NAMES,
    max_cells: int = 3000,
    seed: int = 0,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes | None:
    """Fraction of cells without a gene, against the mean count of the gene.

    A point is a gene in one sample, a line the running median, and the dashed line is where counts
    would be Poisson.

    Parameters
    ----------
    real, generated, layer, names, max_cells, seed, ax, show, save
        As in :func:`mean_variance`.

    Returns
    -------
    The axes, or ``None`` if they were shown.

    Raises
    ------
    ValueError
        If genes differ, ``layer`` is missing, or there are less than two cells.
    """
    options = {"layer": layer, "names": names, "max_cells": max_cells, "seed": seed}
    return _panel(draw_zeros, real, generated, options, ax, show, save)


def library_size(
    real: AnnData,
    generated: AnnData,
    *,
    layer: str | None = None,
    names: tuple[str, str] = NAMES,
    max_cells: int = 3000,
    seed: int = 0,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes | None:
    """Histograms of the total count of cells.

    Parameters
    ----------
    real, generated, layer, names, max_cells, seed, ax, show, save
        As in :func:`mean_variance`.

    Returns
    -------
    The axes, or ``None`` if they were shown.

    Raises
    ------
    ValueError
        If genes differ, ``layer`` is missing, or there are less than two cells.
    """
    options = {"layer": layer, "names": names, "max_cells": max_cells, "seed": seed}
    return _panel(draw_library_size, real, generated, options, ax, show, save)


def draw_mean_variance(ax: Axes, samples: Samples) -> None:
    """Draw what :func:`mean_variance` shows."""
    ax.set(xscale="log", yscale="log", xlabel="mean count", ylabel="variance")
    ax.set_title("Mean and variance of genes")
    moments = [gene_moments(counts) for counts in samples.counts]
    _gene_scatter(ax, moments, [m.variance for m in moments])
    _poisson(ax, lambda mean: mean)
    _source_legend(ax, samples.names, poisson=True, loc="upper left")


def draw_zeros(ax: Axes, samples: Samples) -> None:
    """Draw what :func:`zeros` shows."""
    ax.set(xscale="log", xlabel="mean count", ylabel="cells without the gene", ylim=(-0.03, 1.03))
    ax.set_title("Zeros of genes")
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    moments = [gene_moments(counts) for counts in samples.counts]
    _gene_scatter(ax, moments, [m.zeros for m in moments])
    _poisson(ax, lambda mean: np.exp(-mean))
    # No gene of a low mean has few zeros, so this corner is free.
    _source_legend(ax, samples.names, poisson=True, loc="lower left")


def draw_library_size(ax: Axes, samples: Samples) -> None:
    """Draw what :func:`library_size` shows."""
    # A cell without counts has no logarithm, and is put at one count.
    sizes = [np.maximum(library_sizes(matrix), 1) for matrix in samples.counts]
    both = np.concatenate(sizes)
    bins = np.geomspace(both.min() * 0.98, both.max() * 1.02, _n_bins(len(sizes[0]))).tolist()
    ax.hist(sizes[0], bins, color=REAL, alpha=0.35, lw=0)
    ax.hist(sizes[0], bins, color=REAL, histtype="step", lw=1.2)
    ax.hist(sizes[1], bins, color=GENERATED, histtype="step", lw=1.6)
    ax.set(xscale="log", xlabel="counts per cell", ylabel="cells")
    ax.xaxis.set_major_locator(LogLocator(subs=_log_ticks(bins[-1] / bins[0])))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_title("Library size of cells")
    # Room above the bars, since no corner is free for every data set.
    ax.set_ylim(0, 1.35 * ax.dataLim.y1)
    _source_legend(ax, samples.names, loc="upper right")


def _panel(
    draw: Callable[[Axes, Samples], None],
    real: AnnData,
    generated: AnnData,
    options: dict[str, Any],
    ax: Axes | None,
    show: bool | None,
    save: str | Path | None,
) -> Axes | None:
    samples = Samples.of(real, generated, **options)
    return one_panel(lambda ax: draw(ax, samples), ax, SIZE, show, save)


def _gene_scatter(ax: Axes, moments: list[GeneMoments], values: list[NDArray[np.float64]]) -> None:
    for side, (colour, width) in enumerate(zip(COLOURS, (3.2, 1.4), strict=True)):
        kept = moments[side].mean > 0
        mean, value = moments[side].mean[kept], values[side][kept]
        if not kept.any():
            continue
        few = 200 / max(len(mean), 200)
        size, alpha = np.clip(20 * few, 1.5, 14), np.clip(few, 0.25, 0.8)
        ax.scatter(mean, value, s=size, color=colour, alpha=alpha, lw=0, rasterized=True)
        ax.plot(*_running_median(mean, value), color=colour, lw=width, zorder=3 + side)


def _poisson(ax: Axes, value: Callable[[NDArray], NDArray]) -> None:
    ends = ax.get_xlim()
    grid = np.geomspace(*ends, 200)
    ax.plot(grid, value(grid), **POISSON)
    ax.set_xlim(ends)


def _running_median(
    x: NDArray[np.float64], y: NDArray[np.float64], points: int = 20, fewest: int = 15
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Medians of both over intervals of log ``x`` that hold some genes."""
    edges = np.geomspace(x.min(), x.max() * (1 + 1e-9), points + 1)
    group = np.digitize(x, edges) - 1
    groups = [group == i for i in range(points) if (group == i).sum() >= fewest]
    return (
        np.array([np.median(x[g]) for g in groups]),
        np.array([np.median(y[g]) for g in groups]),
    )


def _source_legend(
    ax: Axes, names: tuple[str, str], *, poisson: bool = False, **options: Any
) -> None:
    handles = dots({name: (c, "o") for name, c in zip(names, COLOURS, strict=True)}, 6)
    if poisson:
        handles.append(Line2D([], [], **POISSON, label="Poisson"))
    ax.legend(handles=handles, handlelength=1.4, handletextpad=0.4, **options)


def _n_bins(n_cells: int) -> int:
    return int(np.clip(np.sqrt(n_cells), 12, 40)) + 1


def _log_ticks(ratio: float) -> tuple[int, ...]:
    """Ticks in a decade, so that their labels stay apart on an axis over so many decades."""
    if ratio < 15:
        return (1, 2, 5)
    return (1, 3) if ratio < 100 else (1,)
