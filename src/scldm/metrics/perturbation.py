"""How close predicted perturbed cells come to true ones: means on the one side, cells on the other.

Point metrics compare the mean of predicted cells with the mean of true ones, as differences from
control cells; a model that predicts the right mean and no spread wins on them. Distances between
samples of cells see the rest. A prediction has to be good at both, so :func:`compare` computes both,
beside what no change, and what one half of the true cells against the other, would have.

All functions take log-normalised cells of shape (n_cells, n_genes).
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.spatial.distance import cdist

from scldm.metrics._checks import as_dense
from scldm.metrics._energy import energy_distance
from scldm.metrics._mmd import mmd2

__all__ = [
    "Discrimination",
    "compare",
    "cosine_delta",
    "de_genes",
    "de_overlap",
    "differential_expression",
    "discrimination",
    "pearson_delta",
    "r2_delta",
    "synergy",
    "variance_ratio",
    "weighted_mse",
    "zero_fraction_gap",
]

Array = NDArray[np.float64]
TOP = 100


def de_genes(perturbed: ArrayLike, control: ArrayLike, n_genes: int = TOP) -> NDArray[np.intp]:
    """Genes that differ most between perturbed and control cells, by the size of Welch's t.

    Parameters
    ----------
    perturbed, control
        Cells, shape (n, n_genes) and (m, n_genes).
    n_genes
        How many, the strongest first.
    """
    t = _welch(as_dense(perturbed), as_dense(control))
    return np.argsort(-np.abs(t), kind="stable")[:n_genes]


def differential_expression(
    perturbed: ArrayLike, control: ArrayLike, genes: Sequence[str] | None = None
) -> pd.DataFrame:
    """Which genes a perturbation changes, by Welch's t-test on log-normalised cells.

    Between two independent samples of measured cells the p-values are what they say. For predicted
    cells the table ranks genes, and no more: they come as many as one asks for, from cells that may be
    those they are compared with, and all share the model's errors. Compare them with control cells
    predicted likewise, so that what the model smooths away is missing on both sides.

    Parameters
    ----------
    perturbed, control
        Cells, shape (n, n_genes) and (m, n_genes), true or predicted.
    genes
        Names of the genes, the index of the result.

    Returns
    -------
    A row for each gene, the surest first: ``mean_control`` and ``mean_perturbed``, their difference
    ``log_fold_change`` (natural logarithms), ``t``, ``p_value`` (two-sided) and ``q_value``
    (Benjamini and Hochberg 1995).

    Raises
    ------
    ValueError
        If a sample has less than two cells, or numbers of genes differ.
    """
    a, b = as_dense(perturbed), as_dense(control)
    names = range(a.shape[1]) if genes is None else genes
    if not a.shape[1] == b.shape[1] == len(names):
        raise ValueError(
            f"`perturbed` has {a.shape[1]} genes, `control` {b.shape[1]} and `genes` {len(names)}."
        )
    for name, cells in (("perturbed", a), ("control", b)):
        if len(cells) < 2:
            raise ValueError(f"`{name}` has {len(cells)} cells; a test needs 2 or more.")
    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        # genes without any variance have no test, and say so by NaN
        warnings.simplefilter("ignore", RuntimeWarning)
        t, p = stats.ttest_ind(a, b, equal_var=False)
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


def pearson_delta(
    true: ArrayLike,
    predicted: ArrayLike,
    control: ArrayLike,
    genes: Sequence[int] | NDArray[np.intp] | None = None,
) -> float:
    r"""Pearson correlation over genes of predicted and true changes of the mean.

    .. math:: \operatorname{corr}(\bar p - \bar c,\; \bar t - \bar c)

    Parameters
    ----------
    true, predicted, control
        Cells. Against the mean of all perturbed cells in the place of ``control``, this is
        Systema's version, which does not reward what all perturbations share.
    genes
        Which genes; all by default.

    Returns
    -------
    From -1 to 1; not a number if nothing changes.

    References
    ----------
    Viñas Torné et al. (2025). Systema: a framework for evaluating genetic perturbation response
    prediction beyond systematic variation. Nature Biotechnology.
    """
    a, b = (change[_all(genes)] for change in _changes(true, predicted, control))
    a, b = a - a.mean(), b - b.mean()
    return _cosine(a, b)


def cosine_delta(true: ArrayLike, predicted: ArrayLike, control: ArrayLike) -> float:
    """Cosine of predicted and true changes of the mean log expression.

    Parameters
    ----------
    true, predicted, control
        Cells.

    Returns
    -------
    From -1 to 1; not a number if nothing changes.
    """
    return _cosine(*_changes(true, predicted, control))


def r2_delta(true: ArrayLike, predicted: ArrayLike, control: ArrayLike) -> float:
    r"""Share of the true change that is predicted.

    .. math:: R^2 = 1 - \frac{\lVert \bar p - \bar t \rVert^2}{\lVert \bar t - \bar c \rVert^2}

    No change has 0; below zero is worse than that.

    Parameters
    ----------
    true, predicted, control
        Cells.
    """
    a, b = _changes(true, predicted, control)
    return float(1 - ((a - b) ** 2).sum() / (a**2).sum())


def weighted_mse(true: ArrayLike, predicted: ArrayLike, control: ArrayLike) -> float:
    r"""Mean squared error of the means, each gene weighted by how surely it changes.

    .. math:: \sum_g w_g (\bar p_g - \bar t_g)^2, \qquad w_g \propto t_g^2,\; \sum_g w_g = 1

    with Welch's :math:`t_g` of true against control cells (after Mejia et al., without their scaling
    of t to its range).

    Parameters
    ----------
    true, predicted, control
        Cells.

    References
    ----------
    Mejia et al. (2025). Diversity by design: addressing mode collapse improves scRNA-seq
    perturbation modeling on well-calibrated metrics. arXiv:2506.22641.
    """
    a, b = _changes(true, predicted, control)
    weights = _welch(as_dense(true), as_dense(control)) ** 2
    return float(weights @ (a - b) ** 2 / weights.sum())


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
    """
    signed, n_genes = [], min(n_genes, np.shape(control)[1])
    for cells in (true, predicted):
        t = _welch(as_dense(cells), as_dense(control))
        genes = np.argsort(-np.abs(t), kind="stable")[:n_genes]
        signed.append(set(zip(genes.tolist(), np.sign(t[genes]).tolist(), strict=True)))
    return len(signed[0] & signed[1]) / n_genes


