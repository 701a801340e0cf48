"""Genes in their places: what is known beside what a model draws there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import EllipseCollection
from matplotlib.colors import Normalize
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial import cKDTree

from scldm.metrics import library_sizes
from scldm.metrics._anndata import counts_of
from scldm.pl._checks import require_known
from scldm.pl._style import BACKDROP, finish, new_figure, style, tidy_colour_bar

__all__ = ["spatial_compare"]

COLOURS, UNCERTAIN = "viridis", "magma"
TITLES = {
    "truth": "Truth",
    "mean": "Mean of samples",
    "sample": "One sample",
    "spread": "Uncertainty",
}
TOP = 0.99
"""Share of the cells that the range of colours holds; a few high counts would leave the rest dark."""
PANEL, BARS = 2.1, 1.5
"""Width of a panel, and of both bars of colours, in inches."""
COVER = 1.4
"""Diameter of a point in median distances to the nearest cell."""
LEAST = 1 / 150
"""Smallest diameter of a point as a part of the tissue's side."""

Array = NDArray[np.float64]


class Placed(NamedTuple):
    """One set of cells in one column of panels."""

    place: Array
    """x and y, (n_cells, 2)."""
    values: Array
    """Of each gene that is shown, (n_cells, n_genes)."""


def spatial_compare(
    truth: AnnData | None,
    prediction: AnnData,
    genes: str | Sequence[str],
    observed: AnnData | None = None,
    spatial_key: str = "spatial",
    *,
    layer: str | None = None,
    normalize: bool = True,
    show: bool | None = None,
    save: str | Path | None = None,
) -> list[Axes] | None:
    """Genes at their places: the truth, the mean of samples, one sample, and the uncertainty.

    A row for each gene. The first three columns have one scale of colours, which ends where 99 in 100
    cells lie; the uncertainty has its own. Columns without data are left out. Points touch their
    neighbours: their size follows from the spacing of the cells.

    Parameters
    ----------
    truth
        Measured cells with counts, at the same places or at others; ``None`` if there are none.
    prediction
        Cells as :meth:`scldm.SCLDM.impute_region` returns them with ``return_mean``: expected counts in
        ``X``, one sample and the uncertainty in the layers ``"sample"`` and ``"spread"``. Or cells with
        the counts of one sample, or nothing, in ``X``, and the expected counts in a layer ``"mean"``.
    genes
        Genes to show.
    observed
        Cells around a missing region: in the colours of their own counts, grey behind the uncertainty. A
        line separates them from the places of ``prediction``.
    spatial_key
        Coordinates in ``obsm``, of all. The first two columns are drawn.
    layer
        Layer with the counts, or ``None`` for ``X``; ``X`` if ``prediction`` has no such layer.
    normalize
        Show log(1 + counts) at one depth for all, the median library size of the first of ``truth``,
        ``observed`` and ``prediction`` that is there; otherwise counts as they are. The spread is shown
        as it is.
    show
        Whether to show the figure; by default as scanpy is set, but not when it is saved.
    save
        Path of the file to write.

    Returns
    -------
    The axes row by row, or ``None`` if they were shown.

    Raises
    ------
    ValueError
        If genes differ or are unknown, coordinates or the layer are missing, values are negative, a set
        has no cells, or there is neither a sample nor a mean.
    """
    genes = [genes] if isinstance(genes, str) else list(genes)
    require_known("genes", genes, list(prediction.var_names))
    given = {"truth": truth, "observed": observed, "prediction": prediction}
    cells = {name: adata for name, adata in given.items() if adata is not None}
    for name, adata in cells.items():
        _require_same_genes(adata, prediction, name)
    place = {name: _places(adata, spatial_key, name) for name, adata in cells.items()}
    counts = {
        column: (owner, counts_of(cells[owner], of, owner))
        for column, (owner, of) in _sources(cells, layer).items()
    }
    depth = _depth(next(iter(counts.values()))[1])
    drawn = {}
    for column, (owner, matrix) in counts.items():
        values = matrix[:, cells[owner].var_names.get_indexer(genes)].toarray().astype(float)
        if normalize and column != "spread":
            sizes = library_sizes(matrix)
            values = np.log1p(depth * values / np.where(sizes > 0, sizes, 1)[:, None])
        drawn[column] = Placed(place[owner], values)
    with style():
        return finish(_draw(genes, drawn, normalize), show, save)


