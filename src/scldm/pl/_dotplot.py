"""Marker genes of types, real against generated."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import SubFigure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from scipy import sparse

from scldm.pl._checks import require_at_least
from scldm.pl._samples import NAMES, Samples
from scldm.pl._style import LETTER, MUTED, finish, new_figure, style, tidy_colour_bar

__all__ = ["Genes", "by_group", "dotplot", "flat"]

Genes: TypeAlias = str | Sequence[str] | Mapping[str, Sequence[str]]
"""Genes, or the genes of each group by its name."""

COLOURS = "Oranges"
# Inches: a row, a column, and the keys at the right.
GENE, TYPE, KEYS = 0.18, 0.24, 1.25
GROUP_GAP = 0.6
"""Rows left free between the genes of two types."""


class Dots(NamedTuple):
    """What the dots of one sample show, each of shape (n_genes, n_types)."""

    mean: NDArray[np.float64]
    fraction: NDArray[np.float64]


def dotplot(
    real: AnnData,
    generated: AnnData,
    groupby: str,
    genes: Genes | None = None,
    n_genes: int = 3,
    *,
    layer: str | None = None,
    names: tuple[str, str] = NAMES,
    show: bool | None = None,
    save: str | Path | None = None,
) -> list[Axes] | None:
    """Marker genes by type, real cells at the left and generated ones at the right.

    The colour of a dot is the mean log-normalised expression, at the median library size of the
    real cells, and its area the fraction of cells with a count. Both sides have the same scales.

    Parameters
    ----------
    real
        Real cells with counts, best those that the generator has not seen.
    generated
        Generated cells with the genes of ``real``, in any order.
    groupby
        Column of ``obs`` with the type, in both.
    genes
        Genes, or the genes of each group such as ``{"B": ["MS4A1", "CD79A"]}``. By default the
        best markers of each type in the real cells by :func:`scanpy.tl.rank_genes_groups` with
        its t-test, those with twice the expression first; a gene stands with the type that it
        marks best.
    n_genes
        Markers for each type, where ``genes`` is not given.
    layer
        Layer with the counts; ``X`` if ``None``. In ``generated``, ``X`` is taken if it has no
        such layer.
    names
        What the two samples are called.
    show
        Whether to show the figure; by default as scanpy is set, but not when it is saved.
    save
        Path of the file to write.

    Returns
    -------
    The axes of both sides, or ``None`` if they were shown.

    Raises
    ------
    ValueError
        If genes differ or are unknown, ``groupby`` or ``layer`` is missing, ``n_genes`` is below
        1, or there are no two types to find markers of.
    """
    require_at_least("n_genes", n_genes, 1)
    samples = Samples.of(real, generated, groupby, layer=layer, names=names)
    groups = None if genes is None else by_group(genes)
    if groups is not None:
        samples.places(flat(groups))
    expression = samples.log_normalized()
    if groups is None:
        groups = _markers(samples, expression[0], n_genes)
    places = samples.places(flat(groups))
    sides = [_dots(samples, expression[i][:, places], i) for i in (0, 1)]
    top = max(float(np.nanmax(side.mean)) for side in sides)
    with style():
        return finish(_draw(samples, groups, sides, Normalize(0, top or 1)), show, save)


def by_group(genes: Genes) -> dict[str, list[str]]:
    """Genes by group; without groups, one of no name."""
    if isinstance(genes, str):
        return {"": [genes]}
    if isinstance(genes, Mapping):
        return {
            str(name): [own] if isinstance(own, str) else list(own) for name, own in genes.items()
        }
    return {"": list(genes)}


def flat(groups: Mapping[str, Sequence[str]]) -> list[str]:
    """The genes of all groups."""
    return [gene for own in groups.values() for gene in own]


def _markers(
    samples: Samples, expression: sparse.csr_matrix, n_genes: int
) -> dict[str, list[str]]:
    """The best markers of each type that has the two cells a test needs."""
    assert samples.labels is not None
    labels = pd.Categorical(samples.labels[0])
    sizes = labels.value_counts()
    types = [name for name in samples.categories if sizes.get(name, 0) >= 2]
    if len(types) < 2:
        raise ValueError(
            "`genes` is needed here: markers are found from two types of two cells or more, and "
            f"`real` has {sizes.to_dict()}."
        )
    cells = AnnData(expression)
    cells.obs["type"], cells.var_names = labels, samples.genes
    with warnings.catch_warnings():
        # Of genes without counts, whose fold change divides by zero.
        warnings.simplefilter("ignore")
        sc.tl.rank_genes_groups(cells, "type", groups=types, method="t-test")
    ranked = sc.get.rank_genes_groups_df(cells, types)
    ranked = ranked[ranked["scores"] > 0].sort_values("scores", ascending=False, kind="stable")
    ranked = ranked.drop_duplicates("names")
    # The surest differences are small ones of genes that all cells have; those come last.
    twofold = ranked["logfoldchanges"] >= 1
    ranked = pd.concat([ranked[twofold], ranked[~twofold]])
    best = {name: ranked.loc[ranked["group"] == name, "names"].tolist() for name in types}
    # a type that marks no gene best takes no room
    return {name: own[:n_genes] for name, own in best.items() if own}


def _dots(samples: Samples, expression: sparse.csr_matrix, side: int) -> Dots:
    """Mean and fraction by gene and type; not a number where a sample has no cell of a type."""
    assert samples.labels is not None
    labels = samples.labels[side]
    shape = (expression.shape[1], len(samples.categories))
    mean, fraction = np.full(shape, np.nan), np.full(shape, np.nan)
    for i, name in enumerate(samples.categories):
        own = expression[labels == name]
        if own.shape[0]:
            mean[:, i] = np.asarray(own.mean(axis=0)).ravel()
            fraction[:, i] = np.asarray((own > 0).mean(axis=0)).ravel()
    return Dots(mean, fraction)


def _draw(
    samples: Samples, groups: dict[str, list[str]], sides: list[Dots], norm: Normalize
) -> list[Axes]:
    types = samples.categories
    heights = _heights(groups)
    longest = max(map(len, flat(groups)))
    width = 2 * (TYPE * len(types) + 0.2) + LETTER * (longest + max(map(len, groups))) + 0.6
    # No lower than the keys.
    height = max(GENE * (heights[-1] + 1) + LETTER * max(map(len, types)) + 0.6, 3.0)
    figure = new_figure(width + KEYS, height)
    left, right = figure.subfigures(1, 2, width_ratios=(width, KEYS), squeeze=False)[0]
    axes = list(left.subplots(1, 2))
    for ax, side, name in zip(axes, sides, samples.names, strict=True):
        _draw_side(ax, side, norm, heights, types)
        ax.set_title(name[:1].upper() + name[1:])
    axes[0].set_yticks(heights, flat(groups))
    _name_groups(axes[1], groups, heights)
    _draw_keys(right, norm, height)
    return axes


def _heights(groups: dict[str, list[str]]) -> NDArray[np.float64]:
    """Places of the genes from above, with a gap between groups."""
    group = np.repeat(np.arange(len(groups)), [len(own) for own in groups.values()])
    return np.arange(len(group)) + GROUP_GAP * group


def _draw_side(
    ax: Axes, side: Dots, norm: Normalize, heights: NDArray[np.float64], types: list[str]
) -> None:
    x, y = np.meshgrid(np.arange(len(types)), heights)
    kept = ~np.isnan(side.mean)
    ax.scatter(
        x[kept],
        y[kept],
        s=_area(side.fraction[kept]),
        c=side.mean[kept],
        norm=norm,
        cmap=COLOURS,
        # An edge, since the palest dots would be lost on white.
        edgecolors="#a0a0a0",
        lw=0.3,
    )
    text: dict[str, Any] = {
        "color": MUTED,
        "size": 8,
        "rotation": 90,
        "ha": "center",
        "va": "center",
    }
    for i in np.flatnonzero(~kept.any(axis=0)):
        ax.text(float(i), heights.mean(), "no cells", **text)
    ax.set(xlim=(-0.7, len(types) - 0.3), ylim=(heights[-1] + 0.7, -0.7), yticks=[])
    ax.set_xticks(np.arange(len(types)), types, rotation=90)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_facecolor("#fafafa")


def _area(fraction: NDArray[np.float64]) -> NDArray[np.float64]:
    """Area of dots in square points; the dot of all cells nearly fills its row."""
    return (72 * GENE * 0.8) ** 2 * fraction


def _name_groups(ax: Axes, groups: dict[str, list[str]], heights: NDArray[np.float64]) -> None:
    """Write the groups at the right of their genes, with a bracket."""
    # Across in parts of the panel, down in rows.
    place = ax.get_yaxis_transform()
    start = 0
    for name, own in groups.items():
        if name and own:
            ends = np.array([heights[start] - 0.35, heights[start + len(own) - 1] + 0.35])
            ax.plot([1.03] * 2, ends, color=MUTED, lw=1.2, transform=place, clip_on=False)
            ax.text(1.06, ends.mean(), name, size=8, va="center", transform=place)
        start += len(own)


def _draw_keys(figure: SubFigure, norm: Normalize, height: float) -> None:
    fractions = np.array([0.25, 0.5, 0.75, 1.0])
    handles = [
        Line2D(
            [], [], ls="", marker="o", color=MUTED, mew=0, ms=np.sqrt(area), label=f"{part:.0%}"
        )
        for part, area in zip(fractions, _area(fractions), strict=True)
    ]
    figure.legend(
        handles=handles, title="cells with a count", loc="upper left", title_fontsize=8.5,
        alignment="left", bbox_to_anchor=(0, 1 - 0.25 / height), borderaxespad=0,
    )  # fmt: skip
    # In inches from above, below the key of sizes.
    cax = figure.add_axes((0.05, 1 - 2.75 / height, 0.13, 1.3 / height))
    tidy_colour_bar(figure.colorbar(ScalarMappable(norm, COLOURS), cax=cax), "mean expression")
