"""Generated cells against real ones, from AnnData to one table.

The only file of this package that looks into an AnnData.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scldm.metrics._checks import as_csr, require_integers
from scldm.metrics._labels import LabelFidelity
from scldm.metrics._projection import Projection
from scldm.metrics._split import draw, split_held_out, split_one
from scldm.metrics._table import Cells, Options, row

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy import sparse

__all__ = ["align_genes", "counts_of", "evaluate", "labels_of"]

FLOOR = "floor (real vs real)"
GENERATED = "generated"


def evaluate(
    real: AnnData,
    generated: AnnData,
    real_train: AnnData | None = None,
    groupby: str | None = None,
    *,
    layer: str | None = None,
    n_pcs: int = 30,
    max_cells: int = 3000,
    seed: int = 0,
    n_jobs: int | None = None,
) -> pd.DataFrame:
    """Compare generated cells with real ones, and with what real cells reach.

    Every metric is computed twice against the same real test cells: for the generated cells, and
    for real training cells in their place, the floor: what cells of the same tissue differ by, which
    a generator passes by chance only, or where it evens out the noise of single genes. Both samples
    and the test cells have the same number of cells, since distances between samples shrink with
    their size. Library-size normalisation and principal components are fitted on training cells
    that stand on neither side.

    Parameters
    ----------
    real
        Real cells that the generator has not seen (test cells), with integer counts.
    generated
        Generated cells with the genes of ``real``, in any order.
    real_train
        Real training cells. A random part of them is the floor, the rest fits the projection. If
        ``None``, ``real`` is cut at random into three parts of equal size: test cells, floor, and
        projection. If the generator has seen ``real``, that row then says how well it describes
        cells it has seen.
    groupby
        Column of ``obs`` with the cell type, in all objects; in ``generated``, the type that the
        cell was generated for. Adds the column ``label_f1``.
    layer
        Layer with the counts; ``X`` if ``None``. In ``generated``, ``X`` is taken if it has no
        such layer.
    n_pcs
        Number of principal components.
    max_cells
        The most cells on one side. Time and memory of the exact optimal transport grow faster than
        the square of it.
    seed
        Seed of every random draw. The same seed gives the same table.
    n_jobs
        Threads of the random forests.

    Returns
    -------
    A table with the rows ``"floor (real vs real)"`` and ``"generated"``, and a column per metric;
    ``table.T`` fits a narrow screen. Lower is better for all but ``label_f1``.

    - ``n_cells``: cells on each side.
    - ``auc_genes``, ``auc_pcs``: :func:`classifier_auc` on log-normalised genes and on principal
      components. 0.5 is indistinguishable.
    - ``w2``, ``energy``, ``mmd2``: :func:`wasserstein2`, :func:`energy_distance` and :func:`mmd2`
      on principal components.
    - ``library_size_w1``, ``cell_zeros_w1``: :func:`library_size_w1` in counts and
      :func:`cell_zeros_w1` as a fraction of genes.
    - ``gene_mean_rmse``, ``gene_variance_rmse``, ``gene_zeros_rmse``: agreement of the moments of
      each gene.
    - ``label_f1``: :class:`LabelFidelity` on principal components, in a tenth of the
      time that genes would take. Learned from all
      training cells; the first row holds the score of the real test cells, the ceiling.

    Raises
    ------
    ValueError
        If genes differ, ``groupby`` or ``layer`` is missing, real values are no counts, or there
        are too few cells.

    Warns
    -----
    UserWarning
        If generated values are not integers, ``real`` and ``real_train`` share cell names, or a
        cell has a label that no training cell has and is left out of ``label_f1``.

    Notes
    -----
    Components describe the cells they were fitted on a little too well. Copies of training cells
    are therefore told from test cells by ``auc_pcs`` and ``w2`` where ``auc_genes`` sees none of
    it.
    """
    train_name = "real" if real_train is None else "real_train"
    if real_train is not None:
        _warn_of_shared_cells(real, real_train)
    train = real if real_train is None else align_genes(real, real_train, train_name)
    generated = align_genes(real, generated, "generated")
    test_counts = _real_counts(real, layer, "real")
    train_counts = test_counts if train is real else _real_counts(train, layer, train_name)
    new_counts = _generated_counts(generated, layer)
    named = ((real, "real"), (train, train_name), (generated, "generated"))
    labels = None if groupby is None else [labels_of(a, groupby, name) for a, name in named]

    rng = np.random.default_rng(seed)
    if real_train is None:
        split = split_one(real.n_obs, generated.n_obs, max_cells, rng)
    else:
        split = split_held_out(real.n_obs, train.n_obs, generated.n_obs, max_cells, rng)
    new_rows = draw(generated.n_obs, len(split.test), rng)
    projection = Projection(n_pcs, seed=seed).fit(train_counts[split.projection])
    test = Cells.of(test_counts[split.test], projection)
    floor = Cells.of(train_counts[split.floor], projection)
    new = Cells.of(new_counts[new_rows], projection)

    label_f1 = {}
    if labels is not None:
        known = np.concatenate([split.floor, split.projection])
        fidelity = LabelFidelity(seed=seed)
        fidelity.fit(projection.transform(train_counts[known]), labels[1][known])
        ceiling = _label_f1(fidelity, test.pcs, labels[0][split.test], "real")
        # unlike distances, a score does not depend on the size of the sample, and rare types
        # need all the cells there are
        more = draw(generated.n_obs, max_cells, rng)
        made_pcs = projection.transform(new_counts[more])
        made = _label_f1(fidelity, made_pcs, labels[2][more], "generated")
        label_f1 = {"label_f1": [ceiling, made]}
    options = Options(seed, n_jobs)
    rows = [row(test, floor, options), row(test, new, options)]
    table = pd.DataFrame(rows, index=[FLOOR, GENERATED]).assign(**label_f1)
    table.insert(0, "n_cells", len(split.test))
    return table


def counts_of(adata: AnnData, layer: str | None, name: str) -> sparse.csr_matrix:
    """Counts of shape (n_cells, n_genes) from ``X`` or a layer.

    Parameters
    ----------
    adata
        The cells.
    layer
        The layer, or ``None`` for ``X``.
    name
        What ``adata`` is called in errors.

    Raises
    ------
    ValueError
        If the layer is missing or its values are negative or not finite.
    """
    if layer is None:
        return as_csr(adata.X, f"{name}.X")
    if layer not in adata.layers:
        raise ValueError(
            f"`layer={layer!r}` is not a layer of `{name}`. Known: {list(adata.layers)}."
        )
    return as_csr(adata.layers[layer], f"{name}.layers[{layer!r}]")


def labels_of(adata: AnnData, groupby: str, name: str) -> NDArray[np.str_]:
    """Labels of the cells as strings, shape (n_cells,).

    Parameters
    ----------
    adata
        The cells.
    groupby
        Column of ``obs``.
    name
        What ``adata`` is called in errors.

    Raises
    ------
    ValueError
        If the column is missing or has missing values.
    """
    if groupby not in adata.obs:
        raise ValueError(
            f"`groupby={groupby!r}` is not a column of `{name}.obs`. Known: {list(adata.obs)}."
        )
    column = adata.obs[groupby]
    if column.isna().any():
        raise ValueError(
            f"`{name}.obs[{groupby!r}]` has {column.isna().sum()} missing values. Leave these "
            "cells out or name their label."
        )
    return column.astype(str).to_numpy(dtype=str)


def align_genes(real: AnnData, other: AnnData, name: str) -> AnnData:
    """``other`` with its genes in the order of ``real``.

    Parameters
    ----------
    real
        The cells that set the order.
    other
        The cells to put in order.
    name
        What ``other`` is called in errors.

    Raises
    ------
    ValueError
        If one has a gene that the other has not.
    """
    if real.var_names.equals(other.var_names):
        return other
    missing = real.var_names.difference(other.var_names)
    surplus = other.var_names.difference(real.var_names)
    if len(missing) or len(surplus) or not other.var_names.is_unique:
        raise ValueError(
            f"The genes of `{name}` are not those of `real`: {len(missing)} are missing "
            f"{list(missing[:3])} and {len(surplus)} are not in `real` {list(surplus[:3])}."
        )
    return other[:, real.var_names]


def _real_counts(adata: AnnData, layer: str | None, name: str) -> sparse.csr_matrix:
    counts = counts_of(adata, layer, name)
    require_integers(counts, name)
    return counts


def _generated_counts(generated: AnnData, layer: str | None) -> sparse.csr_matrix:
    present = layer if layer in generated.layers else None
    counts = counts_of(generated, present, "generated")
    if (counts.data != np.rint(counts.data)).any():
        warnings.warn(
            "`generated` holds values that are not integers, so these are not counts; they are "
            "compared as they are.",
            stacklevel=3,
        )
    return counts


def _label_f1(
    fidelity: LabelFidelity, pcs: NDArray[np.float32], labels: NDArray[np.str_], name: str
) -> float:
    """Score of the cells whose label occurs in training cells; rare types may miss there."""
    known = np.isin(labels, fidelity.labels_)
    if not known.all():
        warnings.warn(
            f"{np.sum(~known)} cells of `{name}` are left out of `label_f1`, since no training "
            f"cell has their label: {sorted(set(labels[~known].tolist()))}.",
            stacklevel=3,
        )
    return fidelity.score(pcs[known], labels[known]) if known.any() else float("nan")


def _warn_of_shared_cells(real: AnnData, real_train: AnnData) -> None:
    shared = real.obs_names.intersection(real_train.obs_names)
    if len(shared):
        warnings.warn(
            f"`real` and `real_train` share {len(shared)} cell names, for example {shared[0]!r}. "
            "If these are the same cells, the floor is too low.",
            stacklevel=3,
        )
