from collections import namedtuple

import numpy as np
import pytest

from scldm.metrics import library_size_w1, precision_recall
from scldm.metrics._cells import library_sizes, wasserstein1_statistic
from scldm.metrics._neighbours import manifold_statistics
from scldm.metrics._statistic import bootstrap, mean_of_pairs, point, ratio

Interval = namedtuple("Interval", ["value", "low", "high"])


def mean_difference(a, b):
    return lambda w, v: v @ b - w @ a


def interval(*args):
    """The value and the ends of its interval."""
    estimate = bootstrap(*args)
    return Interval(estimate.value, *estimate.interval())


def test_point_gives_equal_weights():
    a, b = np.arange(4.0), np.arange(10.0, 16.0)
    assert point(mean_difference(a, b), 4, 6) == pytest.approx(12.5 - 1.5)


def test_weights_of_a_bootstrap_are_multiples_of_one_cells_that_sum_to_one():
    seen = []

    def spy(w, v):
        seen.extend([w, v])
        return w[:, 0]

    bootstrap(spy, 7, 9, 50, seed=0)
    for weights, n in zip(seen, (7, 9), strict=True):
        assert weights.shape == (51, n)
        np.testing.assert_allclose(weights.sum(axis=1), 1)
        np.testing.assert_allclose(weights * n, np.rint(weights * n), atol=1e-12)
        np.testing.assert_allclose(weights[0], 1 / n)
        assert len(np.unique(weights[1:], axis=0)) > 45


def test_no_bootstrap_gives_the_value_without_an_interval():
    a, b = np.arange(4.0), np.arange(6.0)
    estimate = interval(mean_difference(a, b), 4, 6, 0, 0)
    assert estimate.value == pytest.approx(1.0)
    assert np.isnan(estimate.low) and np.isnan(estimate.high)


def test_the_seed_fixes_the_interval_and_never_moves_the_value():
    a, b = np.random.default_rng(0).normal(size=(2, 50))
    first, again, other = (interval(mean_difference(a, b), 50, 50, 40, seed) for seed in (1, 1, 2))
    assert first == again
    assert other.value == first.value and other.low != first.low


def test_both_samples_widen_the_interval():
    a, b = np.random.default_rng(0).normal(size=(2, 400))
    both = interval(mean_difference(a, b), 400, 400, 2000, 0)
    one = interval(mean_difference(np.zeros(400), b), 400, 400, 2000, 0)
    assert (both.high - both.low) / (one.high - one.low) == pytest.approx(np.sqrt(2), rel=0.1)


def test_the_width_is_that_of_the_standard_error_of_a_mean():
    x = np.random.default_rng(0).normal(3.0, 2.0, size=300)
    value, low, high = interval(lambda w, v: w @ x, 300, 5, 4000, 0)
    error = x.std() / np.sqrt(300)
    assert (low, high) == pytest.approx(
        (value - 1.96 * error, value + 1.96 * error), abs=error / 5
    )


def test_the_width_of_precision_is_that_of_a_binomial():
    rng = np.random.default_rng(0)
    real, generated = rng.normal(size=(300, 3)), rng.normal(0, 1.6, size=(250, 3))
    precision = manifold_statistics(real, generated)["precision"]
    value, low, high = interval(precision, 300, 250, 4000, 0)
    assert 0.5 < value < 0.95
    expected = 2 * 1.96 * np.sqrt(value * (1 - value) / 250)
    assert high - low == pytest.approx(expected, rel=0.06)


def test_the_bias_of_resampling_is_taken_off():
    # The mean of this is twice as large between resampled cells as at equal weights.
    n = 100
    value, low, high = interval(lambda w, v: (w**2).sum(axis=1), n, 5, 1000, 0)
    assert value == pytest.approx(1 / n)
    assert low < value < high < 1.9 / n


