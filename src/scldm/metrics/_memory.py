"""Whether generated cells give away the cells that the generator was trained on."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.neighbors import NearestNeighbors

from scldm.metrics._checks import as_points
from scldm.metrics._classifier import weighted_auc
from scldm.metrics._statistic import Statistic, Weights, point, ratio

__all__ = ["Memory", "memorisation", "memory_statistics"]

COPY_QUANTILE = 0.01


class Memory(NamedTuple):
    """What :func:`memorisation` returns."""

    nn_ratio: float
    near_copies: float
    membership_auc: float


def memorisation(generated: ArrayLike, seen: ArrayLike, unseen: ArrayLike) -> Memory:
    """Compare distances to cells of the training with distances to cells that were held out.

    *Nearest-neighbour ratio*: mean distance of generated cells to the nearest cell of the
    training, divided by that to the nearest held-out cell. 1 for a generator that has learned the
    distribution; below 1 if it remembers cells; above 1 if it avoids them.

    *Near copies*: the share of generated cells that are nearer to a cell of the training than 99%
    of held-out cells are. For new cells of the same distribution 0.01 in the mean, and a little more
    for a few hundred cells and less.

    *Membership AUC*: how well an attacker who holds the generated cells tells cells of the
    training from others, taking those with a generated cell nearby for members. 0.5 is no better
    than chance.

    Parameters
    ----------
    generated
        Shape (n, d).
    seen
        Real cells that the generator was trained on, shape (m, d).
    unseen
        As many real cells that it was not trained on, shape (m, d): the nearest of more cells is
        nearer.

    Raises
    ------
    ValueError
        If the shapes do not fit, or ``seen`` and ``unseen`` differ in size.

    Notes
    -----
    Columns should come from cells in neither sample; principal components that were fitted on
    ``seen`` lie askew. Copies are found of those training cells only that are in ``seen``: where that is a
    part of them, shares of copies are to be read relative to that part.

    References
    ----------
    Chen, Yu, Zhang and Fritz (2020). GAN-Leaks: a taxonomy of membership inference attacks against
    generative models. ACM CCS (full black-box attack).
    """
    statistics = memory_statistics(generated, seen, unseen)
    sizes = np.shape(unseen)[0], np.shape(generated)[0]
    return Memory(**{name: point(statistic, *sizes) for name, statistic in statistics.items()})


def memory_statistics(
    generated: ArrayLike, seen: ArrayLike, unseen: ArrayLike
) -> dict[str, Statistic]:
    """The values of :func:`memorisation` as functions of weights.

    The first weights are of ``unseen``, the second of ``generated``; those of ``unseen`` serve
    ``seen`` as well, since which cell of the one shares a weight with which of the other is
    arbitrary.

    Parameters
    ----------
    generated, seen, unseen
        As for :func:`memorisation`.
    """
    new, members = as_points(generated, seen)
    _, others = as_points(generated, unseen)
    if len(members) != len(others):
        raise ValueError(
            f"`seen` and `unseen` must have the same number of cells, but have {len(members)} and "
            f"{len(others)}."
        )
    to_seen, to_unseen = _nearest(new, members), _nearest(new, others)
    between = _nearest(others, members)
    order = np.argsort(between)

    def near_copies(w: Weights, v: Weights) -> NDArray[np.float64]:
        # the threshold comes from cells too, and moves with them
        place = (w[:, order].cumsum(axis=1) < COPY_QUANTILE * (1 - 1e-9)).sum(axis=1)
        copy = between[order][np.minimum(place, len(order) - 1)]
        return (v * (to_seen <= copy[:, None])).sum(axis=1)

    member, other = -_nearest(members, new), -_nearest(others, new)
    return {
        "nn_ratio": lambda w, v: ratio(v @ to_seen, v @ to_unseen),
        "near_copies": near_copies,
        "membership_auc": lambda w, v: weighted_auc(other, member, w, w),
    }


def _nearest(points: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance from each point to the nearest of others."""
    distance, _ = NearestNeighbors(n_neighbors=1).fit(others).kneighbors(points)
    return distance[:, 0]
