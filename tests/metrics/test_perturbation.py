"""Metrics of perturbations on cells whose answer is known."""

import numpy as np
import pytest
from scipy import stats
from scipy.stats import pearsonr, ttest_ind

from scldm.metrics import energy_distance, perturbation
from scldm.metrics.perturbation import _compare

N, GENES = 200, 30


@pytest.fixture(scope="module")
def cells():
    rng = np.random.default_rng(0)
    shift = np.zeros(GENES)
    shift[:5] = [3, -2, 2, 1.5, -1.5]
    control = rng.normal(0, 1, (N, GENES))
    true = rng.normal(0, 1, (N, GENES)) + shift
    good = rng.normal(0, 1, (N, GENES)) + shift
    return {"control": control, "true": true, "good": good, "shift": shift}


def test_de_genes_are_those_of_an_independent_t_test(cells):
    t = ttest_ind(cells["true"], cells["control"], equal_var=False).statistic
    expected = np.argsort(-np.abs(t))[:8]
    found = perturbation.de_genes(cells["true"], cells["control"], 8)
    assert found.tolist() == expected.tolist() and set(found[:5]) == set(range(5))


def test_pearson_and_cosine_equal_numpy(cells):
    change = [cells[name].mean(0) - cells["control"].mean(0) for name in ("true", "good")]
    arguments = cells["true"], cells["good"], cells["control"]
    assert perturbation.pearson_delta(*arguments) == pytest.approx(pearsonr(*change)[0])
    few = pearsonr(change[0][:4], change[1][:4])[0]
    assert perturbation.pearson_delta(*arguments, genes=range(4)) == pytest.approx(few)
    cosine = change[0] @ change[1] / np.sqrt((change[0] ** 2).sum() * (change[1] ** 2).sum())
    assert perturbation.cosine_delta(*arguments) == pytest.approx(cosine)
    assert np.isnan(perturbation.cosine_delta(cells["true"], cells["control"], cells["control"]))


def test_r2_is_one_for_the_truth_and_zero_for_no_change(cells):
    true, control = cells["true"], cells["control"]
    assert perturbation.r2_delta(true, true, control) == 1
    assert perturbation.r2_delta(true, control, control) == pytest.approx(0)
    assert perturbation.r2_delta(true, 2 * control - true, control) < -1


def test_weighted_mse_weighs_genes_by_their_t(cells):
    true, control = cells["true"], cells["control"]
    wrong_gene = []
    for gene in (0, 20):  # one that changes and one that does not
        moved = true.copy()
        moved[:, gene] += 1
        wrong_gene.append(perturbation.weighted_mse(true, moved, control))
    assert perturbation.weighted_mse(true, true, control) == 0
    assert wrong_gene[0] > 50 * wrong_gene[1]


def test_de_overlap_asks_for_the_direction_too(cells):
    true, control = cells["true"], cells["control"]
    assert perturbation.de_overlap(true, true, control, 5) == 1
    assert perturbation.de_overlap(true, 2 * control.mean(0) - true, control, 5) == 0


def test_variance_and_zeros(cells):
    true = cells["true"]
    assert perturbation.variance_ratio(true, true * 2) == pytest.approx(4)
    assert perturbation.variance_ratio(true, np.tile(true.mean(0), (N, 1))) == pytest.approx(0)
    sparse = true.copy()
    sparse[:, :3] = 0
    assert perturbation.zero_fraction_gap(true, sparse) == pytest.approx(0.1)


def test_discrimination():
    rng = np.random.default_rng(1)
    true = {
        name: rng.normal(place, 0.1, (20, 3)) for name, place in zip("ABCD", range(4), strict=True)
    }
    assert perturbation.discrimination(true, true) == (0.0, 1.0)
    # B's place for all: B is right, of A one of three others is nearer, of C one, of D two; and two
    # of three are not nearer where distances tie
    same = dict.fromkeys(true, true["B"])
    found = perturbation.discrimination(true, same)
    order = np.argsort([np.abs(true[n].mean(0) - true["B"].mean(0)).sum() for n in "ABCD"])
    expected = np.mean([np.flatnonzero(order == i)[0] / 3 for i in range(4)])
    assert found.rank == pytest.approx(expected) and found.score == pytest.approx(1 - expected)
    assert expected == pytest.approx(0.5)
    with pytest.raises(ValueError, match=r"`predicted` has \['E'\]"):
        perturbation.discrimination(true, {"E": true["A"]})
    with pytest.raises(ValueError, match="one perturbation only"):
        perturbation.discrimination({"A": true["A"]}, {"A": true["A"]})


