"""Real and generated cells on one map."""

from pathlib import Path

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from scldm.pl._checks import require_at_least
from scldm.pl._embedding import joint_umap
from scldm.pl._samples import NAMES, Samples
from scldm.pl._style import (
    BACKDROP,
    COLOURS,
    LETTER,
    WIDTH,
    category_styles,
    dots,
    finish,
    new_figure,
    style,
)

__all__ = ["draw_umap", "umap", "umap_height"]

# Inches in the legend of types: a row, and all of a column that is not its text.
LEGEND_ROW, GAP = 0.19, 0.38

Pair = tuple[NDArray[np.float32], NDArray[np.float32]]


def umap(
    real: AnnData,
    generated: AnnData,
    groupby: str | None = None,
    *,
    layer: str | None = None,
    names: tuple[str, str] = NAMES,
    max_cells: int = 3000,
    n_pcs: int = 30,
    seed: int = 0,
    show: bool | None = None,
    save: str | Path | None = None,
) -> list[Axes] | None:
    """UMAP of real and generated cells together.

    All cells by source, then each sample by type over the other one in light grey. Where the
    generator is right, the two sources are mixed and each type lies in the same place.

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
    The axes of the three maps, or ``None`` if they were shown.

    Raises
    ------
    ValueError
        If genes differ, ``groupby`` or ``layer`` is missing, or a number is too small.
    """
    require_at_least("n_pcs", n_pcs, 1)
    samples = Samples.of(
        real, generated, groupby, layer=layer, names=names, max_cells=max_cells, seed=seed
    )
    positions = joint_umap(*samples.counts, n_pcs, seed)
    with style():
        figure = new_figure(WIDTH, umap_height(samples), pad=0.12)
        return finish(draw_umap(figure, samples, positions), show, save)


def umap_height(samples: Samples) -> float:
    """Inches that :func:`draw_umap` needs for a figure of full width."""
    categories = samples.categories
    return 3.25 + LEGEND_ROW * -(-len(categories) // _legend_columns(categories))


def draw_umap(figure: Figure | SubFigure, samples: Samples, positions: Pair) -> list[Axes]:
    """Draw three maps and the legend of types.

    Parameters
    ----------
    figure
        Where to.
    samples
        The cells.
    positions
        Coordinates of shape (n_cells, 2) of real and of generated cells.
    """
    axes = list(figure.subplots(1, 3))
    _map_sources(axes[0], positions, samples.names)
    styles = category_styles(samples.categories)
    if samples.colors:
        styles = {name: (samples.colors[name], "o") for name in samples.categories}
    for i in (0, 1):
        own = None if samples.labels is None else samples.labels[i]
        _map_types(axes[i + 1], positions[i], positions[1 - i], own, styles, COLOURS[i])
        axes[i + 1].set_title(samples.names[i][:1].upper() + samples.names[i][1:])
    if styles:
        figure.legend(
            handles=dots(styles),
            loc="outside lower center",
            ncols=_legend_columns(samples.categories),
            handletextpad=0.1,
            columnspacing=1.2,
            labelspacing=0.35,
        )
    return axes


def _map_sources(ax: Axes, positions: Pair, names: tuple[str, str]) -> None:
    points = np.concatenate(positions)
    colours = np.repeat(COLOURS, [len(p) for p in positions])
    # Drawn in random order: otherwise the second sample lies on top of the first.
    order = np.random.default_rng(0).permutation(len(points))
    x, y = points[order].T
    ax.scatter(x, y, s=_size(len(points)), c=colours[order], lw=0, alpha=0.75)
    _bare(ax)
    ax.set_title(f"UMAP of {names[0]} and {names[1]}")
    # Below the map: inside it there is no place that is free for every data set.
    ax.legend(
        handles=dots({name: (c, "o") for name, c in zip(names, COLOURS, strict=True)}, 6),
        handletextpad=0.1,
        loc="upper center",
        bbox_to_anchor=(0.5, 0.02),
        ncols=2,
    )


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


def _bare(ax: Axes) -> None:
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.set_box_aspect(1)


def _size(n_points: int) -> float:
    """Area of a point, so that a few hundred cells are seen and many thousand stay apart."""
    return float(np.clip(6000 / n_points, 2.5, 16))


def _legend_columns(categories: list[str]) -> int:
    """As many columns as fit the width of the figure in the font of the legend."""
    for columns in range(len(categories), 1, -1):
        filled = [part.tolist() for part in np.array_split(categories, columns)]
        if sum(LETTER * max(map(len, names)) + GAP for names in filled) <= WIDTH:
            return columns
    return 1
