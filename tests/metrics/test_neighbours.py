import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.spatial.distance import cdist
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from scldm.metrics import lisi, one_nn_accuracy, precision_recall
from scldm.metrics._neighbours import (
    _affinities,
    manifold_statistics,
    one_nn_statistic,
    source_lisi_statistic,
)


def two_clusters(n, seed, spread=1.0):
    rng = np.random.default_rng(seed)
    return spread * rng.normal(size=(n, 2)) + np.repeat([[-5, 0], [5, 0]], n // 2, axis=0)


def test_manifold_equals_its_definition_cell_by_cell():
    rng = np.random.default_rng(0)
    real, generated = rng.normal(size=(60, 3)), rng.normal(0.5, 0.7, size=(50, 3))

    def radius(points, i):
        return sorted(np.linalg.norm(points[i] - p) for p in np.delete(points, i, axis=0))[2]

    ball = [radius(real, i) for i in range(60)]
    made = [radius(generated, j) for j in range(50)]
    inside = [[np.linalg.norm(x - y) <= ball[i] for y in generated] for i, x in enumerate(real)]
    held = [[np.linalg.norm(x - y) <= made[j] for j, y in enumerate(generated)] for x in real]
    measured = precision_recall(real, generated, k=3)
    assert measured.precision == pytest.approx(np.mean(np.any(inside, axis=0)))
    assert measured.recall == pytest.approx(np.mean(np.any(held, axis=1)))
    assert measured.density == pytest.approx(np.sum(inside) / 50 / 3)
    assert measured.coverage == pytest.approx(np.mean(np.any(inside, axis=1)))
    assert len({*measured}) == 4


def test_a_dropped_half_costs_recall_and_coverage_and_a_shrunken_one_too():
    real, again = two_clusters(400, 0), two_clusters(400, 1)
    rng = np.random.default_rng(2)
    half = again[:200].repeat(2, axis=0) + rng.normal(0, 0.01, (400, 2))
    same, shrunken = precision_recall(real, again), two_clusters(400, 3, spread=0.2)
    assert same.precision > 0.9 and same.recall > 0.9
    assert precision_recall(real, half).coverage < 0.6
    assert precision_recall(real, half).recall < 0.6
    assert precision_recall(real, half).precision > 0.9
    assert precision_recall(real, shrunken).recall < 0.4
    assert precision_recall(real, shrunken).precision > 0.95


def test_density_is_one_in_the_mean_for_one_distribution():
    values = [
        precision_recall(*np.random.default_rng(s).normal(size=(2, 200, 3))).density
        for s in range(40)
    ]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values) - 1) < 4 * error < 0.05


def test_noise_costs_precision_and_density():
    rng = np.random.default_rng(0)
    measured = precision_recall(rng.normal(size=(300, 3)), 4 * rng.normal(size=(300, 3)))
    assert measured.precision < 0.4 and measured.density < 0.4
    assert measured.recall > 0.9


def test_an_outlier_moves_density_less_than_precision():
    rng = np.random.default_rng(0)
    real = np.vstack([rng.normal(size=(200, 3)), [[30.0, 0, 0]]])
    noise = rng.uniform(-20, 20, size=(201, 3))
    measured = precision_recall(real, noise)
    assert measured.density < measured.precision / 2


def test_weights_of_the_manifold_are_repeated_cells_with_the_radii_kept(multiplicities):
    rng = np.random.default_rng(0)
    real, generated = rng.normal(size=(40, 3)), rng.normal(0.5, 0.7, size=(30, 3))
    c, d = multiplicities(40, 3, 1), multiplicities(30, 3, 2)
    distance = cdist(real, generated)
    balls = [
        NearestNeighbors(n_neighbors=5).fit(x).kneighbors()[0][:, 4] for x in (real, generated)
    ]
    inside, held = distance <= balls[0][:, None], distance <= balls[1]
    expected = {
        "precision": [np.repeat(inside.any(axis=0), j).mean() for j in d],
        "recall": [np.repeat(held.any(axis=1), i).mean() for i in c],
        # real balls come as often as their cells, and a ball holds the generated cells that were drawn
        "density": [
            np.repeat(np.repeat(inside, i, axis=0).sum(axis=0), j).mean() / 5
            for i, j in zip(c, d, strict=True)
        ],
        "coverage": [
            np.repeat(np.repeat(inside, j, axis=1).any(axis=1), i).mean()
            for i, j in zip(c, d, strict=True)
        ],
    }
    statistics = manifold_statistics(real, generated, k=5)
    assert list(statistics) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(statistics[name](c / 40, d / 30), values, err_msg=name)


@pytest.mark.parametrize("k", [0, 5])
def test_a_neighbour_that_is_not_there(k):
    with pytest.raises(ValueError, match=f"`k={k}` must be at least 1 and less than"):
        precision_recall(np.zeros((5, 2)), np.ones((9, 2)), k=k)


@pytest.mark.parametrize("shift", [0.0, 0.8])
def test_one_nn_accuracy_is_that_of_sklearn_leaving_one_out(shift):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(70, 3)), shift + rng.normal(size=(70, 3))
    expected = cross_val_score(
        KNeighborsClassifier(1),
        np.concatenate([x, y]),
        np.repeat([0, 1], 70),
        cv=LeaveOneOut(),
    )
    assert one_nn_accuracy(x, y) == pytest.approx(expected.mean())


