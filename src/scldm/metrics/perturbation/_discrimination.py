"""Whether predictions tell perturbations apart."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist

from scldm.metrics._checks import as_dense

__all__ = ["Discrimination", "discrimination"]


class Discrimination(NamedTuple):
    """What :func:`discrimination` returns; each between 0 and 1."""

    rank: float
    """0 is best, 0.5 is chance."""
    score: float
    """1 is best, 0.5 is chance."""


def discrimination(
    true: Mapping[str, ArrayLike], predicted: Mapping[str, ArrayLike]
) -> Discrimination:
    """Whether a prediction is nearer to its own perturbation than to others.

    For each perturbation, the share of other perturbations whose true mean is nearer to the
    predicted mean than its own is. The *rank* takes Euclidean distances, the *score* is one less the share by Manhattan distances (after the discrimination score of the
    Virtual Cell Challenge, whose direction both have; PerturBench's rank counts, for each
    truth, the predictions that are nearer; here ties count half and no gene is left out). A model that predicts the same for all has 0.5.

    Parameters
    ----------
    true, predicted
        Cells by perturbation; every predicted one needs true cells.

    Raises
    ------
    ValueError
        If a predicted perturbation has no true cells, or there are less than two perturbations.

    References
    ----------
    Wu et al. (2024). PerturBench: benchmarking machine learning models for cellular perturbation
    analysis. arXiv:2408.10609.

    Roohani et al. (2025). Virtual Cell Challenge: toward a Turing test for the virtual cell. Cell.
    """
    missing = sorted(set(predicted) - set(true))
    if missing:
        raise ValueError(f"`predicted` has {missing}, of which `true` has no cells.")
    if not predicted:
        raise ValueError("`predicted` is empty.")
    if len(true) < 2:
        raise ValueError("`true` has one perturbation only, and nothing to tell it from.")
    names = list(true)
    truth = np.stack([as_dense(true[name]).mean(axis=0) for name in names])
    guess = np.stack([as_dense(cells).mean(axis=0) for cells in predicted.values()])
    own = [names.index(name) for name in predicted]
    shares = []
    for metric in ("euclidean", "cityblock"):
        distance = cdist(guess, truth, metric=metric)
        right = distance[np.arange(len(own)), own][:, None]
        others = np.arange(len(names)) != np.array(own)[:, None]
        # others as near as one's own count half, so that a constant prediction has 0.5
        nearer = (distance < right) + 0.5 * (distance == right)
        shares.append((nearer * others).sum(axis=1).mean() / (len(names) - 1))
    return Discrimination(float(shares[0]), float(1 - shares[1]))
