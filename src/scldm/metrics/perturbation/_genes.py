"""Genes that a perturbation changes, by Welch's t-test."""

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import sparse, stats

from scldm.metrics._checks import as_dense, as_points

__all__ = ["TOP", "de_genes", "de_overlap", "differential_expression", "welch"]

Array = NDArray[np.float64]
TOP = 100


def de_genes(perturbed: ArrayLike, control: ArrayLike, n_genes: int = TOP) -> NDArray[np.intp]:
    """Genes that differ most between perturbed and control cells, by the size of Welch's t.

    A standard error below 0.01 is taken for that, as constants have none. With many thousands of cells
    that is most genes', and the order becomes that of differences of means.

    Parameters
    ----------
    perturbed, control
        Cells, shape (n, n_genes) and (m, n_genes).
    n_genes
        How many, the strongest first.

    Raises
    ------
    ValueError
        If a side has less than two cells, or values that are not finite.
    """
    t = welch(as_dense(perturbed), as_dense(control))
    return np.argsort(-np.abs(t), kind="stable")[:n_genes]


def differential_expression(
    perturbed: ArrayLike,
    control: ArrayLike,
    genes: Sequence[str] | None = None,
    *,
    source: ArrayLike | None = None,
    control_source: ArrayLike | None = None,
) -> pd.DataFrame:
    """Which genes a perturbation changes, by a t-test on log-normalised cells.

    Two samples of measured cells are independent, which Welch's test takes them for. Predicted cells come
    as many as one asks for, and from the cells that they are compared with: give ``source``, and each
    control cell counts once, by the difference of the means of what was made of it. Where nothing
    changes, such p-values are uniform; small ones say that the model predicts a change, not that the
    model is right. Compare with control cells predicted likewise, so that what the model smooths away
    is missing on both sides.

    Parameters
    ----------
    perturbed, control
        Cells, shape (n, n_genes) and (m, n_genes), true or predicted.
    genes
        Names of the genes, the index of the result.
    source
        The control cell that each perturbed cell was made of, ``obs["source_cell"]`` of a prediction.
    control_source
        The same for the cells in ``control``; by default in the order of ``source``.

    Returns
    -------
    A row for each gene, the surest first: ``mean_control`` and ``mean_perturbed``, their difference
    ``log_fold_change`` (natural logarithms), ``t``, ``p_value`` (two-sided) and ``q_value``
    (Benjamini and Hochberg 1995).

    Raises
    ------
    ValueError
        If a sample has less than two cells, numbers of genes differ, or the two sides were not made of
        the same control cells.
    """
    a, b = as_dense(perturbed), as_dense(control)
    names = range(a.shape[1]) if genes is None else genes
    if not a.shape[1] == b.shape[1] == len(names):
        raise ValueError(
            f"`perturbed` has {a.shape[1]} genes, `control` {b.shape[1]} and `genes` {len(names)}."
        )
    if source is not None:
        a, b = _paired(a, b, source, control_source)
    elif control_source is not None:
        raise ValueError("`control_source` goes with `source`, which is not given.")
    for name, cells in (("perturbed", a), ("control", b)):
        if len(cells) < 2:
            raise ValueError(f"`{name}` has {len(cells)} cells; a test needs 2 or more.")
    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        # genes without any variance have no test, and say so by NaN
        warnings.simplefilter("ignore", RuntimeWarning)
        if source is None:
            t, p = stats.ttest_ind(a, b, equal_var=False)
        else:
            t, p = stats.ttest_rel(a, b)
            # differences that are the same but for rounding have no test either
            size = np.maximum(np.abs(a), np.abs(b)).max(axis=0)
            flat = np.std(a - b, axis=0) <= 1e-9 * size
            t, p = np.where(flat, np.nan, t), np.where(flat, np.nan, p)
    p = np.where(np.isnan(p), 1.0, p)
    table = pd.DataFrame(
        {
            "mean_control": b.mean(axis=0),
            "mean_perturbed": a.mean(axis=0),
            "log_fold_change": a.mean(axis=0) - b.mean(axis=0),
            "t": np.where(np.isnan(t), 0.0, t),
            "p_value": p,
            "q_value": stats.false_discovery_control(p),
        },
        index=pd.Index(names),
    )
    # the smallest p-values are all zero
    order = np.lexsort([-table["t"].abs(), table["p_value"]])
    return table.iloc[order]


def _paired(
    a: Array, b: Array, source: ArrayLike, control_source: ArrayLike | None
) -> tuple[Array, Array]:
    """Return the means of what was made of each control cell, on both sides."""
    if control_source is None and len(a) != len(b):
        raise ValueError(
            f"`control_source` is needed: `perturbed` has {len(a)} cells and `control` {len(b)}."
        )
    sides = []
    other = source if control_source is None else control_source
    for name, cells, given in (("source", a, source), ("control_source", b, other)):
        names = np.asarray(given)
        if names.shape != (len(cells),) or pd.isna(names).any():
            raise ValueError(
                f"`{name}` has shape {names.shape} and {int(pd.isna(names).sum())} missing values, but "
                f"must name a control cell for each of {len(cells)} cells."
            )
        sides.append(names.astype(str))
    known, at = np.unique(sides[0], return_inverse=True)
    if not np.array_equal(known, np.unique(sides[1])):
        raise ValueError("`source` and `control_source` must name the same control cells.")
    of_b = np.searchsorted(known, sides[1])
    means = []
    for cells, places in ((a, at), (b, of_b)):
        share = 1 / np.bincount(places)[places]
        made_of = sparse.csr_matrix(
            (share, (places, np.arange(len(places)))), (len(known), len(places))
        )
        means.append(made_of @ cells)
    return means[0], means[1]


def de_overlap(
    true: ArrayLike, predicted: ArrayLike, control: ArrayLike, n_genes: int = TOP
) -> float:
    """Share of the strongest genes, with their direction, that prediction and truth have in common.

    Parameters
    ----------
    true, predicted, control
        Cells.
    n_genes
        How many genes.

    Raises
    ------
    ValueError
        As :func:`de_genes` does.
    """
    signed, n_genes = [], min(n_genes, np.shape(control)[1])
    for cells in (true, predicted):
        t = welch(as_dense(cells), as_dense(control))
        genes = np.argsort(-np.abs(t), kind="stable")[:n_genes]
        signed.append(set(zip(genes.tolist(), np.sign(t[genes]).tolist(), strict=True)))
    return len(signed[0] & signed[1]) / n_genes


def welch(a: Array, b: Array) -> Array:
    """Welch's t of each gene; a standard error below 0.01, as of constants, is taken for that."""
    a, b = as_points(a, b)
    error = np.sqrt(a.var(axis=0, ddof=1) / len(a) + b.var(axis=0, ddof=1) / len(b))
    return (a.mean(axis=0) - b.mean(axis=0)) / np.maximum(error, 0.01)
