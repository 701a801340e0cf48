"""Which genes go together, real against generated."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from numpy.typing import NDArray
from scipy import sparse
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from scldm.pl._checks import require_at_least
from scldm.pl._samples import NAMES, Samples
from scldm.pl._style import colour_bar, finish, panels, style

__all__ = ["correlation"]

COLOURS = "RdBu_r"
LABELLED = 60
"""The most genes whose names can be read beside a map."""


def correlation(
    real: AnnData,
    generated: AnnData,
    genes: Sequence[str] | None = None,
    n_genes: int = 50,
    *,
    layer: str | None = None,
    names: tuple[str, str] = NAMES,
    show: bool | None = None,
    save: str | Path | None = None,
) -> list[Axes] | None:
    """Correlation of genes in real cells, in generated cells, and their difference.

    Pearson correlation of log-normalised expression over all cells. All maps have one order of
    genes, from average linkage of the real correlations, and one scale of colours. The title of
    the third gives the root mean square of the differences over pairs of genes.

    Parameters
    ----------
    real
        Real cells with counts, best those that the generator has not seen.
    generated
        Generated cells with the genes of ``real``, in any order.
    genes
        Two genes or more. By default those whose log-normalised expression varies most in the
        real cells.
    n_genes
        How many, where ``genes`` is not given.
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
    The axes of the three maps, or ``None`` if they were shown.

    Raises
    ------
    ValueError
        If genes differ or are unknown, ``layer`` is missing, or there are less than two genes.
    """
    require_at_least("n_genes", n_genes, 2)
    samples = Samples.of(real, generated, layer=layer, names=names)
    chosen = None if genes is None else samples.places(list(dict.fromkeys(genes)))
    whose, n = ("real", len(samples.genes)) if chosen is None else ("genes", len(chosen))
    if n < 2:
        raise ValueError(f"`{whose}` has {n} gene; a correlation needs two or more.")
    expression = samples.log_normalized()
    if chosen is None:
        chosen = _most_variable(expression[0], n_genes)
    first, second = (_correlation(matrix[:, chosen]) for matrix in expression)
    order = _order(first)
    maps = [matrix[np.ix_(order, order)] for matrix in (first, second, second - first)]
    pairs = ~np.eye(len(order), dtype=bool)
    rms = float(np.sqrt(np.mean(np.square(maps[2][pairs]))))
    a, b = (name[:1].upper() + name[1:] for name in names)
    titles = (a, b, f"{b} − {names[0]}, RMS {rms:.2f}")
    limit = min(max(float(np.abs(matrix[pairs]).max()) for matrix in maps), 1.0) or 1.0
    with style():
        axes = _draw(maps, titles, limit, samples.genes[chosen[order]].tolist())
        return finish(axes, show, save)


def _most_variable(expression: sparse.csr_matrix, n_genes: int) -> NDArray[np.intp]:
    mean = np.asarray(expression.mean(axis=0)).ravel()
    variance = np.asarray(expression.multiply(expression).mean(axis=0)).ravel() - mean**2
    return np.argsort(-variance, kind="stable")[:n_genes]


def _correlation(expression: sparse.csr_matrix) -> NDArray[np.float64]:
    """Correlations; a gene that is the same in all cells goes with no other."""
    centred = expression.toarray().astype(np.float64)
    centred -= centred.mean(axis=0)
    norm = np.linalg.norm(centred, axis=0)
    centred /= np.where(norm > 0, norm, 1)
    matrix = np.clip(centred.T @ centred, -1, 1)
    np.fill_diagonal(matrix, 1)
    return matrix


def _order(matrix: NDArray[np.float64]) -> NDArray[np.intp]:
    """Genes that go together side by side."""
    distance = squareform(1 - matrix, checks=False)
    return leaves_list(linkage(distance, "average", optimal_ordering=True))


def _draw(
    maps: list[NDArray[np.float64]], titles: Sequence[str], limit: float, genes: list[str]
) -> list[Axes]:
    norm = Normalize(-limit, limit)
    n = len(genes)
    named = n <= LABELLED
    axes = panels(3, 3, 12.6 if named else 9.6, 4.1 if named else 3.1)
    for ax, matrix, title in zip(axes, maps, titles, strict=True):
        ax.imshow(matrix, norm=norm, cmap=COLOURS, interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        ax.set_title(title)
    if named:
        axes[0].set_yticks(np.arange(n), genes, size=min(8.0, 230 / n))
        axes[0].tick_params(length=0, pad=1)
    colour_bar(axes, norm, COLOURS, "correlation")
    return axes
