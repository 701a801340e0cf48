"""How close generated cells come to real ones.

Functions take arrays (cells by genes, or cells by components) and return a number, so they work on
the output of any generator. :func:`evaluate` takes AnnData and puts them in one table, with a row
of real cells against real cells to read it by.
"""

from scldm.metrics._cells import cell_zeros, cell_zeros_w1, library_size_w1, library_sizes
from scldm.metrics._classifier import classifier_auc
from scldm.metrics._energy import energy_distance
from scldm.metrics._evaluate import evaluate
from scldm.metrics._genes import (
    GeneMoments,
    gene_mean_rmse,
    gene_moments,
    gene_variance_rmse,
    gene_zeros_rmse,
)
from scldm.metrics._labels import LabelFidelity
from scldm.metrics._mmd import median_heuristic, mmd2
from scldm.metrics._neighbours import Manifold, precision_recall
from scldm.metrics._projection import Projection
from scldm.metrics._wasserstein import wasserstein2

__all__ = [
    "GeneMoments",
    "LabelFidelity",
    "Manifold",
    "Projection",
    "cell_zeros",
    "cell_zeros_w1",
    "classifier_auc",
    "energy_distance",
    "evaluate",
    "gene_mean_rmse",
    "gene_moments",
    "gene_variance_rmse",
    "gene_zeros_rmse",
    "library_size_w1",
    "library_sizes",
    "median_heuristic",
    "mmd2",
    "precision_recall",
    "wasserstein2",
]