def test_compare_discrimination_has_chance_and_ceiling_beside_the_methods():
    rng = np.random.default_rng(1)

    def cells(place):
        return rng.normal(place, 0.1, (20, 3))

    true = {name: cells(place) for name, place in zip("ABCD", (0, 1, 3, 6), strict=True)}
    swapped = {"A": cells(1), "B": cells(0), "C": cells(3), "D": cells(6)}
    table = perturbation.compare_discrimination(true, {"swapped": swapped}, cells(1.2))
    assert table.index.tolist() == ["no change", "swapped", "ceiling"]
    assert table.loc["ceiling"].tolist() == [0, 1]
    assert table.loc["no change"].tolist() == pytest.approx([0.5, 0.5])
    # one of three others is nearer for each of the two that are swapped
    assert table.loc["swapped", "score"] == pytest.approx(1 - 2 / 3 / 4)
    # controls of their own, which know which is which, are not at chance
    own = perturbation.compare_discrimination(true, {}, {name: true[name] for name in true})
    assert own.loc["no change", "rank"] == 0
    # of some perturbations only, all are ranked among all
    table = perturbation.compare_discrimination(
        true, {"near": {"D": cells(4)}, "far": {"D": cells(2)}}, cells(1.2)
    )
    assert table["rank"].tolist() == pytest.approx([1, 1 / 3, 1, 0])
    with pytest.raises(ValueError, match=r"`predicted` has \['A', 'B'\] of some methods only"):
        perturbation.compare_discrimination(
            true, {"one": {"A": cells(0)}, "other": {"B": cells(1)}}, cells(1)
        )
    with pytest.raises(TypeError, match=r"`predicted\['A'\]` is a ndarray"):
        perturbation.compare_discrimination(true, {"A": true["A"]}, cells(1))
    with pytest.raises(ValueError, match=r"`control` has no cells for \['B', 'C', 'D'\]"):
        perturbation.compare_discrimination(true, {}, {"A": true["A"]})
    with pytest.raises(ValueError, match=r"`true\['A'\]` has 3 cells"):
        perturbation.compare_discrimination(true | {"A": true["A"][:3]}, {}, true["A"])
    with pytest.raises(ValueError, match=r"`predicted` has \['ceiling'\]"):
        perturbation.compare_discrimination(true, {"ceiling": true}, true["A"])


def test_compare_tells_means_from_cells(cells):
    true, control = cells["true"], cells["control"]
    predicted = {"cells": cells["good"], "mean": np.tile(cells["good"].mean(0), (N, 1))}
    table = perturbation.compare(
        true, predicted, control, n_top=5, components=np.eye(GENES)[:, :6]
    )
    assert table.index.tolist() == ["no change", "cells", "mean", "ceiling"]
    # the mean wins or ties on points and loses on the distribution
    assert table.loc["mean", "pearson_delta"] == pytest.approx(table.loc["cells", "pearson_delta"])
    assert table.loc["mean", "energy"] > 5 * abs(table.loc["cells", "energy"])
    assert table.loc["mean", "variance_ratio"] == pytest.approx(0, abs=1e-12)
    assert table.loc["cells", "variance_ratio"] == pytest.approx(1, abs=0.1)
    assert table.loc["no change", "energy"] > table.loc["cells", "energy"]
    assert abs(table.loc["ceiling", "energy"]) < 0.2
    assert table.loc["ceiling", "de_overlap"] >= 0.8
    assert table.loc["no change", "r2_delta"] == pytest.approx(0)
    assert table.loc["cells", "energy_pcs"] < table.loc["no change", "energy_pcs"] / 10


def test_weighted_r2_asks_for_the_genes_that_change(cells):
    true, control = cells["true"], cells["control"]
    assert perturbation.weighted_r2(true, true, control) == 1
    assert perturbation.weighted_r2(true, control, control) == pytest.approx(0)
    # right where genes change, wrong by as much elsewhere
    predicted = true.copy()
    predicted[:, 20:] += 2.0
    assert perturbation.weighted_r2(true, predicted, control) > 0.9
    assert perturbation.r2_delta(true, predicted, control) < 0.5


