"""How well a classifier tells generated cells from real ones."""

import numpy as np
from numpy.typing import ArrayLike
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_score

from scldm.metrics._checks import as_points

__all__ = ["classifier_auc"]


def classifier_auc(
    real: ArrayLike,
    generated: ArrayLike,
    *,
    n_folds: int = 5,
    n_trees: int = 100,
    seed: int = 0,
    n_jobs: int | None = None,
) -> float:
    """Area under the ROC curve of a random forest, real against generated.

    0.5: the forest cannot tell them apart. 1.0: it always can. The mean over folds of a
    stratified cross-validation, so every cell is judged by a forest that has not seen it; a value
    a little below 0.5 is chance. The larger sample is cut at random to the size of the smaller.

    Parameters
    ----------
    real, generated
        Samples of shape (n, d) and (m, d): log-normalised genes, where the forest sees single
        genes and their zeros, or principal components, where it sees the broad picture.
    n_folds
        Number of folds.
    n_trees
        Trees in each forest.
    seed
        Seed of the subsample, the folds and the forests. It fixes the value, whatever ``n_jobs``.
    n_jobs
        Threads that grow trees, as in scikit-learn.

    Raises
    ------
    ValueError
        If the shapes do not fit, or a sample has fewer cells than ``n_folds``.

    References
    ----------
    Lopez-Paz and Oquab (2017). Revisiting classifier two-sample tests. ICLR.
    """
    first, second = as_points(real, generated)
    n = min(len(first), len(second))
    if n < n_folds:
        raise ValueError(
            f"`n_folds={n_folds}` needs at least as many cells, but one side has {n}."
        )
    rng = np.random.default_rng(seed)
    sides = [side[np.sort(rng.permutation(len(side))[:n])] for side in (first, second)]
    # The forest works in float32 and would copy anything else.
    features = np.concatenate(sides, dtype=np.float32, casting="same_kind")
    target = np.repeat([0, 1], n)
    forest = RandomForestClassifier(n_trees, random_state=seed, n_jobs=n_jobs)
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    return float(cross_val_score(forest, features, target, cv=folds, scoring="roc_auc").mean())
