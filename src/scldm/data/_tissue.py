r"""A simulated tissue of layers, with known truth at every place.

A place :math:`(x, y, z)` of a square of side :math:`S` lies in one of :math:`L` parallel curved layers,

.. math:: \ell(x, y, z) = \left\lfloor L \left(\tfrac{y}{S} - \tfrac{b}{L} \sin\tfrac{2\pi x}{S}
          - \tfrac{d}{L} \sin\tfrac{2\pi z}{S}\right) \right\rfloor, \text{ cut to } 0, \dots, L - 1,

so a boundary is sharp, and moves smoothly from section to section. The type :math:`k` of a cell is drawn
from the composition :math:`c_\ell` of its layer, and its counts are negative binomial,

.. math:: x_g \sim \mathrm{NB}\left(l\, w_{B(g)} \frac{e^{\eta_g}}{\sum_{h \in B(g)} e^{\eta_h}}, \theta\right),
          \qquad \eta_g = b_g + a_g \cdot \begin{cases} [\ell = m_g] & \text{layer} \\
          \cos(\pi n_g x / S) & \text{gradient} \\ [k = m_g] & \text{cell type} \\ 0 & \text{flat,} \end{cases}

where each kind :math:`B` of genes has a fixed share :math:`w` of the library size :math:`l`. Thus genes of one
kind compete among themselves only: those of a gradient do not jump at a boundary, and flat ones are flat.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

__all__ = ["layer_at", "simulate_tissue", "true_expression"]

Array = NDArray[np.float64]

TYPES = ("A", "B", "C", "D")
KINDS = ("layer", "gradient", "cell_type", "flat")
SHARES = (0.35, 0.25, 0.25, 0.15)
"""Of each kind, in genes and in counts."""
LIBRARY_SIZE = 600.0
"""The mean, as of a panel of probes rather than of a whole transcriptome."""
LIBRARY_SPREAD = 0.25
"""Standard deviation of the log library size."""
DISPERSION = 5.0
"""The inverse dispersion, theta."""
BEND, DRIFT = 0.2, 0.35
"""How far boundaries sway along x and along z, in thicknesses of a layer (b and d)."""
SECTIONS_PER_SIDE = 12
"""Sections that would make a cube."""
JITTER = 0.3
"""How far cells lie off their rows and columns, in distances between these."""
LEAST_GENES = 8


def simulate_tissue(
    n_cells: int = 2000,
    n_genes: int = 60,
    *,
    n_layers: int = 3,
    n_sections: int = 1,
    spacing: float = 20.0,
    seed: int = 0,
) -> AnnData:
    """Cells of a square tissue in layers with sharp boundaries.

    A third of the genes mark a layer, a quarter rise or fall smoothly along x, a quarter mark a cell type,
    the others are flat. Three of the four cell types are each at home in some of the layers, the fourth is
    everywhere.

    Parameters
    ----------
    n_cells
        Cells of each section.
    n_genes
        Number of genes, 8 or more.
    n_layers
        Number of layers, one above the other in y.
    n_sections
        Sections through the tissue, one twelfth of its side apart in z. Each has cells of its own, and
        boundaries that lie a little elsewhere.
    spacing
        Median distance of a cell to the nearest one of its section; sets the unit of all coordinates.
    seed
        Of all that is random.

    Returns
    -------
    Integer counts as CSR in ``X``; in ``obs`` the true ``layer``, the ``cell_type``, the ``section``, its
    place ``z``, and the expected ``library_size``; in ``var`` the ``kind`` of each gene (``"layer"``,
    ``"gradient"``, ``"cell_type"`` or ``"flat"``), its ``marks`` (a layer or a cell type, or empty) and its
    ``effect`` on the log level; in ``obsm["spatial"]`` x and y, with several sections in
    ``obsm["spatial_3d"]`` x, y and z; in ``uns["tissue"]`` what :func:`true_expression` and
    :func:`layer_at` need, with the side of the square (``size``) and the inverse ``dispersion``.

    Raises
    ------
    ValueError
        If a number is too small or ``spacing`` is not a finite number above 0.
    """
    for name, value, least in (
        ("n_cells", n_cells, 2),
        ("n_genes", n_genes, LEAST_GENES),
        ("n_layers", n_layers, 1),
        ("n_sections", n_sections, 1),
    ):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"`{name}={value!r}` must be a whole number of {least} or more.")
    if not 0 < spacing < np.inf:
        raise ValueError(f"`spacing={spacing!r}` must be a finite number above 0.")
    rng = np.random.default_rng(seed)
    unit = [_places(n_cells, rng) for _ in range(n_sections)]
    nearest = [cKDTree(xy).query(xy, k=2)[0][:, 1] for xy in unit]
    size = spacing / float(np.median(nearest))
    section = np.repeat(np.arange(n_sections), n_cells)
    place = np.column_stack([size * np.concatenate(unit), section * size / SECTIONS_PER_SIDE])
    var = _genes(n_genes, n_layers, rng)
    tissue = _record(var, n_layers, n_sections, size, spacing)
    layer = _layers(tissue, place)
    kind = _types(tissue["composition"][layer], rng)
    # the mean of a lognormal is above its median
    log_size = rng.normal(-(LIBRARY_SPREAD**2) / 2, LIBRARY_SPREAD, len(place))
    library = LIBRARY_SIZE * np.exp(log_size)
    mu = library[:, None] * _shares(tissue, layer, place[:, 0], kind)
    counts = rng.poisson(rng.gamma(DISPERSION, mu / DISPERSION)).astype(np.float32)
    obs = pd.DataFrame(
        {
            "layer": pd.Categorical.from_codes(layer, list(tissue["layers"])),
            "cell_type": pd.Categorical.from_codes(kind, list(TYPES)),
            "section": pd.Categorical.from_codes(
                section, [f"section_{i + 1}" for i in range(n_sections)]
            ),
            "z": place[:, 2],
            "library_size": library,
        },
        index=[f"cell_{i}" for i in range(len(place))],
    )
    adata = AnnData(csr_matrix(counts), obs=obs, var=var[["kind", "marks", "effect"]])
    adata.obsm["spatial"] = place[:, :2].copy()
    if n_sections > 1:
        adata.obsm["spatial_3d"] = place
    adata.uns["tissue"] = tissue
    return adata


def true_expression(adata: AnnData, coordinates: ArrayLike) -> Array:
    """Return expected counts at any place of a simulated tissue, ``(n, n_genes)``.

    They are those of a cell of the tissue's mean library size, averaged over the cell types as they occur
    in the layer of the place.

    Parameters
    ----------
    adata
        From :func:`simulate_tissue`; of some of its genes, these are returned.
    coordinates
        Places in the unit of ``obsm["spatial"]``, ``(n, 2)``, or ``(n, 3)`` with z.

    Raises
    ------
    ValueError
        If ``adata`` is not from :func:`simulate_tissue`, or ``coordinates`` are not finite numbers of that
        shape, with z where the tissue has several sections.
    """
    tissue = _tissue_of(adata)
    place = _coordinates(tissue, coordinates)
    columns = pd.Index(tissue["genes"]).get_indexer(adata.var_names)
    if (columns < 0).any():
        raise ValueError(f"`adata` has {(columns < 0).sum()} genes that were not simulated.")
    layer = _layers(tissue, place)
    expected = np.zeros((len(place), len(tissue["genes"])))
    for k in range(len(TYPES)):
        share = _shares(tissue, layer, place[:, 0], np.full(len(place), k))
        expected += tissue["composition"][layer, k, None] * share
    return float(tissue["library_size"]) * expected[:, columns]


def layer_at(adata: AnnData, coordinates: ArrayLike) -> NDArray[np.str_]:
    """Return the layer of any place of a simulated tissue, ``(n,)``, as named in ``obs["layer"]``.

    Parameters
    ----------
    adata, coordinates
        As in :func:`true_expression`.

    Raises
    ------
    ValueError
        As in :func:`true_expression`.
    """
    tissue = _tissue_of(adata)
    return tissue["layers"].astype(str)[_layers(tissue, _coordinates(tissue, coordinates))]


def _places(n: int, rng: np.random.Generator) -> Array:
    """Draw cells in jittered rows of the unit square, as even as their number allows."""
    rows = round(np.sqrt(n))
    xy = [
        np.column_stack([(np.arange(len(row)) + 0.5) / len(row), np.full(len(row), (i + 0.5) / rows)])
        + rng.uniform(-JITTER, JITTER, (len(row), 2)) / (len(row), rows)
        for i, row in enumerate(np.array_split(np.arange(n), rows))
    ]  # fmt: skip
    return np.concatenate(xy)


def _genes(n: int, n_layers: int, rng: np.random.Generator) -> pd.DataFrame:
    var = pd.DataFrame(index=[f"gene_{i}" for i in range(n)])
    # two of each kind at the least: one alone would always have the whole share
    ends = np.round(np.cumsum(SHARES) * (n - 2 * len(KINDS))).astype(int)
    numbers = np.diff(ends, prepend=0) + 2
    # in turn, so that each layer and each type has markers where there are enough genes
    marks = [
        *(f"layer_{i % n_layers + 1}" for i in range(numbers[0])),
        *([""] * numbers[1]),
        *(TYPES[i % len(TYPES)] for i in range(numbers[2])),
        *([""] * numbers[3]),
    ]
    order = rng.permutation(n)
    var["kind"] = pd.Categorical(np.repeat(KINDS, numbers)[order], KINDS)
    var["marks"] = np.array(marks)[order]
    var["level"] = rng.normal(0, 0.5, n)
    var["waves"] = rng.integers(1, 3, n).astype(float)
    # markers rise, gradients go either way
    sign = np.where(var["kind"] == "gradient", rng.choice([-1.0, 1.0], n), 1.0)
    var["effect"] = sign * rng.uniform(1.0, 2.0, n) * (var["kind"] != "flat")
    return var


def _record(
    var: pd.DataFrame, n_layers: int, n_sections: int, size: float, spacing: float
) -> dict[str, Any]:
    """Return the truth as numbers and plain arrays, which a file can hold."""
    kind, marks, effect = (var[name].to_numpy() for name in ("kind", "marks", "effect"))
    layers = np.array([f"layer_{i + 1}" for i in range(n_layers)])
    # each layer has one of the first three types for its own, and the last is everywhere
    composition = np.full((n_layers, len(TYPES)), 0.1)
    composition[:, -1] = 0.2
    composition[np.arange(n_layers), np.arange(n_layers) % (len(TYPES) - 1)] = 0.6
    return {
        "size": float(size),
        "spacing": float(spacing),
        "n_layers": int(n_layers),
        "n_sections": int(n_sections),
        "library_size": LIBRARY_SIZE,
        "dispersion": DISPERSION,
        "genes": var.index.to_numpy(dtype=str),
        "layers": layers,
        "composition": composition,
        "kind": var["kind"].cat.codes.to_numpy(dtype=np.int64),
        "level": var["level"].to_numpy(),
        "layer_effect": effect * ((kind == "layer") & (marks == layers[:, None])),
        "type_effect": effect * ((kind == "cell_type") & (marks == np.array(TYPES)[:, None])),
        "gradient": effect * (kind == "gradient"),
        "waves": var["waves"].to_numpy(),
    }


def _types(composition: Array, rng: np.random.Generator) -> NDArray[np.intp]:
    """Draw one type for each row of shares."""
    below = composition.cumsum(axis=1)[:, :-1] < rng.random(len(composition))[:, None]
    return below.sum(axis=1)


def _layers(tissue: dict[str, Any], place: Array) -> NDArray[np.intp]:
    """Return the number of each place's layer, from 0."""
    n = int(tissue["n_layers"])
    x, y, z = place.T / float(tissue["size"])
    shift = BEND * np.sin(2 * np.pi * x) + DRIFT * np.sin(2 * np.pi * z)
    return np.clip(np.floor(n * y - shift), 0, n - 1).astype(int)


