"""Tissue with places taken away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import scanpy as sc
from scipy import sparse

from .simulated import Layers, Probes, Waves

__all__ = ["PARTS", "Task", "read", "tasks"]

Array = np.ndarray

OSMFISH, STARMAP, VISIUM = "osmfish_ss_cortex", "starmap_mpfc", "visium_mouse_brain"
STACK, BLOCK, LAYERS = (
    "st_breast_cancer_4sections",
    "starmap3d_visual_cortex_INTENSITY",
    "simulated_layers",
)
PARTS = {
    "region": (OSMFISH, STARMAP, VISIUM),
    "half": (OSMFISH, STARMAP, VISIUM),
    "every_second": (VISIUM,),
    "section": (STACK,),
    "genes": (OSMFISH,),
    "simulated": (LAYERS,),
    "coordinates_3d": (BLOCK,),
}
"""Data sets of each part."""
MISSING = 0.15
INNER = (1.0, 2.0)
"""Depths of the sections between others."""
N_GENES = 1000
N_LAW, AT_A_TIME = 1000, 50
"""Draws that expected values are the mean of."""
N_LAYERS = 4
"""The middle one of three boundaries runs through the centre of the tissue."""


@dataclass
class Task:
    """Places to learn from, and places to predict.

    Parameters
    ----------
    data
        The data set.
    name
        What was taken away.
    seed
        Of what is random.
    train
        Cells or spots that were measured.
    true
        Those that were taken away.
    key
        Where coordinates are in ``obsm``.
    sections
        Column of ``obs`` that tells sections apart.
    labels
        Column of ``obs`` with regions; of no use but to the mean of regions.
    call
        The model's method.
    known
        The law of simulated counts.
    probes
        Further places to predict, across a boundary.
    """

    data: str
    name: str
    seed: int
    train: ad.AnnData
    true: ad.AnnData
    key: str = "spatial"
    sections: str | None = None
    labels: str | None = None
    call: str = "impute_region"
    known: Layers | Waves | None = None
    probes: Probes | None = None

    def __post_init__(self) -> None:
        self._total = float(np.median(np.asarray(self.train.X.sum(axis=1), dtype=float)))

    def values(self, counts: Any) -> Array:
        """Return log(1 + counts / their sum * median sum of training cells), genes last."""
        dense = counts.toarray() if sparse.issparse(counts) else np.asarray(counts)
        dense = dense.astype(np.float32)
        sums = np.maximum(dense.sum(axis=-1, keepdims=True), 1)
        return np.log1p(dense / sums * np.float32(self._total))

    @cached_property
    def law(self) -> Array:
        """Expected values at the places asked, where the law of counts is known."""
        return self.expected(self.seed)

    def expected(self, seed: int) -> Array:
        """Return mean values of many draws from the law, (n, n_genes)."""
        seeds = np.random.SeedSequence(seed).generate_state(N_LAW // AT_A_TIME).tolist()
        means = [
            self.values(self.known.draw(self.asked, AT_A_TIME, one)).mean(axis=0, dtype=float)
            for one in seeds
        ]
        return np.mean(means, axis=0)

    @property
    def asked(self) -> Array:
        """Coordinates of the places that were taken away, then of probes."""
        places = np.asarray(self.true.obsm[self.key], dtype=float)
        return places if self.probes is None else np.vstack([places, self.probes.coordinates])

    def column(self, name: str | None, *, asked: bool) -> Array | None:
        """Return a column of ``obs`` as text, of the places to learn from or of those asked."""
        if name is None:
            return None
        found = (self.true if asked else self.train).obs[name].astype(str).to_numpy()
        if asked and self.probes is not None:
            found = np.concatenate([found, self.probes.layer])
        return found


def read(path: Path) -> ad.AnnData:
    """Return a data set without cells that stand in it twice.

    A tenth of the osmFISH cells have a twin with the same place and counts; a twin among the training
    cells would give the answer away.
    """
    adata = ad.read_h5ad(path)
    rows = np.hstack([adata.obsm["spatial"], np.asarray(adata.X.sum(axis=1)), adata.X.toarray()])
    if "z" in adata.obs:
        rows = np.column_stack([rows, adata.obs["z"]])
    _, first = np.unique(rows, axis=0, return_index=True)
    return adata[np.sort(first)].copy()


def tasks(part: str, folder: Path, data: str, seed: int) -> Iterator[Task]:
    """Yield the tasks of a part on a data set.

    Parameters
    ----------
    part
        A key of ``PARTS``, other than ``"genes"``.
    folder
        Of the data sets.
    data
        The data set.
    seed
        Of what is random.
    """
    path = folder / f"{data}.h5ad"
    if part == "simulated":
        yield from _simulated(seed)
    elif part == "coordinates_3d":
        yield _block(path, seed)
    elif part == "section":
        yield from _sections(path, seed)
    else:
        cells = read(path)
        away = {"region": disc, "half": half, "every_second": every_second}[part](cells, seed)
        yield Task(
            data,
            part,
            seed,
            *_cut(cells, away),
            sections="section" if cells.obs["section"].nunique() > 1 else None,
            labels="region" if "region" in cells.obs else None,
            call="super_resolve" if part == "every_second" else "impute_region",
        )


def disc(cells: ad.AnnData, seed: int = 0) -> Array:
    """Say which places of each section are among the 15% nearest to its median position."""
    return _by_section(cells, lambda xy: _nearest(xy - np.median(xy, axis=0), MISSING))


def half(cells: ad.AnnData, seed: int) -> Array:
    """Say which places are in a random half of their section."""
    rng = np.random.default_rng(seed)
    return _by_section(cells, lambda xy: rng.permutation(len(xy)) < len(xy) // 2)


def every_second(cells: ad.AnnData, seed: int) -> Array:
    """Say which spots are every second one of their row; odd seeds take the others."""
    x, y = np.asarray(cells.obsm["spatial"], dtype=float).T
    row, column = _steps(x), _steps(y)
    # neighbours of a row are two columns apart, as rows are shifted by one
    return (column // 2 + row // 2 + seed) % 2 == 0


def _steps(values: Array) -> Array:
    """Return the number of each value's row, where rows are a pixel or two wide."""
    unique, inverse = np.unique(values, return_inverse=True)
    gaps = np.diff(unique)
    return np.concatenate([[0], np.cumsum(gaps > gaps.max() / 4)])[inverse]


