"""Real and generated cells, side by side."""

from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray
from scipy import sparse

from scldm.metrics import GeneMoments, gene_moments, library_sizes
from scldm.metrics._evaluate import align_genes, counts_of, labels_of
from scldm.metrics._split import draw
from scldm.pl._embedding import joint_umap
from scldm.pl._style import BACKDROP, GENERATED, MUTED, REAL, category_styles, finish, style

__all__ = ["compare"]

WIDTH = 9.0
# Inches in the legend of types: a row, a letter, and all of a column that is not its text.
LEGEND_ROW, LETTER, GAP = 0.19, 0.07, 0.38
COLOURS = (REAL, GENERATED)

Pair = tuple[NDArray[np.float32], NDArray[np.float32]]


def compare(
    real: AnnData,
    generated: AnnData,
    groupby: str | None = None,
    *,
    layer: str | None = None,
    names: tuple[str, str] = ("real", "generated"),
    max_cells: int = 3000,
    n_pcs: int = 30,
    seed: int = 0,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Figure | None:
    """Real and generated cells at a glance.

    Above, a UMAP of both samples together: all cells by source, then each sample by type over the
    other one in light grey. Below, for each gene the variance and the fraction of zeros against
    the mean, and the library sizes. Where the generator is right, orange lies on grey.

    Parameters
    ----------
    real
        Real cells with counts, best those that the generator has not seen.
    generated
        Generated cells with the genes of ``real``, in any order.
    groupby
        Column of ``obs`` with the type, in both. If ``None``, cells are coloured by source.
    layer
        Layer with the counts; ``X`` if ``None``. In ``generated``, ``X`` is taken if it has no
        such layer.
    names
        What the two samples are called.
    max_cells
        The most cells of each sample. Both are cut at random to the same number, so that neither
        covers the other.
    n_pcs
        Number of principal components for the map.
    seed
        Seed of the random choice and of the map.
    show
        Whether to show the figure; by default as scanpy is set, but not when it is saved.
    save
        Path of the file to write.

    Returns
    -------
    The figure, or ``None`` if it was shown.

    Raises
    ------
    ValueError
        If genes differ, or ``groupby`` or ``layer`` is missing.

    See Also
    --------
    scldm.metrics.evaluate : The same in numbers.
    """
    generated = align_genes(real, generated, "generated")
    n = min(real.n_obs, generated.n_obs, max_cells)
    rng = np.random.default_rng(seed)
    samples = [adata[draw(adata.n_obs, n, rng)] for adata in (real, generated)]
    layers = (layer, layer if layer in generated.layers else None)
    counts = [
        counts_of(adata, where, name)
        for adata, where, name in zip(samples, layers, ("real", "generated"), strict=True)
    ]
    labels = None
    if groupby is not None:
        labels = (labels_of(samples[0], groupby, "real"),
                  labels_of(samples[1], groupby, "generated"))  # fmt: skip
    positions = joint_umap(counts[0], counts[1], n_pcs, seed)
    with style():
        figure = _figure(positions, labels, counts, names)
        return finish(figure, show, save)


def _figure(
    positions: Pair,
    labels: tuple[NDArray[np.str_], NDArray[np.str_]] | None,
    counts: list[sparse.csr_matrix],
    names: tuple[str, str],
) -> Figure:
    categories = [] if labels is None else sorted(set(labels[0]) | set(labels[1]), key=_natural)
    columns = _legend_columns(categories)
    rows = int(np.ceil(len(categories) / columns))
    heights = (3.25 + LEGEND_ROW * rows, 2.75)
    # Subfigures leave no room for titles at their upper edge unless the padding does.
    engine = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.12)
    figure = plt.figure(figsize=(WIDTH, sum(heights)), layout=engine)
    above, below = figure.subfigures(2, 1, height_ratios=heights, squeeze=False)[:, 0]
    maps = above.subplots(1, 3)
    _map_sources(maps[0], positions, names)
    styles = category_styles(categories)
    for i in (0, 1):
        own = None if labels is None else labels[i]
        _map_types(maps[i + 1], positions[i], positions[1 - i], own, styles, COLOURS[i])
        maps[i + 1].set_title(names[i][:1].upper() + names[i][1:])
    if categories:
        _type_legend(above, styles, columns)
    moments = (gene_moments(counts[0]), gene_moments(counts[1]))
    panels = below.subplots(1, 3)
    _mean_variance(panels[0], moments)
    _mean_zeros(panels[1], moments)
    _library(panels[2], counts, names)
    return figure


def _map_sources(ax: Axes, positions: Pair, names: tuple[str, str]) -> None:
    points = np.concatenate(positions)
    size = _size(len(points))
    colours = np.repeat(COLOURS, [len(p) for p in positions])
    # Drawn in random order: otherwise the second sample lies on top of the first.
    order = np.random.default_rng(0).permutation(len(points))
    x, y = points[order].T
    ax.scatter(x, y, s=size, c=colours[order], lw=0, alpha=0.75)
    _bare(ax)
    ax.set_title(f"UMAP of {names[0]} and {names[1]}")
    # Below the map: inside it there is no place that is free for every data set.
    _source_legend(ax, names, loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=2)