def variance_ratio(true: ArrayLike, predicted: ArrayLike) -> float:
    """Total variance over genes of predicted cells, divided by that of true ones.

    Means have 0; 1 is right.

    Parameters
    ----------
    true, predicted
        Cells.
    """
    spread = [as_dense(cells).var(axis=0, ddof=1).sum() for cells in (predicted, true)]
    return float(spread[0] / spread[1])


def zero_fraction_gap(true: ArrayLike, predicted: ArrayLike) -> float:
    """Share of zeros in predicted cells less that in true ones.

    Parameters
    ----------
    true, predicted
        Cells.
    """
    return float((as_dense(predicted) == 0).mean() - (as_dense(true) == 0).mean())


class Synergy(NamedTuple):
    """What :func:`synergy` returns."""

    factor: float
    """The multiple of the sum of both changes that comes nearest to the joint change; 1 if additive."""
    share: float
    """The part of the squared joint change that no multiple of the sum explains; 0 if additive."""


def synergy(both: ArrayLike, one: ArrayLike, other: ArrayLike, control: ArrayLike) -> Synergy:
    r"""How far the change by two perturbations together is from the sum of their changes.

    With changes of the mean :math:`\delta` and :math:`s = \delta_1 + \delta_2`,

    .. math:: f = \frac{\langle \delta_{12}, s \rangle}{\lVert s \rVert^2}, \qquad
        1 - \frac{\langle \delta_{12}, s \rangle^2}{\lVert s \rVert^2 \lVert \delta_{12} \rVert^2}.

    Products are rid of what the sampling of cells adds to them (the control cells, which stand in all
    changes, add to every one), so that few cells do not look like synergy; for weak changes the share
    may lie outside 0 to 1.

    Parameters
    ----------
    both, one, other, control
        Cells under both perturbations, under each, and under none.

    Returns
    -------
    Not a number where nothing changes beyond noise.

    Raises
    ------
    ValueError
        If a sample has less than two cells.

    References
    ----------
    Norman et al. (2019). Exploring genetic interaction manifolds constructed from rich single-cell
    phenotypes. Science 365:786 (changes of two as multiples of the changes of one).
    """
    samples = [as_dense(cells) for cells in (both, one, other, control)]
    names = ("both", "one", "other", "control")
    for name, cells in zip(names, samples, strict=True):
        if len(cells) < 2:
            raise ValueError(f"`{name}` has {len(cells)} cells; 2 or more are needed.")
    means = [cells.mean(axis=0) for cells in samples]
    noise = [cells.var(axis=0, ddof=1).sum() / len(cells) for cells in samples]
    joint = means[0] - means[3]
    total = means[1] + means[2] - 2 * means[3]
    product = joint @ total - 2 * noise[3]
    squared = total @ total - noise[1] - noise[2] - 4 * noise[3]
    joint_squared = joint @ joint - noise[0] - noise[3]
    if squared <= 0 or joint_squared <= 0:
        return Synergy(float("nan"), float("nan"))
    return Synergy(float(product / squared), float(1 - product**2 / (squared * joint_squared)))


