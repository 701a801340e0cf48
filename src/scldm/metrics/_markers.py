"""Whether types have their marker genes."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scldm.metrics._checks import as_points
from scldm.metrics._statistic import NotApplicable, Statistic, Weights, point

__all__ = ["marker_overlap", "marker_overlap_statistic"]

MARKERS = 20


def marker_overlap(
    x: ArrayLike,
    y: ArrayLike,
    x_labels: ArrayLike,
    y_labels: ArrayLike,
    *,
    n_genes: int | None = None,
    min_cells: int = 20,
) -> float:
    """Share of the marker genes of a type that are markers in both samples, mean over types.

    The markers of a type are the genes with the highest difference of means against all other
    cells, in units of its standard error (Welch's t).

    Parameters
    ----------
    x, y
        Log-normalised values of shape (n_cells, n_genes).
    x_labels, y_labels
        The type of each cell.
    n_genes
        Number of markers of each type; if ``None``, 20, or a quarter of the genes if that is less.
    min_cells
        Types with fewer cells in one of the samples are left out.

    Returns
    -------
    From 0 to 1.

    Raises
    ------
    ValueError
        If the shapes do not fit, or no type has enough cells.
    """
    statistic = marker_overlap_statistic(
        x, y, x_labels, y_labels, n_genes=n_genes, min_cells=min_cells
    )
    return point(statistic, np.shape(x)[0], np.shape(y)[0])


def marker_overlap_statistic(
    x: ArrayLike,
    y: ArrayLike,
    x_labels: ArrayLike,
    y_labels: ArrayLike,
    *,
    n_genes: int | None = None,
    min_cells: int = 20,
) -> Statistic:
    """:func:`marker_overlap` as a function of weights.

    Parameters
    ----------
    x, y, x_labels, y_labels, n_genes, min_cells
        As for :func:`marker_overlap`.
    """
    first, second = as_points(x, y)
    n_markers = max(1, min(MARKERS, first.shape[1] // 4)) if n_genes is None else n_genes
    if not 0 < n_markers <= first.shape[1]:
        raise ValueError(f"`n_genes={n_genes!r}` must be from 1 to the {first.shape[1]} genes.")
    labels = [np.asarray(side).astype(str) for side in (x_labels, y_labels)]
    enough = [
        label
        for label in np.unique(labels[0])
        if all(min(sum(s == label), sum(s != label)) >= min_cells for s in labels)
    ]
    if not enough:
        raise NotApplicable(f"no type has {min_cells} cells on both sides and outside it")

    def statistic(w: Weights, v: Weights) -> NDArray[np.float64]:
        sides = _Sums.of(first, w), _Sums.of(second, v)
        shared = np.zeros((len(enough), len(w)))
        for i, label in enumerate(enough):
            a, b = (
                side.markers(own == label, n_markers)
                for side, own in zip(sides, labels, strict=True)
            )
            shared[i] = [len(np.intersect1d(*rows)) for rows in zip(a, b, strict=True)]
        return shared.mean(axis=0) / n_markers

    return statistic


class _Sums(NamedTuple):
    """Weighted sums over all cells, from which those of a type are taken off."""

    values: NDArray[np.float64]
    weights: Weights
    first: NDArray[np.float64]
    second: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray[np.float64], weights: Weights) -> "_Sums":
        return cls(values, weights, weights @ values, weights @ values**2)

    def markers(self, inside: NDArray[np.bool_], n_genes: int) -> NDArray[np.intp]:
        """Genes with the highest t, shape (n_rows, n_genes)."""
        weights, values = self.weights[:, inside], self.values[inside]
        share = weights.sum(axis=1, keepdims=True)
        first, second = weights @ values, weights @ values**2
        mean, error = _mean_and_error(first, second, share, self.weights.shape[1])
        rest, rest_error = _mean_and_error(
            self.first - first, self.second - second, 1 - share, self.weights.shape[1]
        )
        t = (mean - rest) / np.sqrt(error + rest_error + 1e-12)
        return np.argsort(-t, axis=1, kind="stable")[:, :n_genes]


def _mean_and_error(
    first: NDArray[np.float64], second: NDArray[np.float64], share: NDArray[np.float64], n: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean of each gene, and its squared standard error, over a share of n cells."""
    share = np.maximum(share, 1 / n)
    mean = first / share
    return mean, np.maximum(second / share - mean**2, 0) / (share * n)
