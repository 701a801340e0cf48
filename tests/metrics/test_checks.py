"""What all metrics refuse, and what they take."""

import numpy as np
import pytest
from anndata import AnnData
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


def test_an_anndata_is_not_taken_for_a_matrix():
    with pytest.raises(TypeError, match="`x` is an AnnData. Give its `X` or a layer, or call"):
        metrics.gene_w1(AnnData(np.ones((3, 2))), np.ones((3, 2)))


def test_labels_that_are_missing_are_no_type():
    x, labels = np.random.default_rng(0).normal(size=(40, 3)), np.array(["a", "b"] * 20, object)
    labels[3] = np.nan
    for ask in (
        lambda: metrics.LabelFidelity().fit(x, labels),
        lambda: metrics.lisi(x, labels),
        lambda: metrics.batch_mixing(x, labels, ["c", "d"] * 20),
    ):
        with pytest.raises(ValueError, match="has 1 missing values"):
            ask()
    with pytest.raises(ValueError, match="`batch` has 39 values for 40 cells"):
        metrics.batch_mixing(x, ["a", "b"] * 19 + ["a"], ["c", "d"] * 20)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda x: metrics.marker_overlap(x, x, ["a", "b"] * 20, ["a", "b"] * 20, n_genes=9),
            "`n_genes=9`",
        ),
        (
            lambda x: metrics.marker_overlap(x, x, ["a", "b"] * 20, ["a", "b"] * 20, n_genes=0),
            "`n_genes=0`",
        ),
        (lambda x: metrics.gene_zeros_rmse(x, x[:, :1]), "same genes"),
        (lambda x: metrics.gene_mean_rmse(x, x[:, :2]), "same genes"),
        (lambda x: metrics.sliced_wasserstein2(x, x, n_projections=0), "`n_projections=0`"),
        (lambda x: metrics.mmd2(x, x, bandwidths=[np.nan]), "`bandwidths="),
        (lambda x: metrics.mmd2(x, x, bandwidths=1.0), "`bandwidths="),
        (lambda x: metrics.Projection(2, target_sum=-1.0).fit(x), "`target_sum=-1.0`"),
    ],
)
def test_wrong_numbers_are_named(ask, message):
    with pytest.raises(ValueError, match=message):
        ask(np.random.default_rng(0).poisson(3.0, size=(40, 3)).astype(float))


def test_far_from_zero_distances_keep_their_digits():
    x, y = np.random.default_rng(0).normal(size=(2, 200, 4))
    expected = metrics.frechet_distance(x, y + 1)
    assert metrics.frechet_distance(x + 1e7, y + 1 + 1e7) == pytest.approx(expected, rel=1e-6)


def test_integers_without_a_sign_have_the_distances_of_others():
    x, y = np.random.default_rng(0).poisson(1.0, size=(2, 50, 6))
    expected = metrics.gene_w1(x, y)
    stored = [sparse.csr_matrix(counts.astype(np.uint8)) for counts in (x, y)]
    for matrix in stored:
        matrix.data[:3] = 0
    zeros = [matrix.toarray() for matrix in stored]
    assert metrics.gene_w1(*stored) == pytest.approx(metrics.gene_w1(*zeros))
    assert metrics.gene_w1(x.astype(np.uint8), y.astype(np.uint8)) == pytest.approx(expected)


def test_classifiers_of_types_take_sparse_cells():
    x = np.random.default_rng(0).poisson(1.0, size=(60, 5)).astype(float)
    labels = np.where(x[:, 0] > 0, "a", "b")
    dense, thin = (
        metrics.LabelFidelity().fit(kind(x), labels) for kind in (np.asarray, sparse.csr_matrix)
    )
    assert thin.score(sparse.csr_matrix(x), labels) == dense.score(x, labels)