class Discrimination(NamedTuple):
    """What :func:`discrimination` returns; each between 0 and 1."""

    rank: float
    """0 is best, 0.5 is chance."""
    score: float
    """1 is best, 0.5 is chance."""


def discrimination(
    true: Mapping[str, ArrayLike], predicted: Mapping[str, ArrayLike]
) -> Discrimination:
    """Whether a prediction is nearer to its own perturbation than to others.

    For each perturbation, the share of other perturbations whose true mean is nearer to the
    predicted mean than its own is. The *rank* takes Euclidean distances (after PerturBench), the
    *score* is one less the share by Manhattan distances (after the discrimination score of the
    Virtual Cell Challenge; here ties count half and no gene is left out). A model that predicts the same for all has 0.5.

    Parameters
    ----------
    true, predicted
        Cells by perturbation; every predicted one needs true cells.

    Raises
    ------
    ValueError
        If a predicted perturbation has no true cells, or there are less than two perturbations.

    References
    ----------
    Wu et al. (2024). PerturBench: benchmarking machine learning models for cellular perturbation
    analysis. arXiv:2408.10609.

    Roohani et al. (2025). Virtual Cell Challenge: toward a Turing test for the virtual cell. Cell.
    """
    missing = sorted(set(predicted) - set(true))
    if missing:
        raise ValueError(f"`predicted` has {missing}, of which `true` has no cells.")
    if not predicted:
        raise ValueError("`predicted` is empty.")
    if len(true) < 2:
        raise ValueError("`true` has one perturbation only, and nothing to tell it from.")
    names = list(true)
    truth = np.stack([as_dense(true[name]).mean(axis=0) for name in names])
    guess = np.stack([as_dense(cells).mean(axis=0) for cells in predicted.values()])
    own = [names.index(name) for name in predicted]
    shares = []
    for metric in ("euclidean", "cityblock"):
        distance = cdist(guess, truth, metric=metric)
        right = distance[np.arange(len(own)), own][:, None]
        others = np.arange(len(names)) != np.array(own)[:, None]
        # others as near as one's own count half, so that a constant prediction has 0.5
        nearer = (distance < right) + 0.5 * (distance == right)
        shares.append((nearer * others).sum(axis=1).mean() / (len(names) - 1))
    return Discrimination(float(shares[0]), float(1 - shares[1]))


