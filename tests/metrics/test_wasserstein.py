import numpy as np
import ot
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.stats import norm

from scldm.metrics import wasserstein2
from scldm.metrics._wasserstein import wasserstein2_statistic


def test_a_shift_costs_its_length():
    x = np.random.default_rng(0).normal(size=(80, 4))
    shift = np.array([1.0, -2.0, 0.5, 3.0])
    assert wasserstein2(x, x + shift) == pytest.approx(np.linalg.norm(shift))


def test_gaussians_on_the_line():
    # W2^2 = (m1 - m2)^2 + (s1 - s2)^2; quantiles stand in for a sample without noise.
    quantiles = norm.ppf((np.arange(500) + 0.5) / 500)[:, None]
    assert wasserstein2(quantiles, 2 + 3 * quantiles) == pytest.approx(np.sqrt(8), rel=1e-2)


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


def test_more_cells_of_one_distribution_lie_nearer():
    rng = np.random.default_rng(0)
    near, far = (wasserstein2(*rng.normal(size=(2, n, 5))) for n in (400, 50))
    assert 0 < near < far


@pytest.mark.parametrize(("n", "m"), [(60, 60), (60, 45)])
def test_the_duals_follow_the_weights(n, m):
    # Far cells on the one side and near ones on the other: swapped duals would be seen.
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, 3)), rng.normal(1.0, 3.0, size=(m, 3))
    statistic = wasserstein2_statistic(x, y)
    w, v = (
        np.vstack([np.full(size, 1 / size), rng.dirichlet(np.full(size, 300.0), 8)])
        for size in (n, m)
    )
    cost = cdist(x, y, "sqeuclidean")
    exact = np.sqrt([ot.emd2(a, b, cost) for a, b in zip(w, v, strict=True)])
    values = statistic(w, v)
    assert values[0] == pytest.approx(exact[0], rel=1e-9)
    # Potentials that are feasible bound the cost from below, and to first order reach it.
    assert (values <= exact + 1e-9).all()
    change = np.abs(exact[1:] - exact[0])
    assert np.abs(values - exact)[1:].mean() < 0.25 * change.mean()


def test_errors():
    with pytest.raises(ValueError, match="the same columns, but have 3 and 2"):
        wasserstein2(np.zeros((5, 3)), np.zeros((5, 2)))
    with pytest.raises(ValueError, match=r"shape \(1, 3\)"):
        wasserstein2(np.zeros((5, 3)), np.zeros((1, 3)))
