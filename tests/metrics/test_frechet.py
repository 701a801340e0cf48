import numpy as np
import pytest
from scipy.linalg import sqrtm

from scldm.metrics import frechet_distance
from scldm.metrics._frechet import frechet_statistic


def closed_form(m1, c1, m2, c2):
    return ((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * np.real(sqrtm(c1 @ c2)))


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(4, 4))
    return rng.normal(size=(60, 4)), 0.5 + rng.normal(size=(45, 4)) @ mixing


def test_equals_the_closed_form_by_scipy(samples):
    moments = [f for x in samples for f in (x.mean(axis=0), np.cov(x, rowvar=False))]
    assert frechet_distance(*samples) == pytest.approx(closed_form(*moments))


def test_large_samples_reach_the_value_of_their_gaussians():
    rng = np.random.default_rng(0)
    spread = np.array([0.5, 1.0, 2.0])
    x, y = rng.normal(size=(40_000, 3)), [1.0, 0, 0] + spread * rng.normal(size=(40_000, 3))
    truth = 1.0 + ((1 - spread) ** 2).sum()
    assert frechet_distance(x, y) == pytest.approx(truth, rel=0.02)


def test_rotation_shift_and_fewer_cells_than_columns():
    x = np.random.default_rng(0).normal(size=(60, 3))
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(x, x + 2.0) == pytest.approx(3 * 4.0)
    few = np.random.default_rng(1).normal(size=(6, 9))
    assert frechet_distance(few, few + 1.0) == pytest.approx(9.0, rel=1e-6)


def test_above_zero_for_one_distribution_and_symmetric(samples):
    rng = np.random.default_rng(0)
    assert min(frechet_distance(*rng.normal(size=(2, 30, 3))) for _ in range(20)) > 0
    assert frechet_distance(*samples) == pytest.approx(frechet_distance(*samples[::-1]))


def test_sees_nothing_but_means_and_covariances():
    rng = np.random.default_rng(0)
    two = rng.choice([-1.0, 1.0], size=(5000, 1))
    assert frechet_distance(two, rng.normal(size=(5000, 1))) < 0.01


def test_repeated_cells_are_weights_up_to_the_convention_of_the_covariance(
    samples, multiplicities
):
    x, y = samples
    c, d = multiplicities(60, 3, 1), multiplicities(45, 3, 2)
    values = frechet_statistic(x, y)(c / 60, d / 45)
    for value, w, v in zip(values, c / 60, d / 45, strict=True):
        # Weights of reliability: over 1 - sum of squares, which is n - 1 at equal weights.
        moments = [
            f
            for z, weights in ((x, w), (y, v))
            for f in (weights @ z, np.cov(z, rowvar=False, aweights=weights))
        ]
        assert value == pytest.approx(closed_form(*moments))