def test_one_nn_accuracy_of_samples_apart_of_copies_and_of_one_distribution():
    x = np.random.default_rng(0).normal(size=(80, 3))
    assert one_nn_accuracy(x, x + 100) == 1.0
    assert one_nn_accuracy(x, x) == 0.0
    # At one distance, the cell of the other sample is the nearer one.
    pairs = np.repeat(x, 2, axis=0)
    assert one_nn_accuracy(pairs, pairs) == 0.0
    values = [
        one_nn_accuracy(*np.random.default_rng(s).normal(size=(2, 80, 3))) for s in range(60)
    ]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values) - 0.5) < 4 * error < 0.05


def test_one_nn_accuracy_weighs_both_samples_alike_and_cells_by_their_weights(multiplicities):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 3)), 0.7 + rng.normal(size=(50, 3))
    right = [
        np.array([np.sort(cdist(a[[i]], a)[0])[1] < cdist(a[[i]], b).min() for i in range(len(a))])
        for a, b in ((x, y), (y, x))
    ]
    c, d = multiplicities(30, 3, 1), multiplicities(50, 3, 2)
    expected = [
        (np.repeat(right[0], i).mean() + np.repeat(right[1], j).mean()) / 2
        for i, j in zip(c, d, strict=True)
    ]
    np.testing.assert_allclose(one_nn_statistic(x, y)(c / 30, d / 50), expected)
    assert one_nn_accuracy(x, y) == pytest.approx((right[0].mean() + right[1].mean()) / 2)


def naive_lisi(x, labels, perplexity):
    values = []
    for i in range(len(x)):
        distance = np.linalg.norm(x - x[i], axis=1)
        near = np.argsort(distance)[1 : int(3 * perplexity) + 1]

        def weights(log_rate, d=distance[near]):
            a = np.exp(-np.exp(log_rate) * (d - d.min()))
            return a / a.sum()

        def excess(log_rate, weights=weights):
            p = weights(log_rate)
            p = p[p > 0]
            return -(p * np.log(p)).sum() - np.log(perplexity)

        p = weights(brentq(excess, -12, 12, xtol=1e-12))
        shares = [p[labels[near] == label].sum() for label in np.unique(labels)]
        values.append(1 / np.square(shares).sum())
    return values


@pytest.mark.parametrize("perplexity", [5.0, 12.5])
def test_lisi_equals_a_naive_one(perplexity):
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(60, 3)) * [1, 5, 0.2], rng.choice(["a", "b", "c"], 60)
    expected = naive_lisi(x, labels, perplexity)
    assert max(expected) - min(expected) > 0.5
    np.testing.assert_allclose(lisi(x, labels, perplexity=perplexity), expected, rtol=1e-6)


def test_lisi_of_one_label_of_labels_apart_and_of_labels_mixed():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(900, 2))
    np.testing.assert_allclose(lisi(x, np.zeros(900)), 1)
    apart = x + np.repeat([[0, 0], [100, 0], [0, 100]], 300, axis=0)
    np.testing.assert_allclose(lisi(apart, np.repeat([0, 1, 2], 300)), 1)
    assert lisi(x, np.arange(900) % 2).mean() == pytest.approx(2, abs=0.15)
    assert lisi(x, np.arange(900) % 3).mean() == pytest.approx(3, abs=0.35)
    # Many cells at each place, half of either label: mixed without chance.
    places = np.repeat(x[:10], 60, axis=0)
    np.testing.assert_allclose(lisi(places, np.arange(600) % 2), 2, atol=0.002)


def test_lisi_depends_neither_on_units_nor_on_names():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(120, 3)), rng.choice([1, 2], 120)
    expected = lisi(x, labels)
    np.testing.assert_allclose(lisi(1e4 * x, labels), expected, rtol=1e-6)
    np.testing.assert_allclose(lisi(x, np.where(labels == 1, "z", "a")), expected)


def test_lisi_of_few_cells_takes_a_third_of_them_and_copies_do_no_harm():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(31, 3)), rng.choice(["a", "b"], 31)
    np.testing.assert_allclose(lisi(x, labels), lisi(x, labels, perplexity=10.0))
    copies = np.repeat(x[:2], 50, axis=0)
    values = lisi(copies, np.tile(["a", "b"], 50))
    assert np.isfinite(values).all() and values.mean() == pytest.approx(2, abs=0.05)


def test_lisi_wants_a_label_for_each_cell():
    with pytest.raises(ValueError, match="`labels` has 3 values for 5 cells"):
        lisi(np.zeros((5, 2)), [1, 2, 3])


def test_source_lisi_is_the_mean_of_both_samples(multiplicities):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 3)), 0.7 + rng.normal(size=(90, 3))
    both, source = np.concatenate([x, y]), np.repeat([0, 1], [60, 90])
    index = lisi(both, source)
    statistic = source_lisi_statistic(x, y)
    equal = statistic(np.full((1, 60), 1 / 60), np.full((1, 90), 1 / 90))
    np.testing.assert_allclose(equal, (index[:60].mean() + index[60:].mean()) / 2)
    # drawn cells weigh more as neighbours too, with the rates of the distances kept
    affinity = _affinities(both, 30).toarray()
    c, d = multiplicities(60, 3, 1), multiplicities(90, 3, 2)
    expected = []
    for i, j in zip(c, d, strict=True):
        times = np.concatenate([i, j])
        near = np.stack([(affinity * times)[:, source == side].sum(axis=1) for side in (0, 1)])
        values = near.sum(axis=0) ** 2 / (near**2).sum(axis=0)
        expected.append((np.repeat(values[:60], i).mean() + np.repeat(values[60:], j).mean()) / 2)
    np.testing.assert_allclose(statistic(c / 60, d / 90), expected)
