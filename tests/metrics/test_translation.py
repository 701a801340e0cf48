"""Metrics of translations against closed forms and independent implementations."""

import numpy as np
import pytest
from scipy.stats import norm, spearmanr
from sklearn.metrics import roc_auc_score

from scldm.metrics import energy_distance, translation

N, FEATURES, DRAWS = 300, 6, 400


@pytest.fixture(scope="module")
def cells():
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(N, FEATURES))
    true = mean + rng.normal(size=(N, FEATURES))
    samples = mean + rng.normal(size=(DRAWS, N, FEATURES))
    return {"mean": mean, "true": true, "samples": samples}


def test_correlations_equal_scipy(cells):
    found = translation.feature_pearson(cells["true"], cells["mean"])
    ranks = translation.feature_spearman(cells["true"], cells["mean"])
    for g in range(FEATURES):
        pair = cells["true"][:, g], cells["mean"][:, g]
        assert found[g] == pytest.approx(np.corrcoef(*pair)[0, 1])
        assert ranks[g] == pytest.approx(spearmanr(*pair).statistic)
    expected = np.mean(
        [np.corrcoef(a, b)[0, 1] for a, b in zip(cells["true"], cells["mean"], strict=True)]
    )
    assert translation.cell_pearson(cells["true"], cells["mean"]) == pytest.approx(expected)


def test_a_constant_has_no_correlation(cells):
    flat = np.tile(cells["true"].mean(axis=0), (N, 1))
    assert np.isnan(translation.feature_pearson(cells["true"], flat)).all()
    table = translation.compare(cells["true"], {"mean": flat})
    assert np.isnan(table.loc["mean", "pearson"])


def test_auroc_equals_scikit_learn(cells):
    true = (cells["true"] > 0.5).astype(float)
    true[:, 0] = 1
    found = translation.feature_auroc(true, np.round(cells["mean"], 1))
    assert np.isnan(found[0])
    for g in range(1, FEATURES):
        assert found[g] == pytest.approx(
            roc_auc_score(true[:, g], np.round(cells["mean"][:, g], 1))
        )


def test_errors_are_those_of_numpy(cells):
    off = cells["true"] - cells["mean"]
    assert translation.rmse(cells["true"], cells["mean"]) == pytest.approx(
        np.sqrt((off**2).mean())
    )
    assert translation.mae(cells["true"], cells["mean"]) == pytest.approx(np.abs(off).mean())


def test_crps_of_a_normal_is_the_closed_form(cells):
    """Gneiting and Raftery 2007, equation 21."""
    z = cells["true"] - cells["mean"]
    expected = (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi)).mean(axis=0)
    found = translation.crps(cells["true"], cells["samples"])
    np.testing.assert_allclose(found, expected, atol=0.02)
    # few draws do not count against it
    few = [
        translation.crps(cells["true"], cells["samples"][i : i + 4]).mean()
        for i in range(0, DRAWS, 4)
    ]
    assert np.mean(few) == pytest.approx(expected.mean(), abs=0.01)
    one = translation.crps(cells["true"], cells["mean"][None])
    np.testing.assert_allclose(one, np.abs(z).mean(axis=0))


def test_crps_is_best_for_the_true_spread(cells):
    rng = np.random.default_rng(1)
    scores = {
        spread: translation.crps(
            cells["true"], cells["mean"] + spread * rng.normal(size=(DRAWS, N, FEATURES))
        ).mean()
        for spread in (0.3, 1.0, 3.0)
    }
    assert min(scores, key=scores.get) == 1.0


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_a_true_prediction_has_the_coverage(cells, level):
    found = translation.coverage(cells["true"], cells["samples"], level)
    assert found.mean() == pytest.approx(level, abs=0.03)
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.3, (2000, 3))
    draws = rng.poisson(0.3, (50, 2000, 3))
    assert translation.coverage(counts, draws, level) == pytest.approx(level, abs=0.035)


def test_a_prediction_that_is_too_sure_covers_too_little(cells):
    narrow = cells["mean"] + 0.3 * (cells["samples"] - cells["mean"])
    assert translation.coverage(cells["true"], narrow, 0.9).mean() < 0.6


def test_scores_do_not_depend_on_the_size_of_chunks(cells, monkeypatch):
    whole = translation.crps(cells["true"], cells["samples"])
    monkeypatch.setattr(translation, "_VALUES_AT_A_TIME", DRAWS * FEATURES * 7)
    np.testing.assert_allclose(translation.crps(cells["true"], cells["samples"]), whole)


def test_correlation_errors_see_what_is_shuffled(cells):
    rng = np.random.default_rng(2)
    state = rng.normal(size=(2000, 1))
    rna = state + rng.normal(size=(2000, 5))
    protein = state + rng.normal(size=(2000, 4))
    halves = slice(0, 1000), slice(1000, 2000)
    true, same = ((rna[h], protein[h]) for h in halves)
    broken = (rna[halves[1]], rng.permutation(protein[halves[1]]))
    assert translation.cross_correlation_error(true, same) < 0.06
    assert translation.cross_correlation_error(true, broken) == pytest.approx(0.5, abs=0.06)
    apart = np.stack([rng.permutation(column) for column in rna[halves[1]].T], axis=1)
    assert translation.correlation_error(rna[halves[0]], rna[halves[1]]) < 0.06
    assert translation.correlation_error(rna[halves[0]], apart) == pytest.approx(0.5, abs=0.06)


def test_joint_energy_sees_what_single_modalities_do_not():
    rng = np.random.default_rng(3)
    state = np.repeat([-3.0, 3.0], 300)[:, None]
    one, other = (
        {
            "rna": state + rng.normal(size=(600, 3)),
            "protein": 9 * state + rng.normal(size=(600, 2)),
        }
        for _ in range(2)
    )
    broken = {"rna": other["rna"], "protein": rng.permutation(other["protein"])}
    assert translation.joint_energy(one, other) == pytest.approx(0, abs=0.02)
    assert translation.joint_energy(one, broken) > 0.1
    scale = {name: np.sqrt(x.var(axis=0).sum()) for name, x in one.items()}
    expected = energy_distance(*(np.hstack([s[k] / scale[k] for k in s]) for s in (one, broken)))
    assert translation.joint_energy(one, broken) == pytest.approx(expected)


def test_compare_puts_methods_side_by_side(cells):
    flat = np.tile(cells["true"].mean(axis=0), (N, 1))
    table = translation.compare(
        cells["true"], {"good": cells["mean"], "flat": flat}, {"good": cells["samples"]}
    )
    assert table.loc["good", "rmse"] < table.loc["flat", "rmse"]
    assert table.loc["good", "crps"] < table.loc["good", "mae"]
    assert table.loc["flat", "crps"] == pytest.approx(table.loc["flat", "mae"])
    assert np.isnan(table.loc["flat", "coverage_50"])
    assert "auroc" not in table


def test_shapes_that_do_not_fit_are_refused(cells):
    with pytest.raises(ValueError, match="shapes"):
        translation.rmse(cells["true"], cells["mean"][:, :2])
    with pytest.raises(ValueError, match="samples"):
        translation.crps(cells["true"], cells["samples"][:, :5])
    with pytest.raises(ValueError, match="level"):
        translation.coverage(cells["true"], cells["samples"], 1.0)
    with pytest.raises(ValueError, match="rna"):
        translation.joint_energy({"rna": cells["true"]}, {"atac": cells["true"]})
