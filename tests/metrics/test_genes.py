import numpy as np
import pytest
from scipy.sparse import csr_matrix

from scldm.metrics import (
    gene_correlation_rmse,
    gene_mean_rmse,
    gene_moments,
    gene_variance_rmse,
    gene_zeros_rmse,
    mean_variance_gap,
)
from scldm.metrics._genes import gene_correlation_statistic, gene_moments_statistics


@pytest.fixture
def counts():
    return np.random.default_rng(0).negative_binomial(2, 0.3, size=(200, 15))


@pytest.fixture
def samples():
    """Two samples of dependent genes of many means, of different sizes."""
    rng = np.random.default_rng(0)
    rate = rng.lognormal(0.5, 1.2, size=12)
    x, y = (
        rng.poisson(rate * rng.gamma(2.0, 0.5, size=(n, 1)) * rng.gamma(4.0, 0.25, size=(n, 12)))
        for n in (90, 70)
    )
    return x, 2 * y


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
    for function in (gene_mean_rmse, gene_variance_rmse):
        with pytest.raises(ValueError, match="No gene has `min_count=100` counts"):
            function(x, y, min_count=100)
    with pytest.raises(ValueError, match="A trend needs three genes with `min_count=20` counts"):
        mean_variance_gap(x, y)


def test_zeros_are_compared_on_all_genes():
    x, y = np.array([[0, 1], [0, 1]]), np.array([[1, 1], [0, 1]])
    assert gene_zeros_rmse(x, y) == pytest.approx(0.5 / np.sqrt(2))


def test_a_variance_needs_two_cells():
    with pytest.raises(ValueError, match="at least two cells, but there is 1"):
        gene_moments(np.ones((1, 3)))


def trend(counts, kept, weights=None):
    """Mean and variance of the kept genes, and the coefficients of the parabola between."""
    weights = np.full(len(counts), 1 / len(counts)) if weights is None else weights
    mean = weights @ counts
    variance = weights @ (counts - mean) ** 2 / (1 - (weights**2).sum())
    one = 1 / len(counts)
    mean, variance = np.log10(mean[kept] + one), np.log10(variance[kept] + one)
    return mean, np.linalg.lstsq(np.vander(mean, 3), variance, rcond=None)[0]


def test_mean_variance_gap_is_that_of_two_parabolas(samples):
    x, y = samples
    assert mean_variance_gap(x, x) == 0
    kept = x.sum(axis=0) >= 100
    assert 3 < kept.sum() < len(kept)
    mean, first = trend(x, kept)
    _, second = trend(y, kept)
    gap = np.vander(mean, 3) @ (first - second)
    expected = np.sqrt((gap**2).mean())
    assert mean_variance_gap(x, y, min_count=100) == pytest.approx(expected)
    assert mean_variance_gap(csr_matrix(x), csr_matrix(y), min_count=100) == pytest.approx(
        expected
    )


def test_a_wrong_noise_model_moves_the_trend_and_wrong_means_do_not():
    rng = np.random.default_rng(0)
    rate = rng.lognormal(1.0, 1.0, size=200)
    x, again, shuffled = (
        rng.negative_binomial(2, 2 / (2 + r), size=(500, 200))
        for r in (rate, rate, rng.permutation(rate))
    )
    poisson = rng.poisson(rate, size=(500, 200))
    noise = mean_variance_gap(x, again)
    assert mean_variance_gap(x, shuffled) < 3 * noise < 0.1
    assert gene_variance_rmse(x, shuffled) > 0.5
    assert mean_variance_gap(x, poisson) > 0.3


