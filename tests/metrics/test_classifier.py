import numpy as np
import pytest

from scldm.metrics import Projection, classifier_auc


def gaussians(n, m, seed=0, shift=0.0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 8)), shift + rng.normal(size=(m, 8))


def test_half_for_one_distribution():
    values = [
        classifier_auc(*gaussians(100, 100, seed), seed=seed, n_trees=25) for seed in range(12)
    ]
    assert np.mean(values) == pytest.approx(0.5, abs=0.04)


def test_a_larger_side_does_not_help_the_forest():
    values = [
        classifier_auc(*gaussians(400, 60, seed), seed=seed, n_trees=25) for seed in range(12)
    ]
    assert np.mean(values) == pytest.approx(0.5, abs=0.05)


def test_one_for_samples_apart():
    assert classifier_auc(*gaussians(50, 50, shift=10.0), n_trees=25) == 1.0


def test_grows_with_the_shift():
    values = [classifier_auc(*gaussians(150, 150, shift=s), n_trees=25) for s in (0.0, 0.5, 1.0)]
    assert values == sorted(values) and values[0] < 0.6 and values[2] > 0.9


def test_the_seed_fixes_the_value():
    samples = gaussians(60, 80, shift=0.3)
    first = classifier_auc(*samples, seed=1, n_trees=20)
    assert classifier_auc(*samples, seed=1, n_trees=20) == first
    assert classifier_auc(*samples, seed=1, n_trees=20, n_jobs=2) == first
    assert classifier_auc(*samples, seed=2, n_trees=20) != first


def test_means_are_no_counts():
    rng = np.random.default_rng(0)
    rate = rng.gamma(1.0, 2.0, size=(300, 30))
    counts = rng.poisson(rate)
    genes = Projection(5).fit(counts[:100]).log_normalize
    real = genes(counts[100:200])
    assert classifier_auc(real, genes(counts[200:]), n_trees=25) < 0.65
    assert classifier_auc(real, genes(rate[200:]), n_trees=25) > 0.95


def test_errors():
    with pytest.raises(ValueError, match="`n_folds=5` needs at least as many cells"):
        classifier_auc(np.zeros((4, 2)), np.zeros((10, 2)))
