"""Genes that a panel lacks, from cells without coordinates that have them."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import scanpy as sc
import scvi
from sklearn.model_selection import KFold

from scldm import SCLDM, baselines
from scldm.metrics.translation import feature_pearson, feature_spearman

from .tasks import OSMFISH, STARMAP, read

__all__ = ["METHODS", "WITHIN", "gene_rows"]

Array = np.ndarray

N_FOLDS = 5
N_SAMPLES = 20
EPOCHS = 500
WITHIN = "from half of the cells"
ACROSS = f"from {STARMAP}"


@dataclass
class Fold:
    """Cells in space that lack some genes, and a reference that has them.

    Parameters
    ----------
    spatial
        Cells with coordinates, of the given genes.
    reference
        Cells without, of given, held-out and any other genes.
    given, held_out
        Names of genes.
    same
        Whether both are of one technique, so that counts of the two add up.
    seed
        Of what is random.
    """

    spatial: ad.AnnData
    reference: ad.AnnData
    given: list[str]
    held_out: list[str]
    same: bool
    seed: int


Method = Callable[[Fold], Iterator[tuple[str, Array]]]


def gene_rows(folder: Path, seed: int, methods: list[str]) -> Iterator[dict[str, object]]:
    """Yield correlations of held-out genes, over cells, for each reference and method.

    Parameters
    ----------
    folder
        Of the data sets.
    seed
        Of folds and models.
    methods
        Keys of ``METHODS``.
    """
    cells, other = (read(folder / f"{name}.h5ad") for name in (OSMFISH, STARMAP))
    some = np.random.default_rng(seed).permutation(cells.n_obs) < cells.n_obs // 2
    for name, spatial, reference in (
        (ACROSS, cells, other),
        (WITHIN, cells[~some].copy(), cells[some].copy()),
    ):
        genes = np.array([g for g in spatial.var_names if g in reference.var_names])
        counts = spatial.X.toarray()
        true = spatial.copy()
        true.X = _log(counts, counts, float(np.median(counts.sum(axis=1))))
        for method in methods:
            folds = _folds(spatial, reference, genes, name == WITHIN, seed)
            yield from _rows(name, METHODS[method], folds, true)


def _rows(
    name: str, method: Method, folds: Iterator[Fold], true: ad.AnnData
) -> Iterator[dict[str, object]]:
    """Yield a row for each answer of a method, over the genes of all folds."""
    found: dict[str, list[Array]] = {}
    seconds: dict[str, float] = {}
    for fold in folds:
        x = true[fold.spatial.obs_names, fold.held_out].X
        start = time.process_time()
        for title, predicted in method(fold):
            seconds[title] = seconds.get(title, 0.0) + time.process_time() - start
            found.setdefault(title, []).append(_correlations(x, predicted))
            start = time.process_time()
    for title, parts in found.items():
        values = np.concatenate(parts, axis=1)
        spearman, pearson = values.mean(axis=1).tolist()
        yield {
            "task": name,
            "method": title,
            "spearman": spearman,
            "pearson": pearson,
            "genes": values.shape[1],
            "seconds": seconds[title],
        }


def _correlations(true: Array, predicted: Array) -> Array:
    """Return Spearman and Pearson of each gene, (2, n_genes); 0 where a prediction is constant."""
    found = [feature_spearman(true, predicted), feature_pearson(true, predicted)]
    return np.nan_to_num(np.stack(found))


def _folds(
    spatial: ad.AnnData, reference: ad.AnnData, genes: Array, same: bool, seed: int
) -> Iterator[Fold]:
    for rest, held in KFold(N_FOLDS, shuffle=True, random_state=seed).split(genes):
        given, held_out = list(genes[np.sort(rest)]), list(genes[held])
        panel = spatial[:, given].copy()
        # what is left of the panel may have nothing of a cell
        sc.pp.filter_cells(panel, min_counts=1)
        cells = reference[np.asarray(reference[:, given].X.sum(axis=1)).ravel() > 0].copy()
        yield Fold(panel, cells, given, held_out, same, seed)


def _log(counts: Array, of: Array, scale: float) -> Array:
    """Return log(1 + counts * scale / sum of some counts)."""
    return np.log1p(counts / np.maximum(of.sum(axis=1, keepdims=True), 1) * scale)


def _standard(x: Array) -> Array:
    """Return values in standard deviations, as technologies differ in the level of each gene."""
    spread = x.std(axis=0)
    return (x - x.mean(axis=0)) / np.where(spread > 0, spread, 1.0)


def _values(fold: Fold) -> tuple[Array, Array, Array]:
    """Return the reference's given and held-out genes and the given ones in space."""
    panel = fold.spatial.X.toarray()
    scale = float(np.median(panel.sum(axis=1)))
    cells = fold.reference[:, fold.given].X.toarray()
    asked = fold.reference[:, fold.held_out].X.toarray()
    x, y = _standard(_log(cells, cells, scale)), _log(asked, cells, scale)
    return x, y, _standard(_log(panel, panel, scale))


def simple(fold: Fold) -> Iterator[tuple[str, Array]]:
    """Regression and neighbours on given genes."""
    x, y, new = _values(fold)
    for name, make in (
        ("ridge", baselines.RidgeTranslation),
        ("15 nearest cells", baselines.NearestCells),
        ("50 nearest cells", lambda: baselines.NearestCells(50)),
    ):
        yield name, make().fit(x, y).predict(new)


def tangram(fold: Fold) -> Iterator[tuple[str, Array]]:
    """Tangram of its authors (Biancalani et al. 2021), each cell mapped, half as long as they advise."""
    if importlib.util.find_spec("tangram") is None:
        return
    spatial, reference = fold.spatial.copy(), fold.reference.copy()
    for cells in (spatial, reference):
        sc.pp.normalize_total(cells, target_sum=100.0)
    x, y = (reference[:, genes].X.toarray() for genes in (fold.given, fold.held_out))
    method = baselines.Tangram(EPOCHS, seed=fold.seed)
    yield "Tangram", method.fit(x, y).predict(spatial.X.toarray())


def scldm(fold: Fold) -> Iterator[tuple[str, Array]]:
    """Our model; what it draws is in the units of the reference."""
    scvi.settings.seed = fold.seed
    SCLDM.setup_anndata(fold.spatial, spatial_key="spatial")
    model = SCLDM(fold.spatial)
    drawn = model.impute_genes(None, fold.reference, n_samples=N_SAMPLES, seed=fold.seed)
    n = fold.spatial.n_obs
    size = np.asarray(drawn.X.sum(axis=1)).reshape(n, N_SAMPLES, 1)
    if fold.same:
        size = size + np.asarray(fold.spatial.X.sum(axis=1)).reshape(n, 1, 1)
    counts = drawn[:, fold.held_out].X.toarray().reshape(n, N_SAMPLES, -1)
    values = np.log1p(counts / np.maximum(size, 1) * np.median(size))
    yield "scldm", values.mean(axis=1, dtype=float)


METHODS: dict[str, Method] = {
    "baselines": simple,
    "tangram": tangram,
    "scldm": scldm,
}
"""What predicts genes, by name."""
