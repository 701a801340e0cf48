"""One modality predicted from another without a network."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.kernel_ridge import KernelRidge as _KernelRidge
from sklearn.linear_model import Ridge as _Ridge
from sklearn.model_selection import KFold
from sklearn.neighbors import NearestNeighbors

__all__ = [
    "FeatureMean",
    "KernelRidgeTranslation",
    "NearestCells",
    "RidgeTranslation",
    "TranslationBaseline",
]

Array = NDArray[np.float64]


def _dense(x: Any, name: str) -> Array:
    values = np.asarray(x.toarray() if sparse.issparse(x) else x, dtype=np.float64)
    if values.ndim != 2 or not len(values):
        raise ValueError(f"`{name}` must be cells by features, but has shape {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError(f"`{name}` holds values that are not finite.")
    return values


def _columns(values: Array) -> Array:
    """Return predictions with a column for each feature, also where there is but one."""
    return values.reshape(len(values), -1)


class TranslationBaseline(ABC):
    """Learns from cells that have two modalities, and predicts the second from the first.

    Values are normalised by the user, log(1 + counts) of proteins, log-normalised RNA; predictions are on
    the scale of what was learned from.
    """

    def fit(self, x: ArrayLike, y: ArrayLike) -> Self:
        """Learn from cells.

        Parameters
        ----------
        x
            The given modality, ``(n_cells, n_given)``.
        y
            The one to predict, ``(n_cells, n_features)``.

        Raises
        ------
        ValueError
            If lengths differ, or values are not finite.
        """
        given, asked = _dense(x, "x"), _dense(y, "y")
        if len(given) != len(asked):
            raise ValueError(f"`x` has {len(given)} cells, but `y` has {len(asked)}.")
        self.n_given_ = given.shape[1]
        self._fit(given, asked)
        return self

    def predict(self, x: ArrayLike) -> Array:
        """Return the expected values of cells, ``(n_cells, n_features)``.

        Raises
        ------
        ValueError
            If the features are not those that were learned from.
        RuntimeError
            If nothing was learned.
        """
        return self._predict(self._checked(x))

    def sample(self, x: ArrayLike, n_samples: int, seed: int = 0) -> Array:
        """Return draws of the values of cells, ``(n_samples, n_cells, n_features)``.

        Parameters
        ----------
        x
            The given modality, ``(n_cells, n_given)``.
        n_samples
            Draws for each cell.
        seed
            Of the draws.

        Raises
        ------
        ValueError, RuntimeError
            As :meth:`predict`.
        """
        return self._sample(self._checked(x), n_samples, np.random.default_rng(seed))

    def _checked(self, x: ArrayLike) -> Array:
        if not hasattr(self, "n_given_"):
            raise RuntimeError("Nothing has been learned yet: call `fit` first.")
        given = _dense(x, "x")
        if given.shape[1] != self.n_given_:
            raise ValueError(
                f"`x` has {given.shape[1]} features; {self.n_given_} were learned from."
            )
        return given

    @abstractmethod
    def _fit(self, x: Array, y: Array) -> None: ...

    @abstractmethod
    def _predict(self, x: Array) -> Array: ...

    @abstractmethod
    def _sample(self, x: Array, n_samples: int, rng: np.random.Generator) -> Array: ...


class FeatureMean(TranslationBaseline):
    """Every cell is the mean cell; its draws are any cells."""

    def _fit(self, x: Array, y: Array) -> None:
        self.cells_ = y

    def _predict(self, x: Array) -> Array:
        return np.tile(self.cells_.mean(axis=0), (len(x), 1))

    def _sample(self, x: Array, n_samples: int, rng: np.random.Generator) -> Array:
        return self.cells_[rng.integers(len(self.cells_), size=(n_samples, len(x)))]


class _OnComponents(TranslationBaseline):
    """A baseline on principal components of the given modality, where it has many features."""

    def __init__(self, n_components: int = 50) -> None:
        self.n_components = n_components

    def _fit(self, x: Array, y: Array) -> None:
        n = min(self.n_components, x.shape[1], len(x) - 1)
        self.pca_ = PCA(n, random_state=0).fit(x)
        self._learn(self._components(x), y)

    def _components(self, x: Array) -> Array:
        return self.pca_.transform(x)

    @abstractmethod
    def _learn(self, z: Array, y: Array) -> None: ...


class NearestCells(_OnComponents):
    """The mean of the nearest cells; draws are these cells.

    Parameters
    ----------
    n_neighbors
        How many.
    n_components
        Principal components to measure distances in.
    """

    def __init__(self, n_neighbors: int = 15, n_components: int = 50) -> None:
        super().__init__(n_components)
        self.n_neighbors = n_neighbors

    def _learn(self, z: Array, y: Array) -> None:
        self.cells_ = y
        self.neighbours_ = NearestNeighbors(n_neighbors=min(self.n_neighbors, len(z))).fit(z)

    def _nearest(self, x: Array) -> NDArray[np.intp]:
        return self.neighbours_.kneighbors(self._components(x), return_distance=False)

    def _predict(self, x: Array) -> Array:
        return self.cells_[self._nearest(x)].mean(axis=1)

    def _sample(self, x: Array, n_samples: int, rng: np.random.Generator) -> Array:
        nearest = self._nearest(x)
        chosen = rng.integers(nearest.shape[1], size=(n_samples, len(x)))
        return self.cells_[nearest[np.arange(len(x)), chosen]]


class _Regression(_OnComponents):
    """A regression; draws add its errors on cells that it was not fitted to."""

    n_folds = 5

    def _learn(self, z: Array, y: Array) -> None:
        self.center_ = y.mean(axis=0)
        self.prepare(z, y)
        errors = np.empty_like(y)
        folds = KFold(min(self.n_folds, len(z)), shuffle=True, random_state=0)
        for train, held_out in folds.split(z):
            fitted = self.regression().fit(z[train], y[train] - self.center_)
            errors[held_out] = y[held_out] - self.center_ - _columns(fitted.predict(z[held_out]))
        self.errors_ = errors
        self.regression_ = self.regression().fit(z, y - self.center_)

    def prepare(self, z: Array, y: Array) -> None:
        """Choose what the regression needs to know of the data."""

    @abstractmethod
    def regression(self) -> _Ridge | _KernelRidge:
        """Return a regression that is not fitted."""

    def _predict(self, x: Array) -> Array:
        return _columns(self.regression_.predict(self._components(x))) + self.center_

    def _sample(self, x: Array, n_samples: int, rng: np.random.Generator) -> Array:
        errors = self.errors_[rng.integers(len(self.errors_), size=(n_samples, len(x)))]
        return self._predict(x) + errors


class RidgeTranslation(_Regression):
    """Ridge regression on principal components.

    Parameters
    ----------
    penalty
        Of the squared coefficients.
    n_components
        Number of components.
    """

    def __init__(self, penalty: float = 10.0, n_components: int = 50) -> None:
        super().__init__(n_components)
        self.penalty = penalty

    def regression(self) -> _Ridge:
        return _Ridge(alpha=self.penalty)


class KernelRidgeTranslation(_Regression):
    r"""Kernel ridge regression on principal components, with a Gaussian kernel.

    The kernel is :math:`\exp(-g\, \lVert z - z' \rVert^2 / m)` with m the median squared distance;
    g and the penalty are those of a small grid with the least error in cross-validation.

    Parameters
    ----------
    n_components
        Number of components.
    """

    widths = (0.25, 1.0, 4.0)
    penalties = (0.1, 1.0)
    most_cells = 2000
    """Cells that the grid is tried on, at most."""

    def prepare(self, z: Array, y: Array) -> None:
        rng = np.random.default_rng(0)
        some = rng.permutation(len(z))[: self.most_cells]
        pairs = rng.integers(len(z), size=(2, 2000))
        median = float(np.median(np.square(z[pairs[0]] - z[pairs[1]]).sum(axis=1))) or 1.0
        folds = list(KFold(min(3, len(some)), shuffle=True, random_state=0).split(some))

        def error(settings: dict[str, float]) -> float:
            total = 0.0
            for train, held_out in folds:
                a, b = some[train], some[held_out]
                fitted = _KernelRidge(kernel="rbf", **settings).fit(z[a], y[a] - self.center_)
                off = y[b] - self.center_ - _columns(fitted.predict(z[b]))
                total += float(np.square(off).sum())
            return total

        grid = itertools.product(self.widths, self.penalties)
        candidates = [{"gamma": width / median, "alpha": penalty} for width, penalty in grid]
        self.settings_ = min(candidates, key=error)

    def regression(self) -> _KernelRidge:
        return _KernelRidge(kernel="rbf", **self.settings_)
