"""What the metrics in space ask of places, and which places are neighbours."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

from scldm.metrics._checks import as_dense

__all__ = ["as_coordinates", "as_labels", "as_samples", "as_values", "neighbours", "whole"]

Array = NDArray[np.float64]


def as_values(values: ArrayLike, name: str, *, like: Array | None = None) -> Array:
    """Return finite values of two or more places, (n, n_genes), of a shape where one is asked for.

    Raises
    ------
    ValueError
        If they are anything else.
    """
    x = as_dense(values)
    if x.ndim != 2 or len(x) < 2 or not x.shape[1]:
        raise ValueError(
            f"`{name}` has shape {x.shape}, but must be (n, n_genes) with two places or more."
        )
    if like is not None and x.shape != like.shape:
        raise ValueError(f"`{name}` has shape {x.shape}, but `true` has {like.shape}.")
    return _finite(x, name)


def as_samples(samples: ArrayLike, name: str, like: Array) -> Array:
    """Return finite samples, (n_samples, n, n_genes); values of the places are a single one.

    Raises
    ------
    ValueError
        If they are anything else.
    """
    x = as_dense(samples)
    draws = x[None] if x.ndim == 2 else x
    if draws.ndim != 3 or draws.shape[1:] != like.shape or not len(draws):
        n, n_genes = like.shape
        raise ValueError(
            f"`{name}` has shape {x.shape}, but must be ({n}, {n_genes}) as `true`, or "
            f"(n_samples, {n}, {n_genes})."
        )
    return _finite(draws, name)


def as_coordinates(coordinates: ArrayLike, n: int | None, name: str = "coordinates") -> Array:
    """Return finite coordinates, (n, 2) or (n, 3).

    Raises
    ------
    ValueError
        If they are anything else.
    """
    x = as_dense(coordinates)
    if x.ndim != 2 or x.shape[1] not in (2, 3):
        raise ValueError(f"`{name}` has shape {x.shape}, but must be (n, 2) or (n, 3).")
    if n is not None and len(x) != n:
        raise ValueError(f"`{name}` has {len(x)} places, but there are values of {n}.")
    return _finite(x, name)


def as_labels(labels: ArrayLike, n: int, name: str) -> NDArray[np.str_]:
    """Return a label of each place as text, (n,).

    Raises
    ------
    ValueError
        If there is not one of each.
    """
    found = np.asarray(labels)
    if found.shape != (n,):
        raise ValueError(f"`{name}` has shape {found.shape}, but must be ({n},), one of a place.")
    return found.astype(str)


def whole(value: Any, name: str) -> int:
    """Return a whole number of 1 or more.

    Raises
    ------
    ValueError
        If it is anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"`{name}={value!r}` must be a whole number of 1 or more.")
    return int(value)


def neighbours(
    coordinates: Array, n_neighbors: int, groups: ArrayLike | None = None
) -> sparse.csr_array:
    """Average over the nearest other places of each place, as a matrix whose rows sum to one.

    Among places at one distance it is not said which are taken.

    Parameters
    ----------
    coordinates
        (n, 2) or (n, 3).
    n_neighbors
        How many; a place is not its own neighbour, another at the same point is.
    groups
        Sections: neighbours are of the same one.

    Returns
    -------
    (n, n), sparse.

    Raises
    ------
    ValueError
        If the number is not a whole one, or a section has not more places than that.
    """
    n, k = len(coordinates), whole(n_neighbors, "n_neighbors")
    names = np.full(n, "") if groups is None else as_labels(groups, n, "groups")
    index = np.empty((n, k), dtype=np.intp)
    for name in np.unique(names):
        rows = np.flatnonzero(names == name)
        if len(rows) <= k:
            where = "" if groups is None else f" in group {str(name)!r}"
            raise ValueError(
                f"`coordinates` has {len(rows)} places{where}; `n_neighbors={k}` needs {k + 1} "
                "or more."
            )
        search = NearestNeighbors(n_neighbors=k).fit(coordinates[rows])
        index[rows] = rows[search.kneighbors(return_distance=False)]
    weights = np.full(n * k, 1 / k)
    return sparse.csr_array((weights, index.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))


def _finite(x: Array, name: str) -> Array:
    if not np.isfinite(x).all():
        raise ValueError(f"`{name}` holds values that are not finite; NaN is not allowed.")
    return x
