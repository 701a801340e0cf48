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
    - ``label_f1``: :class:`LabelFidelity` on principal components, which on data of whole
      transcriptomes loses nothing against genes and takes a tenth of the time. Learned from all
      training cells; the first row holds the score of the real test cells, the ceiling.

    Raises
    ------
    ValueError
        If genes differ, ``groupby`` or ``layer`` is missing, real values are no counts, or there
        are too few cells.

    Warns
    -----
    UserWarning
        If generated values are not integers, or ``real`` and ``real_train`` share cell names.

    Notes
    -----
    Components describe the cells they were fitted on a little too well. Copies of training cells
    are therefore told from test cells by ``auc_pcs`` and ``w2`` where ``auc_genes`` sees none of
    it.
    """
    test_counts = counts_of(real, layer, "real")
    require_integers(test_counts, "real")
    generated = align_genes(real, generated, "generated")
    new_counts = _generated_counts(generated, layer)
    rng = np.random.default_rng(seed)
    sizes = (generated.n_obs, max_cells, rng)
    if real_train is None:
        train, train_counts = real, test_counts
        split = split_one(real.n_obs, *sizes)
    else:
        _warn_of_shared_cells(real, real_train)
        train = align_genes(real, real_train, "real_train")
        train_counts = counts_of(train, layer, "real_train")
        require_integers(train_counts, "real_train")
        split = split_held_out(real.n_obs, train.n_obs, *sizes)

    projection = Projection(n_pcs, seed=seed).fit(train_counts[split.projection])
    new = draw(generated.n_obs, len(split.test), rng)
    test = Cells.of(test_counts[split.test], projection)
    samples = {
        FLOOR: Cells.of(train_counts[split.floor], projection),
        GENERATED: Cells.of(new_counts[new], projection),
    }
    options = Options(seed, n_jobs)
    table = pd.DataFrame({name: row(test, cells, options) for name, cells in samples.items()}).T
    table.insert(0, "n_cells", len(split.test))
    if groupby is not None:
        known = np.concatenate([split.floor, split.projection])
        fidelity = LabelFidelity(seed=seed).fit(
            projection.transform(train_counts[known]),
            labels_of(train, groupby, "real_train" if real_train is not None else "real")[known],
        )
        table["label_f1"] = [
            fidelity.score(test.pcs, labels_of(real, groupby, "real")[split.test]),
            fidelity.score(
                samples[GENERATED].pcs, labels_of(generated, groupby, "generated")[new]
            ),
        ]
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


def _warn_of_shared_cells(real: AnnData, real_train: AnnData) -> None:
    shared = real.obs_names.intersection(real_train.obs_names)
    if len(shared):
        warnings.warn(
            f"`real` and `real_train` share {len(shared)} cell names, for example {shared[0]!r}. "
            "If these are the same cells, the floor is too low.",
            stacklevel=3,
        )