def _shares(
    tissue: dict[str, Any], layer: NDArray[np.intp], x: Array, kind: NDArray[np.intp]
) -> Array:
    """Return the share of each gene in the counts of a cell, ``(n, n_genes)``."""
    wave = np.cos(np.pi * np.outer(x / float(tissue["size"]), tissue["waves"]))
    log_level = tissue["level"] + tissue["layer_effect"][layer] + tissue["type_effect"][kind]
    shares = np.exp(log_level + tissue["gradient"] * wave)
    for code, share in enumerate(SHARES):
        own = tissue["kind"] == code
        shares[:, own] *= share / shares[:, own].sum(axis=1, keepdims=True)
    return shares


def _tissue_of(adata: AnnData) -> dict[str, Any]:
    if "tissue" not in adata.uns:
        raise ValueError("`adata` has no `uns['tissue']`; it must come from `simulate_tissue()`.")
    return adata.uns["tissue"]


def _coordinates(tissue: dict[str, Any], coordinates: ArrayLike) -> Array:
    """Check places and give those of a single section their z, ``(n, 3)``."""
    place = np.asarray(coordinates, dtype=float)
    if place.ndim != 2 or place.shape[1] not in (2, 3) or not np.isfinite(place).all():
        raise ValueError(
            f"`coordinates` of shape {place.shape} must be finite numbers of shape (n, 2) or (n, 3)."
        )
    if place.shape[1] == 3:
        return place
    if int(tissue["n_sections"]) > 1:
        raise ValueError(
            "`coordinates` have x and y, but the tissue has several sections, so z is needed too."
        )
    return np.column_stack([place, np.zeros(len(place))])
