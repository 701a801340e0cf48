"""Tissues whose law is known at every place, and how sharp a predicted boundary is."""

from __future__ import annotations

from dataclasses import dataclass

import anndata as ad
import numpy as np
import pandas as pd
from scipy.optimize import least_squares
from scipy.sparse import csr_matrix

from scldm.data import layer_at, simulate_tissue
from scldm.data._tissue import DISPERSION, LIBRARY_SIZE, LIBRARY_SPREAD, TYPES, _shares

__all__ = ["Layers", "Probes", "Waves", "boundary"]

Array = np.ndarray

N_CELLS, N_GENES = 2000, 60
N_LINES = 11
STEP = 0.5
"""Distance of probes on a line, in units of the spacing."""
REACH = 7.0
"""Probes lie at most this far from the boundary, in units of the spacing."""
WAVE_GENES = 28
FLATTEST = 0.02
"""The narrowest step that is fitted, in units of the spacing."""


@dataclass
class Probes:
    """Places on lines across a boundary.

    Parameters
    ----------
    coordinates
        Places, (n, 2).
    layer
        The true layer of each.
    line
        The line of each.
    offset
        Signed distance from the boundary, along its normal, in units of the spacing.
    sides
        Names of the layers below and above.
    """

    coordinates: Array
    layer: Array
    line: Array
    offset: Array
    sides: tuple[str, str]


class _Law:
    """What counts of simulated cells are drawn from.

    A class that inherits says by :meth:`means` what a cell of a place expresses, at a library size of 1.
    """

    cells: ad.AnnData

    def means(self, places: Array, rng: np.random.Generator) -> Array:
        """Return shares of genes in a new cell at each place, (n, n_genes)."""
        raise NotImplementedError

    def draw(self, places: Array, n_samples: int, seed: int) -> Array:
        """Return counts of new cells, (n_samples, n, n_genes)."""
        rng = np.random.default_rng(seed)
        return np.stack([self._counts(places, rng) for _ in range(n_samples)])

    def _counts(self, places: Array, rng: np.random.Generator) -> Array:
        # the mean of a lognormal is above its median
        log_size = rng.normal(-(LIBRARY_SPREAD**2) / 2, LIBRARY_SPREAD, (len(places), 1))
        mu = LIBRARY_SIZE * np.exp(log_size) * self.means(places, rng)
        return rng.poisson(rng.gamma(DISPERSION, mu / DISPERSION)).astype(np.float32)


class Layers(_Law):
    """The layers and gradients of :func:`scldm.data.simulate_tissue`.

    Parameters
    ----------
    n_layers
        Layers of the tissue.
    seed
        Of the tissue.
    """

    def __init__(self, n_layers: int, seed: int) -> None:
        self.cells = simulate_tissue(N_CELLS, N_GENES, n_layers=n_layers, seed=seed)
        self.tissue = self.cells.uns["tissue"]

    def means(self, places: Array, rng: np.random.Generator) -> Array:
        names = list(self.tissue["layers"])
        layer = np.array([names.index(name) for name in layer_at(self.cells, places)])
        shares = self.tissue["composition"][layer]
        kind = (shares.cumsum(axis=1)[:, :-1] < rng.random((len(places), 1))).sum(axis=1)
        assert kind.max() < len(TYPES)
        return _shares(self.tissue, layer, places[:, 0], kind)

    def probes(self, share: float) -> Probes:
        """Return places across the middle boundary, in a disc with a share of the tissue."""
        size, spacing = float(self.tissue["size"]), float(self.tissue["spacing"])
        names = self.tissue["layers"].astype(str)
        upper = len(names) // 2
        radius = size * np.sqrt(share / np.pi)
        across = size / 2 + np.linspace(-0.75, 0.75, N_LINES) * radius
        height = self._heights(across, names[upper:])
        ends = [self._heights(across + side * spacing, names[upper:]) for side in (-1, 1)]
        slope = (ends[1] - ends[0]) / (2 * spacing)
        distance = np.arange(-REACH, REACH + STEP / 2, STEP) + STEP / 4
        normal = np.stack([-slope, np.ones_like(slope)], axis=1)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        feet = np.stack([across, height], axis=1)
        places = feet[:, None] + spacing * distance[:, None] * normal[:, None]
        line = np.repeat(np.arange(N_LINES), len(distance))
        places, offset = places.reshape(-1, 2), np.tile(distance, N_LINES)
        near = np.linalg.norm(places - size / 2, axis=1) < 0.95 * radius
        places = places[near]
        sides = (str(names[upper - 1]), str(names[upper]))
        layer = layer_at(self.cells, places)
        return Probes(places, layer, line[near], offset[near], sides)

    def _heights(self, across: Array, above: Array) -> Array:
        """Return y of the boundary below some layers, to a hundredth of the spacing."""
        y = np.arange(0, self.tissue["size"], self.tissue["spacing"] / 100)
        grid = np.column_stack([np.repeat(across, len(y)), np.tile(y, len(across))])
        inside = np.isin(layer_at(self.cells, grid), above).reshape(len(across), -1)
        first = inside.argmax(axis=1)
        return (y[first - 1] + y[first]) / 2


