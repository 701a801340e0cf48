import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict, cross_val_score

from scldm.metrics import Projection, classifier_auc
from scldm.metrics._classifier import classifier_statistic, weighted_auc


def gaussians(n, m, seed=0, shift=0.0):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, 8)), shift + rng.normal(size=(m, 8))
    return x.astype(np.float32), y.astype(np.float32)


def forest(seed=0, n_trees=25):
    return RandomForestClassifier(n_trees, random_state=seed)


@pytest.mark.parametrize("judge", [LogisticRegression(), forest(3)])
@pytest.mark.parametrize("n_folds", [3, 5])
def test_equals_the_mean_over_folds_of_sklearn(judge, n_folds):
    x, y = gaussians(60, 60, shift=0.3)
    cells, target = np.concatenate([x, y]), np.repeat([0, 1], 60)
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=4)
    expected = cross_val_score(judge, cells, target, cv=folds, scoring="roc_auc").mean()
    assert classifier_auc(x, y, judge, n_folds=n_folds, seed=4) == pytest.approx(expected)


def test_the_judge_is_a_forest_of_a_hundred_trees_unless_given():
    x, y = gaussians(40, 40, shift=0.3)
    expected = classifier_auc(x, y, forest(2, 100), seed=2)
    assert classifier_auc(x, y, seed=2) == expected
    assert classifier_auc(x, y, seed=2, n_jobs=2) == expected
    assert classifier_auc(x, y, seed=3) != expected


def test_a_judge_that_is_given_stays_as_it_was():
    judge = LogisticRegression()
    classifier_auc(*gaussians(40, 40), judge)
    assert not hasattr(judge, "coef_")


def test_half_for_one_distribution():
    values = [
        classifier_auc(*gaussians(60, 60, seed), LogisticRegression(), seed=seed)
        for seed in range(60)
    ]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values) - 0.5) < 4 * error < 0.05


def test_a_larger_side_does_not_help_the_forest():
    values = [
        classifier_auc(*gaussians(400, 60, seed), forest(seed, 15), seed=seed)
        for seed in range(12)
    ]
    assert np.mean(values) == pytest.approx(0.5, abs=0.05)


def test_the_larger_side_is_cut_to_the_smaller_and_weights_follow_the_kept_cells():
    x, y = gaussians(50, 30, shift=0.5)
    seen = []

    class Judge(LogisticRegression):
        def fit(self, cells, target):
            seen.append(np.bincount(target))
            return super().fit(cells, target)

    statistic = classifier_statistic(x, y, Judge())
    assert all((counts == 24).all() for counts in seen)
    kept = np.sort(np.random.default_rng(0).permutation(50)[:30])
    rest = np.setdiff1d(np.arange(50), kept)
    rng = np.random.default_rng(1)
    w, v = rng.dirichlet(np.ones(50), 2), rng.dirichlet(np.ones(30), 2)
    value = statistic(w, v)
    moved = w.copy()
    moved[:, rest] = moved[:, rest[::-1]]
    np.testing.assert_array_equal(statistic(moved, v), value)
    moved[:, kept] = moved[:, kept[::-1]]
    assert (statistic(moved, v) != value).all()


def test_weights_are_those_of_the_cells_of_each_fold(multiplicities):
    x, y = gaussians(40, 40, shift=0.5)
    cells, target = np.concatenate([x, y]), np.repeat([0, 1], 40)
    folds = list(StratifiedKFold(5, shuffle=True, random_state=0).split(cells, target))
    score = cross_val_predict(
        LogisticRegression(), cells, target, cv=folds, method="decision_function"
    )
    c, d = multiplicities(40, 4, 1), multiplicities(40, 4, 2)
    expected = [
        np.mean(
            [
                roc_auc_score(target[test], score[test], sample_weight=np.append(i, j)[test])
                for _, test in folds
            ]
        )
        for i, j in zip(c, d, strict=True)
    ]
    values = classifier_statistic(x, y, LogisticRegression())(c / 40, d / 40)
    np.testing.assert_allclose(values, expected)


def test_one_for_samples_apart_and_zero_for_a_judge_who_is_always_wrong():
    x, y = gaussians(50, 50, shift=10.0)
    assert classifier_auc(x, y, forest()) == 1.0

    class Wrong(LogisticRegression):
        def predict_proba(self, cells):
            return super().predict_proba(cells)[:, ::-1]

    assert classifier_auc(x, y, Wrong()) == 0.0


def test_grows_with_the_shift():
    values = [classifier_auc(*gaussians(150, 150, shift=s), forest()) for s in (0.0, 0.5, 1.0)]
    assert values == sorted(values) and values[0] < 0.6 and values[2] > 0.9


def test_means_are_no_counts():
    rng = np.random.default_rng(0)
    rate = rng.gamma(1.0, 2.0, size=(300, 30))
    counts = rng.poisson(rate)
    genes = Projection(5).fit(counts[:100]).log_normalize
    real = genes(counts[100:200])
    assert classifier_auc(real, genes(counts[200:]), forest()) < 0.65
    assert classifier_auc(real, genes(rate[200:]), forest()) > 0.95


@pytest.mark.parametrize("n_levels", [4, 10_000])
def test_weighted_auc_is_that_of_sklearn_with_and_without_ties(n_levels):
    rng = np.random.default_rng(0)
    low, high = rng.integers(n_levels, size=40) * 1.0, rng.integers(n_levels, size=30) + 0.3
    high = np.floor(high) + (n_levels > 4) * 0.5
    w, v = rng.dirichlet(np.ones(40), 5), rng.dirichlet(np.ones(30), 5)
    truth, score = np.repeat([0, 1], [40, 30]), np.concatenate([low, high])
    expected = [
        roc_auc_score(truth, score, sample_weight=np.concatenate(row))
        for row in zip(w, v, strict=True)
    ]
    np.testing.assert_allclose(weighted_auc(low, high, w, v), expected)


def test_weighted_auc_does_not_depend_on_the_sum_of_weights_and_needs_both_sides():
    low, high = np.array([0.0, 2.0]), np.array([1.0, 3.0, 2.0])
    by_hand = np.array([(1 + 0) + (1 + 1) + (1 + 0.5)]) / 6
    w, v = np.full((1, 2), 7.0), np.full((1, 3), 0.1)
    np.testing.assert_allclose(weighted_auc(low, high, w, v), by_hand)
    assert np.isnan(weighted_auc(low, high, 0 * w, v)).all()


def test_errors():
    with pytest.raises(ValueError, match="`n_folds=5` needs at least as many cells"):
        classifier_auc(np.zeros((4, 2)), np.zeros((10, 2)))
