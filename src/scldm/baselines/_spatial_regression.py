"""Expression in tissue as a smooth function of coordinates, by regression."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA

from ._spatial import _BySection, _whole

__all__ = ["CoordinateRidge", "GaussianProcess"]

Array = NDArray[np.float64]
_FEWEST = 3


class _Process(NamedTuple):
    """A Gaussian process of a section: training places, eigenvectors of their kernel, and fits."""

    places: Array
    scales: Array
    centre: Array
    vectors: Array
    values: Array
    noise: Array
    """Variance of the noise of each gene over that of its function."""
    spread: Array
    coefficients: Array
    errors: Array
    """Errors at places that were left out, over the standard deviations predicted there."""


class GaussianProcess(_BySection):
    r"""A Gaussian process for each gene, with noise of its own.

    .. math:: x_g(c) = m_g + s_g \, (f_g(c) + \epsilon), \qquad f_g \sim \mathrm{GP}\Bigl(0,
        \exp\Bigl(-\sum_a \tfrac{(c_a - c'_a)^2}{2 \ell_a^2}\Bigr)\Bigr), \qquad
        \epsilon \sim N(0, r_g)

    All genes share the length scales :math:`\ell_a`, those of the greatest marginal likelihood of leading
    principal components on some of the places. The noise :math:`r_g` of each gene is that of a grid with
    the greatest marginal likelihood, and :math:`s_g` follows from it in closed form, so that a gene
    without a pattern is predicted by its mean.

    Draws are mean + predicted standard deviation × the standardised error of a measured place that was left
    out, all genes of one place together: so genes keep what they share beside the pattern. They are not
    cut at zero.

    Parameters
    ----------
    n_components
        Principal components that length scales are learned from.
    most_places
        Places that predictions are made from, at most, for each section; more are left out at random.

    Raises
    ------
    ValueError
        From ``fit``, if a section has fewer than three places.

    References
    ----------
    Rasmussen and Williams (2006). Gaussian processes for machine learning. MIT Press (chapter 5; the
    errors of places that are left out are equations 5.10 to 5.12). Svensson, Teichmann and Stegle (2018).
    SpatialDE: identification of spatially variable genes. Nature Methods 15:343 (a kernel that genes
    share, and its eigenvectors).
    """

    some_places = 600
    """Places that length scales are learned from, at most."""
    noises = tuple(np.geomspace(1e-3, 1e3, 25))

    def __init__(self, n_components: int = 10, most_places: int = 3000) -> None:
        self.n_components = _whole(n_components, "n_components")
        self.most_places = _whole(most_places, "most_places")

    def _learn(self, coordinates: Array, cells: Array) -> _Process:
        _require_places(cells, "GaussianProcess")
        rows = np.random.default_rng(0).permutation(len(cells))[: max(self.most_places, _FEWEST)]
        where, x = coordinates[rows], cells[rows]
        scales = self._length_scales(where[: self.some_places], x[: self.some_places])
        values, vectors = _eigen(where, scales)
        centre = x.mean(axis=0)
        z = vectors.T @ (x - centre)
        noise, variance = self._noise(values, z)
        shrunk = 1 / (values[:, None] + noise)
        coefficients = vectors @ (z * shrunk)
        # the diagonal of the inverse covariance, without s
        precision = np.square(vectors) @ shrunk
        spread = np.sqrt(variance)
        errors = coefficients / np.sqrt(precision) / np.where(spread > 0, spread, 1.0)
        return _Process(
            where, scales, centre, vectors, values, noise, spread, coefficients, errors
        )

    def _length_scales(self, where: Array, x: Array) -> Array:
        """Return the length scale along each axis, of the greatest marginal likelihood."""
        n = min(self.n_components, x.shape[1], len(x) - 1)
        components = PCA(n, svd_solver="full").fit_transform(x)
        components = components[:, components.std(axis=0) > 0]
        extent = np.ptp(where, axis=0)
        unit = np.where(extent > 0, extent, 1.0)
        if not components.shape[1]:
            return unit

        def loss(logs: Array) -> float:
            values, vectors = _eigen(where, unit * np.exp(np.clip(logs, -6, 3)))
            return float(_losses(values, vectors.T @ components, self.noises).min(axis=0).sum())

        starts = [np.full(len(unit), np.log(s)) for s in (0.03, 0.06, 0.12, 0.25, 0.5, 1.0)]
        start = min(starts, key=loss)
        steps = np.vstack([start, start + 0.5 * np.eye(len(unit))])
        best = minimize(
            loss,
            start,
            method="Nelder-Mead",
            options={"maxfev": 40, "initial_simplex": steps, "xatol": 0.05, "fatol": 0.1},
        )
        return unit * np.exp(np.clip(best.x, -6, 3))

    def _noise(self, values: Array, z: Array) -> tuple[Array, Array]:
        """Return the noise of each gene and the variance of its function."""
        best = _losses(values, z, self.noises).argmin(axis=0)
        noise = np.asarray(self.noises)[best]
        return noise, (np.square(z) / (values[:, None] + noise)).mean(axis=0)

    def _kernel(self, part: _Process, coordinates: Array) -> Array:
        return _rbf(coordinates, part.places, part.scales)

    def _mean(self, part: _Process, coordinates: Array) -> Array:
        return part.centre + self._kernel(part, coordinates) @ part.coefficients

    def _draw(
        self, part: _Process, coordinates: Array, n_samples: int, rng: np.random.Generator
    ) -> Array:
        kernel = self._kernel(part, coordinates)
        known = np.square(kernel @ part.vectors) @ (1 / (part.values[:, None] + part.noise))
        deviation = part.spread * np.sqrt((1 - known).clip(min=0) + part.noise)
        chosen = rng.integers(len(part.errors), size=(n_samples, len(coordinates)))
        mean = part.centre + kernel @ part.coefficients
        return mean + deviation * part.errors[chosen]


class _Fit(NamedTuple):
    low: Array
    extent: Array
    shift: Array
    scale: Array
    coefficients: Array
    centre: Array
    errors: Array
    alpha: Array


class CoordinateRidge(_BySection):
    r"""Ridge regression of each gene on polynomials and waves of the coordinates.

    Coordinates are scaled to the box of the measured places, from -1 to 1; asked places outside it are
    taken to its edge. Features are all monomials up to a degree and the cosines and sines of
    :math:`\tfrac{\pi}{2} k \cdot c` for whole vectors k with entries up to a number, standardised. The
    penalty of each gene is that of a grid with the least squared error of places left out, in closed form.

    Draws are the mean + the errors of a measured place that was left out, all genes of it together. They
    are not cut at zero.

    Parameters
    ----------
    degree
        Of the monomials.
    n_frequencies
        Largest entry of k.

    Raises
    ------
    ValueError
        From ``fit``, if a section has fewer than three places.

    References
    ----------
    Hastie, Tibshirani and Friedman (2009). The elements of statistical learning. Springer (sections 3.4
    and 7.10: ridge regression, and leaving one out).
    """

    penalties = tuple(np.geomspace(1e-3, 1e7, 21))

    def __init__(self, degree: int = 3, n_frequencies: int = 3) -> None:
        self.degree = _whole(degree, "degree")
        self.n_frequencies = _whole(n_frequencies, "n_frequencies")

    def features(self, scaled: Array) -> Array:
        """Return the features of places, ``(n, n_features)``, before they are standardised.

        Parameters
        ----------
        scaled
            Coordinates in the box from -1 to 1, ``(n, 2)`` or ``(n, 3)``.
        """
        axes = range(scaled.shape[1])
        monomials = [
            scaled[:, list(chosen)].prod(axis=1)
            for degree in range(1, self.degree + 1)
            for chosen in itertools.combinations_with_replacement(axes, degree)
        ]
        entries = range(-self.n_frequencies, self.n_frequencies + 1)
        # of k and -k one, as both have the same waves
        waves = [k for k in itertools.product(entries, repeat=len(axes)) if k > (0,) * len(axes)]
        angles = np.pi / 2 * scaled @ np.array(waves, dtype=np.float64).T
        return np.hstack([np.stack(monomials, axis=1), np.cos(angles), np.sin(angles)])

    def _learn(self, coordinates: Array, cells: Array) -> _Fit:
        _require_places(cells, "CoordinateRidge")
        low, extent = coordinates.min(axis=0), np.ptp(coordinates, axis=0)
        raw = self.features(_to_box(coordinates, low, extent))
        shift, scale = raw.mean(axis=0), raw.std(axis=0)
        scale = np.where(scale > 1e-12, scale, 1.0)
        centre = cells.mean(axis=0)
        u, s, vt = np.linalg.svd((raw - shift) / scale, full_matrices=False)
        kept = s > 1e-10 * max(s[0], 1.0)
        u, s, vt = u[:, kept], s[kept], vt[kept]
        target = cells - centre
        z = u.T @ target
        best = np.full(cells.shape[1], np.inf)
        alpha, errors = np.zeros(cells.shape[1]), np.empty_like(target)
        for penalty in self.penalties:
            shrink = s**2 / (s**2 + penalty)
            leverage = 1 / len(cells) + np.square(u) @ shrink
            found = (target - u @ (shrink[:, None] * z)) / (1 - leverage).clip(1e-8)[:, None]
            loss = np.square(found).mean(axis=0)
            better = loss < best
            best[better], alpha[better] = loss[better], penalty
            errors[:, better] = found[:, better]
        coefficients = vt.T @ (z * (s[:, None] / (s[:, None] ** 2 + alpha)))
        return _Fit(low, extent, shift, scale, coefficients, centre, errors, alpha)

    def _mean(self, part: _Fit, coordinates: Array) -> Array:
        raw = self.features(_to_box(coordinates, part.low, part.extent))
        return part.centre + (raw - part.shift) / part.scale @ part.coefficients

    def _draw(
        self, part: _Fit, coordinates: Array, n_samples: int, rng: np.random.Generator
    ) -> Array:
        chosen = rng.integers(len(part.errors), size=(n_samples, len(coordinates)))
        return self._mean(part, coordinates) + part.errors[chosen]


def _require_places(cells: Array, name: str) -> None:
    if len(cells) < _FEWEST:
        raise ValueError(
            f"`coordinates` has {len(cells)} places of a section; {name} needs {_FEWEST} or more."
        )


def _rbf(first: Array, second: Array, scales: Array) -> Array:
    return np.exp(-cdist(first / scales, second / scales, "sqeuclidean") / 2)


def _eigen(where: Array, scales: Array) -> tuple[Array, Array]:
    values, vectors = np.linalg.eigh(_rbf(where, where, scales))
    return values.clip(min=0), vectors


def _losses(values: Array, z: Array, noises: tuple[float, ...]) -> Array:
    """Negative log marginal likelihood, up to a constant, by noise and column of rotated data.

    The variance of the function is the one of the greatest likelihood.
    """
    n, rows = len(z), []
    squares = np.square(z)
    for noise in noises:
        variance = ((1 / (values + noise)) @ squares) / n
        logs = n * np.log(np.maximum(variance, 1e-300))
        rows.append((logs + np.log(values + noise).sum()) / 2)
    return np.stack(rows)


def _to_box(coordinates: Array, low: Array, extent: Array) -> Array:
    unit = np.where(extent > 0, extent, 1.0)
    return np.clip(2 * (coordinates - low) / unit - 1, -1, 1)