def compare(
    true: ArrayLike,
    predicted: Mapping[str, ArrayLike],
    control: ArrayLike,
    *,
    components: ArrayLike | None = None,
    n_top: int = TOP,
    seed: int = 0,
) -> pd.DataFrame:
    """Predictions of one perturbation by several methods, beside no change and the ceiling.

    The true cells are cut into halves. Every method is compared with either half, and the table has
    the mean; the ceiling is what the other half has, so that it too is a prediction of unseen cells.

    Parameters
    ----------
    true
        True perturbed cells, log-normalised, shape (n, n_genes), at least four.
    predicted
        Predicted cells by method. Means are taken of them where means are compared.
    control
        Control cells of the same context.
    components
        Directions of shape (n_genes, d), for example principal components of other cells, for
        ``energy_pcs``; left out by default.
    n_top
        Number of differentially expressed genes.
    seed
        Seed of the cut into halves and of the draws.

    Returns
    -------
    A row for each method, and ``"no change"`` (the control cells) and ``"ceiling"`` (the other half of
    the true cells). Distances are taken between samples of one size: half of the true cells, or the
    fewest predicted ones.

    Raises
    ------
    ValueError
        If there are too few true cells, or a method has one of the two reserved names.
    """
    truth, unperturbed = as_dense(true), as_dense(control)
    reserved = sorted({"no change", "ceiling"} & set(predicted))
    if reserved:
        raise ValueError(f"`predicted` has {reserved}, which are rows of the table. Rename them.")
    if len(truth) < 4:
        raise ValueError(f"`true` has {len(truth)} cells, and two halves need four.")
    sources = {"no change": unperturbed}
    sources |= {name: as_dense(cells) for name, cells in predicted.items()}
    halves = np.array_split(np.random.default_rng(seed).permutation(len(truth)), 2)
    one, two = (truth[half] for half in halves)
    n = min(len(one), len(two), *map(len, sources.values()))
    basis = None if components is None else as_dense(components)

    def scores(target: Array, cells: Array) -> dict[str, float]:
        top = de_genes(target, unperturbed, n_top)
        few, some = _draw(target, n, (seed, 1)), _draw(cells, n, (seed, 2))
        found = {
            "pearson_delta": pearson_delta(target, cells, unperturbed),
            "pearson_delta_top": pearson_delta(target, cells, unperturbed, top),
            "cosine_delta": cosine_delta(target, cells, unperturbed),
            "r2_delta": r2_delta(target, cells, unperturbed),
            "weighted_mse": weighted_mse(target, cells, unperturbed),
            "de_overlap": de_overlap(target, cells, unperturbed, n_top),
            "energy": energy_distance(few, some),
            "mmd2": mmd2(few, some),
            "variance_ratio": variance_ratio(target, cells),
            "zero_fraction_gap": zero_fraction_gap(target, cells),
        }
        if basis is not None:
            found["energy_pcs"] = energy_distance(few @ basis, some @ basis)
        return found

    rows = {
        name: pd.DataFrame([scores(one, cells), scores(two, cells)]).mean()
        for name, cells in sources.items()
    }
    rows["ceiling"] = pd.DataFrame([scores(one, two), scores(two, one)]).mean()
    return pd.DataFrame(rows).T


def _draw(cells: Array, n: int, seed: tuple[int, int]) -> Array:
    return cells[np.random.default_rng(seed).permutation(len(cells))[:n]]


def _all(genes: Sequence[int] | NDArray[np.intp] | None) -> slice | NDArray[np.intp]:
    return slice(None) if genes is None else np.asarray(genes)


def _changes(true: ArrayLike, predicted: ArrayLike, control: ArrayLike) -> tuple[Array, Array]:
    start = as_dense(control).mean(axis=0)
    return tuple(as_dense(cells).mean(axis=0) - start for cells in (true, predicted))


def _cosine(a: Array, b: Array) -> float:
    length = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / length) if length > 1e-12 else float("nan")


def _welch(a: Array, b: Array) -> Array:
    """Welch's t of each gene; a standard error below 0.01, as of constants, is taken for that."""
    error = np.sqrt(a.var(axis=0, ddof=1) / len(a) + b.var(axis=0, ddof=1) / len(b))
    return (a.mean(axis=0) - b.mean(axis=0)) / np.maximum(error, 0.01)
