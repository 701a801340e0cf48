"""How close predicted expression in tissue comes to what was measured at the same places.

Functions take values of shape (n, n_genes) at n places, normalised as one likes, and coordinates of shape
(n, 2) or (n, 3) in any unit. Predictions are means, (n, n_genes), or samples, (n_samples, n, n_genes).
Metrics of genes' patterns, :func:`gene_pcc` to :func:`jensen_shannon`, are best for means, which are smooth
where cells are not. What a mean loses is seen by :func:`variance_ratio`, :func:`morans_i`, the energy
distance, the CRPS and the coverage. :func:`compare` puts both sides into one row.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.spatial import cKDTree

from scldm.metrics import translation
from scldm.metrics._energy import energy_distance
from scldm.metrics._patterns import averaged, gene_pcc, jensen_shannon, smooth, smoothed_pcc, ssim
from scldm.metrics._places import (
    as_coordinates,
    as_labels,
    as_samples,
    as_values,
    neighbours,
    whole,
)

__all__ = [
    "MoransAgreement",
    "compare",
    "gene_pcc",
    "jensen_shannon",
    "morans_agreement",
    "morans_i",
    "neighbourhood_composition",
    "smooth",
    "smoothed_pcc",
    "ssim",
    "variance_ratio",
]

Array = NDArray[np.float64]
_SAMPLES_OF_ENERGY = 5


class MoransAgreement(NamedTuple):
    """What :func:`morans_agreement` returns."""

    correlation: float
    error: float


def variance_ratio(true: ArrayLike, samples: ArrayLike) -> Array:
    """Variance over places of predicted values over that of the truth; 1 is right.

    The variance is that within a sample, and the mean of it over samples. Means have less than cells
    do: below 1 the noise of cells is lost.

    Parameters
    ----------
    true
        Values, (n, n_genes).
    samples
        (n_samples, n, n_genes), or a single sample or mean, (n, n_genes).

    Returns
    -------
    (n_genes,), NaN where the truth is constant.

    Raises
    ------
    ValueError
        If shapes do not fit, values are not finite, or there are fewer than two places.
    """
    x = as_values(true, "true")
    draws = as_samples(samples, "samples", x)
    return _variances(draws) / _spread(x) ** 2


def morans_i(
    values: ArrayLike,
    coordinates: ArrayLike,
    n_neighbors: int = 6,
    groups: ArrayLike | None = None,
) -> Array:
    r"""Moran's I of each gene: how alike neighbouring places are; 0 is not at all.

    .. math:: I = \frac{\sum_i z_i \, \frac{1}{k} \sum_{j \in N(i)} z_j}{\sum_i z_i^2}

    with z the distance from the mean of all places and N(i) the k nearest others. Weights have rows
    of sum one and need not be symmetric.

    Parameters
    ----------
    values
        (n, n_genes).
    coordinates
        (n, 2) or (n, 3).
    n_neighbors
        k.
    groups
        Section of each place, (n,): neighbours are of the same one.

    Returns
    -------
    (n_genes,), NaN where a gene is constant.

    Raises
    ------
    ValueError
        As :func:`smooth`.

    References
    ----------
    Moran (1950). Notes on continuous stochastic phenomena. Biometrika 37:17.
    """
    x = as_values(values, "values")
    return _morans_i(x, neighbours(as_coordinates(coordinates, len(x)), n_neighbors, groups))


def morans_agreement(
    true: ArrayLike,
    predicted: ArrayLike,
    coordinates: ArrayLike,
    n_neighbors: int = 6,
    groups: ArrayLike | None = None,
) -> MoransAgreement:
    """Whether genes vary in space as much as they should, by :func:`morans_i`.

    Parameters
    ----------
    true
        Values, (n, n_genes).
    predicted
        (n, n_genes), or samples, (n_samples, n, n_genes), each of which is compared by itself.
    coordinates, n_neighbors, groups
        As for :func:`morans_i`.

    Returns
    -------
    Pearson correlation over genes and mean absolute difference of Moran's I, each the mean over
    samples. Genes that are constant on one side are left out; NaN where none is left, and for the
    correlation where fewer than two are.

    Raises
    ------
    ValueError
        As :func:`smooth`.
    """
    x = as_values(true, "true")
    draws = as_samples(predicted, "predicted", x)
    near = neighbours(as_coordinates(coordinates, len(x)), n_neighbors, groups)
    return _agreement(x, draws, near)


def neighbourhood_composition(
    true_types: ArrayLike,
    predicted_types: ArrayLike,
    coordinates: ArrayLike,
    predicted_coordinates: ArrayLike | None = None,
    n_neighbors: int = 20,
    groups: ArrayLike | None = None,
    predicted_groups: ArrayLike | None = None,
) -> float:
    """Mean distance of the types around each true place from those predicted there.

    At each true place the nearest true cells, that of the place among them, are counted by type, and
    so are the nearest predicted cells. Between the shares lies the total variation distance, half the
    sum of absolute differences.

    Parameters
    ----------
    true_types, predicted_types
        Type of each cell, (n,) and (m,).
    coordinates
        Of true cells, (n, 2) or (n, 3).
    predicted_coordinates
        Of predicted cells, (m, 2) or (m, 3); the true ones where not given.
    n_neighbors
        Cells of a neighbourhood.
    groups, predicted_groups
        Section of each true and predicted cell, (n,) and (m,), those of the true ones where only
        ``groups`` is given. Neighbours are of one section.

    Returns
    -------
    From 0, the same everywhere, to 1, no type in common.

    Raises
    ------
    ValueError
        If shapes do not fit, a section has no predicted cells, or there are fewer cells, of a section,
        than ``n_neighbors``.
    """
    places = as_coordinates(coordinates, None)
    others = places
    if predicted_coordinates is not None:
        others = as_coordinates(predicted_coordinates, None, "predicted_coordinates")
    if others.shape[1] != places.shape[1]:
        raise ValueError(
            f"`predicted_coordinates` has {others.shape[1]} columns, but `coordinates` "
            f"{places.shape[1]}."
        )
    first = as_labels(true_types, len(places), "true_types")
    second = as_labels(predicted_types, len(others), "predicted_types")
    k = whole(n_neighbors, "n_neighbors")
    names, codes = np.unique(np.concatenate([first, second]), return_inverse=True)
    of_true, of_predicted = _sections(groups, predicted_groups, len(places), len(others))
    distance = np.empty(len(places))
    for section in np.unique(of_true):
        here, there = np.flatnonzero(of_true == section), np.flatnonzero(of_predicted == section)
        if k > min(len(here), len(there)):
            within = "" if groups is None else f" of section {str(section)!r}"
            raise ValueError(
                f"`n_neighbors={k}` must not exceed the cells{within}, {len(here)} and {len(there)}."
            )
        near = [
            types[cKDTree(points).query(places[here], k=list(range(1, k + 1)))[1]]
            for points, types in (
                (places[here], codes[: len(first)][here]),
                (others[there], codes[len(first) :][there]),
            )
        ]
        distance[here] = sum(
            np.abs((near[0] == c).mean(axis=1) - (near[1] == c).mean(axis=1)) / 2
            for c in range(len(names))
        )
    return float(distance.mean())


def _sections(
    groups: ArrayLike | None, predicted_groups: ArrayLike | None, n: int, m: int
) -> tuple[NDArray, NDArray]:
    """Return the section of each true and each predicted cell, one for all where none are given."""
    if groups is None:
        if predicted_groups is not None:
            raise ValueError("`predicted_groups` goes with `groups`, which is not given.")
        return np.zeros(n, int), np.zeros(m, int)
    own = as_labels(groups, n, "groups")
    if predicted_groups is None:
        return own, as_labels(groups, m, "groups")
    return own, as_labels(predicted_groups, m, "predicted_groups")


def compare(
    true: ArrayLike,
    predicted: ArrayLike,
    coordinates: ArrayLike,
    *,
    samples: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    n_neighbors: int = 10,
    most_cells: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """A prediction in one row of a table: how close its means are, and how much like cells its draws.

    Parameters
    ----------
    true
        Values, (n, n_genes).
    predicted
        Means, (n, n_genes), or samples, (n_samples, n, n_genes), whose mean is taken.
    coordinates
        (n, 2) or (n, 3).
    samples
        Samples beside means, (n_samples, n, n_genes). Without any, the prediction is one that is sure
        of its means, and these are scored in the place of a sample.
    groups
        Section of each place, (n,). Neighbours are of one section, and ``energy_within`` is that of
        sections. All else is over all places together: what tells sections apart, such as a batch,
        counts as pattern there. Where it must not, compare section by section.
    n_neighbors
        Of :func:`smoothed_pcc`. Moran's I takes six.
    most_cells
        The energy distance is that of so many places at most, drawn at random, within sections of so many of
        each.
    seed
        Of these places, and of :func:`scldm.metrics.translation.coverage`.

    Returns
    -------
    Of means: ``pcc``, ``smoothed_pcc``, ``ssim`` and ``js`` (means over genes that have them; ``js`` is
    NaN where true values are below zero) and ``rmse``. Of samples: ``variance_ratio`` (median over
    genes), ``energy`` (between true cells and those of a sample, mean over five samples at most),
    ``energy_within`` (that of each section by itself, mean over places: cells of one section that are put
    into another cancel out in the former, and not in this),
    ``crps``, ``coverage_50`` and ``coverage_90`` (means over genes; coverage is NaN where there are no
    samples), ``morans_correlation`` and ``morans_error``.

    Raises
    ------
    ValueError
        If shapes do not fit, values are not finite, or there are too few places for neighbours.
    """
    x = as_values(true, "true")
    found, places = as_samples(predicted, "predicted", x), as_coordinates(coordinates, len(x))
    has_samples = samples is not None or np.ndim(predicted) == 3
    if samples is not None and np.ndim(predicted) == 3:
        raise ValueError("`predicted` holds samples itself, so `samples` must be left out.")
    draws = found if samples is None else as_samples(samples, "samples", x)
    most_cells = whole(most_cells, "most_cells")
    return {
        **_of_means(x, found.mean(axis=0), neighbours(places, n_neighbors, groups)),
        "variance_ratio": _over_genes(variance_ratio(x, draws), median=True),
        "energy": _energy(x, draws, most_cells, seed),
        "energy_within": _energy_within(x, draws, groups, most_cells, seed),
        "crps": float(translation.crps(x, draws).mean()),
        **_coverages(x, draws if has_samples else None, seed),
        **_of_agreement(_agreement(x, draws, neighbours(places, 6, groups))),
    }


def _of_means(x: Array, mean: Array, near: sparse.csr_array) -> dict[str, float]:
    smoothed = translation.feature_pearson(averaged(x, near), averaged(mean, near))
    return {
        "pcc": _over_genes(gene_pcc(x, mean)),
        "smoothed_pcc": _over_genes(smoothed),
        "ssim": _over_genes(ssim(x, mean)),
        "js": float("nan") if x.min() < 0 else _over_genes(jensen_shannon(x, mean)),
        "rmse": translation.rmse(x, mean),
    }


def _of_agreement(agreement: MoransAgreement) -> dict[str, float]:
    return {f"morans_{name}": value for name, value in agreement._asdict().items()}


def _coverages(x: Array, draws: Array | None, seed: int) -> dict[str, float]:
    row = {}
    for level in (50, 90):
        inside = (
            np.nan if draws is None else translation.coverage(x, draws, level / 100, seed=seed)
        )
        row[f"coverage_{level}"] = float(np.mean(inside))
    return row


def _energy(x: Array, draws: Array, most_cells: int, seed: int) -> float:
    rows = np.random.default_rng(seed).permutation(len(x))[: max(2, most_cells)]
    some = draws[:_SAMPLES_OF_ENERGY]
    return float(np.mean([energy_distance(x[rows], draw[rows]) for draw in some]))


def _energy_within(
    x: Array, draws: Array, groups: ArrayLike | None, most_cells: int, seed: int
) -> float:
    if groups is None:
        return _energy(x, draws, most_cells, seed)
    names, codes = np.unique(as_labels(groups, len(x), "groups"), return_inverse=True)
    sections = [np.flatnonzero(codes == code) for code in range(len(names))]
    found = [_energy(x[rows], draws[:, rows], most_cells, seed) for rows in sections]
    return float(np.average(found, weights=[len(rows) for rows in sections]))


def _spread(x: Array) -> Array:
    """Return the standard deviation over places, NaN where a gene is constant but for rounding."""
    spread = x.std(axis=0)
    return np.where(spread > 1e-12 * np.abs(x).max(axis=0), spread, np.nan)


def _variances(draws: Array) -> Array:
    return np.mean([d.var(axis=0) for d in draws], axis=0)


def _morans_i(x: Array, near: sparse.csr_array) -> Array:
    z = (x - x.mean(axis=0)) / _spread(x)
    return (z * (near @ z)).mean(axis=0)


def _agreement(x: Array, draws: Array, near: sparse.csr_array) -> MoransAgreement:
    expected = _morans_i(x, near)
    correlations, errors = [], []
    for draw in draws:
        found = _morans_i(draw, near)
        known = ~np.isnan(expected + found)
        a, b = expected[known, None], found[known, None]
        enough = known.sum() > 1
        correlations.append(translation.feature_pearson(a, b)[0] if enough else np.nan)
        errors.append(np.abs(a - b).mean() if known.any() else np.nan)
    return MoransAgreement(float(np.mean(correlations)), float(np.mean(errors)))


def _over_genes(values: Array, *, median: bool = False) -> float:
    """Mean or median of the genes that have a value."""
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan")
    return float(np.median(known) if median else known.mean())
