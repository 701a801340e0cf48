import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from scldm.metrics import LabelFidelity
from scldm.metrics._labels import macro_f1

CENTRES = {"a": (0.0, 0.0), "b": (20.0, 0.0), "c": (0.0, 20.0)}


def cells(*kinds):
    rng = np.random.default_rng(len(kinds))
    return np.array([CENTRES[kind] for kind in kinds]) + rng.normal(size=(len(kinds), 2))


@pytest.fixture(scope="module")
def fidelity():
    kinds = ["a"] * 30 + ["b"] * 30 + ["c"] * 30
    return LabelFidelity().fit(cells(*kinds), kinds)


def test_one_where_every_cell_is_of_its_type(fidelity):
    kinds = ["a", "b", "c"] * 10
    assert fidelity.score(cells(*kinds), kinds) == 1.0


def test_macro_f1_by_hand(fidelity):
    # Asked: 6 a, 3 b, 1 c. Made: two of the a are b, and the c is an a.
    asked = ["a"] * 6 + ["b"] * 3 + ["c"]
    made = ["a"] * 4 + ["b"] * 2 + ["b"] * 3 + ["a"]
    f1 = [2 * 4 / (6 + 5), 2 * 3 / (3 + 5), 0.0]
    assert fidelity.score(cells(*made), asked) == pytest.approx(np.mean(f1))


def test_shuffled_labels_score_like_chance(fidelity):
    kinds = np.array(["a", "b", "c"] * 100)
    shuffled = np.random.default_rng(0).permutation(kinds)
    assert fidelity.score(cells(*kinds), shuffled) == pytest.approx(1 / 3, abs=0.1)


def test_types_that_were_not_asked_for_are_not_averaged_in(fidelity):
    # Asked for ten a, made nine: F1 of a is 18/19; b, of which none was asked, does not count.
    assert fidelity.score(cells(*["a"] * 9, "b"), ["a"] * 10) == pytest.approx(18 / 19)


def test_a_rare_type_weighs_as_much_as_a_common_one(fidelity):
    asked = ["a"] * 99 + ["c"]
    assert fidelity.score(cells(*["a"] * 100), asked) == pytest.approx((198 / 199) / 2)


def test_errors(fidelity):
    with pytest.raises(ValueError, match=r"'d' is not a known label. Known: \['a', 'b', 'c'\]"):
        fidelity.score(cells("a"), ["d"])
    with pytest.raises(ValueError, match="one label only, 'a'"):
        LabelFidelity().fit(cells("a", "a"), ["a", "a"])


def test_macro_f1_is_that_of_sklearn_with_weights(multiplicities):
    rng = np.random.default_rng(0)
    truth = rng.choice(["a", "b", "c"], 60, p=[0.6, 0.3, 0.1])
    predicted = np.where(rng.random(60) < 0.6, truth, rng.choice(["a", "b", "c", "d"], 60))
    counts = multiplicities(60, 5, 1)
    values = macro_f1(truth, predicted, counts / 60)
    names = np.unique(truth)
    weighted = [
        f1_score(truth, predicted, labels=names, average="macro", sample_weight=c) for c in counts
    ]
    repeated = [
        f1_score(np.repeat(truth, c), np.repeat(predicted, c), labels=names, average="macro")
        for c in counts
    ]
    np.testing.assert_allclose(values, weighted)
    np.testing.assert_allclose(values, repeated)
    # What the weights sum to does not matter.
    np.testing.assert_allclose(macro_f1(truth, predicted, 7.0 * counts), values)


def test_a_label_that_no_drawn_cell_has_counts_in_no_mean():
    truth, predicted = np.array(["a", "a", "b"]), np.array(["a", "b", "b"])
    value = macro_f1(truth, predicted, np.array([[0.5, 0.5, 0.0]]))
    assert value[0] == pytest.approx(2 / 3)


def test_the_classifier_is_a_logistic_regression_on_standardised_columns():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 3)) * [1, 100, 0.01], rng.choice(["u", "v"], 80)
    x[y == "v"] += [0.5, 60, 0.004]
    test = rng.normal(size=(50, 3)) * [1, 100, 0.01]
    scaled = (test - x.mean(axis=0)) / x.std(axis=0)
    model = LogisticRegression().fit((x - x.mean(axis=0)) / x.std(axis=0), y)
    predicted = LabelFidelity().fit(x, y).predict(test)
    np.testing.assert_array_equal(predicted, model.predict(scaled))
    assert set(predicted) == {"u", "v"}
