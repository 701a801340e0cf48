"""Baselines on cells whose shifts are known."""

import numpy as np
import pytest
from scipy import sparse

from scldm.baselines import (
    Additive,
    Bilinear,
    MatchingMean,
    NearestPerturbation,
    NoChange,
    PerturbedMean,
    Ridge,
)

SHIFTS = {"A": [1.0, 0, 0, 0], "B": [0, 2.0, 0, 0], "C": [0, 0, -1.0, 0]}
VECTORS = {
    "A": [1.0, 0, 0],
    "B": [0, 1.0, 0],
    "C": [0, 0, 1.0],
    "D": [0.9, 0.1, 0],
    "E": [0, 0, 2.0],
}


@pytest.fixture(scope="module")
def cells():
    """Two contexts of different composition and level; each perturbation adds its shift."""
    rng = np.random.default_rng(0)
    x, perturbation, context = [], [], []
    for where, level, sizes in (("t", 0.0, (40, 10, 30, 20)), ("u", 5.0, (20, 60, 10, 10))):
        for label, n in zip(("control", "A", "B", "C"), sizes, strict=True):
            noise = rng.normal(0, 0.3, (n, 4))
            noise -= noise.mean(axis=0)
            x.append(level + noise + np.array(SHIFTS.get(label, [0.0] * 4)))
            perturbation += [label] * n
            context += [where] * n
    return np.concatenate(x), np.array(perturbation), np.array(context)


def controls(cells):
    x, perturbation, _ = cells
    return x[perturbation == "control"]


def test_no_change_returns_a_copy(cells):
    start = controls(cells)
    after = NoChange().fit(*cells).predict(start, "anything")
    assert np.array_equal(after, start) and after is not start


def test_shifts_are_those_within_contexts(cells):
    model = Additive().fit(*cells)
    for label, shift in SHIFTS.items():
        np.testing.assert_allclose(model.shift(label), shift, atol=1e-12)
    # without contexts their levels and compositions leak in
    mixed = Additive().fit(*cells[:2])
    assert abs(mixed.shift("A")[3]) > 1


def test_additive_sums_members_and_prefers_what_was_seen(cells):
    start = controls(cells)
    model = Additive().fit(*cells)
    np.testing.assert_allclose(
        model.predict(start, "A+B") - start, [[1, 2, 0, 0]] * len(start), atol=1e-9
    )
    np.testing.assert_allclose(model.predict(start, "control"), start)
    x, perturbation, context = cells
    seen = np.where(perturbation == "C", "A+B", perturbation)
    np.testing.assert_allclose(
        Additive().fit(x, seen, context).shift("A+B"), SHIFTS["C"], atol=1e-12
    )


def test_a_name_that_ends_in_the_separator_is_no_combination(cells):
    x, perturbation, context = cells
    named = np.where(perturbation == "A", "CD4+", perturbation)
    model = Additive().fit(x, named, context)
    np.testing.assert_allclose(model.shift("CD4+"), SHIFTS["A"], atol=1e-12)


def test_means(cells):
    x, perturbation, context = cells
    start = controls(cells)
    mean = {label: x[perturbation == label].mean(axis=0) for label in SHIFTS}
    overall = np.mean(list(mean.values()), axis=0)
    np.testing.assert_allclose(PerturbedMean().fit(*cells).predict(start, "A")[3], overall)
    matching = MatchingMean().fit(*cells)
    np.testing.assert_allclose(matching.predict(start, "B")[0], mean["B"])
    np.testing.assert_allclose(matching.predict(start, "A+B")[7], (mean["A"] + mean["B"]) / 2)


def test_nearest_perturbation_takes_the_shift_of_the_nearest_vector(cells):
    model = NearestPerturbation(VECTORS).fit(*cells)
    start = controls(cells)
    np.testing.assert_allclose(
        model.predict(start, "D") - start, [SHIFTS["A"]] * len(start), atol=1e-9
    )
    np.testing.assert_allclose(
        model.predict(start, "E") - start, [SHIFTS["C"]] * len(start), atol=1e-9
    )


def test_ridge_is_linear_in_the_vectors(cells):
    start = controls(cells)
    exact = Ridge(VECTORS, penalty=0).fit(*cells)
    wanted = 0.9 * np.array(SHIFTS["A"]) + 0.1 * np.array(SHIFTS["B"])
    np.testing.assert_allclose((exact.predict(start, "D") - start)[0], wanted, atol=1e-12)
    # unit vectors that are orthogonal: a penalty of 1 halves every shift
    halved = Ridge(VECTORS, penalty=1.0).fit(*cells)
    np.testing.assert_allclose((halved.predict(start, "A") - start)[0], [0.5, 0, 0, 0], atol=1e-12)