@pytest.mark.parametrize("statistic", ["mean", "w1", "precision"])
def test_an_interval_covers_the_truth_as_often_as_it_says(statistic):
    rng = np.random.default_rng(0)
    n, n_repeats, covered = 100, 300, 0
    real = rng.normal(size=(n, 2))
    if statistic == "precision":
        many = rng.normal(0.5, 1.5, size=(40, 500, 2))
        truth = np.mean([precision_recall(real, x).precision for x in many])
    for seed in range(n_repeats):
        if statistic == "mean":
            x, truth = rng.gamma(4.0, 1.0, size=n), 4.0
            estimate = interval(lambda w, v, x=x: w @ x, n, n, 200, seed)
        elif statistic == "w1":
            # Depths that differ by a constant: the distance is the constant.
            a, b = rng.gamma(9.0, 1.0, size=(2, n))
            truth = 4.0
            estimate = interval(wasserstein1_statistic(a, b + truth), n, n, 200, seed)
        else:
            generated = rng.normal(0.5, 1.5, size=(n, 2))
            precision = manifold_statistics(real, generated)["precision"]
            estimate = interval(precision, n, n, 200, seed)
        covered += estimate.low <= truth <= estimate.high
    # Three standard errors of the share are 0.038; quantiles of 200 draws cost a little.
    assert 0.89 < covered / n_repeats < 0.985


def test_mean_of_pairs_is_that_of_pairs_of_different_cells(multiplicities):
    n = 12
    values = np.random.default_rng(0).random((n, n))
    values = values + values.T
    np.fill_diagonal(values, 0)
    weights = multiplicities(n, 3, 0) / n
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    expected = [
        sum(row[i] * row[j] * values[i, j] for i, j in pairs)
        / sum(row[i] * row[j] for i, j in pairs)
        for row in weights
    ]
    np.testing.assert_allclose(mean_of_pairs(weights, values), expected)
    equal = mean_of_pairs(np.full((1, n), 1 / n), values)
    assert equal[0] == pytest.approx(values[np.triu_indices(n, 1)].mean())


def test_ratio_with_nothing_below_is_not_a_number():
    np.testing.assert_array_equal(ratio(np.array([1.0, 0.0]), np.array([2.0, 0.0])), [0.5, np.nan])


def test_library_size_w1_of_repeated_cells_is_that_of_weights(multiplicities):
    rng = np.random.default_rng(0)
    x, y = rng.poisson(2.0, size=(30, 8)), rng.poisson(3.0, size=(40, 8))
    c, d = multiplicities(30, 4, 1), multiplicities(40, 4, 2)
    values = wasserstein1_statistic(library_sizes(x), library_sizes(y))(c / 30, d / 40)
    expected = [
        library_size_w1(np.repeat(x, i, axis=0), np.repeat(y, j, axis=0))
        for i, j in zip(c, d, strict=True)
    ]
    np.testing.assert_allclose(values, expected)


def test_differences_share_the_draws_of_the_reference():
    real, a, b = np.random.default_rng(0).normal(size=(3, 400))
    first, second = (bootstrap(mean_difference(real, x), 400, 400, 2000, 0) for x in (a, b))
    gap = first.less(second)
    low, high = gap.interval()
    assert gap.value == pytest.approx(a.mean() - b.mean())
    # the chance of the real cells is in both, and in the difference no more
    assert np.var(gap.draws) < 0.6 * np.var(first.draws) + 0.6 * np.var(second.draws)
    assert low < gap.value < high
    missing = bootstrap(lambda w, v: np.full(len(w), np.nan), 400, 400, 10, 0)
    assert np.isnan([first.less(missing).value, *first.less(missing).interval()]).all()


def test_an_interval_ends_where_values_can():
    x = np.repeat([0.0, 1.0], 25)
    estimate = bootstrap(lambda w, v: w @ x, 50, 5, 500, 0)
    low, high = estimate.interval()
    assert low < 0.45 and high > 0.55
    assert estimate.interval((0.45, 0.55)) == (0.45, 0.55)
