"""How close predicted perturbed cells come to true ones: means on the one side, cells on the other.

Point metrics compare the mean of predicted cells with the mean of true ones, as differences from
control cells; a model that predicts the right mean and no spread wins on them. Distances between
samples of cells see the rest. A prediction has to be good at both, so :func:`compare` computes both,
beside what no change, and what one half of the true cells against the other, would have.

All functions take log-normalised cells of shape (n_cells, n_genes).
"""

from scldm.metrics.perturbation._changes import (
    cosine_delta,
    pearson_delta,
    r2_delta,
    variance_ratio,
    weighted_mse,
    weighted_r2,
    zero_fraction_gap,
)
from scldm.metrics.perturbation._compare import compare
from scldm.metrics.perturbation._discrimination import (
    Discrimination,
    compare_discrimination,
    discrimination,
)
from scldm.metrics.perturbation._genes import de_genes, de_overlap, differential_expression
from scldm.metrics.perturbation._synergy import Synergy, synergy

__all__ = [
    "Discrimination",
    "Synergy",
    "compare",
    "compare_discrimination",
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
    "weighted_r2",
    "zero_fraction_gap",
]
