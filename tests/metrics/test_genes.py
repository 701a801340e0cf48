import numpy as np
import pytest
from scipy.sparse import csr_matrix

from scldm.metrics import gene_mean_rmse, gene_moments, gene_variance_rmse, gene_zeros_rmse


@pytest.fixture
def counts():
    return np.random.default_rng(0).negative_binomial(2, 0.3, size=(200, 15))


def test_moments_are_those_of_numpy(counts):
    moments = gene_moments(csr_matrix(counts))
    np.testing.assert_allclose(moments.mean, counts.mean(axis=0))
    np.testing.assert_allclose(moments.variance, counts.var(axis=0, ddof=1))
    np.testing.assert_allclose(moments.zeros, (counts == 0).mean(axis=0))


def test_means_off_by_a_factor_of_two(counts):
    deep = 1000 * counts
    assert gene_mean_rmse(deep, 2 * deep) == pytest.approx(np.log10(2), rel=1e-4)
    assert gene_variance_rmse(deep, 2 * deep) == pytest.approx(np.log10(4), rel=1e-4)


def test_by_hand():
    x = np.array([[9, 100], [9, 100]])
    y = np.array([[99, 100], [99, 100]])
    assert gene_mean_rmse(x, y, min_count=1) == pytest.approx(np.log10(99.5 / 9.5) / np.sqrt(2))
    assert gene_variance_rmse(x, y, min_count=1) == 0


def test_one_count_is_added_to_each_gene():
    x, y = np.array([[30, 5], [30, 5]]), np.array([[0, 5], [0, 5], [0, 5], [0, 5]])
    gap = np.log10(30 + 1 / 2) - np.log10(1 / 4)
    assert gene_mean_rmse(x, y, min_count=20) == pytest.approx(gap)


def test_rare_genes_of_the_reference_are_left_out():
    x, y = np.array([[30, 9], [30, 10]]), np.array([[30, 1000], [30, 1000]])
    assert gene_mean_rmse(x, y) == 0
    assert gene_mean_rmse(x, y, min_count=19) > 1
    with pytest.raises(ValueError, match="No gene has `min_count=100` counts"):
        gene_mean_rmse(x, y, min_count=100)


def test_zeros_are_compared_on_all_genes():
    x, y = np.array([[0, 1], [0, 1]]), np.array([[1, 1], [0, 1]])
    assert gene_zeros_rmse(x, y) == pytest.approx(0.5 / np.sqrt(2))


def test_a_variance_needs_two_cells():
    with pytest.raises(ValueError, match="at least two cells, but there is 1"):
        gene_moments(np.ones((1, 3)))
