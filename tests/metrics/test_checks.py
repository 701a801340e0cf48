"""What all metrics refuse, and what they take."""

import numpy as np
import pytest
from scipy import sparse

from scldm import metrics
from scldm.metrics import perturbation


@pytest.mark.parametrize(
    "metric",
    [
        metrics.wasserstein2,
        metrics.sliced_wasserstein2,
        metrics.energy_distance,
        metrics.mmd2,
        metrics.frechet_distance,
        metrics.one_nn_accuracy,
        metrics.precision_recall,
        metrics.classifier_auc,
        metrics.gene_correlation_rmse,
    ],
)
def test_values_that_are_not_finite_are_refused_and_sparse_cells_are_taken(metric):
    rng = np.random.default_rng(0)
    x, y = rng.poisson(1.0, (30, 5)).astype(float), rng.poisson(1.0, (30, 5)).astype(float)
    assert metric(sparse.csr_matrix(x), sparse.csc_matrix(y)) == metric(x, y)
    y[3, 2] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        metric(x, y)


def test_entries_of_one_place_count_together_and_the_matrix_stays():
    twice = sparse.csr_matrix(
        (np.array([1.0, 2.0, 4.0]), np.array([1, 1, 0]), np.array([0, 2, 3, 3])), shape=(3, 3)
    )
    dense = twice.toarray()
    assert twice.nnz == 3 and metrics.gene_w1(twice, dense) == 0
    assert metrics.gene_w1(dense > 0, (dense > 0).astype(float)) == 0
    assert twice.nnz == 3
    projection = metrics.Projection(1).fit(dense + np.eye(3))
    np.testing.assert_array_equal(projection.log_normalize(twice), projection.log_normalize(dense))


def test_log_values_do_not_move_when_the_counts_are_sorted():
    rng = np.random.default_rng(0)
    counts = rng.poisson(1.0, (20, 8)).astype(np.float32)
    # columns in another order leave the indices of a CSR matrix unsorted
    unsorted = sparse.csr_matrix(counts)[:, ::-1]
    projection = metrics.Projection(2).fit(counts)
    log = projection.log_normalize_sparse(unsorted)
    unsorted.sort_indices()
    np.testing.assert_array_equal(log.toarray(), projection.log_normalize(counts[:, ::-1]))


def test_perturbation_metrics_take_sparse_cells():
    rng = np.random.default_rng(0)
    true, control = rng.poisson(2.0, (20, 6)), rng.poisson(1.0, (20, 6))
    expected = perturbation.pearson_delta(true, true[:10], control)
    sparse_ones = (sparse.csr_matrix(x) for x in (true, true[:10], control))
    assert perturbation.pearson_delta(*sparse_ones) == pytest.approx(expected)
