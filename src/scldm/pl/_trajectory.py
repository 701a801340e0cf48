"""Where cells go: streams on a map, and genes over time."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from scldm.pl._checks import require_known
from scldm.pl._style import GENERATED, REAL, colour_bar, finish, new_figure, style
from scldm.pl._trends import draw_trend, log_expression, numbers, trend

__all__ = ["bare", "map_of", "trajectory"]

NEIGHBOURS = 10
GRID = 24
MOST_STEPS = 20_000
COLOURS = "viridis"

Array = NDArray[np.float64]


def trajectory(
    real: AnnData,
    predicted: AnnData,
    time_key: str = "time",
    genes: str | Sequence[str] = (),
    *,
    basis: str = "X_umap",
    use_rep: str = "X_scldm",
    layer: str | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> list[Axes] | None:
    """Streams of predicted cells on a map of real ones, and expression over time.

    A predicted cell stands on the map where its nearest real cells do. The streams follow the mean
    step of the paths that pass a place. Of genes, predicted cells counting by their ``weight`` if they
    have one, the points are means at each time, the lines through
    them two standard errors; the bands hold nine in ten cells.

    Parameters
    ----------
    real
        Measured cells with counts, latents and a map.
    predicted
        Cells from ``predict_trajectory`` at two or more times.
    time_key
        Column of ``obs`` with the time, in both.
    genes
        Genes to show over time, a panel for each.
    basis
        The map, in ``real.obsm``.
    use_rep
        Latents in ``obsm``, in both.
    layer
        Layer with the counts, or ``None`` for ``X``; ``X`` of cells that have no such layer.
    show
        Whether to show the figure; by default as scanpy is set, but not when it is saved.
    save
        Path of the file to write.

    Returns
    -------
    The axes, the map first, or ``None`` if they were shown.

    Raises
    ------
    ValueError
        If a column, map, latent or gene is missing, or there is but one predicted time.
    """
    genes = [genes] if isinstance(genes, str) else list(genes)
    real_times, times = (numbers(adata, time_key, "time_key") for adata in (real, predicted))
    place = map_of(real, basis)
    require_known("predicted.obs", ["source_cell", "sample"], list(predicted.obs))
    weight = predicted.obs["weight"].to_numpy(float) if "weight" in predicted.obs else None
    begin, step = _steps(real, predicted, times, place, use_rep)
    if layer is not None and layer not in real.layers:
        raise ValueError(
            f"`layer={layer!r}` is not a layer of `real`. Known: {list(real.layers)}."
        )
    values = [log_expression(adata, genes, layer) for adata in (real, predicted) if genes]
    with style():
        figure = new_figure(4.6 + 2.5 * len(genes), 3.4)
        axes = list(
            np.atleast_1d(
                figure.subplots(1, 1 + len(genes), width_ratios=[1.7] + [1] * len(genes))
            )
        )
        norm = Normalize(real_times.min(), real_times.max())
        axes[0].scatter(*place.T, c=real_times, cmap=COLOURS, norm=norm, s=6, lw=0, alpha=0.6)
        _streams(axes[0], place, begin, step)
        bare(axes[0])
        colour_bar(axes[:1], norm, COLOURS, time_key)
        for i, gene in enumerate(genes):
            ax = axes[1 + i]
            draw_trend(ax, trend(real_times, values[0][:, i]), REAL, "o")
            draw_trend(ax, trend(times, values[1][:, i], weight), GENERATED, "s")
            ax.set_title(gene)
            ax.set_xlabel(time_key)
            ax.yaxis.set_major_locator(MaxNLocator(5))
        if genes:
            axes[1].set_ylabel("log expression")
            handles = [
                Line2D([], [], color=c, marker=m, ms=4.5, mew=0)
                for c, m in ((REAL, "o"), (GENERATED, "s"))
            ]
            figure.legend(handles, ["measured", "predicted"], loc="outside lower right", ncols=2)
        return finish(axes, show, save)


def map_of(adata: AnnData, basis: str) -> Array:
    """Return places on a map, ``(n_cells, 2)``.

    Raises
    ------
    ValueError
        If it is missing or has one column.
    """
    if basis not in adata.obsm:
        raise ValueError(
            f"`basis={basis!r}` is not in `obsm`. Known: {list(adata.obsm)}. "
            "`scanpy.tl.umap` makes a map of neighbours in the latents."
        )
    place = np.asarray(adata.obsm[basis], dtype=float)
    if place.ndim != 2 or place.shape[1] < 2:
        raise ValueError(f"`basis={basis!r}` has shape {place.shape}; a map needs two columns.")
    return place[:, :2]


def bare(ax: Axes) -> None:
    """Leave only the points."""
    ax.set_aspect("equal", adjustable="datalim")
    ax.axis("off")


def _steps(
    real: AnnData, predicted: AnnData, times: Array, place: Array, use_rep: str
) -> tuple[Array, Array]:
    """Return where steps of paths begin on the map, and how far they go, ``(n, 2)`` each."""
    for name, adata in (("real", real), ("predicted", predicted)):
        if use_rep not in adata.obsm:
            raise ValueError(f"`use_rep={use_rep!r}` is not in `{name}.obsm`.")
    widths = [adata.obsm[use_rep].shape[1] for adata in (real, predicted)]
    if widths[0] != widths[1]:
        raise ValueError(
            f"`use_rep={use_rep!r}` has {widths[0]} columns in `real`, {widths[1]} in `predicted`."
        )
    if len(np.unique(times)) < 2:
        raise ValueError("`predicted` has one time; streams need two or more.")
    latents = NearestNeighbors(n_neighbors=min(NEIGHBOURS, real.n_obs)).fit(real.obsm[use_rep])
    near = latents.kneighbors(predicted.obsm[use_rep], return_distance=False)
    at = place[near].mean(axis=1)
    path = predicted.obs.groupby(["source_cell", "sample"], observed=True).ngroup().to_numpy()
    order = np.lexsort([times, path])
    together = path[order][1:] == path[order][:-1]
    begin, end = at[order][:-1][together], at[order][1:][together]
    return begin, end - begin


def _streams(ax: Axes, place: Array, begin: Array, step: Array) -> None:
    """Draw the mean step of the paths near each point of a grid that has cells."""
    low, high = place.min(axis=0), place.max(axis=0)
    sides = [np.linspace(a, b, GRID) for a, b in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*sides), axis=-1)
    reach = 1.2 * (high - low) / GRID
    if len(begin) > MOST_STEPS:
        chosen = np.linspace(0, len(begin) - 1, MOST_STEPS).astype(int)
        begin, step = begin[chosen], step[chosen]
    scaled = (grid.reshape(-1, 1, 2) - begin) / reach
    weight = np.exp(-0.5 * np.square(scaled).sum(axis=2))
    total = weight.sum(axis=1)
    mean = weight @ step / np.maximum(total, 1e-12)[:, None]
    # only where there are paths and measured cells
    nearest = NearestNeighbors(n_neighbors=1).fit(place / reach)
    empty = nearest.kneighbors(grid.reshape(-1, 2) / reach)[0][:, 0] > 1
    mean[empty | (total < 1.0)] = np.nan
    u, v = mean.reshape(GRID, GRID, 2).transpose(2, 0, 1)
    if np.isfinite(u).any():
        ax.streamplot(
            sides[0], sides[1], u, v, color="#222222", linewidth=0.7, density=1.2, arrowsize=0.8,
            minlength=0.08,
        )  # fmt: skip
