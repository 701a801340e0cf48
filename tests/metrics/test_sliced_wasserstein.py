import numpy as np
import ot
import pytest

from scldm.metrics import sliced_wasserstein2, wasserstein2
from scldm.metrics._wasserstein import sliced_wasserstein2_statistic


def test_equals_pot_on_the_same_directions():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(90, 5)), rng.normal(0.5, 2.0, size=(90, 5))
    directions = np.random.default_rng(7).standard_normal((5, 40))
    directions /= np.linalg.norm(directions, axis=0)
    expected = ot.sliced_wasserstein_distance(x, y, projections=directions, p=2)
    value = sliced_wasserstein2(x, y, n_projections=40, seed=7)
    assert value == pytest.approx(expected, rel=1e-9)


def test_many_directions_agree_with_pot_on_its_own():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(90, 5)), rng.normal(0.5, 2.0, size=(90, 5))
    expected = ot.sliced_wasserstein_distance(x, y, n_projections=5000, seed=0)
    assert sliced_wasserstein2(x, y, n_projections=3000) == pytest.approx(expected, rel=0.02)


def test_a_shift_costs_its_length_over_the_root_of_the_columns():
    x = np.random.default_rng(0).normal(size=(50, 4))
    value = sliced_wasserstein2(x, x + np.array([3.0, 0, 0, 0]), n_projections=20_000)
    assert value == pytest.approx(3 / np.sqrt(4), rel=0.02)


def test_one_column_is_the_exact_distance():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 1)), rng.normal(1.0, 2.0, size=(120, 1))
    assert sliced_wasserstein2(x, y, n_projections=3) == pytest.approx(wasserstein2(x, y))
    assert sliced_wasserstein2(y, x, n_projections=3) == pytest.approx(wasserstein2(x, y))


def test_sizes_that_are_no_multiples_come_near_the_exact_distance():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(170, 1)), rng.normal(1.0, 2.0, size=(230, 1))
    assert sliced_wasserstein2(x, y, n_projections=1) == pytest.approx(
        wasserstein2(x, y), rel=0.01
    )


def test_never_above_the_exact_distance_and_zero_on_itself():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 4)), rng.normal(0.3, 1.5, size=(60, 4))
    assert 0 < sliced_wasserstein2(x, y) < wasserstein2(x, y)
    assert sliced_wasserstein2(x, x[::-1]) == pytest.approx(0, abs=1e-12)


def test_repeated_cells_are_weights(multiplicities):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 3)), rng.normal(0.5, 2.0, size=(30, 3))
    c, d = multiplicities(30, 4, 1), multiplicities(30, 4, 2)
    values = sliced_wasserstein2_statistic(x, y, n_projections=10, seed=3)(c / 30, d / 30)
    expected = [
        sliced_wasserstein2(
            np.repeat(x, i, axis=0), np.repeat(y, j, axis=0), n_projections=10, seed=3
        )
        for i, j in zip(c, d, strict=True)
    ]
    np.testing.assert_allclose(values, expected)


def test_the_seed_draws_the_directions():
    x, y = np.random.default_rng(0).normal(size=(2, 30, 4))
    assert sliced_wasserstein2(x, y, seed=1) == sliced_wasserstein2(x, y, seed=1)
    assert sliced_wasserstein2(x, y, seed=1) != sliced_wasserstein2(x, y, seed=2)
