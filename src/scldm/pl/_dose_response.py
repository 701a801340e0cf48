"""Expression against dose."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from scldm.pl._style import GENERATED, REAL, category_styles, finish, panels, style
from scldm.pl._trends import log_expression, numbers, trend

__all__ = ["dose_response"]


def dose_response(
    cells: AnnData | Mapping[str, AnnData],
    genes: str | Sequence[str],
    dose_key: str = "dose",
    *,
    layer: str | None = None,
    interval: bool = True,
    show: bool | None = None,
    save: str | Path | None = None,
) -> list[Axes] | None:
    """Log-normalised expression of genes at each dose.

    A point is the mean of the cells of a dose, the line through it two standard errors; the band
    holds nine in ten cells. All cells of a set count: give those of one perturbation and type, with
    their control cells.

    Parameters
    ----------
    cells
        Cells with counts, or several sets by name, such as ``{"real": ..., "predicted": ...}``.
    genes
        Which genes, a panel for each.
    dose_key
        Column of ``obs`` with the dose. Dose zero stands at the left, cut off from the others,
        which are on a logarithmic axis.
    layer
        Layer with the counts, or ``None`` for ``X``; ``X`` for sets that have no such layer.
    interval
        Whether to draw the bands.
    show
        Whether to show the figure; by default as scanpy is set, but not when it is saved.
    save
        Path of the file to write.

    Returns
    -------
    The axes, one for each gene, or ``None`` if they were shown.

    Raises
    ------
    ValueError
        If there are no cells, a gene or the column is missing, or doses are below 0 or not numbers.
    """
    sets = {"": cells} if isinstance(cells, AnnData) else dict(cells)
    genes = [genes] if isinstance(genes, str) else list(genes)
    if layer is not None and sets and not any(layer in adata.layers for adata in sets.values()):
        raise ValueError(f"`layer={layer!r}` is in no set of cells.")
    if not sets or not genes:
        raise ValueError(f"`{'genes' if sets else 'cells'}` is empty; at least one is needed.")
    doses = {name: _doses(adata, dose_key) for name, adata in sets.items()}
    values = {name: log_expression(adata, genes, layer) for name, adata in sets.items()}
    looks = _looks(list(sets))
    levels = np.unique(np.concatenate(list(doses.values())))
    across = min(4, len(genes))
    with style():
        height = -(-len(genes) // across) * 2.3 + 0.4
        axes = panels(len(genes), across, 2.6 * across + 0.4, height)
        for i, (ax, gene) in enumerate(zip(axes, genes, strict=True)):
            for name, (colour, marker) in looks.items():
                summary = trend(doses[name], values[name][:, i])
                _draw(ax, summary, levels, colour, marker, interval)
            _axis(ax, levels, dose_key)
            ax.set_title(gene)
        axes[0].set_ylabel("log expression")
        if len(sets) > 1:
            handles = [
                Line2D([], [], color=colour, marker=marker, ms=4.5, mew=0)
                for colour, marker in looks.values()
            ]
            axes[0].figure.legend(
                handles, list(looks), loc="outside lower center", ncols=len(looks)
            )
        return finish(axes, show, save)


def _doses(adata: AnnData, key: str) -> NDArray[np.float64]:
    doses = numbers(adata, key, "dose_key")
    if (doses < 0).any():
        raise ValueError(f"`dose_key={key!r}` has doses below 0.")
    return doses


def _looks(names: list[str]) -> dict[str, tuple[str, str]]:
    if len(names) == 1:
        return {names[0]: (GENERATED, "o")}
    if len(names) == 2:
        return {names[0]: (REAL, "o"), names[1]: (GENERATED, "s")}
    return category_styles(names)


def _place(doses: NDArray[np.float64], levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithms of doses; zero stands one step before the lowest, a step being the median one."""
    positive = np.log10(levels[levels > 0])
    step = np.median(np.diff(positive)) if len(positive) > 1 else 1.0
    start = positive[0] - step if len(positive) else 0.0
    return np.where(doses > 0, np.log10(np.where(doses > 0, doses, 1.0)), start)


def _draw(
    ax: Axes,
    summary: NDArray[np.float64],
    levels: NDArray[np.float64],
    colour: str,
    marker: str,
    interval: bool,
) -> None:
    dose, mean, error, low, high = summary.T
    x = _place(dose, levels)
    for part in (dose > 0, dose == 0):
        ax.plot(x[part], mean[part], color=colour, marker=marker, ms=4.5, mew=0, lw=1.4)
        if interval and part.sum() > 1:
            ax.fill_between(x[part], low[part], high[part], color=colour, alpha=0.13, lw=0)
    ax.vlines(x, mean - 2 * error, mean + 2 * error, color=colour, lw=1.2)


def _axis(ax: Axes, levels: NDArray[np.float64], label: str) -> None:
    places = _place(levels, levels)
    kept = [0]
    for i in range(1, len(places)):
        # no two ticks closer than their labels are wide
        if places[i] - places[kept[-1]] > 0.12 * (places[-1] - places[0]):
            kept.append(i)
    ax.set_xticks(places[kept], [f"{levels[i]:g}" for i in kept])
    ax.set_xlabel(label)
    ax.yaxis.set_major_locator(MaxNLocator(5))
