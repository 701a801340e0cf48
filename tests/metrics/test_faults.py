"""Each fault that is planted is caught by metrics that are named, and a faithful sample by none.

A metric catches a fault if its value lies outside the interval of the floor, on the bad side.
"""

import numpy as np
import pytest

from scldm.metrics import evaluate
from scldm.metrics._table import METRICS
from scldm.pl._table import judged

N = 300
FORESTS = ["auc_genes", "auc_pcs"]
LABELLED = ["marker_overlap", "label_f1", "train_on_generated_f1"]

CATCHES = {
    "shuffled_labels": LABELLED,
    "dropped_type": [
        "w2",
        "sliced_w2",
        "energy",
        "mmd2",
        "frechet",
        "auc_logistic",
        "lisi",
        "recall",
        "coverage",
        "gene_w1",
        "gene_mean_rmse",
        "gene_correlation_rmse",
        "train_on_generated_f1",
    ],
    "shrunken_variance": [
        "frechet",
        "lisi",
        "recall",
        "density",
        "cell_zeros_w1",
        "mean_variance_gap",
        "gene_correlation_rmse",
    ],
    "means_for_counts": [
        "auc_logistic",
        "one_nn_accuracy",
        "recall",
        "gene_w1",
        "cell_zeros_w1",
        "gene_zeros_rmse",
        "mean_variance_gap",
        "gene_correlation_rmse",
    ],
    "copied_training_cells": ["nn_ratio", "near_copies", "membership_auc"],
    "wrong_depth": [
        "library_size_w1",
        "cell_zeros_w1",
        "gene_mean_rmse",
        "gene_variance_rmse",
        "gene_zeros_rmse",
    ],
    "independent_genes": [
        "sliced_w2",
        "energy",
        "mmd2",
        "frechet",
        "one_nn_accuracy",
        "lisi",
        "precision",
        "recall",
        "density",
        "coverage",
        "gene_correlation_rmse",
    ],
}

# Where the table must not cry wolf: what a fault leaves alone.
BLIND = {
    "shuffled_labels": [name for name in METRICS if name not in (*LABELLED, *FORESTS)],
    "copied_training_cells": ["w2", "energy", "mmd2", "frechet", "precision", "gene_mean_rmse"],
    # Depth is divided out before the components.
    "wrong_depth": ["w2", "sliced_w2", "energy", "mmd2", "frechet", "label_f1"],
    "independent_genes": ["library_size_w1", "gene_mean_rmse", "label_f1"],
}


@pytest.fixture(scope="module")
def real(simulate):
    return simulate(N, 1, "test")


@pytest.fixture(scope="module")
def train(simulate):
    return simulate(2 * N, 2, "train")


@pytest.fixture(scope="module")
def sets(simulate, train):
    """A faithful sample, and one for each fault."""
    rng = np.random.default_rng(0)
    faithful = simulate(N, 3)
    shuffled = faithful.copy()
    shuffled.obs["cell_type"] = rng.permutation(shuffled.obs["cell_type"].to_numpy())
    return {
        "faithful": faithful,
        "shuffled_labels": shuffled,
        "dropped_type": simulate(N, 4, types="ac"),
        "shrunken_variance": simulate(N, 5, spread=0.6),
        "means_for_counts": simulate(N, 6, means=True),
        "copied_training_cells": train[rng.permutation(2 * N)[:N]].copy(),
        "wrong_depth": simulate(N, 7, depth=180.0),
        "independent_genes": simulate(N, 8, independent=True),
    }


@pytest.fixture(scope="module")
def table(real, train, sets):
    """All metrics but the forests, which take long, of all sets against one floor."""
    quick = [name for name in METRICS if name not in FORESTS]
    with pytest.warns(UserWarning, match=r"`generated\['means_for_counts'\]` holds values that"):
        return evaluate(real, sets, train, "cell_type", n_pcs=10, n_bootstrap=100, metrics=quick)


@pytest.fixture(scope="module")
def forests(real, train, sets):
    """The forests, on half of the cells."""
    chosen = {name: sets[name] for name in ("faithful", "means_for_counts", "independent_genes")}
    with pytest.warns(UserWarning, match="not integers"):
        return evaluate(
            real, chosen, train, n_pcs=10, max_cells=N // 2, n_bootstrap=100, metrics=FORESTS
        )


