"""How close translated cells come to measured ones: feature by feature, cell by cell, together.

Functions take values of shape (n_cells, n_features), normalised as one likes (log(1 + counts) of proteins,
log-normalised RNA), and samples of shape (n_samples, n_cells, n_features). Point metrics take the mean of
samples; scores of the whole prediction, :func:`crps` and :func:`coverage`, take the samples.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from scldm.metrics._checks import as_dense
from scldm.metrics._energy import energy_distance

__all__ = [
    "cell_pearson",
    "compare",
    "correlation_error",
    "coverage",
    "crps",
    "cross_correlation_error",
    "feature_auroc",
    "feature_pearson",
    "feature_spearman",
    "joint_energy",
    "mae",
    "rmse",
]

Array = NDArray[np.float64]
_VALUES_AT_A_TIME = 2**25


def feature_pearson(true: ArrayLike, predicted: ArrayLike) -> Array:
    """Pearson correlation over cells of each feature, NaN where one side is constant.

    Parameters
    ----------
    true, predicted
        Values, (n_cells, n_features).

    Returns
    -------
    (n_features,)
    """
    a, b = _pair(true, predicted)
    return _correlation(a, b)


def feature_spearman(true: ArrayLike, predicted: ArrayLike) -> Array:
    """Rank correlation over cells of each feature, NaN where one side is constant.

    Parameters
    ----------
    true, predicted
        Values, (n_cells, n_features).

    Returns
    -------
    (n_features,)
    """
    a, b = _pair(true, predicted)
    return _correlation(stats.rankdata(a, axis=0), stats.rankdata(b, axis=0))


def feature_auroc(true: ArrayLike, predicted: ArrayLike) -> Array:
    """Area under the ROC curve of each feature: whether cells that have it are ranked first.

    Parameters
    ----------
    true
        Values, (n_cells, n_features); above zero is present.
    predicted
        Values that rank the cells.

    Returns
    -------
    (n_features,), NaN where all cells have a feature or none.

    References
    ----------
    Hanley and McNeil (1982). The meaning and use of the area under a receiver operating
    characteristic (ROC) curve. Radiology 143:29.
    """
    a, b = _pair(true, predicted)
    present = a > 0
    n_present = present.sum(axis=0)
    n_absent = len(a) - n_present
    area = np.full(a.shape[1], np.nan)
    for start in range(0, a.shape[1], 512):
        columns = slice(start, start + 512)
        ranks = stats.rankdata(b[:, columns], axis=0)
        top = (ranks * present[:, columns]).sum(axis=0)
        yes, no = n_present[columns], n_absent[columns]
        pairs = np.where((yes > 0) & (no > 0), yes * no, np.nan)
        area[columns] = (top - yes * (yes + 1) / 2) / pairs
    return area


def cell_pearson(true: ArrayLike, predicted: ArrayLike) -> float:
    """Mean over cells of the Pearson correlation over features.

    It is inflated by what all cells share: the mean of each feature, the same for every cell, has a
    high one. Read it beside that of the mean.

    Parameters
    ----------
    true, predicted
        Values, (n_cells, n_features).
    """
    a, b = _pair(true, predicted)
    return float(np.nanmean(_correlation(a.T, b.T)))


def rmse(true: ArrayLike, predicted: ArrayLike) -> float:
    """Root of the mean squared error over cells and features.

    Parameters
    ----------
    true, predicted
        Values, (n_cells, n_features).
    """
    a, b = _pair(true, predicted)
    return float(np.sqrt(np.square(a - b).mean()))


def mae(true: ArrayLike, predicted: ArrayLike) -> float:
    """Mean absolute error over cells and features.

    Parameters
    ----------
    true, predicted
        Values, (n_cells, n_features).
    """
    a, b = _pair(true, predicted)
    return float(np.abs(a - b).mean())


def crps(true: ArrayLike, samples: ArrayLike) -> Array:
    r"""Continuous ranked probability score of each feature, mean over cells; low is good.

    .. math:: \mathbb{E}|X - x| - \tfrac{1}{2} \mathbb{E}|X - X'|,

    with pairs of different samples in the second term, so that few samples do not count against a
    prediction. For one that is a single value it is the absolute error.

    Parameters
    ----------
    true
        Values, (n_cells, n_features).
    samples
        Predictions, (n_samples, n_cells, n_features).

    Returns
    -------
    (n_features,)

    References
    ----------
    Gneiting and Raftery (2007). Strictly proper scoring rules, prediction, and estimation. Journal of
    the American Statistical Association 102:359. Ferro (2014). Fair scores for ensemble forecasts.
    Quarterly Journal of the Royal Meteorological Society 140:1917 (pairs of different samples).
    """
    x, draws = _with_samples(true, samples)
    m = len(draws)
    total = np.zeros(x.shape[1])
    weights = (2.0 * np.arange(1, m + 1) - m - 1)[:, None, None]
    for rows in _chunks(draws):
        ordered = np.sort(draws[:, rows].astype(float), axis=0)
        off = np.abs(ordered - x[rows]).mean(axis=0)
        spread = (weights * ordered).sum(axis=0) / (m * (m - 1)) if m > 1 else 0.0
        total += (off - spread).sum(axis=0)
    return total / len(x)


def coverage(true: ArrayLike, samples: ArrayLike, level: float, *, seed: int = 0) -> Array:
    """Share of cells whose value lies in the central interval of the samples, of each feature.

    Counts are often equal to some of the samples; their place among these is drawn at random
    (the randomised probability integral transform), so that a true prediction has the level.

    Parameters
    ----------
    true
        Values, (n_cells, n_features).
    samples
        Predictions, (n_samples, n_cells, n_features).
    level
        Mass of the interval, between 0 and 1.
    seed
        Of the places among equals.

    Returns
    -------
    (n_features,)

    Raises
    ------
    ValueError
        If the level is out of range or shapes do not fit.

    References
    ----------
    Czado, Gneiting and Held (2009). Predictive model assessment for count data. Biometrics 65:1254.
    """
    if not 0 < level < 1:
        raise ValueError(f"`level={level!r}` must lie between 0 and 1.")
    x, draws = _with_samples(true, samples)
    rng = np.random.default_rng(seed)
    inside = np.zeros(x.shape[1])
    for rows in _chunks(draws):
        below = (draws[:, rows] < x[rows]).sum(axis=0)
        equal = (draws[:, rows] == x[rows]).sum(axis=0)
        # the value is one more of equals, and its place among all any of them
        place = (below + rng.random(below.shape) * (equal + 1)) / (len(draws) + 1)
        inside += (np.abs(place - 0.5) < level / 2).sum(axis=0)
    return inside / len(x)


def correlation_error(true: ArrayLike, generated: ArrayLike) -> float:
    """Root of the mean squared difference of the correlations between features.

    Parameters
    ----------
    true, generated
        Cells, (n, n_features) and (m, n_features); features that are constant in one are left out.
    """
    a, b = as_dense(true), as_dense(generated)
    varies = (a.std(axis=0) > 0) & (b.std(axis=0) > 0)
    pairs = np.triu_indices(int(varies.sum()), 1)
    first, second = (_standard(x[:, varies]) for x in (a, b))
    gap = first.T @ first / len(a) - second.T @ second / len(b)
    return float(np.sqrt(np.square(gap[pairs]).mean()))


def cross_correlation_error(
    true: tuple[ArrayLike, ArrayLike], generated: tuple[ArrayLike, ArrayLike]
) -> float:
    """Root of the mean squared difference of the correlations between two modalities' features.

    Parameters
    ----------
    true, generated
        Cells in two modalities, (n, p) and (n, q), and (m, p) and (m, q).
    """
    tables, varies = [], []
    for first, second in (true, generated):
        a, b = as_dense(first), as_dense(second)
        tables.append((a, b))
        varies.append((a.std(axis=0) > 0, b.std(axis=0) > 0))
    rows = varies[0][0] & varies[1][0]
    columns = varies[0][1] & varies[1][1]
    both = [_standard(a[:, rows]).T @ _standard(b[:, columns]) / len(a) for a, b in tables]
    return float(np.sqrt(np.square(both[0] - both[1]).mean()))


def joint_energy(true: Mapping[str, ArrayLike], generated: Mapping[str, ArrayLike]) -> float:
    """Energy distance of cells in several modalities at once.

    Each modality counts alike: it is divided by the root of its total variance in the true cells.

    Parameters
    ----------
    true, generated
        Cells by modality: components or normalised values, (n, d) and (m, d) for each.

    Raises
    ------
    ValueError
        If the modalities differ or shapes do not fit.
    """
    if set(true) != set(generated):
        raise ValueError(f"`true` has {sorted(true)}, but `generated` has {sorted(generated)}.")
    scale = {name: np.sqrt(as_dense(x).var(axis=0).sum()) or 1.0 for name, x in true.items()}
    sides = [
        np.hstack([as_dense(side[name]) / scale[name] for name in true])
        for side in (true, generated)
    ]
    return energy_distance(*sides)


def compare(
    true: ArrayLike,
    means: Mapping[str, ArrayLike],
    samples: Mapping[str, ArrayLike] | None = None,
    *,
    binary: bool = False,
) -> pd.DataFrame:
    """Translations by several methods in one table.

    Parameters
    ----------
    true
        Values, (n_cells, n_features).
    means
        Predicted values by method.
    samples
        Predicted samples, (n_samples, n_cells, n_features), of the methods that draw them. The others
        are scored as predictions that are sure of their value.
    binary
        Whether values are 0 and 1, for which the area under the ROC curve stands beside the rest.

    Returns
    -------
    A row for each method: ``rmse``, ``mae``, means over features of ``pearson`` and ``spearman``,
    ``cell_pearson``, ``crps``, ``coverage_50``, ``coverage_90`` and, where ``binary``, ``auroc``.
    """
    samples = samples or {}
    rows = {}
    for name, predicted in means.items():
        row = {
            "rmse": rmse(true, predicted),
            "mae": mae(true, predicted),
            "pearson": _mean_known(feature_pearson(true, predicted)),
            "spearman": _mean_known(feature_spearman(true, predicted)),
            "cell_pearson": cell_pearson(true, predicted),
            "crps": mae(true, predicted),
        }
        if binary:
            row["auroc"] = _mean_known(feature_auroc(true, predicted))
        if name in samples:
            row["crps"] = float(crps(true, samples[name]).mean())
            for level in (50, 90):
                row[f"coverage_{level}"] = float(coverage(true, samples[name], level / 100).mean())
        rows[name] = row
    return pd.DataFrame(rows).T


def _pair(true: ArrayLike, predicted: ArrayLike) -> tuple[Array, Array]:
    a, b = as_dense(true), as_dense(predicted)
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(
            f"`true` and `predicted` must be cells by features alike, but have shapes {a.shape} "
            f"and {b.shape}."
        )
    return a, b


def _with_samples(true: ArrayLike, samples: ArrayLike) -> tuple[Array, NDArray]:
    x, draws = as_dense(true), np.asarray(samples)
    if draws.ndim != 3 or draws.shape[1:] != x.shape or not len(draws):
        raise ValueError(
            f"`samples` has shape {draws.shape}, but must be (n_samples, {', '.join(map(str, x.shape))})."
        )
    return x, draws


def _chunks(draws: NDArray) -> list[slice]:
    """Return rows of cells whose samples fit into memory together."""
    step = max(1, _VALUES_AT_A_TIME // (draws.shape[0] * max(1, draws.shape[2])))
    return [slice(start, start + step) for start in range(0, draws.shape[1], step)]


def _standard(x: Array) -> Array:
    spread = x.std(axis=0)
    # a constant may have a spread by rounding
    varies = spread > 1e-12 * np.abs(x).max(axis=0, initial=0)
    return (x - x.mean(axis=0)) / np.where(varies, spread, np.nan)


def _correlation(a: Array, b: Array) -> Array:
    return (_standard(a) * _standard(b)).mean(axis=0)


def _mean_known(values: Array) -> float:
    """Mean of the values that are known; a prediction that is constant has none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