def _sources(cells: dict[str, AnnData], layer: str | None) -> dict[str, tuple[str, str | None]]:
    """Return by column whose cells it shows, and which of their layers, ``None`` for ``X``."""
    found: dict[str, tuple[str, str | None]] = {
        name: (name, layer) for name in ("truth", "observed") if name in cells
    }
    prediction = cells["prediction"]
    counts = layer if layer in prediction.layers else None
    if "sample" in prediction.layers:
        columns = {"mean": counts, "sample": "sample", "spread": "spread"}
    else:
        columns = {"mean": "mean", "sample": counts, "spread": "spread"}
    for column, of in columns.items():
        there = prediction.X is not None if of is None else of in prediction.layers
        if there:
            found[column] = ("prediction", of)
    if found.keys().isdisjoint(("mean", "sample")):
        raise ValueError("`prediction` has neither counts of a sample in `X` nor a layer 'mean'.")
    return found


def _depth(counts: sparse.csr_matrix) -> float:
    """Return the median library size of cells with counts."""
    sizes = library_sizes(counts)
    return float(np.median(sizes[sizes > 0])) if sizes.any() else 1.0


def _require_same_genes(adata: AnnData, prediction: AnnData, name: str) -> None:
    if not adata.var_names.is_unique:
        raise ValueError(
            f"The names of the genes of `{name}` are not unique. Call `var_names_make_unique()`."
        )
    missing = prediction.var_names.difference(adata.var_names)
    surplus = adata.var_names.difference(prediction.var_names)
    if len(missing) or len(surplus):
        raise ValueError(
            f"The genes of `{name}` are not those of `prediction`: {len(missing)} are missing "
            f"{list(missing[:3])} and {len(surplus)} are not in `prediction` {list(surplus[:3])}."
        )


def _places(adata: AnnData, key: str, name: str) -> Array:
    """Return x and y of cells, ``(n_cells, 2)``."""
    if key not in adata.obsm:
        raise ValueError(
            f"`spatial_key={key!r}` is not in `{name}.obsm`. Known: {list(adata.obsm)}."
        )
    place = np.asarray(adata.obsm[key], dtype=float)
    if place.ndim != 2 or place.shape[1] < 2:
        raise ValueError(
            f"`{name}.obsm[{key!r}]` has shape {place.shape}; places need two columns."
        )
    if not len(place):
        raise ValueError(f"`{name}` has no cells.")
    place = place[:, :2]
    if not np.isfinite(place).all():
        raise ValueError(f"`{name}.obsm[{key!r}]` has values that are not finite.")
    return place


