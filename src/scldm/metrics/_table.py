"""The metrics of :func:`~scldm.metrics.evaluate`: what each compares, and how to read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scldm.metrics._cells import cell_zeros, library_sizes, wasserstein1_statistic
from scldm.metrics._classifier import classifier_statistic
from scldm.metrics._energy import energy_statistic
from scldm.metrics._frechet import frechet_statistic
from scldm.metrics._genes import gene_correlation_statistic, gene_moments_statistics
from scldm.metrics._labels import LabelFidelity, macro_f1
from scldm.metrics._markers import marker_overlap_statistic
from scldm.metrics._memory import memory_statistics
from scldm.metrics._mmd import mmd2_statistic
from scldm.metrics._neighbours import (
    manifold_statistics,
    one_nn_statistic,
    source_lisi_statistic,
)
from scldm.metrics._projection import Projection
from scldm.metrics._statistic import NotApplicable, Statistic
from scldm.metrics._wasserstein import (
    gene_w1_statistic,
    sliced_wasserstein2_statistic,
    wasserstein2_statistic,
)

__all__ = ["METRICS", "Cells", "Comparison", "Metric", "Reference"]


@dataclass(frozen=True)
class Cells:
    """One sample in the forms that metrics ask for."""

    counts: sparse.csr_matrix
    """Shape (n_cells, n_genes)."""
    log: sparse.csr_matrix
    """Log-normalised expression, shape (n_cells, n_genes)."""
    pcs: NDArray[np.float32]
    """Principal component scores, shape (n_cells, n_pcs)."""
    labels: NDArray[np.str_]
    """The type of each cell; one for all if types are not compared."""

    @classmethod
    def of(
        cls, counts: sparse.csr_matrix, projection: Projection, labels: NDArray[np.str_]
    ) -> Cells:
        """The forms of some counts.

        Parameters
        ----------
        counts
            Counts of shape (n_cells, n_genes).
        projection
            Fitted on other cells.
        labels
            The type of each cell.
        """
        log = projection.log_normalize_sparse(counts)
        return cls(counts, log, projection.transform(counts), labels)

    def __getitem__(self, rows: NDArray[np.intp]) -> Cells:
        """Some of the cells."""
        return Cells(self.counts[rows], self.log[rows], self.pcs[rows], self.labels[rows])

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self.counts.shape[0]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The real cells of a comparison, all apart from each other."""

    PARTS: ClassVar[tuple[str, ...]] = ("test", "seen", "fresh")

    test: Cells
    """Cells that samples are compared with."""
    seen: Cells
    """Training cells; they take the place of generated ones in the floor."""
    fresh: Cells
    """Training cells that fitted the projection and stand on neither side."""
    projection: Projection
    classifier: LabelFidelity | None
    """Learned the types from all training cells."""
    seed: int
    n_jobs: int | None


class Comparison:
    """One sample against the reference; what several metrics need is computed once.

    Parameters
    ----------
    reference
        The real cells.
    cells
        The sample.
    """

    def __init__(self, reference: Reference, cells: Cells) -> None:
        self.reference = reference
        self.test = reference.test
        self.cells = cells
        self.seed = reference.seed

    @cached_property
    def manifold(self) -> Mapping[str, Statistic]:
        """Precision, recall, density and coverage."""
        return manifold_statistics(self.test.pcs, self.cells.pcs)

    @cached_property
    def moments(self) -> Mapping[str, Statistic]:
        """Agreement of the moments of genes."""
        return gene_moments_statistics(self.test.counts, self.cells.counts)

    @cached_property
    def memory(self) -> Mapping[str, Statistic]:
        """Distances to training cells against distances to test cells."""
        return memory_statistics(self.cells.pcs, self.reference.seen.pcs, self.test.pcs)

    def auc(self, space: str, judge: ClassifierMixin | None = None) -> Statistic:
        """A classifier in one of the forms of the cells."""
        sides = [getattr(side, space) for side in (self.test, self.cells)]
        real, other = (x.toarray() if sparse.issparse(x) else x for x in sides)
        n_jobs = self.reference.n_jobs
        return classifier_statistic(real, other, judge, seed=self.seed, n_jobs=n_jobs)

    def label_f1(self) -> Statistic:
        """Real training cells teach the types, and the sample is judged."""
        classifier = self.reference.classifier
        if classifier is None:
            raise NotApplicable("there is one label only, and nothing to tell apart")
        known = np.isin(self.cells.labels, classifier.labels_)
        if not known.any():
            raise NotApplicable("no training cell has one of the labels")
        truth, predicted = self.cells.labels[known], classifier.predict(self.cells.pcs[known])
        return lambda w, v: macro_f1(truth, predicted, v[:, known])

    def train_on_generated_f1(self) -> Statistic:
        """The sample teaches the types, and real test cells are judged."""
        if len(set(self.cells.labels.tolist())) < 2:
            raise NotApplicable("cells of one label teach nothing")
        learner = LabelFidelity(seed=self.seed)
        predicted = learner.fit(self.cells.pcs, self.cells.labels).predict(self.test.pcs)
        return lambda w, v: macro_f1(self.test.labels, predicted, w)