def test_compare_from_the_centroid_rewards_nothing_that_is_shared(cells):
    true, control = cells["true"], cells["control"]
    rng = np.random.default_rng(0)
    shared = control + np.where(np.arange(GENES) < 10, 3.0, 0.0)
    own = np.where(np.arange(GENES) >= 20, rng.normal(size=GENES), 0.0)
    perturbed = np.concatenate([shared + own, shared - own])
    predicted = {"shared": shared[:100], "own": shared + own}
    table = perturbation.compare(shared + own, predicted, control, n_top=5, centroid=perturbed)
    assert table.loc["shared", "pearson_delta"] > 0.5
    assert abs(table.loc["shared", "pearson_centroid"]) < 0.5
    assert table.loc["own", "pearson_centroid"] > 0.9
    assert "pearson_centroid" not in perturbation.compare(true, {}, control, n_top=5)
    assert table.loc["mean", "variance_ratio"] == pytest.approx(0, abs=1e-9)
    assert table.loc["mean", "weighted_mse"] == pytest.approx(
        perturbation.compare(
            shared + own, {"m": np.tile(perturbed.mean(axis=0), (len(own), 1))}, control, n_top=5
        ).loc["m", "weighted_mse"]
    )
    with pytest.raises(ValueError, match=r"`predicted` has \['mean'\]"):
        perturbation.compare(true, {"mean": control}, control, centroid=perturbed)


def test_compare_takes_samples_of_one_size(cells, monkeypatch):
    sizes = []

    def spy(x, y):
        sizes.append((len(x), len(y)))
        return energy_distance(x, y)

    monkeypatch.setattr(_compare, "energy_distance", spy)
    perturbation.compare(cells["true"], {"few": cells["good"][:70]}, cells["control"], n_top=5)
    assert set(sizes) == {(70, 70)}


def test_an_honest_prediction_does_not_pass_the_ceiling():
    gaps = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        shift = 0.3 * rng.normal(size=GENES)
        true, other, control = (rng.normal(size=(60, GENES)) + s for s in (shift, shift, 0))
        table = perturbation.compare(true, {"new": other[:30]}, control, n_top=5, seed=seed)
        gaps.append(table.loc["new"] - table.loc["ceiling"])
    mean, error = np.mean(gaps, axis=0), np.std(gaps, axis=0) / np.sqrt(10)
    assert (np.abs(mean) < 4 * error + 1e-3).all()


def test_a_gene_that_is_switched_on_everywhere_comes_first(cells):
    control, on = cells["control"].copy(), cells["true"].copy()
    control[:, 20], on[:, 20] = 0, 5
    assert perturbation.de_genes(on, control, 1).tolist() == [20]
    constant = np.tile(on.mean(0), (N, 1))
    assert perturbation.de_overlap(on, constant, control, 1) == 1
    assert perturbation.de_overlap(on, on, control, 500) == 1


def test_names_of_rows_are_reserved(cells):
    with pytest.raises(ValueError, match=r"`predicted` has \['ceiling'\]"):
        perturbation.compare(cells["true"], {"ceiling": cells["good"]}, cells["control"])
    with pytest.raises(ValueError, match="`true` has 3 cells"):
        perturbation.compare(cells["true"][:3], {}, cells["control"])


def test_p_values_are_uniform_where_nothing_changes():
    rng = np.random.default_rng(0)
    a, b = (np.log1p(rng.poisson(2.0, (80, 4000))) for _ in range(2))
    table = perturbation.differential_expression(a, b)
    assert stats.kstest(table["p_value"], "uniform").pvalue > 1e-3
    assert (table["q_value"] < 0.05).sum() <= 2


def made_of(cells, n_samples, rng, factor=1.0):
    """Draws whose means are those of some cells, and the cell that each is of."""
    source = np.repeat(np.arange(len(cells)), n_samples)
    return np.log1p(rng.poisson(cells[source] * factor)), [f"cell {i}" for i in source]


def test_cells_made_of_the_same_control_cells_are_compared_in_pairs():
    rng = np.random.default_rng(3)
    rates = rng.gamma(1.0, 3.0, (60, 3000))
    (a, source), (b, other) = (made_of(rates, n, rng) for n in (5, 4))
    table = perturbation.differential_expression(a, b, source=source, control_source=other)
    assert stats.kstest(table["p_value"], "uniform").pvalue > 1e-3
    # taken for independent, they hide a small change of all genes
    a, _ = made_of(rates, 5, rng, 1.2)
    table = perturbation.differential_expression(a, b, source=source, control_source=other)
    blind = perturbation.differential_expression(a, b)
    assert (table["q_value"] < 0.05).mean() > 0.5
    assert (blind["q_value"] < 0.05).mean() < 0.1
    by_hand = stats.ttest_rel(
        a.reshape(60, 5, -1).mean(1)[:, 7], b.reshape(60, 4, -1).mean(1)[:, 7]
    )
    assert table.loc[7, "p_value"] == pytest.approx(by_hand.pvalue)


