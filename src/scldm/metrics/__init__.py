"""How close generated cells come to real ones.

Functions take arrays (cells by genes, or cells by components) and return a number, so they work on
the output of any generator. :func:`evaluate` takes AnnData and puts them in one table, with a row
of real cells against real cells to read it by. :mod:`scldm.metrics.perturbation` is for predictions
of perturbed cells, :mod:`scldm.metrics.translation` for one modality predicted from another,
:mod:`scldm.metrics.spatial` for expression predicted in tissue.
"""

from scldm.metrics import perturbation, spatial, translation
from scldm.metrics._cells import cell_zeros, cell_zeros_w1, library_size_w1, library_sizes
from scldm.metrics._classifier import classifier_auc
from scldm.metrics._energy import energy_distance
from scldm.metrics._evaluate import evaluate, side_by_side
from scldm.metrics._frechet import frechet_distance
from scldm.metrics._genes import (
    GeneMoments,
    gene_correlation_rmse,
    gene_mean_rmse,
    gene_moments,
    gene_variance_rmse,
    gene_zeros_rmse,
    mean_variance_gap,
)
from scldm.metrics._labels import LabelFidelity
from scldm.metrics._markers import marker_overlap
from scldm.metrics._memory import Memory, memorisation
from scldm.metrics._mmd import median_heuristic, mmd2
from scldm.metrics._neighbours import Manifold, lisi, one_nn_accuracy, precision_recall
from scldm.metrics._projection import Projection
from scldm.metrics._usefulness import Augmentation, BatchMixing, augmentation, batch_mixing
from scldm.metrics._wasserstein import gene_w1, sliced_wasserstein2, wasserstein2

__all__ = [
    "Augmentation",
    "BatchMixing",
    "GeneMoments",
    "LabelFidelity",
    "Manifold",
    "Memory",
    "Projection",
    "augmentation",
    "batch_mixing",
    "cell_zeros",
    "cell_zeros_w1",
    "classifier_auc",
    "energy_distance",
    "evaluate",
    "frechet_distance",
    "gene_correlation_rmse",
    "gene_mean_rmse",
    "gene_moments",
    "gene_variance_rmse",
    "gene_w1",
    "gene_zeros_rmse",
    "library_size_w1",
    "library_sizes",
    "lisi",
    "marker_overlap",
    "mean_variance_gap",
    "median_heuristic",
    "memorisation",
    "mmd2",
    "one_nn_accuracy",
    "perturbation",
    "translation",
    "precision_recall",
    "side_by_side",
    "sliced_wasserstein2",
    "spatial",
    "wasserstein2",
]