def _draw(genes: list[str], drawn: dict[str, Placed], normalize: bool) -> list[Axes]:
    columns = [name for name in TITLES if name in drawn]
    context = drawn.get("observed")
    everywhere = np.concatenate([part.place for part in drawn.values()])
    extent = np.ptp(everywhere, axis=0).max() or 1.0
    diameter = max(
        COVER * np.median([_spacing(part.place, extent) for part in drawn.values()]),
        LEAST * extent,
    )
    low, high = everywhere.min(axis=0) - diameter, everywhere.max(axis=0) + diameter
    width, height = high - low
    tall = PANEL * float(np.clip(height / width, 0.5, 2.5))
    figure = new_figure(PANEL * len(columns) + BARS, (tall + 0.1) * len(genes) + 0.35, pad=0.03)
    rows = figure.subplots(len(genes), len(columns), squeeze=False)
    plain = [name for name in columns if name != "spread"]
    for i, (gene, row) in enumerate(zip(genes, rows, strict=True)):
        axes = dict(zip(columns, row, strict=True))
        known = [drawn[name].values[:, i] for name in [*plain, "observed"] if name in drawn]
        norm, beyond = _range(known)
        for name, ax in axes.items():
            own = drawn[name]
            scale, colours = norm, COLOURS
            if name == "spread":
                scale, more = _range([own.values[:, i]])
                colours = UNCERTAIN
            if context is not None:
                shade = None if name == "spread" else context.values[:, i]
                _points(ax, context.place, diameter, shade, scale, colours)
            _points(ax, own.place, diameter, own.values[:, i], scale, colours)
            if context is not None:
                _border(ax, own.place, context.place, diameter, low, high)
            ax.set(xticks=[], yticks=[], xlim=(low[0], high[0]), ylim=(low[1], high[1]))
            ax.spines[:].set_visible(False)
            ax.set_aspect("equal")
            if i == 0:
                ax.set_title(TITLES[name])
            if name == "spread":
                _bar([ax], scale, colours, more, "spread")
        row[0].set_ylabel(gene, weight="bold")
        label = "log expression" if normalize else "counts"
        _bar([axes[name] for name in plain], norm, COLOURS, beyond, label)
    return list(rows.flat)


def _spacing(place: Array, extent: float) -> float:
    """Return the median distance of a place to the nearest other one."""
    places = np.unique(place, axis=0)
    if len(places) < 2:
        return extent / 30
    return float(np.median(cKDTree(places).query(places, k=2)[0][:, 1]))


def _range(values: Sequence[Array]) -> tuple[Normalize, bool]:
    """Return the range of colours of a gene, and whether some cells lie beyond it."""
    every = np.concatenate(values)
    top = float(np.quantile(every, TOP)) or float(every.max()) or 1.0
    return Normalize(0, top), bool(every.max() > top)


def _points(
    ax: Axes, place: Array, diameter: float, values: Array | None, norm: Normalize, colours: str
) -> None:
    """Draw discs whose size is one of the tissue, not of the page."""
    look = {"facecolors": BACKDROP} if values is None else {"cmap": colours, "norm": norm}
    # high ones last, or a rare gene is covered by its neighbours' zeros
    order = np.arange(len(place)) if values is None else np.argsort(values, kind="stable")
    discs = EllipseCollection(
        diameter, diameter, 0, units="xy", offsets=place[order],
        offset_transform=ax.transData, linewidths=0, rasterized=True, **look,
    )  # fmt: skip
    if values is not None:
        discs.set_array(values[order])
    ax.add_collection(discs)


def _border(
    ax: Axes, own: Array, context: Array, diameter: float, low: Array, high: Array
) -> None:
    """Draw the line between the places nearer to the one than to the other."""
    sides = [np.linspace(a, b, 240) for a, b in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*sides), axis=-1).reshape(-1, 2)
    inner, outer = (cKDTree(places).query(grid)[0] for places in (own, context))
    # no line where there are no cells
    off = np.where(np.minimum(inner, outer) > 2 * diameter, np.nan, inner - outer)
    shape = (len(sides[1]), len(sides[0]))
    if (off < 0).any() and (off > 0).any():
        ax.contour(*sides, off.reshape(shape), levels=[0], colors="white", linewidths=1.8)
        ax.contour(*sides, off.reshape(shape), levels=[0], colors="#222222", linewidths=0.8)


def _bar(axes: list[Axes], norm: Normalize, colours: str, beyond: bool, label: str) -> None:
    bar = axes[0].figure.colorbar(
        ScalarMappable(norm, colours), ax=axes, shrink=0.8, aspect=16, pad=0.02,
        extend="max" if beyond else "neither",
    )  # fmt: skip
    tidy_colour_bar(bar, label)
