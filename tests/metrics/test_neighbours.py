import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from scldm.metrics import precision_recall


def test_equals_the_definition_with_a_tree():
    rng = np.random.default_rng(0)
    real, generated = rng.normal(size=(60, 3)), rng.normal(0.5, 0.7, size=(50, 3))

    def radii(points):
        return NearestNeighbors(n_neighbors=4).fit(points).kneighbors(points)[0][:, 3]

    distance = np.linalg.norm(real[:, None] - generated[None], axis=2)
    inside = distance <= radii(real)[:, None]
    measured = precision_recall(real, generated, k=3)
    assert measured.precision == pytest.approx(inside.any(0).mean())
    assert measured.recall == pytest.approx((distance <= radii(generated)).any(1).mean())
    assert measured.density == pytest.approx(inside.sum(0).mean() / 3)
    assert measured.coverage == pytest.approx(inside.any(1).mean())


def test_a_dropped_half_costs_recall_and_a_shrunken_one_too():
    rng = np.random.default_rng(0)
    real = rng.normal(size=(400, 2)) + np.repeat([[-5, 0], [5, 0]], 200, axis=0)
    again = rng.normal(size=(400, 2)) + np.repeat([[-5, 0], [5, 0]], 200, axis=0)
    half = again[:200].repeat(2, axis=0) + rng.normal(0, 0.01, (400, 2))
    shrunken = 0.2 * rng.normal(size=(400, 2)) + np.repeat([[-5, 0], [5, 0]], 200, axis=0)
    same = precision_recall(real, again)
    assert same.precision > 0.9
    assert same.recall > 0.9
    assert same.density == pytest.approx(1, abs=0.15)
    assert precision_recall(real, half).coverage < 0.6
    assert precision_recall(real, half).precision > 0.9
    assert precision_recall(real, shrunken).recall < 0.4
    assert precision_recall(real, shrunken).precision > 0.95


def test_noise_costs_precision():
    rng = np.random.default_rng(0)
    measured = precision_recall(rng.normal(size=(300, 3)), 4 * rng.normal(size=(300, 3)))
    assert measured.precision < 0.4
    assert measured.recall > 0.9


@pytest.mark.parametrize("k", [0, 5])
def test_a_neighbour_that_is_not_there(k):
    with pytest.raises(ValueError, match="`k="):
        precision_recall(np.zeros((5, 2)), np.ones((9, 2)), k=k)