def test_bilinear_changes_lie_along_few_directions():
    """Least squares over all matrices between a few directions and the vectors."""
    rng = np.random.default_rng(0)
    vectors = {name: rng.normal(size=3) for name in "ABCDEF"}
    shifts = {name: rng.normal(size=8) for name in "ABCDE"}
    model = Bilinear(vectors, n_components=2, penalty=0).fit_shifts(shifts)
    s, e = np.stack([shifts[k] for k in "ABCDE"]), np.stack([vectors[k] for k in "ABCDE"])
    v = np.linalg.svd(s)[2][:2].T
    between = np.linalg.lstsq(np.kron(v, e), s.T.ravel(), rcond=None)[0].reshape(2, 3)
    np.testing.assert_allclose(model.shift("F"), v @ between @ vectors["F"], atol=1e-9)
    # with all directions it is the regression itself
    whole = Bilinear(vectors, n_components=50).fit_shifts(shifts)
    np.testing.assert_allclose(whole.shift("F"), Ridge(vectors).fit_shifts(shifts).shift("F"))
    with pytest.raises(ValueError, match="`n_components=0`"):
        Bilinear(vectors, n_components=0)


@pytest.mark.parametrize("make", [NoChange, PerturbedMean, MatchingMean, Additive])
def test_control_cells_under_the_control_stay(cells, make):
    start = controls(cells)
    with pytest.raises(RuntimeError, match="call `fit` first"):
        make().predict(start, "A")
    assert np.array_equal(make().fit(*cells).predict(start, "control"), start)


def test_order_and_the_control_in_a_name_do_not_matter(cells):
    x, perturbation, context = cells
    named = np.where(perturbation == "A", "B+A", perturbation)
    named = np.where(perturbation == "C", "C+control", named)
    model = Additive().fit(x, named, context)
    np.testing.assert_allclose(model.shift("A+B"), SHIFTS["A"], atol=1e-9)
    np.testing.assert_allclose(model.shift("C"), SHIFTS["C"], atol=1e-9)


def test_contexts_without_controls_are_left_out(cells):
    x, perturbation, context = cells
    kept = (context == "t") | (perturbation != "control")
    model = Additive().fit(x[kept], perturbation[kept], context[kept])
    np.testing.assert_allclose(model.shift("A"), SHIFTS["A"], atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, p, c: (x, p[:-1], c), "`perturbation` has"),
        (lambda x, p, c: (x, p, c[:-1]), "`context` has"),
        (lambda x, p, c: (x, np.where(p == "control", "D", p), c), "No context has cells of the"),
    ],
)
def test_errors_of_fit(cells, change, message):
    with pytest.raises(ValueError, match=message):
        Additive().fit(*change(*cells))


def test_errors_of_predict(cells):
    with pytest.raises(
        ValueError, match=r"`perturbation='X'` is not known. Known: \['A', 'B', 'C'\]"
    ):
        Additive().fit(*cells).predict(controls(cells), "A+X")
    with pytest.raises(ValueError, match="`perturbation='X'` is not known"):
        Ridge(VECTORS).fit(*cells).predict(controls(cells), "X")
    with pytest.raises(ValueError, match="`penalty=-1`"):
        Ridge(VECTORS, penalty=-1)


def test_sparse_cells_are_cells(cells):
    x, perturbation, context = cells
    dense = Additive().fit(x, perturbation, context).predict(x, "A")
    other = Additive().fit(sparse.csr_matrix(x), perturbation, context)
    np.testing.assert_allclose(other.predict(sparse.csr_matrix(x), "A"), dense)


def test_cells_have_the_features_that_were_learned_from(cells):
    with pytest.raises(ValueError, match="`x` has 1 features; 4 were learned from"):
        Additive().fit(*cells).predict(cells[0][:, :1], "A")


def test_what_is_missing_is_no_perturbation():
    x, labels = np.ones((6, 2)), np.array(["control", "A"] * 3, object)
    for wrong in ("perturbation", "context"):
        given = {"perturbation": labels, "context": np.array(["u"] * 6, object)}
        given[wrong] = np.where(np.arange(6) == 2, np.nan, given[wrong])
        with pytest.raises(ValueError, match=f"`{wrong}` has 1 missing values"):
            Additive().fit(x, **given)
    with pytest.raises(ValueError, match="`x` has values that are not finite"):
        Additive().fit(np.where(np.eye(6, 2) > 0, np.nan, x), labels)
    with pytest.raises(ValueError, match=r"`context` has shape \(6, 2\); .* Join columns"):
        Additive().fit(x, labels, context=np.full((6, 2), "u"))
