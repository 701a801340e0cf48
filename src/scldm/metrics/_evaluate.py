"""Generated cells against real ones, from AnnData to one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData

from scldm._warnings import warn
from scldm.metrics._anndata import align_genes, as_cells, generated_counts, labels_of, real_counts
from scldm.metrics._checks import Counts
from scldm.metrics._labels import LabelFidelity
from scldm.metrics._projection import Projection
from scldm.metrics._rows import ALL, FLOOR, rows_of_all, rows_of_types
from scldm.metrics._split import Split, draw, split_held_out, split_one
from scldm.metrics._table import METRICS, Cells, Metric, Reference

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

__all__ = ["evaluate", "side_by_side"]


def evaluate(
    real: AnnData | Counts,
    generated: AnnData | Counts | Mapping[str, AnnData | Counts],
    real_train: AnnData | Counts | None = None,
    groupby: str | None = None,
    *,
    layer: str | None = None,
    metrics: Sequence[str] | None = None,
    n_top_genes: int | None = None,
    n_pcs: int = 30,
    max_cells: int = 3000,
    n_bootstrap: int = 200,
    seed: int = 0,
    n_jobs: int | None = None,
) -> pd.DataFrame:
    """Compare generated cells with real ones, and with what real cells reach.

    Every metric is computed against the same real test cells: for the generated cells, and for
    real training cells in their place, the floor: what cells of the same tissue differ by, which a
    generator passes by chance only, or where it evens out the noise of single genes. All samples
    have the same number of cells, since distances between samples shrink with their size (but for
    ``label_f1``, which does not depend on it and takes all).
    Genes are chosen, and library-size normalisation and principal components fitted, on training cells
    that stand on neither side.

    Parameters
    ----------
    real
        Real cells that the generator has not seen (test cells), with integer counts; an AnnData or,
        without labels, a matrix of cells by genes.
    generated
        Generated cells with the genes of ``real``, in any order (of a matrix, in that order); or
        several sets of them by name, which are then measured with one ruler. They may come from any
        generator. The smallest set
        sets the number of cells of all.
    real_train
        Real training cells. A random part of them is the floor, the rest fits the projection. If
        ``None``, ``real`` is cut at random into three parts of equal size: test cells, floor, and
        projection. If the generator has seen ``real``, that row then says how well it describes
        cells it has seen.
    groupby
        Column of ``obs`` with the cell type, in all objects; in ``generated``, the type that the
        cell was generated for. Adds the metrics of types, and some distances within each type.
    layer
        Layer with the counts; ``X`` if ``None``. In ``generated``, ``X`` is taken if it has no
        such layer.
    metrics
        Names of the metrics to compute; all that apply if ``None``.
    n_top_genes
        Compare by so many genes only, the most variable ones of the cells that fit the projection
        (:func:`scanpy.experimental.pp.highly_variable_genes`, Pearson residuals). All if ``None``.
    n_pcs
        Number of principal components.
    max_cells
        The most cells on one side. Time and memory of the exact optimal transport grow faster than
        the square of it.
    n_bootstrap
        Draws of cells with replacement for the intervals; none of them trains or transports anew.
    seed
        Seed of every random draw. The same seed gives the same table.
    n_jobs
        Threads of the random forests.

    Returns
    -------
    A tidy table: a row for each source, group and metric. :func:`side_by_side` puts sources beside
    each other. ``table.attrs["preprocessing"]`` says how cells were prepared, which genes were
    chosen among it.

    - ``source``: ``"floor"``, and ``"generated"`` or the names of the sets.
    - ``group``: ``"all"``, or one type.
    - ``metric``: on principal components :func:`wasserstein2` ``w2``, :func:`sliced_wasserstein2`
      ``sliced_w2``, :func:`energy_distance` ``energy``, :func:`mmd2`, :func:`frechet_distance`
      ``frechet``, :func:`one_nn_accuracy`, the mean :func:`lisi` of real against generated
      ``lisi``, and :func:`precision_recall` (``precision``, ``recall``, ``density``,
      ``coverage``); :func:`classifier_auc` of a random forest on genes and on components
      (``auc_genes``, ``auc_pcs``) and of a logistic regression on components (``auc_logistic``);
      on log-normalised genes :func:`gene_w1` and :func:`gene_correlation_rmse`; on counts
      :func:`library_size_w1`, :func:`cell_zeros_w1`, :func:`gene_mean_rmse`,
      :func:`gene_variance_rmse`, :func:`gene_zeros_rmse` and :func:`mean_variance_gap`. With
      ``groupby`` also :func:`marker_overlap`, ``label_f1`` (:class:`LabelFidelity` on components,
      learned from training cells; the floor is the score of the test cells, the ceiling) and
      ``train_on_generated_f1`` (learned from the sample, scored on the test cells). With
      ``real_train`` also :func:`memorisation` (``nn_ratio``, ``near_copies``,
      ``membership_auc``), with respect to the training cells in the floor's sample only; their
      floor is of other training cells.
    - ``value``, and ``low`` and ``high``, the ends of its 95% interval over cells.
    - ``gap``, the value less the floor's, and ``gap_low`` and ``gap_high``, the ends of its interval,
      narrower than those of the two: both are drawn with the same test cells.
    - ``better``: ``"lower"``, ``"higher"`` or ``"floor"``, the nearer to the floor the better.
    - ``n_cells``: cells of the sample.
    - ``note``: why a value is missing, such as too few cells of a type.

    Raises
    ------
    ValueError
        If genes differ, ``groupby`` or ``layer`` is missing, a metric is not known or needs what
        is not given, real values are no counts, or there are too few cells.

    Warns
    -----
    UserWarning
        If generated values are not integers, ``real`` and ``real_train`` share cell names, or a
        cell has a label that no training cell has and is left out of ``label_f1``.

    Notes
    -----
    Intervals hold the random choice of cells, not that of training: for the latter, repeat with
    several seeds of the generator. Transport plans, neighbours and classifiers are kept while cells
    are drawn. By simulation (300 cells, a normal distribution), intervals are 1.5 to 2 times too wide
    for distances between like samples and up to a third too narrow for classifiers and neighbours;
    those of scores of types that are nearly perfect are much too narrow.
    """
    if n_bootstrap < 0:
        raise ValueError(f"`n_bootstrap={n_bootstrap}` must not be below 0.")
    named = generated if isinstance(generated, Mapping) else {"generated": generated}
    real = as_cells(real, "real")
    sources = {str(name): as_cells(cells, "generated", real) for name, cells in named.items()}
    real_train = None if real_train is None else as_cells(real_train, "real_train", real)
    chosen = _chosen(metrics, groupby, real_train)
    inputs = _read(real, sources, real_train, groupby, layer)
    rng = np.random.default_rng(seed)
    split = _split(inputs, max_cells, rng)
    genes = _top_genes(inputs, split, n_top_genes)
    if genes is not None:
        inputs = inputs.of_genes(genes)
    learn_types = "label_f1" in chosen
    reference, samples = _prepare(inputs, split, learn_types, n_pcs, max_cells, seed, rng, n_jobs)
    rows = rows_of_all(reference, samples, chosen, n_bootstrap)
    if groupby is not None:
        rows += rows_of_types(reference, samples, chosen, n_bootstrap)
    table = pd.DataFrame(rows)
    about = _preprocessing(inputs, reference, n_pcs, layer, seed)
    if genes is not None:
        about["genes"] = real.var_names[genes].tolist()
    table.attrs["preprocessing"] = about
    return table


def side_by_side(table: pd.DataFrame, group: str = ALL) -> pd.DataFrame:
    """The values of :func:`evaluate` with a row per metric and a column per source.

    Parameters
    ----------
    table
        What :func:`evaluate` returned.
    group
        ``"all"`` or one of the types.

    Raises
    ------
    ValueError
        If there is no such group.
    """
    known = table["group"].unique().tolist()
    if group not in known:
        raise ValueError(f"`group={group!r}` is not in the table. Known: {known}.")
    rows = table[table["group"] == group]
    wide = rows.pivot(index="metric", columns="source", values="value")
    wide = wide.loc[rows["metric"].unique(), rows["source"].unique()]
    wide.attrs |= table.attrs
    return wide


class _Inputs(NamedTuple):
    """Counts and labels, with genes in one order."""

    test: sparse.csr_matrix
    test_labels: NDArray[np.str_]
    train: sparse.csr_matrix | None
    """``None`` if the test cells are to be cut."""
    train_labels: NDArray[np.str_]
    generated: dict[str, tuple[sparse.csr_matrix, NDArray[np.str_]]]

    @property
    def projecting(self) -> sparse.csr_matrix:
        """The cells among which are those that fit the projection."""
        return self.test if self.train is None else self.train

    def of_genes(self, genes: NDArray[np.intp]) -> _Inputs:
        """Return the same cells with some of the genes."""
        return self._replace(
            test=self.test[:, genes],
            train=None if self.train is None else self.train[:, genes],
            generated={name: (x[:, genes], own) for name, (x, own) in self.generated.items()},
        )


def _chosen(
    metrics: Sequence[str] | None, groupby: str | None, real_train: AnnData | None
) -> dict[str, Metric]:
    """The metrics asked for, or all that apply."""
    lacks = {
        name: "`groupby`" if m.needs_labels and groupby is None else "`real_train`"
        for name, m in METRICS.items()
        if (m.needs_labels and groupby is None) or (m.needs_train and real_train is None)
    }
    if metrics is None:
        return {name: metric for name, metric in METRICS.items() if name not in lacks}
    if isinstance(metrics, str) or not len(metrics):
        raise ValueError(f"`metrics={metrics!r}` must be a list of names. Known: {list(METRICS)}.")
    for name in metrics:
        if name not in METRICS:
            raise ValueError(
                f"`metrics` has {name!r}, which is not known. Known: {list(METRICS)}."
            )
        if name in lacks:
            raise ValueError(f"`metrics` has {name!r}, which needs {lacks[name]}.")
    return {name: METRICS[name] for name in metrics}


def _read(
    real: AnnData,
    sources: Mapping[str, AnnData],
    real_train: AnnData | None,
    groupby: str | None,
    layer: str | None,
) -> _Inputs:
    if not sources or FLOOR in sources:
        raise ValueError(
            f"`generated` must name one or more sets of cells, none of them {FLOOR!r}, but has "
            f"{list(sources)}."
        )

    def labels(adata: AnnData, name: str) -> NDArray[np.str_]:
        return np.full(adata.n_obs, "") if groupby is None else labels_of(adata, groupby, name)

    train, test_labels = None, labels(real, "real")
    train_labels = test_labels
    if real_train is not None:
        _warn_of_shared_cells(real, real_train)
        aligned = align_genes(real, real_train, "real_train")
        train = real_counts(aligned, layer, "real_train")
        train_labels = labels(real_train, "real_train")
    made = {}
    for name, cells in sources.items():
        called = "generated" if name == "generated" else f"generated[{name!r}]"
        cells = align_genes(real, cells, called)
        made[name] = (generated_counts(cells, layer, called), labels(cells, called))
    if ALL in test_labels:
        raise ValueError(
            f"`real.obs[{groupby!r}]` has the label {ALL!r}, which stands for all cells together in "
            "the table. Rename it."
        )
    test = real_counts(real, layer, "real")
    return _Inputs(test, test_labels, train, train_labels, made)


def _split(inputs: _Inputs, max_cells: int, rng: np.random.Generator) -> Split:
    """Say which real cells are compared, and which fit the projection."""
    fewest = min(counts.shape[0] for counts, _ in inputs.generated.values())
    if inputs.train is None:
        return split_one(inputs.test.shape[0], fewest, max_cells, rng)
    sizes = inputs.test.shape[0], inputs.train.shape[0]
    return split_held_out(*sizes, fewest, max_cells, rng)


def _top_genes(inputs: _Inputs, split: Split, n_top_genes: int | None) -> NDArray[np.intp] | None:
    """The places of the most variable genes of the cells that fit the projection."""
    n_genes = inputs.test.shape[1]
    if n_top_genes is None:
        return None
    if isinstance(n_top_genes, bool) or not 0 < n_top_genes <= n_genes:
        raise ValueError(f"`n_top_genes={n_top_genes!r}` must be from 1 to {n_genes}, all genes.")
    counts = inputs.projecting[split.projection].astype(np.float32)
    seen = np.flatnonzero(counts.getnnz(axis=0))
    if len(seen) < n_top_genes:
        raise ValueError(
            f"`n_top_genes={n_top_genes}` is more than the {len(seen)} genes that the "
            f"{len(split.projection)} real cells that fit the projection have counts of."
        )
    cells = counts[np.flatnonzero(counts.getnnz(axis=1))][:, seen]
    found = sc.experimental.pp.highly_variable_genes(
        AnnData(cells), n_top_genes=n_top_genes, flavor="pearson_residuals", inplace=False
    )
    return seen[found["highly_variable"].to_numpy()]


def _prepare(
    inputs: _Inputs,
    split: Split,
    learn_types: bool,
    n_pcs: int,
    max_cells: int,
    seed: int,
    rng: np.random.Generator,
    n_jobs: int | None,
) -> tuple[Reference, dict[str, Cells]]:
    """The real cells of the comparison, and all cells of each source up to a number."""
    train = inputs.projecting
    train_labels = inputs.test_labels if inputs.train is None else inputs.train_labels
    if not 0 < n_pcs < min(len(split.projection), train.shape[1]):
        raise ValueError(
            f"`n_pcs={n_pcs}` must be above 0 and below the {train.shape[1]} genes and the "
            f"{len(split.projection)} real cells that fit the projection."
        )
    projection = Projection(n_pcs, seed=seed).fit(train[split.projection])

    def cells(
        counts: sparse.csr_matrix, labels: NDArray[np.str_], rows: NDArray[np.intp]
    ) -> Cells:
        return Cells.of(counts[rows], projection, labels[rows])

    fresh = rng.permutation(split.projection)[: len(split.test)]
    classifier = None
    if learn_types and len(np.unique(train_labels)) > 1:
        known = np.concatenate([split.floor, split.projection])
        classifier = LabelFidelity(seed=seed)
        classifier.fit(projection.transform(train[known]), train_labels[known])
    reference = Reference(
        test=cells(inputs.test, inputs.test_labels, split.test),
        seen=cells(train, train_labels, split.floor),
        fresh=cells(train, train_labels, np.sort(fresh)),
        projection=projection,
        classifier=classifier,
        seed=seed,
        n_jobs=n_jobs,
    )
    samples = {
        # A stream apart, so that the draw depends on no other source and is not that of the real
        # cells: row for row, these may have been made from them.
        name: cells(
            counts, labels, draw(counts.shape[0], max_cells, np.random.default_rng((seed, 1)))
        )
        for name, (counts, labels) in inputs.generated.items()
    }
    _warn_of_unknown_labels(reference, samples)
    return reference, samples


def _preprocessing(
    inputs: _Inputs, reference: Reference, n_pcs: int, layer: str | None, seed: int
) -> dict[str, object]:
    projection = reference.projection
    return {
        "counts": "X" if layer is None else f"layers[{layer!r}]",
        "normalisation": "log1p of counts per median library size",
        "target_sum": float(projection.target_sum_),
        "n_genes": int(inputs.test.shape[1]),
        "n_pcs": n_pcs,
        "variance_in_pcs": float(projection.pca_.explained_variance_ratio_.sum()),
        "fitted_on_cells": int(projection.pca_.n_samples_),
        "memory_of_cells": 0 if inputs.train is None else reference.seen.n_cells,
        "fitted_on": "real" if inputs.train is None else "real_train",
        "seed": seed,
    }


def _warn_of_unknown_labels(reference: Reference, samples: Mapping[str, Cells]) -> None:
    if reference.classifier is None:
        return
    for name, cells in {"real": reference.test, **samples}.items():
        known = np.isin(cells.labels, reference.classifier.labels_)
        if not known.all():
            warn(
                f"{np.sum(~known)} cells of `{name}` are left out of `label_f1`, since no "
                f"training cell has their label: {sorted(set(cells.labels[~known].tolist()))}."
            )


def _warn_of_shared_cells(real: AnnData, real_train: AnnData) -> None:
    shared = real.obs_names.intersection(real_train.obs_names)
    if len(shared):
        warn(
            f"`real` and `real_train` share {len(shared)} cell names, for example {shared[0]!r}. "
            "If these are the same cells, the floor is too low."
        )