def _nearest(offset: Array, share: float) -> Array:
    away = np.zeros(len(offset), dtype=bool)
    distance = np.linalg.norm(offset, axis=1)
    away[np.argsort(distance, kind="stable")[: round(share * len(offset))]] = True
    return away


def _by_section(cells: ad.AnnData, choose: Callable[[Array], Array]) -> Array:
    away = np.zeros(cells.n_obs, dtype=bool)
    names = cells.obs["section"].astype(str).to_numpy()
    for name in np.unique(names):
        rows = names == name
        away[rows] = choose(np.asarray(cells.obsm["spatial"], dtype=float)[rows])
    return away


def _cut(cells: ad.AnnData, away: Array) -> tuple[ad.AnnData, ad.AnnData]:
    train, true = cells[~away].copy(), cells[away].copy()
    for part in (train, true):
        sc.pp.filter_cells(part, min_counts=1)
    return train, true


def _sections(path: Path, seed: int) -> Iterator[Task]:
    """Yield a task for each inner section, with the genes of most counts in the others."""
    cells = read(path)
    depth = cells.obsm["spatial_3d"][:, 2]
    for z in INNER:
        away = depth == z
        totals = np.asarray(cells.X[~away].sum(axis=0)).ravel()
        genes = np.sort(np.argsort(-totals, kind="stable")[:N_GENES])
        train, true = _cut(cells[:, genes].copy(), away)
        call = "impute_sections"
        yield Task(path.stem, f"z = {z:g}", seed, train, true, "spatial_3d", call=call)


def _simulated(seed: int) -> Iterator[Task]:
    """Yield a disc and a half of a simulated tissue, with probes across its middle boundary."""
    law = Layers(N_LAYERS, seed)
    cells = law.cells
    # the simulation has one section and no twins
    for name, choose in (("disc", disc), ("half", half)):
        train, true = _cut(cells, choose(cells, seed))
        yield Task(
            LAYERS, name, seed, train, true, labels="layer", known=law, probes=law.probes(MISSING)
        )


def _block(path: Path, seed: int) -> Task:
    """Return a ball taken out of real places in 3-D, with counts simulated there.

    The block is thin, so the ball is one in units of the block's sides.
    """
    real = read(path)
    places = np.unique(np.asarray(real.obsm["spatial_3d"], dtype=float), axis=0)
    law = Waves(places, seed)
    offset = (places - np.median(places, axis=0)) / np.ptp(places, axis=0)
    return Task(
        path.stem,
        "ball",
        seed,
        *_cut(law.cells, _nearest(offset, MISSING)),
        key="spatial_3d",
        known=law,
    )
