"""The table of :func:`scldm.metrics.evaluate`, as figures and the report read it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from scldm.pl._checks import require_columns, require_known

__all__ = ["ALL", "BETTER", "FLOOR", "Reading", "chosen", "judged", "reading", "require_scores"]

FLOOR = "floor"
ALL = "all"
COLUMNS = ("source", "group", "metric", "value", "low", "high", "better")
JUDGED = (*COLUMNS, "gap", "gap_low", "gap_high")

BETTER: Mapping[str, str] = {
    "lower": "lower is better",
    "higher": "higher is better",
    "floor": "best at the floor",
}


class Reading(NamedTuple):
    """What a metric is called in figures, and what it says."""

    label: str
    meaning: str


READINGS: Mapping[str, Reading] = {
    "w2": Reading("2-Wasserstein distance", "how far cells must move to become the real ones"),
    "sliced_w2": Reading(
        "Sliced 2-Wasserstein", "2-Wasserstein distance averaged over directions"
    ),
    "energy": Reading("Energy distance", "distances between the samples against those within"),
    "mmd2": Reading("Squared MMD", "kernel distance of the two distributions"),
    "frechet": Reading("Fréchet distance", "difference of means and covariances"),
    "auc_genes": Reading(
        "AUC on genes", "how well a random forest tells the samples apart; 0.5 is not at all"
    ),
    "auc_pcs": Reading(
        "AUC on components", "how well a random forest tells them apart by components"
    ),
    "auc_logistic": Reading("AUC, logistic", "how well a logistic regression tells them apart"),
    "one_nn_accuracy": Reading(
        "1-NN accuracy", "how often a cell's nearest neighbour is of its own sample"
    ),
    "lisi": Reading("LISI", "samples in the neighbourhood of a cell: 1 apart, 2 mixed"),
    "precision": Reading("Precision", "share of generated cells that lie among real ones"),
    "recall": Reading("Recall", "share of real cells that lie among generated ones"),
    "density": Reading("Density", "how densely real cells lie around generated ones"),
    "coverage": Reading("Coverage", "share of real cells with a generated one nearby"),
    "gene_w1": Reading(
        "Gene 1-Wasserstein", "distance between the distributions of a gene, mean over genes"
    ),
    "library_size_w1": Reading("Library size", "distance between the library sizes, in counts"),
    "cell_zeros_w1": Reading("Zeros of cells", "distance between the cells' fractions of zeros"),
    "gene_mean_rmse": Reading("Means of genes", "difference of the log10 means of genes"),
    "gene_variance_rmse": Reading(
        "Variances of genes", "difference of the log10 variances of genes"
    ),
    "gene_zeros_rmse": Reading(
        "Zeros of genes", "difference of the fractions of cells without a gene"
    ),
    "mean_variance_gap": Reading(
        "Mean-variance trend", "distance between the trends of variance with mean"
    ),
    "gene_correlation_rmse": Reading(
        "Gene correlations", "difference of the correlations between genes"
    ),
    "marker_overlap": Reading("Marker overlap", "share of a type's marker genes found again"),
    "label_f1": Reading(
        "Label F1", "how well a classifier of real cells finds the type that was asked for"
    ),
    "train_on_generated_f1": Reading(
        "F1, train on generated", "how well a classifier of these cells finds types of real ones"
    ),
    "nn_ratio": Reading(
        "Nearest-neighbour ratio",
        "distance to training cells against that to unseen ones; 1 is even",
    ),
    "near_copies": Reading(
        "Near copies", "share of cells that are closer to a training cell than unseen ones are"
    ),
    "membership_auc": Reading(
        "Membership AUC", "how well they give training cells away; 0.5 is not at all"
    ),
}


def reading(metric: str) -> Reading:
    """How to read a metric; one that is not known has its own name only."""
    return READINGS.get(metric, Reading(metric, ""))


def require_scores(table: pd.DataFrame, group: str) -> pd.DataFrame:
    """The rows of a group in a table of scores.

    Raises
    ------
    ValueError
        If it is another table or has no such group.
    """
    require_columns(table, "table", COLUMNS, "scldm.metrics.evaluate")
    known = table["group"].unique().tolist()
    if group not in known:
        raise ValueError(f"`group={group!r}` is not in the table. Known: {known}.")
    return table[table["group"] == group]


def chosen(
    name: str, wanted: Sequence[str] | None, known: Sequence[str], default: Sequence[str]
) -> list[str]:
    """Those asked for or, of the default, those that are there.

    Raises
    ------
    ValueError
        If one that was asked for is not known, or there is none.
    """
    if wanted is None:
        wanted = [value for value in default if value in known]
    elif isinstance(wanted, str):
        wanted = [wanted]
    require_known(name, wanted, known)
    return list(wanted)


def judged(table: pd.DataFrame) -> pd.DataFrame:
    """The scores of generated cells, each beside its floor and with a verdict.

    The verdict is ``"within"`` if the interval of the gap between them holds zero, else ``"beyond"``
    what real cells reach, or ``"worse"``; or empty if one of the numbers is missing.

    Parameters
    ----------
    table
        From :func:`scldm.metrics.evaluate`.

    Raises
    ------
    ValueError
        If it is another table.
    """
    require_columns(table, "table", JUDGED, "scldm.metrics.evaluate")
    is_floor = table["source"] == FLOOR
    floor = table.loc[is_floor, ["group", "metric", "value", "low", "high"]]
    rows = table[~is_floor].merge(
        floor, how="left", on=["group", "metric"], suffixes=("", "_floor")
    )
    low, high = rows["gap_high"] < 0, rows["gap_low"] > 0
    beyond = (low & (rows["better"] == "lower")) | (high & (rows["better"] == "higher"))
    verdict = np.select([beyond, low | high], ["beyond", "worse"], "within")
    known = rows[["gap_low", "gap_high"]].notna().all(axis=1)
    return rows.assign(verdict=np.where(known, verdict, ""))