class Waves(_Law):
    r"""Smooth gradients at any places, :math:`\log w_g = b_g + a_g \cos(\pi n_g u_g \cdot c + \phi_g)`.

    Coordinates c are scaled to the unit box, u are directions of unit length, and n is 1 or 2.

    Parameters
    ----------
    places
        Of cells to be simulated, (n, 3).
    seed
        Of genes and cells.
    """

    def __init__(self, places: Array, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.low, self.extent = places.min(axis=0), np.ptp(places, axis=0)
        self.level = rng.normal(0, 0.5, WAVE_GENES)
        self.height = rng.uniform(0.5, 1.5, WAVE_GENES)
        direction = rng.normal(size=(3, WAVE_GENES))
        self.direction = direction / np.linalg.norm(direction, axis=0)
        self.waves = rng.integers(1, 3, WAVE_GENES)
        self.phase = rng.uniform(0, 2 * np.pi, WAVE_GENES)
        counts = self._counts(places, rng)
        obs = pd.DataFrame(index=[f"cell_{i}" for i in range(len(places))])
        var = pd.DataFrame(index=[f"gene_{g}" for g in range(WAVE_GENES)])
        self.cells = ad.AnnData(csr_matrix(counts), obs=obs, var=var)
        self.cells.obsm["spatial_3d"] = places

    def means(self, places: Array, rng: np.random.Generator) -> Array:
        along = (places - self.low) / self.extent @ self.direction
        logs = self.level + self.height * np.cos(np.pi * self.waves * along + self.phase)
        shares = np.exp(logs)
        return shares / shares.sum(axis=1, keepdims=True)


def boundary(probes: Probes, cells: ad.AnnData, truth: Array, mean: Array) -> dict[str, float]:
    r"""Say how far a predicted boundary is off, and how wide it is.

    Markers of the two layers are added up along the true difference, :math:`s = (m - \mu_0) \cdot (\mu_1 -
    \mu_0) / \lVert \mu_1 - \mu_0 \rVert^2`, which is 0 in the one layer and 1 in the other. To each line
    a logistic step between two free levels is fitted, robustly.

    Parameters
    ----------
    probes
        Places.
    cells
        The tissue, for its markers.
    truth, mean
        Expected and predicted values at the places, (n, n_genes).

    Returns
    -------
    The mean absolute distance of s from the true step; and medians over lines, in units of the spacing:
    the absolute offset of the step's middle, and the way from a quarter to three quarters of it.
    """
    markers = cells.var["marks"].isin(probes.sides).to_numpy()
    low, high = (truth[probes.layer == side][:, markers].mean(axis=0) for side in probes.sides)
    s = (mean[:, markers] - low) @ (high - low) / np.square(high - low).sum()
    found = np.array(
        [
            _step(probes.offset[probes.line == line], s[probes.line == line])
            for line in range(N_LINES)
        ]
    )
    offset, width = np.median(np.abs(found), axis=0)
    return {
        "boundary_error": float(np.abs(s - (probes.offset > 0)).mean()),
        "boundary_offset": float(offset),
        "boundary_width": float(width),
    }


def _step(d: Array, s: Array) -> tuple[float, float]:
    """Fit a logistic step and return its middle and its way from a quarter to three quarters."""

    def residuals(p: Array) -> Array:
        return p[0] + (p[1] - p[0]) / (1 + np.exp(-np.clip((d - p[2]) / p[3], -60, 60))) - s

    bounds = ([-0.5, 0.5, -REACH, FLATTEST], [0.5, 1.5, REACH, REACH])
    starts = [(0.0, 1.0, middle, width) for middle in (-3, -1, 0, 1, 3) for width in (0.2, 2.0)]
    fits = [
        least_squares(residuals, start, bounds=bounds, loss="soft_l1", f_scale=0.1)
        for start in starts
    ]
    best = min(fits, key=lambda fit: fit.cost)
    return float(best.x[2]), float(2 * np.log(3) * best.x[3])