def test_weights_of_moments_are_repeated_cells_up_to_the_freedom_of_the_variance(
    samples, multiplicities
):
    x, y = samples
    c, d = multiplicities(90, 3, 1), multiplicities(70, 3, 2)
    statistics = gene_moments_statistics(x, y, min_count=20)
    values = {name: s(c / 90, d / 70) for name, s in statistics.items()}
    kept = x.sum(axis=0) >= 20
    for row, (i, j) in enumerate(zip(c, d, strict=True)):
        a, b = np.repeat(x, i, axis=0), np.repeat(y, j, axis=0)
        means = [np.log10(z.mean(axis=0)[kept] + 1 / len(z)) for z in (a, b)]
        # A cell drawn twice is one cell for the freedom: 1 - sum of squares, not 1 - 1/n.
        variances = [
            np.log10(z.var(axis=0)[kept] / (1 - np.square(k / len(z)).sum()) + 1 / len(z))
            for z, k in ((a, i), (b, j))
        ]
        (mean, first), (_, second) = trend(x, kept, i / 90), trend(y, kept, j / 70)
        gap = np.vander(mean, 3) @ (first - second)
        expected = {
            "gene_mean_rmse": np.sqrt(np.mean((means[0] - means[1]) ** 2)),
            "gene_variance_rmse": np.sqrt(np.mean((variances[0] - variances[1]) ** 2)),
            "gene_zeros_rmse": gene_zeros_rmse(a, b),
            "mean_variance_gap": np.sqrt((gap**2).mean()),
        }
        assert list(values) == list(expected)
        for name, value in expected.items():
            assert values[name][row] == pytest.approx(value), name


def test_correlations_are_those_of_numpy(samples):
    x, y = np.log1p(samples[0]), np.log1p(samples[1])
    top = np.argsort(-x.var(axis=0))[:5]
    a, b = (np.corrcoef(z[:, top], rowvar=False)[np.triu_indices(5, 1)] for z in (x, y))
    expected = np.sqrt(np.mean((a - b) ** 2))
    assert gene_correlation_rmse(x, y, n_genes=5) == pytest.approx(expected)
    assert gene_correlation_rmse(x, 3 * y + 1, n_genes=5) == pytest.approx(expected)
    assert gene_correlation_rmse(x, x) == pytest.approx(0, abs=1e-12)


def test_genes_that_do_not_vary_are_left_out_and_correlate_with_none(samples):
    x, y = np.log1p(samples[0]), np.log1p(samples[1])
    expected = gene_correlation_rmse(x, y)
    constant = [np.hstack([z, np.ones((len(z), 2))]) for z in (x, y)]
    assert gene_correlation_rmse(*constant) == pytest.approx(expected)
    flat = y.copy()
    flat[:, :3] = 1.0
    a, b = (np.corrcoef(z[:, 3:], rowvar=False) for z in (x, y))
    full = np.corrcoef(x, rowvar=False)
    gap = full.copy()
    gap[3:, 3:] = a - b
    expected = np.sqrt(np.mean(gap[np.triu_indices(12, 1)] ** 2))
    assert gene_correlation_rmse(x, flat) == pytest.approx(expected)


def test_independent_genes_are_caught(samples):
    x = np.log1p(samples[0])
    rng = np.random.default_rng(0)
    again = x[rng.permutation(len(x))]
    alone = np.stack([rng.permutation(gene) for gene in x.T], axis=1)
    assert gene_correlation_rmse(x, again) == pytest.approx(0, abs=1e-12)
    assert gene_correlation_rmse(x, alone) > 0.15


def test_repeated_cells_are_weights_of_correlations(samples, multiplicities):
    x, y = np.log1p(samples[0]), np.log1p(samples[1])
    c, d = multiplicities(90, 3, 1), multiplicities(70, 3, 2)
    expected = [
        gene_correlation_rmse(np.repeat(x, i, axis=0), np.repeat(y, j, axis=0))
        for i, j in zip(c, d, strict=True)
    ]
    values = gene_correlation_statistic(x, y)(c / 90, d / 70)
    np.testing.assert_allclose(values, expected)


def test_one_gene_correlates_with_nothing():
    x = np.random.default_rng(0).random((10, 3)) * [1, 0, 0]
    with pytest.raises(ValueError, match="Less than two genes vary"):
        gene_correlation_rmse(x, x)