def badness(table, source):
    """How far each value is outside the interval of the floor, in widths of that interval."""
    rows = table[table["group"] == "all"].set_index("metric")
    floor, made = rows[rows["source"] == "floor"], rows[rows["source"] == source]
    width = np.maximum(floor["high"] - floor["low"], 1e-3)
    above = (made["value"] - floor["high"]) / width
    below = (floor["low"] - made["value"]) / width
    both = above.combine(below, max)
    return above.where(floor["better"] == "lower", below.where(floor["better"] == "higher", both))


@pytest.mark.parametrize("fault", CATCHES)
def test_the_fault_is_caught_by(table, fault):
    found = badness(table, fault)[CATCHES[fault]]
    assert (found > 0).all(), found[found <= 0]


@pytest.mark.parametrize("fault", CATCHES)
def test_the_report_says_so(table, fault):
    rows = judged(table[table["group"] == "all"]).set_index(["source", "metric"])
    assert (rows.loc[fault].loc[CATCHES[fault], "verdict"] != "within").all()


def test_the_report_says_little_of_a_faithful_sample(table):
    rows = judged(table[table["group"] == "all"]).set_index(["source", "metric"])
    assert (rows.loc["faithful", "verdict"] == "within").mean() > 0.8


@pytest.mark.parametrize("fault", BLIND)
def test_the_fault_is_no_matter_of(table, fault):
    found = badness(table, fault)[BLIND[fault]]
    assert (found < 1).all(), found[found >= 1]


@pytest.mark.parametrize("metric", [name for name in METRICS if name not in FORESTS])
def test_a_faithful_sample_lies_at_the_floor_on(table, metric):
    # The interval of the floor holds its own chance, not that of the other sample: one width.
    rows = table[(table["group"] == "all") & (table["metric"] == metric)].set_index("source")
    floor, made = rows.loc["floor"], rows.loc["faithful"]
    width = max(floor["high"] - floor["low"], 1e-3)
    assert floor["low"] - width <= made["value"] <= floor["high"] + width


@pytest.mark.parametrize("metric", FORESTS)
def test_a_forest_catches_means_and_independent_genes_and_no_faithful_sample(forests, metric):
    rows = forests[forests["metric"] == metric].set_index("source")
    floor = rows.loc["floor"]
    assert rows.loc["means_for_counts", "value"] > floor["high"] + 0.05
    assert rows.loc["independent_genes", "value"] > floor["high"] + 0.05
    assert abs(rows.loc["faithful", "value"] - 0.5) < 0.1 and abs(floor["value"] - 0.5) < 0.1


def test_every_metric_catches_one_of_the_faults():
    assert {name for names in CATCHES.values() for name in names} | set(FORESTS) == set(METRICS)


def test_labels_move_nothing_but_the_metrics_of_labels(table):
    wide = table[table["group"] == "all"].pivot(index="metric", columns="source", values="value")
    others = wide.index.difference(LABELLED)
    assert (wide.loc[others, "shuffled_labels"] == wide.loc[others, "faithful"]).all()
    assert wide.loc["label_f1", "shuffled_labels"] < 0.45 < 0.95 < wide.loc["label_f1", "floor"]


def test_half_of_the_copies_are_of_cells_that_are_looked_at(table):
    # The projection was fitted on the other half of the training cells.
    value = table[table["source"] == "copied_training_cells"].set_index("metric")["value"]
    assert value["near_copies"] == pytest.approx(0.5, abs=0.08)
    assert value["nn_ratio"] == pytest.approx(0.5, abs=0.08)
    assert value["membership_auc"] == pytest.approx(0.75, abs=0.06)


def test_the_depth_that_is_missing_is_read_off(table, real, sets):
    value = table[table["metric"] == "library_size_w1"].set_index("source")["value"]
    missing = real.X.sum(axis=1).mean() - sets["wrong_depth"].X.sum(axis=1).mean()
    assert value["wrong_depth"] == pytest.approx(missing, rel=0.02)


def test_within_types_the_kinds_of_faults_are_told_apart(table):
    wide = table.pivot_table(index=["group", "metric"], columns="source", values="value")
    for group in "abc":
        # Type by type nothing is wrong with a sample that lacks another type.
        floor = wide.loc[(group, "energy"), "floor"]
        assert wide.loc[(group, "energy"), "independent_genes"] > floor + 0.1
        if group != "b":
            assert wide.loc[(group, "energy"), "dropped_type"] < floor + 0.1
    missing = table[(table["group"] == "b") & (table["source"] == "dropped_type")]
    assert missing["value"].isna().all()
    assert (missing["note"] == "too few cells: 0 of at least 30").all()