def _map_types(
    ax: Axes,
    own: NDArray[np.float32],
    other: NDArray[np.float32],
    labels: NDArray[np.str_] | None,
    styles: dict[str, tuple[str, str]],
    colour: str,
) -> None:
    size = _size(2 * len(own))
    ax.scatter(other[:, 0], other[:, 1], s=size, c=BACKDROP, lw=0)
    if labels is None:
        ax.scatter(own[:, 0], own[:, 1], s=size, c=colour, lw=0, alpha=0.75)
    else:
        for name, (shade, marker) in styles.items():
            x, y = own[labels == name].T
            ax.scatter(x, y, s=size, c=shade, marker=marker, lw=0, alpha=0.9)
    _bare(ax)


def _type_legend(figure: SubFigure, styles: dict[str, tuple[str, str]], columns: int) -> None:
    handles = [
        Line2D([], [], ls="", marker=marker, color=shade, ms=5.5, mew=0, label=name)
        for name, (shade, marker) in styles.items()
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=columns,
        handletextpad=0.1,
        columnspacing=1.2,
        labelspacing=0.35,
    )


def _mean_variance(ax: Axes, moments: tuple[GeneMoments, GeneMoments]) -> None:
    ax.set(xscale="log", yscale="log", xlabel="mean count", ylabel="variance")
    ax.set_title("Mean and variance of genes")
    _gene_scatter(ax, moments, [m.variance for m in moments])
    ends = ax.get_xlim()
    ax.plot(ends, ends, **POISSON)
    ax.set_xlim(ends)
    ax.legend(loc="upper left", handlelength=1.6)


def _mean_zeros(ax: Axes, moments: tuple[GeneMoments, GeneMoments]) -> None:
    ax.set(xscale="log", xlabel="mean count", ylabel="cells without the gene", ylim=(-0.03, 1.03))
    ax.set_title("Zeros of genes")
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    _gene_scatter(ax, moments, [m.zeros for m in moments])
    ends = ax.get_xlim()
    grid = np.geomspace(*ends, 200)
    ax.plot(grid, np.exp(-grid), **POISSON)
    ax.set_xlim(ends)


POISSON: dict[str, Any] = {
    "color": MUTED,
    "ls": (0, (4, 2)),
    "lw": 1,
    "label": "Poisson",
    "zorder": 1,
}


def _gene_scatter(
    ax: Axes, moments: tuple[GeneMoments, GeneMoments], values: list[NDArray[np.float64]]
) -> None:
    for side, (colour, width) in enumerate(zip(COLOURS, (3.2, 1.4), strict=True)):
        kept = moments[side].mean > 0
        mean, value = moments[side].mean[kept], values[side][kept]
        few = 200 / max(len(mean), 200)
        size, alpha = np.clip(20 * few, 1.5, 14), np.clip(few, 0.25, 0.8)
        ax.scatter(mean, value, s=size, color=colour, alpha=alpha, lw=0, rasterized=True)
        ax.plot(*_running_median(mean, value), color=colour, lw=width, zorder=3 + side)


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


def _library(ax: Axes, counts: list[sparse.csr_matrix], names: tuple[str, str]) -> None:
    # A cell without counts has no logarithm, and is put at one count.
    sizes = [np.maximum(library_sizes(matrix), 1) for matrix in counts]
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
    _source_legend(ax, names, loc="best")


def _source_legend(ax: Axes, names: tuple[str, str], **options: Any) -> None:
    handles = [
        Line2D([], [], ls="", marker="o", ms=6, mew=0, color=colour, label=name)
        for colour, name in zip(COLOURS, names, strict=True)
    ]
    ax.legend(handles=handles, handletextpad=0.1, **options)


def _bare(ax: Axes) -> None:
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.set_box_aspect(1)


def _size(n_points: int) -> float:
    """Area of a point, so that a few hundred cells are seen and many thousand stay apart."""
    return float(np.clip(6000 / n_points, 2.5, 16))


def _n_bins(n_cells: int) -> int:
    return int(np.clip(np.sqrt(n_cells), 12, 40)) + 1


def _log_ticks(ratio: float) -> tuple[int, ...]:
    """Ticks in a decade, so that their labels stay apart on an axis over so many decades."""
    if ratio < 15:
        return (1, 2, 5)
    return (1, 3) if ratio < 100 else (1,)


def _legend_columns(categories: list[str]) -> int:
    """As many columns as fit the width of the figure in the font of the legend."""
    for columns in range(len(categories), 1, -1):
        filled = [part.tolist() for part in np.array_split(categories, columns)]
        if sum(LETTER * max(map(len, names)) + GAP for names in filled) <= WIDTH:
            return columns
    return 1


def _natural(name: str) -> tuple[int, int, str]:
    """Order in which cluster 10 follows cluster 9, and case does not matter."""
    return (0, int(name), "") if name.isdecimal() else (1, 0, name.casefold())
