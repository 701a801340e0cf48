"""All metrics of several predictions, beside no change and a ceiling."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from scldm.metrics._checks import as_dense
from scldm.metrics._energy import energy_distance
from scldm.metrics._mmd import mmd2
from scldm.metrics.perturbation._changes import (
    cosine_delta,
    pearson_delta,
    r2_delta,
    variance_ratio,
    weighted_mse,
    weighted_r2,
    zero_fraction_gap,
)
from scldm.metrics.perturbation._genes import TOP, de_genes, de_overlap

__all__ = ["compare"]

Array = NDArray[np.float64]


def compare(
    true: ArrayLike,
    predicted: Mapping[str, ArrayLike],
    control: ArrayLike,
    *,
    components: ArrayLike | None = None,
    centroid: ArrayLike | None = None,
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
    centroid
        Cells of all perturbations that a model could learn from, for a row ``"mean"`` that predicts their mean,
        and for ``pearson_centroid``: the correlation of changes from that mean, which does not reward what
        all perturbations share (Systema, see :func:`pearson_delta`); both left out by default.
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
        If there are too few true cells, or a method has the name of another row.
    """
    truth, unperturbed = as_dense(true), as_dense(control)
    perturbed = None if centroid is None else as_dense(centroid)
    own = {"no change", "ceiling"} if perturbed is None else {"no change", "mean", "ceiling"}
    reserved = sorted(own & set(predicted))
    if reserved:
        raise ValueError(f"`predicted` has {reserved}, which are rows of the table. Rename them.")
    if len(truth) < 4:
        raise ValueError(f"`true` has {len(truth)} cells, and two halves need four.")
    sources = {"no change": unperturbed}
    if perturbed is not None:
        sources["mean"] = np.tile(perturbed.mean(axis=0), (len(truth), 1))
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
            "weighted_r2": weighted_r2(target, cells, unperturbed),
            "de_overlap": de_overlap(target, cells, unperturbed, n_top),
            "energy": energy_distance(few, some),
            "mmd2": mmd2(few, some),
            "variance_ratio": variance_ratio(target, cells),
            "zero_fraction_gap": zero_fraction_gap(target, cells),
        }
        if basis is not None:
            found["energy_pcs"] = energy_distance(few @ basis, some @ basis)
        if perturbed is not None:
            found["pearson_centroid"] = pearson_delta(target, cells, perturbed)
        return found

    rows = {
        name: pd.DataFrame([scores(one, cells), scores(two, cells)]).mean()
        for name, cells in sources.items()
    }
    rows["ceiling"] = pd.DataFrame([scores(one, two), scores(two, one)]).mean()
    return pd.DataFrame(rows).T


def _draw(cells: Array, n: int, seed: tuple[int, int]) -> Array:
    return cells[np.random.default_rng(seed).permutation(len(cells))[:n]]