class Metric(NamedTuple):
    """A row of the table."""

    statistic: Callable[[Comparison], Statistic]
    better: str = "lower"
    """``"lower"``, ``"higher"``, or ``"floor"`` where the value of real cells is the best."""
    floor: str = "seen"
    """Which cells of the reference take the place of generated ones. Where the test cells do, a
    value does not depend on the number of cells, and all generated cells are taken."""
    needs_labels: bool = False
    needs_train: bool = False
    """Whether the training cells must be known."""
    per_group: bool = False
    """Whether it is computed for each type too."""
    bounds: tuple[float, float] = (0.0, np.inf)
    """The least and the greatest value there can be."""


def _of(part: str, name: str) -> Callable[[Comparison], Statistic]:
    return lambda c: getattr(c, part)[name]


SHARE = (0.0, 1.0)
UNBOUNDED = (-np.inf, np.inf)
LOGISTIC = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))

METRICS: Mapping[str, Metric] = {
    "w2": Metric(lambda c: wasserstein2_statistic(c.test.pcs, c.cells.pcs), per_group=True),
    "sliced_w2": Metric(
        lambda c: sliced_wasserstein2_statistic(c.test.pcs, c.cells.pcs, seed=c.seed)
    ),
    "energy": Metric(
        lambda c: energy_statistic(c.test.pcs, c.cells.pcs), per_group=True, bounds=UNBOUNDED
    ),
    "mmd2": Metric(
        lambda c: mmd2_statistic(c.test.pcs, c.cells.pcs), per_group=True, bounds=UNBOUNDED
    ),
    "frechet": Metric(lambda c: frechet_statistic(c.test.pcs, c.cells.pcs)),
    "auc_genes": Metric(lambda c: c.auc("log"), "floor", bounds=SHARE),
    "auc_pcs": Metric(lambda c: c.auc("pcs"), "floor", bounds=SHARE),
    "auc_logistic": Metric(lambda c: c.auc("pcs", LOGISTIC), "floor", bounds=SHARE),
    "one_nn_accuracy": Metric(
        lambda c: one_nn_statistic(c.test.pcs, c.cells.pcs), "floor", bounds=SHARE
    ),
    "lisi": Metric(
        lambda c: source_lisi_statistic(c.test.pcs, c.cells.pcs), "higher", bounds=(1.0, 2.0)
    ),
    "precision": Metric(_of("manifold", "precision"), "floor", bounds=SHARE),
    "recall": Metric(_of("manifold", "recall"), "higher", bounds=SHARE),
    "density": Metric(_of("manifold", "density"), "floor"),
    "coverage": Metric(_of("manifold", "coverage"), "higher", bounds=SHARE),
    "gene_w1": Metric(lambda c: gene_w1_statistic(c.test.log, c.cells.log)),
    "library_size_w1": Metric(
        lambda c: wasserstein1_statistic(
            library_sizes(c.test.counts), library_sizes(c.cells.counts)
        )
    ),
    "cell_zeros_w1": Metric(
        lambda c: wasserstein1_statistic(cell_zeros(c.test.counts), cell_zeros(c.cells.counts))
    ),
    "gene_mean_rmse": Metric(_of("moments", "gene_mean_rmse"), per_group=True),
    "gene_variance_rmse": Metric(_of("moments", "gene_variance_rmse")),
    "gene_zeros_rmse": Metric(_of("moments", "gene_zeros_rmse")),
    "mean_variance_gap": Metric(_of("moments", "mean_variance_gap")),
    "gene_correlation_rmse": Metric(
        lambda c: gene_correlation_statistic(c.test.log.toarray(), c.cells.log.toarray())
    ),
    "marker_overlap": Metric(
        lambda c: marker_overlap_statistic(
            c.test.log.toarray(), c.cells.log.toarray(), c.test.labels, c.cells.labels
        ),
        "higher",
        needs_labels=True,
        bounds=SHARE,
    ),
    "label_f1": Metric(
        Comparison.label_f1, "floor", floor="test", needs_labels=True, bounds=SHARE
    ),
    "train_on_generated_f1": Metric(
        Comparison.train_on_generated_f1, "higher", needs_labels=True, bounds=SHARE
    ),
    "nn_ratio": Metric(_of("memory", "nn_ratio"), "floor", floor="fresh", needs_train=True),
    "near_copies": Metric(
        _of("memory", "near_copies"), "floor", floor="fresh", needs_train=True, bounds=SHARE
    ),
    "membership_auc": Metric(
        _of("memory", "membership_auc"), "floor", floor="fresh", needs_train=True, bounds=SHARE
    ),
}
"""The metrics of the table by name."""
