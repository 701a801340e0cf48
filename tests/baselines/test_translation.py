"""Baselines of translation on data with a known relation."""

from importlib.util import find_spec

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import Ridge as SklearnRidge

from scldm.baselines import (
    FeatureMean,
    KernelRidgeTranslation,
    NearestCells,
    RidgeTranslation,
    Tangram,
)
from scldm.metrics import translation

ALL = [FeatureMean, NearestCells, RidgeTranslation, KernelRidgeTranslation]


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 8))
    weights = rng.normal(size=(8, 3))
    y = x @ weights + 0.3 * rng.normal(size=(500, 3)) + 5
    return x[:400], y[:400], x[400:], y[400:]


@pytest.mark.parametrize("kind", ALL)
def test_predictions_and_draws_agree(kind, data):
    x, y, new, true = data
    fitted = kind().fit(x, y)
    mean, draws = fitted.predict(new), fitted.sample(new, 200, seed=1)
    assert mean.shape == true.shape and draws.shape == (200, *true.shape)
    spread = draws.std(axis=0) / np.sqrt(200)
    assert (np.abs(draws.mean(axis=0) - mean) < 5 * spread + 0.1).all()
    np.testing.assert_array_equal(draws, fitted.sample(new, 200, seed=1))


@pytest.mark.parametrize("kind", [RidgeTranslation, KernelRidgeTranslation])
def test_regressions_find_the_relation_and_how_sure_they_are(kind, data):
    x, y, new, true = data
    fitted = kind().fit(x, y)
    assert translation.rmse(true, fitted.predict(new)) < 1.3
    covered = translation.coverage(true, fitted.sample(new, 200), 0.9).mean()
    assert covered == pytest.approx(0.9, abs=0.06)


def test_ridge_is_that_of_scikit_learn_on_all_components(data):
    x, y, new, _ = data
    centred = x - x.mean(axis=0)
    expected = SklearnRidge(alpha=2.0).fit(centred, y).predict(new - x.mean(axis=0))
    found = RidgeTranslation(penalty=2.0, n_components=8).fit(x, y).predict(new)
    np.testing.assert_allclose(found, expected)


def test_nearest_cells_are_the_nearest(data):
    x, y, _, _ = data
    np.testing.assert_allclose(NearestCells(1).fit(x, y).predict(x[:9]), y[:9])


def test_kernel_ridge_follows_a_curve():
    rng = np.random.default_rng(0)
    x = rng.uniform(-3, 3, size=(400, 2))
    y = np.sin(2 * x[:, :1])
    new = rng.uniform(-2.5, 2.5, size=(100, 2))
    errors = [
        translation.rmse(np.sin(2 * new[:, :1]), kind().fit(x, y).predict(new))
        for kind in (KernelRidgeTranslation, RidgeTranslation)
    ]
    assert errors[0] < errors[1] / 3


def test_sparse_counts_are_taken(data):
    x, y, new, _ = data
    dense = NearestCells().fit(x, y).predict(new)
    np.testing.assert_allclose(
        NearestCells().fit(sparse.csr_matrix(x), sparse.csr_matrix(y)).predict(new), dense
    )


@pytest.mark.parametrize("kind", ALL)
def test_wrong_input_is_refused(kind, data):
    x, y, _, _ = data
    with pytest.raises(RuntimeError, match="fit"):
        kind().predict(x)
    with pytest.raises(ValueError, match="399"):
        kind().fit(x, y[:399])
    with pytest.raises(ValueError, match="not finite"):
        kind().fit(np.where(x > 2, np.nan, x), y)
    with pytest.raises(ValueError, match="features"):
        kind().fit(x, y).predict(x[:, :3])


def test_tangram_says_what_it_needs_or_finds_where_cells_lie():
    if find_spec("tangram") is None:
        with pytest.raises(ImportError, match="needs its package: `pip install"):
            Tangram()
        return
    rng = np.random.default_rng(0)
    kinds = np.eye(3)[rng.integers(3, size=60)] @ np.array([[9, 1, 1], [1, 9, 1], [1, 1, 9]])
    x, y = rng.poisson(kinds) + 1.0, kinds[:, :1]
    method = Tangram(300).fit(x[:40], y[:40])
    assert translation.feature_pearson(y[40:], method.predict(x[40:]))[0] > 0.8
    drawn = method.sample(x[40:], 50)
    assert drawn.shape == (50, 20, 1)
    assert set(np.unique(drawn)) <= set(np.unique(y))
    assert translation.feature_pearson(y[40:], drawn.mean(axis=0))[0] > 0.8
