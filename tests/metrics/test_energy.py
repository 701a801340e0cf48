import numpy as np
import pytest
from scipy.stats import norm

from scldm.metrics import energy_distance
from scldm.metrics._energy import energy_statistic


def mean_absolute(mean: float, sd: float) -> float:
    """E|Z| of a Gaussian (the folded normal distribution)."""
    return sd * np.sqrt(2 / np.pi) * np.exp(-(mean**2) / (2 * sd**2)) + mean * (
        1 - 2 * norm.cdf(-mean / sd)
    )


def test_equals_the_sum_over_pairs():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 3)), rng.normal(size=(5, 3))

    def mean(a, b, skip):
        pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if not (skip and i == j)]
        return np.mean([np.sqrt(((a[i] - b[j]) ** 2).sum()) for i, j in pairs])

    expected = 2 * mean(x, y, False) - mean(x, x, True) - mean(y, y, True)
    assert energy_distance(x, y) == pytest.approx(expected)


def test_gaussians_on_the_line():
    # Quantiles stand in for a sample without noise.
    x = norm.ppf((np.arange(2000) + 0.5) / 2000)[:, None]
    truth = 2 * mean_absolute(1.5, np.sqrt(5)) - mean_absolute(0, np.sqrt(2))
    truth -= mean_absolute(0, 2 * np.sqrt(2))
    assert energy_distance(x, 1.5 + 2 * x) == pytest.approx(truth, rel=5e-3)


def test_zero_in_the_mean_for_one_distribution():
    rng = np.random.default_rng(0)
    values = [energy_distance(*rng.normal(size=(2, 20, 5))) for _ in range(400)]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 4 * error
    # The biased estimate, with pairs of a cell with itself, would be seen.
    assert 2 * 2.0 / 20 > 10 * error


def test_sees_spread_where_means_agree():
    rng = np.random.default_rng(0)
    assert energy_distance(rng.normal(size=(500, 3)), 3 * rng.normal(size=(500, 3))) > 0.5


def test_weighted_pairs_are_of_different_cells(multiplicities):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, 3)), rng.normal(size=(7, 3))
    w, v = multiplicities(9, 3, 1) / 9, multiplicities(7, 3, 2) / 7

    def mean(a, b, p, q, skip):
        pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if not (skip and i == j)]
        total = sum(p[i] * q[j] for i, j in pairs)
        return sum(p[i] * q[j] * np.linalg.norm(a[i] - b[j]) for i, j in pairs) / total

    expected = [
        2 * mean(x, y, p, q, False) - mean(x, x, p, p, True) - mean(y, y, q, q, True)
        for p, q in zip(w, v, strict=True)
    ]
    np.testing.assert_allclose(energy_statistic(x, y)(w, v), expected)
