"""Whether predictions tell perturbations apart."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist

from scldm.metrics._checks import as_dense

__all__ = ["Discrimination", "compare_discrimination", "discrimination"]


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
    predicted mean than its own is. The *rank* takes Euclidean distances, the *score* is one less the
    share by Manhattan distances (after the discrimination score of the Virtual Cell Challenge, whose
    direction both have; PerturBench's rank counts, for each truth, the predictions that are nearer; here
    ties count half and no gene is left out). A model that predicts the same for all has 0.5.

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


def compare_discrimination(
    true: Mapping[str, ArrayLike],
    predicted: Mapping[str, Mapping[str, ArrayLike]],
    control: ArrayLike | Mapping[str, ArrayLike],
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """How well several methods tell perturbations apart, beside no change and the ceiling.

    As in :func:`compare`, the true cells of each perturbation are cut into halves, every method is ranked
    among either half, and the ceiling is what the other half has. Which perturbations are predicted
    matters, as some are easier than others: it has to be the same for all methods.

    Parameters
    ----------
    true
        True cells by perturbation, at least four of each; also of perturbations that are not predicted.
    predicted
        Predicted cells by method and perturbation.
    control
        Control cells, of all perturbations or by perturbation.
    seed
        Seed of the cut into halves.

    Returns
    -------
    A row for each method, and ``"no change"`` and ``"ceiling"``, with the columns of
    :class:`Discrimination`.

    Raises
    ------
    ValueError
        If a perturbation has too few true cells or lacks control cells, methods predict different
        perturbations, a method has the name of another row, or as :func:`discrimination` does.
    TypeError
        If predicted cells are not given by method and perturbation.
    """
    if reserved := sorted({"no change", "ceiling"} & set(predicted)):
        raise ValueError(f"`predicted` has {reserved}, which are rows of the table. Rename them.")
    names = _asked(true, predicted)
    rng = np.random.default_rng(seed)
    halves: list[dict[str, ArrayLike]] = [{}, {}]
    for name, cells in true.items():
        known = as_dense(cells)
        if len(known) < 4:
            raise ValueError(f"`true[{name!r}]` has {len(known)} cells, and two halves need four.")
        for side, rows in zip(halves, np.array_split(rng.permutation(len(known)), 2), strict=True):
            side[name] = known[rows]
    by_name = control if isinstance(control, Mapping) else dict.fromkeys(names, control)
    if lacking := sorted(set(names) - set(by_name)):
        raise ValueError(f"`control` has no cells for {lacking}.")
    sources = {"no change": {name: by_name[name] for name in names}, **predicted}
    found = {
        method: [discrimination(side, cells) for side in halves]
        for method, cells in sources.items()
    }
    found["ceiling"] = [
        discrimination(side, {name: other[name] for name in names})
        for side, other in (halves, halves[::-1])
    ]
    means = {method: np.mean(both, axis=0) for method, both in found.items()}
    return pd.DataFrame(means, index=Discrimination._fields).T


def _asked(
    true: Mapping[str, ArrayLike], predicted: Mapping[str, Mapping[str, ArrayLike]]
) -> list[str]:
    """Return the perturbations that all methods predict, all where there is no method."""
    first: set[str] | None = None
    for method, cells in predicted.items():
        if not isinstance(cells, Mapping):
            raise TypeError(
                f"`predicted[{method!r}]` is a {type(cells).__name__}, but must have cells by perturbation."
            )
        first = set(cells) if first is None else first
        if odd := sorted(first ^ set(cells)):
            raise ValueError(
                f"`predicted` has {odd} of some methods only; all must predict the same."
            )
    return [name for name in true if first is None or name in first]
