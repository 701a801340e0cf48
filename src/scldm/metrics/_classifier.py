"""How well a classifier tells generated cells from real ones."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from scldm.metrics._checks import as_points
from scldm.metrics._statistic import Statistic, Weights, point, ratio

__all__ = ["classifier_auc", "classifier_statistic", "weighted_auc"]


def classifier_auc(
    real: ArrayLike,
    generated: ArrayLike,
    classifier: ClassifierMixin | None = None,
    *,
    n_folds: int = 5,
    seed: int = 0,
    n_jobs: int | None = None,
) -> float:
    """Area under the ROC curve of a classifier, real against generated.

    0.5: it cannot tell them apart. 1.0: it always can. The mean over folds of a stratified
    cross-validation, so every cell is judged by a classifier that has not seen it; a value a
    little below 0.5 is chance. The larger sample is cut at random to the size of the smaller.

    Parameters
    ----------
    real, generated
        Samples of shape (n, d) and (m, d): log-normalised genes, where a forest sees single
        genes and their zeros, or principal components, where it sees the broad picture.
    classifier
        Any classifier of scikit-learn with ``predict_proba``. If ``None``, a random forest of 100
        trees.
    n_folds
        Number of folds.
    seed
        Seed of the subsample, the folds and the default forest. It fixes the value, whatever
        ``n_jobs``.
    n_jobs
        Threads of the default forest, as in scikit-learn.

    Raises
    ------
    ValueError
        If the shapes do not fit, or a sample has fewer cells than ``n_folds``.

    References
    ----------
    Lopez-Paz and Oquab (2017). Revisiting classifier two-sample tests. ICLR.
    """
    statistic = classifier_statistic(
        real, generated, classifier, n_folds=n_folds, seed=seed, n_jobs=n_jobs
    )
    return point(statistic, np.shape(real)[0], np.shape(generated)[0])


def classifier_statistic(
    real: ArrayLike,
    generated: ArrayLike,
    classifier: ClassifierMixin | None = None,
    *,
    n_folds: int = 5,
    seed: int = 0,
    n_jobs: int | None = None,
) -> Statistic:
    """:func:`classifier_auc` as a function of weights, with the trained classifiers kept.

    Parameters
    ----------
    real, generated, classifier, n_folds, seed, n_jobs
        As for :func:`classifier_auc`.
    """
    first, second = as_points(real, generated)
    n = min(len(first), len(second))
    if n < n_folds:
        raise ValueError(
            f"`n_folds={n_folds}` needs at least as many cells, but one side has {n}."
        )
    rng = np.random.default_rng(seed)
    kept = [np.sort(rng.permutation(len(side))[:n]) for side in (first, second)]
    # The forest works in float32 and would copy anything else.
    features = np.concatenate([first[kept[0]], second[kept[1]]]).astype(np.float32)
    target = np.repeat([0, 1], n)
    folds = list(StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(features, target))
    forest = RandomForestClassifier(100, random_state=seed, n_jobs=n_jobs)
    # Not `or`: an ensemble that is not fitted has no length and thus no truth.
    judge = forest if classifier is None else classifier
    score = cross_val_predict(judge, features, target, cv=folds, method="predict_proba")[:, 1]
    # Scores of different folds come from different classifiers and are compared in none.
    parts = [(test[test < n], test[test >= n] - n) for _, test in folds]

    def statistic(w: Weights, v: Weights) -> NDArray[np.float64]:
        w, v = w[:, kept[0]], v[:, kept[1]]
        aucs = [weighted_auc(score[:n][a], score[n:][b], w[:, a], v[:, b]) for a, b in parts]
        # a draw may leave a fold without cells of one side
        return np.nanmean(aucs, axis=0)

    return statistic


def weighted_auc(
    low: NDArray[np.float64], high: NDArray[np.float64], w: Weights, v: Weights
) -> NDArray[np.float64]:
    """How often a value of the second sample exceeds one of the first; ties count half.

    Parameters
    ----------
    low, high
        Scores of shape (n,) and (m,).
    w, v
        Their weights, shapes (n_rows, n) and (n_rows, m).
    """
    levels, rank = np.unique(np.concatenate([low, high]), return_inverse=True)
    indicator = np.zeros((len(rank), len(levels)))
    indicator[np.arange(len(rank)), rank] = 1
    below, at = w @ indicator[: len(low)], v @ indicator[len(low) :]
    lower = np.cumsum(below, axis=1) - below / 2
    return ratio((lower * at).sum(axis=1), w.sum(axis=1) * v.sum(axis=1))
