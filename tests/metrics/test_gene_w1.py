import numpy as np
import pytest
from scipy.sparse import csc_matrix, csr_matrix
from scipy.stats import wasserstein_distance

from scldm.metrics import gene_w1
from scldm.metrics._wasserstein import gene_w1_statistic


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    rate = rng.gamma(0.5, 1.0, size=9)
    x, y = (np.log1p(rng.poisson(rate * s, size=(n, 9))) for n, s in ((70, 1.0), (50, 2.0)))
    x[:, 2] = y[:, 2] = 0  # zero on both sides
    x[:, 4], y[:, 6] = 0, 0  # zero on one
    x[:, 8] = y[:, 8] = 1.5  # the same everywhere, without a zero
    x[:, 7], y[:, 7] = np.round(x[:, 7]), np.round(y[:, 7])  # ties between samples
    return x, y


def test_equals_scipy_gene_by_gene(samples):
    x, y = samples
    expected = [wasserstein_distance(x[:, g], y[:, g]) for g in range(x.shape[1])]
    assert expected[2] == expected[8] == 0 and min(expected[4], expected[6]) > 0.01
    assert gene_w1(x, y) == pytest.approx(np.mean(expected))
    assert gene_w1(csr_matrix(x), csc_matrix(y)) == pytest.approx(np.mean(expected))
    for g in range(x.shape[1]):
        assert gene_w1(x[:, [g]], y[:, [g]]) == pytest.approx(expected[g], abs=1e-12)


def test_stored_zeros_are_zeros(samples):
    x, y = samples
    stored = csr_matrix(x + 1)
    stored.data -= 1
    assert stored.nnz > np.count_nonzero(x)
    assert gene_w1(stored, y) == pytest.approx(gene_w1(x, y))


def test_repeated_cells_are_weights(samples, multiplicities):
    x, y = samples
    c, d = multiplicities(70, 3, 1), multiplicities(50, 3, 2)
    expected = [
        gene_w1(np.repeat(x, i, axis=0), np.repeat(y, j, axis=0))
        for i, j in zip(c, d, strict=True)
    ]
    np.testing.assert_allclose(gene_w1_statistic(x, y)(c / 70, d / 50), expected)


def test_zero_between_empty_samples():
    assert gene_w1(np.zeros((3, 4)), np.zeros((5, 4))) == 0.0


def test_errors():
    with pytest.raises(ValueError, match="the same genes, but have 3 and 2"):
        gene_w1(np.zeros((5, 3)), np.zeros((5, 2)))
    with pytest.raises(ValueError, match="`y` holds negative"):
        gene_w1(np.zeros((5, 3)), np.full((5, 3), -1.0))
