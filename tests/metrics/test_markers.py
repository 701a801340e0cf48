import numpy as np
import pytest
from scipy.stats import ttest_ind

from scldm.metrics import marker_overlap
from scldm.metrics._markers import marker_overlap_statistic

LABELS = ["a", "b", "c"]


@pytest.fixture
def samples():
    """Two samples whose types have partly other markers."""
    rng = np.random.default_rng(0)
    effect = rng.normal(0, 0.6, size=(3, 50)) * (rng.random((3, 50)) < 0.5)
    drift = rng.normal(0, 0.5, size=(3, 50))
    kinds = [rng.integers(3, size=n) for n in (150, 120)]
    values = [
        np.log1p(rng.poisson(np.exp(e[kind]) * rng.gamma(3, 1 / 3, size=(len(kind), 50))))
        for kind, e in zip(kinds, (effect, effect + drift), strict=True)
    ]
    return *values, *(np.array(LABELS)[kind] for kind in kinds)


def markers(values, labels, label, n_genes):
    """By Welch's test of scipy, with the variance over n as in the module."""
    inside, outside = values[labels == label], values[labels != label]
    gap = inside.mean(axis=0) - outside.mean(axis=0)
    error = inside.var(axis=0) / len(inside) + outside.var(axis=0) / len(outside)
    order = np.argsort(-gap / np.sqrt(error))[:n_genes]
    # The usual variance, over n - 1, puts the genes in the same order but for near ties.
    welch = ttest_ind(inside, outside, equal_var=False).statistic
    assert len(np.intersect1d(order, np.argsort(-welch)[:n_genes])) >= n_genes - 1
    return order


def overlap(x, y, x_labels, y_labels, n_genes, labels=LABELS):
    shared = [
        len(np.intersect1d(markers(x, x_labels, k, n_genes), markers(y, y_labels, k, n_genes)))
        for k in labels
    ]
    return np.mean(shared) / n_genes


@pytest.mark.parametrize("n_genes", [1, 7, 20])
def test_equals_the_overlap_by_welch_tests(samples, n_genes):
    expected = overlap(*samples, n_genes)
    assert marker_overlap(*samples, n_genes=n_genes) == pytest.approx(expected)
    assert n_genes == 1 or 0 < expected < 1


def test_twenty_genes_unless_told_but_no_more_than_a_quarter(samples):
    assert marker_overlap(*samples) == marker_overlap(*samples, n_genes=12)
    x, y, *labels = samples
    wide = [np.hstack([side, side[:, ::-1]]) for side in (x, y)]
    assert marker_overlap(*wide, *labels) == marker_overlap(*wide, *labels, n_genes=20)


def test_one_on_itself_and_chance_for_shuffled_labels(samples):
    x, _, labels, _ = samples
    assert marker_overlap(x, x, labels, labels) == 1
    rng = np.random.default_rng(0)
    values = [marker_overlap(x, x, labels, rng.permutation(labels), n_genes=10) for _ in range(40)]
    assert np.mean(values) == pytest.approx(10 / 50, abs=0.07)


def test_markers_are_those_that_are_higher_in_the_type():
    rng = np.random.default_rng(0)
    labels = np.repeat(["a", "b"], 50)
    x = rng.normal(size=(100, 10))
    y = rng.normal(size=(100, 10))
    x[:50, :3] += 5
    x[50:, 3:6] += 5
    y[:50, 3:6] += 5  # the markers of b in cells of a, and the other way round
    y[50:, :3] += 5
    assert marker_overlap(x, x, labels, labels, n_genes=3) == 1
    assert marker_overlap(x, y, labels, labels, n_genes=3) == 0


def test_types_with_few_cells_in_a_sample_are_left_out(samples):
    x, y, x_labels, y_labels = samples
    few = y_labels.copy()
    few[np.flatnonzero(few == "c")[19:]] = "a"
    expected = overlap(x, y, x_labels, few, 20, ["a", "b"])
    assert marker_overlap(x, y, x_labels, few, n_genes=20) == pytest.approx(expected)
    all_types = overlap(x, y, x_labels, few, 20)
    alike = marker_overlap(x, y, x_labels, few, n_genes=20, min_cells=19)
    assert alike == pytest.approx(all_types)
    with pytest.raises(ValueError, match="no type has 500 cells"):
        marker_overlap(*samples, min_cells=500)
    with pytest.raises(ValueError, match="no type has 20 cells on both sides and outside it"):
        marker_overlap(x, y, np.full(150, "a"), np.full(120, "a"))


def test_repeated_cells_are_weights(samples, multiplicities):
    x, y, x_labels, y_labels = samples
    c, d = multiplicities(150, 4, 1), multiplicities(120, 4, 2)
    expected = [
        marker_overlap(
            np.repeat(x, i, axis=0),
            np.repeat(y, j, axis=0),
            np.repeat(x_labels, i),
            np.repeat(y_labels, j),
        )
        for i, j in zip(c, d, strict=True)
    ]
    assert len(set(expected)) > 1
    values = marker_overlap_statistic(*samples)(c / 150, d / 120)
    np.testing.assert_allclose(values, expected)


def test_a_draw_without_a_cell_of_a_type_gives_a_number(samples):
    x, y, x_labels, y_labels = samples
    weights = (x_labels != "b") / (x_labels != "b").sum()
    value = marker_overlap_statistic(*samples)(weights[None], np.full((1, 120), 1 / 120))
    assert 0 <= value[0] <= 1