def test_pairs_need_the_same_control_cells():
    a, names = np.zeros((4, 3)), ["x", "x", "y", "y"]
    with pytest.raises(ValueError, match="must name the same control cells"):
        perturbation.differential_expression(a, a, source=names, control_source=["x"] * 4)
    with pytest.raises(ValueError, match=r"`source` has shape \(2,\) and 0 missing"):
        perturbation.differential_expression(a, a, source=names[:2])
    with pytest.raises(ValueError, match="`control_source` goes with `source`"):
        perturbation.differential_expression(a, a, control_source=names)
    with pytest.raises(ValueError, match="1 missing values, but must name"):
        perturbation.differential_expression(a, a, source=["x", None, "y", "y"])
    with pytest.raises(ValueError, match="`control_source` is needed: `perturbed` has 4"):
        perturbation.differential_expression(a, a[:2], source=names)
    with pytest.raises(ValueError, match="`perturbed` has 1 cells"):
        perturbation.differential_expression(a, a, source=["x"] * 4)
    # a difference without spread has no test, whatever rounding makes of it
    x = np.random.default_rng(0).normal(size=(4, 3))
    assert (
        perturbation.differential_expression(x, x + 1, source=list("abcd"))["p_value"] == 1
    ).all()


def test_changed_genes_come_first_with_their_direction():
    rng = np.random.default_rng(1)
    rates = np.full(50, 3.0)
    control = np.log1p(rng.poisson(rates, (100, 50)))
    rates[:5], rates[5:10] = 9.0, 1.0
    perturbed = np.log1p(rng.poisson(rates, (60, 50)))
    genes = [f"g{i}" for i in range(50)]
    table = perturbation.differential_expression(perturbed, control, genes)
    assert set(table.index[:10]) == set(genes[:10])
    assert (table.loc[genes[:5], "log_fold_change"] > 0).all()
    assert (table.loc[genes[5:10], "log_fold_change"] < 0).all()
    reference = stats.ttest_ind(perturbed[:, 3], control[:, 3], equal_var=False)
    assert table.loc["g3", "p_value"] == pytest.approx(reference.pvalue)


def test_genes_without_variance_are_not_changed():
    table = perturbation.differential_expression(np.zeros((5, 3)), np.zeros((4, 3)))
    assert (table["p_value"] == 1).all()


def test_a_test_needs_two_cells():
    with pytest.raises(ValueError, match="`control` has 1 cells"):
        perturbation.differential_expression(np.zeros((5, 3)), np.zeros((1, 3)))


def quartet(factor, extra, seed=0, n=60, genes=400):
    """Cells under two perturbations and both: a multiple of the sum, and something of its own."""
    rng = np.random.default_rng(seed)
    a, b = (rng.normal(size=genes) * (rng.random(genes) < 0.1) for _ in range(2))
    own = rng.normal(size=genes) * (rng.random(genes) < 0.1)
    total = a + b
    own -= total * (own @ total) / (total @ total)
    both = factor * total + extra * own * np.linalg.norm(total) / np.linalg.norm(own)
    return [change + rng.normal(size=(n, genes)) for change in (both, a, b, np.zeros(genes))]


@pytest.mark.parametrize(("factor", "extra"), [(1.0, 0.0), (0.5, 0.0), (2.0, 0.0), (1.0, 1.0)])
def test_synergy_is_found_behind_noise(factor, extra):
    found = np.mean([perturbation.synergy(*quartet(factor, extra, seed)) for seed in range(30)], 0)
    assert found[0] == pytest.approx(factor, rel=0.07)
    assert found[1] == pytest.approx(extra**2 / (factor**2 + extra**2), abs=0.05)


def test_no_change_has_no_synergy():
    same = [np.ones((5, 3))] * 4
    assert np.isnan(perturbation.synergy(*same)).all()
    with pytest.raises(ValueError, match="`other` has 1 cells"):
        perturbation.synergy(same[0], same[0], same[0][:1], same[0])


def test_genes_without_a_doubt_are_ordered_too():
    rng = np.random.default_rng(2)
    control = rng.normal(0, 0.1, (400, 3))
    perturbed = rng.normal(0, 0.1, (400, 3)) + [5.0, 20.0, 10.0]
    table = perturbation.differential_expression(perturbed, control, ["a", "b", "c"])
    assert (table["p_value"] == 0).all()
    assert list(table.index) == ["b", "c", "a"]


def test_genes_must_be_the_same():
    with pytest.raises(ValueError, match="`perturbed` has 3 genes, `control` 3 and `genes` 2"):
        perturbation.differential_expression(np.zeros((5, 3)), np.zeros((5, 3)), ["a", "b"])


def test_one_cell_has_no_genes_that_differ():
    one, many = np.ones((1, 4)), np.random.default_rng(0).normal(size=(9, 4))
    with pytest.raises(ValueError, match="at least two rows"):
        perturbation.de_genes(one, many)
    with pytest.raises(ValueError, match="at least two rows"):
        perturbation.de_overlap(many, one, many)
