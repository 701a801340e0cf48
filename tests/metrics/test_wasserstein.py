import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.stats import norm

from scldm.metrics import wasserstein2


def test_a_shift_costs_its_length():
    x = np.random.default_rng(0).normal(size=(80, 4))
    shift = np.array([1.0, -2.0, 0.5, 3.0])
    assert wasserstein2(x, x + shift) == pytest.approx(np.linalg.norm(shift))


def test_gaussians_on_the_line():
    # W2^2 = (m1 - m2)^2 + (s1 - s2)^2; quantiles stand in for a sample without noise.
    quantiles = norm.ppf((np.arange(500) + 0.5) / 500)[:, None]
    assert wasserstein2(quantiles, 2 + 3 * quantiles) == pytest.approx(np.sqrt(4 + 4), rel=1e-2)


def test_equals_the_best_assignment():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(150, 6)), 1 + 2 * rng.normal(size=(150, 6))
    cost = cdist(x, y, "sqeuclidean")
    best = cost[linear_sum_assignment(cost)].mean()
    assert wasserstein2(x, y) == pytest.approx(np.sqrt(best))


def test_weights_and_not_cells_count():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)), rng.normal(size=(25, 3))
    assert wasserstein2(x, np.repeat(y, 2, axis=0)) == pytest.approx(wasserstein2(x, y))


def test_symmetric_and_zero_on_itself():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 3)), rng.normal(size=(40, 3))
    assert wasserstein2(x, y) == pytest.approx(wasserstein2(y, x))
    assert wasserstein2(x, x[::-1]) == pytest.approx(0, abs=1e-6)


def test_errors():
    with pytest.raises(ValueError, match="the same columns, but have 3 and 2"):
        wasserstein2(np.zeros((5, 3)), np.zeros((5, 2)))
    with pytest.raises(ValueError, match=r"shape \(1, 3\)"):
        wasserstein2(np.zeros((5, 3)), np.zeros((1, 3)))
