"""The metrics of one sample of cells against a reference, in one row."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scldm.metrics._cells import cell_zeros_w1, library_size_w1
from scldm.metrics._classifier import classifier_auc
from scldm.metrics._energy import energy_distance
from scldm.metrics._genes import gene_mean_rmse, gene_variance_rmse, gene_zeros_rmse
from scldm.metrics._mmd import mmd2
from scldm.metrics._projection import Projection
from scldm.metrics._wasserstein import wasserstein2

__all__ = ["METRICS", "Cells", "Options", "row"]


class Cells(NamedTuple):
    """One sample in the three forms that metrics ask for."""

    counts: sparse.csr_matrix
    """Shape (n_cells, n_genes)."""
    genes: NDArray[np.float32]
    """Log-normalised expression, shape (n_cells, n_genes)."""
    pcs: NDArray[np.float32]
    """Principal component scores, shape (n_cells, n_pcs)."""

    @classmethod
    def of(cls, counts: sparse.csr_matrix, projection: Projection) -> "Cells":
        """The three forms of some counts.

        Parameters
        ----------
        counts
            Counts of shape (n_cells, n_genes).
        projection
            Fitted on other cells.
        """
        return cls(counts, projection.log_normalize(counts), projection.transform(counts))


class Options(NamedTuple):
    """What the metrics that draw random numbers need to know."""

    seed: int
    n_jobs: int | None


METRICS: Mapping[str, Callable[[Cells, Cells, Options], float]] = {
    "auc_genes": lambda real, other, opt: classifier_auc(
        real.genes, other.genes, seed=opt.seed, n_jobs=opt.n_jobs
    ),
    "auc_pcs": lambda real, other, opt: classifier_auc(
        real.pcs, other.pcs, seed=opt.seed, n_jobs=opt.n_jobs
    ),
    "w2": lambda real, other, opt: wasserstein2(real.pcs, other.pcs),
    "energy": lambda real, other, opt: energy_distance(real.pcs, other.pcs),
    "mmd2": lambda real, other, opt: mmd2(real.pcs, other.pcs),
    "library_size_w1": lambda real, other, opt: library_size_w1(real.counts, other.counts),
    "cell_zeros_w1": lambda real, other, opt: cell_zeros_w1(real.counts, other.counts),
    "gene_mean_rmse": lambda real, other, opt: gene_mean_rmse(real.counts, other.counts),
    "gene_variance_rmse": lambda real, other, opt: gene_variance_rmse(real.counts, other.counts),
    "gene_zeros_rmse": lambda real, other, opt: gene_zeros_rmse(real.counts, other.counts),
}
"""Columns of the table, each with its function of (reference, sample, options)."""


def row(real: Cells, other: Cells, options: Options) -> dict[str, float]:
    """All of :data:`METRICS` for one sample against the reference.

    Parameters
    ----------
    real
        The reference.
    other
        The sample, of the same number of cells.
    options
        Seed and threads.
    """
    return {name: metric(real, other, options) for name, metric in METRICS.items()}
