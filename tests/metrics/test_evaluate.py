import os
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csc_matrix, csr_matrix
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scldm import metrics
from scldm.metrics import Projection, evaluate, side_by_side
from scldm.metrics import _evaluate as module
from scldm.metrics._split import split_held_out, split_one
from scldm.metrics._table import METRICS

COLUMNS = ["source", "group", "metric", "value", "low", "high"]
COLUMNS += ["gap", "gap_low", "gap_high", "better", "n_cells", "note"]
FORESTS = ["auc_genes", "auc_pcs"]
LABELLED = ["marker_overlap", "label_f1", "train_on_generated_f1"]
MEMORY = ["nn_ratio", "near_copies", "membership_auc"]
QUICK = [name for name in METRICS if name not in FORESTS]
FEW = ["w2", "precision", "library_size_w1", "gene_mean_rmse"]
N_PCS = 5


@pytest.fixture(scope="module")
def real(simulate):
    return simulate(150, 1, "test")


@pytest.fixture(scope="module")
def train(simulate):
    return simulate(400, 2, "train")


@pytest.fixture(scope="module")
def sample(simulate):
    return simulate(150, 3, "new")


@pytest.fixture
def new(sample):
    """A sample that a test may change."""
    return sample.copy()


def run(real, new, train, groupby=None, **options):
    """A table with all that is quick, or a few metrics if labels are not asked for."""
    options.setdefault("metrics", QUICK if groupby else FEW)
    options.setdefault("n_bootstrap", 5)
    return evaluate(real, new, train, groupby, n_pcs=N_PCS, **options)


def values(table, source="generated", group="all"):
    rows = table[(table["source"] == source) & (table["group"] == group)]
    return rows.set_index("metric")["value"]


@pytest.fixture(scope="module")
def table(real, train, sample):
    """All metrics of one faithful sample."""
    return evaluate(real, sample, train, "cell_type", n_pcs=N_PCS, n_bootstrap=30)


@pytest.fixture(scope="module")
def quick(real, train, sample):
    return run(real, sample, train, "cell_type")


# The table


def test_the_table_is_tidy(table):
    assert table.columns.tolist() == COLUMNS
    assert table.index.equals(pd.RangeIndex(len(table)))
    assert not table.duplicated(["source", "group", "metric"]).any()
    assert (table[["value", "low", "high"]].dtypes == np.float64).all()
    assert pd.api.types.is_integer_dtype(table["n_cells"])
    for column in ("source", "group", "metric", "better", "note"):
        assert table[column].map(type).eq(str).all()


def test_there_is_a_row_for_each_source_group_and_metric(table):
    per_group = [name for name, metric in METRICS.items() if metric.per_group]
    expected = [(source, "all", name) for source in ("floor", "generated") for name in METRICS]
    expected += [
        (source, group, name)
        for group in "abc"
        for source in ("floor", "generated")
        for name in per_group
    ]
    rows = table[["source", "group", "metric"]]
    assert list(rows.itertuples(index=False, name=None)) == expected


def test_values_lie_in_their_intervals_and_nothing_is_missing(table):
    found = table[table["note"] == ""]
    assert found[["value", "low", "high"]].notna().all(axis=None)
    assert (found["low"] <= found["value"]).all() and (found["value"] <= found["high"]).all()
    assert (found["high"] > found["low"]).mean() > 0.9
    assert (table.loc[table["note"] != "", "group"] != "all").all()


def test_a_gap_is_the_difference_from_the_floor_and_its_interval_spares_the_test_cells_chance(
    table,
):
    rows = table[table["note"] == ""].set_index(["source", "group", "metric"])
    floor, made = rows.loc["floor"], rows.loc["generated"]
    assert floor[["gap", "gap_low", "gap_high"]].isna().all(axis=None)
    both = made.index.intersection(floor.index)
    np.testing.assert_allclose(made.loc[both, "gap"], (made["value"] - floor["value"])[both])
    assert (made["gap_low"] <= made["gap"]).all() and (made["gap"] <= made["gap_high"]).all()
    apart = np.hypot(*(side["high"] - side["low"] for side in (made, floor)))
    paired = made["gap_high"] - made["gap_low"]
    assert (paired["all"] / apart["all"]).median() < 0.95


def test_intervals_end_where_values_can(real, train, sample):
    table = run(real, sample, train, "cell_type", n_bootstrap=20)
    for name, metric in METRICS.items():
        own = table[table["metric"] == name]
        assert (
            not (own["low"] < metric.bounds[0]).any()
            and not (own["high"] > metric.bounds[1]).any()
        )


def test_matrices_are_taken_for_cells(real, train, sample):
    expected = run(real, sample, train)
    for kind in (np.asarray, csr_matrix):
        found = run(*(kind(cells.X.toarray()) for cells in (real, sample, train)))
        pd.testing.assert_frame_equal(found, expected)
    with pytest.raises(ValueError, match="`generated` has 3 genes, and `real` has"):
        run(real, sample.X[:, :3], train)


def test_names_of_sources_become_text(real, train, sample):
    table = run(real, {8: sample, 16: sample}, train)
    assert table["source"].unique().tolist() == ["floor", "8", "16"]


def test_genes_are_chosen_on_the_cells_that_fit_the_projection(real, train, sample):
    table = run(real, sample, train, n_top_genes=12)
    about = table.attrs["preprocessing"]
    assert about["n_genes"] == len(about["genes"]) == 12
    assert set(about["genes"]) < set(real.var_names)
    same = run(*(cells[:, about["genes"]].copy() for cells in (real, sample, train)))
    np.testing.assert_allclose(table["value"], same["value"])
    assert side_by_side(table).attrs["preprocessing"] == about
    for wrong in (0, real.n_vars + 1, True):
        with pytest.raises(ValueError, match="`n_top_genes="):
            run(real, sample, train, n_top_genes=wrong)


def test_cells_may_lie_on_disk(real, train, sample, tmp_path):
    expected = run(real, sample, train)
    real.write_h5ad(tmp_path / "real.h5ad")
    backed = ad.read_h5ad(tmp_path / "real.h5ad", backed="r")
    pd.testing.assert_frame_equal(run(backed, sample, train), expected)


def test_each_metric_says_which_way_is_better(table):
    better = table.groupby("metric")["better"].agg(set)
    assert (better.map(len) == 1).all()
    better = better.map(lambda found: next(iter(found)))
    assert set(better[better == "higher"].index) == {
        "lisi",
        "recall",
        "coverage",
        "marker_overlap",
        "train_on_generated_f1",
    }
    assert set(better[better == "floor"].index) == {
        "auc_genes",
        "auc_pcs",
        "auc_logistic",
        "one_nn_accuracy",
        "precision",
        "density",
        "label_f1",
        *MEMORY,
    }
    assert set(better) == {"lower", "higher", "floor"}


def test_a_faithful_sample_reaches_the_floor(table):
    floor, made = values(table, "floor"), values(table)
    assert abs(made["auc_genes"] - 0.5) < 0.12 and abs(made["auc_pcs"] - 0.5) < 0.12
    assert made["w2"] == pytest.approx(floor["w2"], rel=0.35)
    assert abs(made["mmd2"]) < 0.01
    assert made["label_f1"] == pytest.approx(floor["label_f1"], abs=0.05)
    assert floor["label_f1"] > 0.9


def test_no_bootstrap_leaves_the_values_and_no_intervals(real, train, sample, quick):
    table = run(real, sample, train, "cell_type", n_bootstrap=0)
    assert table[["low", "high"]].isna().all(axis=None)
    pd.testing.assert_series_equal(table["value"], quick["value"])


def test_the_seed_fixes_the_table(real, train, sample, quick):
    pd.testing.assert_frame_equal(run(real, sample, train, "cell_type"), quick)
    other = values(run(real, sample, train, seed=1))
    assert (other[["w2", "precision"]] != values(quick)[["w2", "precision"]]).all()


def test_the_seed_fixes_the_forests_whatever_the_threads(real, train, sample):
    options = {"metrics": ["auc_pcs"], "max_cells": 60}
    first, second = (run(real, sample, train, n_jobs=n, **options) for n in (1, 2))
    pd.testing.assert_frame_equal(first, second)


def test_nothing_given_is_changed(real, train, sample, quick):
    copies = [adata.copy() for adata in (real, train, sample)]
    run(*(adata for adata in (real, sample, train)), "cell_type", metrics=[*FEW, *LABELLED])
    for adata, copy in zip((real, train, sample), copies, strict=True):
        assert (adata.X != copy.X).nnz == 0
        pd.testing.assert_frame_equal(adata.obs, copy.obs)


# Values


@pytest.fixture(scope="module")
def by_hand(real, train, sample):
    """What stands behind the table: the split, and the projection fitted on the rest."""
    split = split_held_out(150, 400, 150, 3000, np.random.default_rng(0))
    projection = Projection(N_PCS, seed=0).fit(train.X[split.projection])
    counts = {"real": real.X, "floor": train.X[split.floor], "generated": sample.X}
    labels = {"real": real.obs, "floor": train.obs.iloc[split.floor], "generated": sample.obs}
    return (
        projection,
        counts,
        {name: obs["cell_type"].to_numpy() for name, obs in labels.items()},
    )


@pytest.mark.parametrize("source", ["floor", "generated"])
def test_values_are_those_of_the_functions(table, by_hand, train, source):
    projection, counts, labels = by_hand
    pcs = {name: projection.transform(x) for name, x in counts.items()}
    logs = {name: projection.log_normalize(x) for name, x in counts.items()}
    x, y = pcs["real"], pcs[source]
    manifold = metrics.precision_recall(x, y)
    expected = manifold._asdict() | {
        "w2": metrics.wasserstein2(x, y),
        "sliced_w2": metrics.sliced_wasserstein2(x, y),
        "energy": metrics.energy_distance(x, y),
        "mmd2": metrics.mmd2(x, y),
        "frechet": metrics.frechet_distance(x, y),
        "auc_pcs": metrics.classifier_auc(x, y),
        "auc_logistic": metrics.classifier_auc(
            x, y, make_pipeline(StandardScaler(), LogisticRegression())
        ),
        "one_nn_accuracy": metrics.one_nn_accuracy(x, y),
        "lisi": metrics.lisi(np.vstack([x, y]), np.repeat([0, 1], 150)).mean(),
        "gene_w1": metrics.gene_w1(logs["real"], logs[source]),
        "library_size_w1": metrics.library_size_w1(counts["real"], counts[source]),
        "cell_zeros_w1": metrics.cell_zeros_w1(counts["real"], counts[source]),
        "gene_mean_rmse": metrics.gene_mean_rmse(counts["real"], counts[source]),
        "gene_variance_rmse": metrics.gene_variance_rmse(counts["real"], counts[source]),
        "gene_zeros_rmse": metrics.gene_zeros_rmse(counts["real"], counts[source]),
        "mean_variance_gap": metrics.mean_variance_gap(counts["real"], counts[source]),
        "gene_correlation_rmse": metrics.gene_correlation_rmse(logs["real"], logs[source]),
        "marker_overlap": metrics.marker_overlap(
            logs["real"], logs[source], labels["real"], labels[source]
        ),
    }
    fidelity = metrics.LabelFidelity().fit(y, labels[source])
    expected["train_on_generated_f1"] = fidelity.score(x, labels["real"])
    teacher = metrics.LabelFidelity().fit(
        projection.transform(train.X), train.obs["cell_type"].to_numpy()
    )
    judged = "real" if source == "floor" else source  # the ceiling: test cells are scored
    expected["label_f1"] = teacher.score(pcs[judged], labels[judged])
    if source == "generated":
        expected |= metrics.memorisation(y, pcs["floor"], x)._asdict()
    found = values(table, source)[list(expected)]
    assert found.to_dict() == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_the_floor_of_memory_is_of_cells_that_the_distances_are_not_to(table):
    floor = values(table, "floor")
    # The training cells that the distances are to would have a ratio of zero.
    assert floor["nn_ratio"] == pytest.approx(1, abs=0.15)
    assert floor["near_copies"] < 0.06
    assert floor["membership_auc"] == pytest.approx(0.5, abs=0.12)


def test_the_projection_is_fitted_on_neither_side(monkeypatch, real, train, sample):
    fitted, compared = [], []

    class Spy(Projection):
        def fit(self, counts):
            fitted.append(counts.toarray())
            return super().fit(counts)

    of = module.Cells.of

    def spy_of(counts, projection, labels=None):
        compared.append(counts.toarray())
        return of(counts, projection, labels)

    monkeypatch.setattr(module, "Projection", Spy)
    monkeypatch.setattr(module.Cells, "of", spy_of)
    for test, held_out in ((real, train), (train, None)):
        fitted.clear()
        compared.clear()
        run(test, sample, held_out, metrics=["w2"])
        rows = {row.tobytes() for row in fitted[0]}
        assert len(fitted) == 1 and len(rows) >= 130
        apart = [not any(row.tobytes() in rows for row in counts) for counts in compared]
        # Test, floor, then the fresh cells of memory metrics, which may be of the fit, generated.
        assert apart == [True, True, False, True]


def test_the_projection_depends_on_no_cell_of_either_side(real, train, sample, simulate, quick):
    other = simulate(150, 99, types="a", depth=50.0)
    for test, new in ((other, sample), (real, other)):
        table = run(test, new, train)
        assert table.attrs["preprocessing"] == quick.attrs["preprocessing"]


def test_test_cells_do_not_move_the_classifier_of_labels(real, train, sample, simulate, quick):
    other = simulate(150, 99, depth=50.0)
    table = run(other, sample, train, "cell_type", metrics=["label_f1"])
    assert values(table)["label_f1"] == values(quick)["label_f1"]


def test_all_training_cells_teach_the_labels(monkeypatch, real, train, sample):
    taught = []

    class Spy(metrics.LabelFidelity):
        def fit(self, x, labels):
            taught.append(np.asarray(labels))
            return super().fit(x, labels)

    monkeypatch.setattr(module, "LabelFidelity", Spy)
    run(real, sample, train, "cell_type", metrics=["label_f1"])
    assert len(taught) == 1
    assert sorted(taught[0]) == sorted(train.obs["cell_type"])


def test_preprocessing_is_told(quick, by_hand, train, sample):
    projection, _, _ = by_hand
    told = quick.attrs["preprocessing"]
    assert told["target_sum"] == projection.target_sum_
    assert told["variance_in_pcs"] == pytest.approx(
        projection.pca_.explained_variance_ratio_.sum()
    )
    assert (told["counts"], told["n_genes"], told["n_pcs"]) == ("X", 100, N_PCS)
    assert (told["fitted_on"], told["fitted_on_cells"], told["seed"]) == ("real_train", 250, 0)
    alone = run(train, sample, None, seed=3).attrs["preprocessing"]
    assert (alone["fitted_on"], alone["fitted_on_cells"], alone["seed"]) == ("real", 134, 3)


# Several sources


def test_the_floor_is_computed_once_and_sources_keep_their_order(real, train, sample, simulate):
    sets = {"z": sample, "a": simulate(150, 4)}
    table = run(real, sets, train, "cell_type", metrics=FEW)
    whole = table[table["group"] == "all"]
    assert whole["source"].unique().tolist() == ["floor", "z", "a"]
    assert (whole.groupby("source").size() == len(FEW)).all()


@pytest.mark.parametrize("max_cells", [3000, 80])
def test_a_source_has_the_same_values_alone_and_with_others(
    real, train, sample, simulate, quick, max_cells
):
    # The others have more cells of type a, so that they do not cut its groups.
    sets = {
        "first": simulate(150, 4, types="ab"),
        "second": sample,
        "third": simulate(150, 5, types="ac"),
    }
    chosen = [*FEW, "label_f1", "nn_ratio"]
    options = {"groupby": "cell_type", "metrics": chosen, "max_cells": max_cells}
    together = run(real, sets, train, **options)
    alone = run(real, sample, train, **options)
    for source, name in (("floor", "floor"), ("generated", "second")):
        for group in ("all", "a"):
            expected = alone[(alone["source"] == source) & (alone["group"] == group)]
            found = together[(together["source"] == name) & (together["group"] == group)]
            pd.testing.assert_frame_equal(
                found.drop(columns="source").reset_index(drop=True),
                expected.drop(columns="source").reset_index(drop=True),
            )


def test_sets_of_different_sizes_are_cut_to_the_smallest(real, train, sample, simulate):
    table = run(real, {"few": simulate(70, 4), "many": simulate(300, 5)}, train)
    assert (table["n_cells"] == 70).all()
    assert (run(real, sample, train, max_cells=40)["n_cells"] == 40).all()
    assert (run(real, sample, train[:90])["n_cells"] == 45).all()


def test_a_share_of_labels_is_of_all_generated_cells(real, train, simulate):
    many = simulate(500, 4)
    table = run(real, many, train, "cell_type", metrics=["label_f1", "w2"])
    rows = table[(table["group"] == "all") & (table["source"] == "generated")]
    assert rows.set_index("metric")["n_cells"].to_dict() == {"label_f1": 500, "w2": 150}
    table = run(real, many, train, "cell_type", metrics=["label_f1", "w2"], max_cells=100)
    assert (table.loc[table["group"] == "all", "n_cells"] == 100).all()


def test_cells_that_are_drawn_keep_their_labels(real, train, simulate):
    options = {"metrics": ["label_f1", "train_on_generated_f1"], "max_cells": 100}
    table = run(real, simulate(400, 4), train, "cell_type", **options)
    assert (table["value"] > 0.9).all()


def test_the_draw_of_generated_cells_is_not_that_of_the_real_ones(real, train):
    # Cells that were made row by row from real ones must not be compared with just those.
    options = {"metrics": ["one_nn_accuracy", "w2"]}
    aligned = values(run(train, train.copy(), None, **options))
    assert aligned["one_nn_accuracy"] > 0.15 and aligned["w2"] > 0.5
    copies = values(run(real, train.copy(), train, metrics=["near_copies"]))
    assert copies["near_copies"] == pytest.approx(150 / 400, abs=0.12)


def test_side_by_side_keeps_the_order_of_metrics_and_sources(real, train, sample, simulate):
    sets = {"z": sample, "a": simulate(150, 4)}
    chosen = ["precision", "w2", "gene_mean_rmse"]
    table = run(real, sets, train, "cell_type", metrics=chosen)
    wide = side_by_side(table)
    assert wide.index.tolist() == chosen and wide.columns.tolist() == ["floor", "z", "a"]
    for source in wide:
        assert wide[source].to_dict() == values(table, source).to_dict()
    within = side_by_side(table, "a")
    assert within.index.tolist() == ["w2", "gene_mean_rmse"]
    assert within.loc["w2", "z"] == values(table, "z", "a")["w2"]
    with pytest.raises(ValueError, match=r"`group='d'` is not in the table. Known: \['all', 'a'"):
        side_by_side(table, "d")


# Invariances


def test_the_order_of_genes_does_not_matter(real, train, sample, quick):
    rng = np.random.default_rng(0)
    shuffled, trained = sample[:, rng.permutation(100)], train[:, rng.permutation(100)]
    pd.testing.assert_frame_equal(run(real, shuffled, trained, "cell_type"), quick)


def test_the_order_of_generated_cells_does_not_matter(real, train, sample, quick):
    shuffled = sample[np.random.default_rng(0).permutation(150)].copy()
    table = run(real, shuffled, train, "cell_type")
    # Folds are drawn by row, so a classifier's value changes with them by chance.
    same = [name for name in QUICK if name != "auc_logistic"]
    found, expected = values(table)[same], values(quick)[same]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("form", ["dense", "csc", "integers", "array", "layer"])
def test_the_form_of_the_counts_does_not_matter(real, train, sample, quick, form):
    change = {
        "dense": lambda x: x.toarray(),
        "csc": csc_matrix,
        "integers": lambda x: x.astype(np.int64),
        "array": lambda x: x.astype(np.float64).toarray(),
        "layer": lambda x: x,
    }[form]
    copies = [adata.copy() for adata in (real, sample, train)]
    for adata in copies:
        counts = change(adata.X)
        adata.X = adata.X.log1p()
        if form == "layer":
            adata.layers["counts"] = counts
        else:
            adata.X = counts
    layer = "counts" if form == "layer" else None
    table = run(*copies, "cell_type", layer=layer)
    exact = form in ("csc", "layer", "dense")
    pd.testing.assert_frame_equal(table, quick, check_exact=exact, rtol=1e-4, atol=1e-6)
    told = table.attrs["preprocessing"]["counts"]
    assert told == ("layers['counts']" if form == "layer" else "X")


def test_generated_cells_without_the_layer_give_their_x(real, train, sample, quick):
    layered = [adata.copy() for adata in (real, train)]
    for adata in layered:
        adata.layers["counts"] = adata.X
        adata.X = adata.X.log1p()
    table = run(layered[0], sample, layered[1], "cell_type", layer="counts")
    pd.testing.assert_frame_equal(table, quick)


# What applies


def test_metrics_that_need_what_is_not_given_are_left_out(monkeypatch, real, train, sample):
    monkeypatch.setattr(module, "METRICS", {name: METRICS[name] for name in QUICK})
    found = {
        (held_out is not None, groupby): set(
            run(train, sample, held_out, groupby, metrics=None, n_bootstrap=0)["metric"]
        )
        for held_out in (real, None)
        for groupby in ("cell_type", None)
    }
    assert found[True, "cell_type"] == set(QUICK)
    assert found[True, None] == set(QUICK) - set(LABELLED)
    assert found[False, "cell_type"] == set(QUICK) - set(MEMORY)
    assert found[False, None] == set(QUICK) - set(LABELLED) - set(MEMORY)


def test_metrics_are_those_asked_for_in_their_order(real, train, sample):
    table = run(real, sample, train, metrics=["precision", "energy"])
    assert table["metric"].tolist() == ["precision", "energy"] * 2
    assert (run(real, sample, train, "cell_type", metrics=["recall"])["group"] == "all").all()


def test_metrics_that_are_not_known_or_lack_something_are_errors(real, train, sample):
    with pytest.raises(ValueError, match=r"`metrics` has 'W2', which is not known. Known: \['w2'"):
        run(real, sample, train, metrics=["w2", "W2"])
    for name in LABELLED:
        with pytest.raises(ValueError, match=f"`metrics` has '{name}', which needs `groupby`"):
            run(real, sample, train, metrics=[name])
    for name in MEMORY:
        with pytest.raises(ValueError, match=f"`metrics` has '{name}', which needs `real_train`"):
            run(train, sample, None, metrics=[name])


def test_one_set_of_real_cells_is_cut_in_three(train, sample):
    table = run(train, sample, None, metrics=[*FEW, "energy"])
    assert (table["n_cells"] == 133).all()
    split = split_one(400, 150, 3000, np.random.default_rng(0))
    projection = Projection(N_PCS).fit(train.X[split.projection])
    x, y = (projection.transform(train.X[rows]) for rows in (split.test, split.floor))
    assert values(table, "floor")["w2"] == pytest.approx(metrics.wasserstein2(x, y))
    assert abs(values(table, "floor")["energy"]) < 0.1


# Groups and labels


def test_groups_are_compared_at_one_size_of_their_own(real, train, sample, simulate, quick):
    sets = {"even": sample, "mostly_a": simulate(150, 4, types="ab")}
    table = run(real, sets, train, "cell_type", metrics=FEW)
    split = split_held_out(150, 400, 150, 3000, np.random.default_rng(0))
    sides = [real, train[split.floor], *sets.values()]
    n = {g: min((side.obs["cell_type"] == g).sum() for side in sides) for g in "ab"}
    assert 30 <= n["b"] < n["a"]
    for group in "ab":
        assert (table.loc[table["group"] == group, "n_cells"] == n[group]).all()
    assert set(table.loc[table["group"] == "a", "metric"]) == {"w2", "gene_mean_rmse"}


def test_values_of_a_group_are_those_of_its_cells(real, train, sample, by_hand):
    _, _, labels = by_hand
    # As many test cells of each type as generated ones, and fewer than in the floor: no draw.
    own = {name: np.flatnonzero(kinds == "a") for name, kinds in labels.items()}
    n = 40
    assert min(len(rows) for rows in own.values()) > n
    test, new = (
        adata[np.setdiff1d(np.arange(150), own[name][n:])].copy()
        for adata, name in ((real, "real"), (sample, "generated"))
    )
    size = min(test.n_obs, new.n_obs)
    rest = [np.flatnonzero(adata.obs["cell_type"] != "a") for adata in (test, new)]
    test, new = (
        adata[np.setdiff1d(np.arange(adata.n_obs), rows[: adata.n_obs - size])].copy()
        for adata, rows in zip((test, new), rest, strict=True)
    )
    table = run(test, new, train, "cell_type", metrics=["energy", "w2", "mmd2", "gene_mean_rmse"])
    rows = table[(table["group"] == "a") & (table["source"] == "generated")]
    assert (rows["n_cells"] == n).all()
    split = split_held_out(size, 400, size, 3000, np.random.default_rng(0))
    projection = Projection(N_PCS).fit(train.X[split.projection])
    x, y = (adata.X[(adata.obs["cell_type"] == "a").to_numpy()] for adata in (test, new))
    z = [projection.transform(side) for side in (x, y)]
    expected = {
        "energy": metrics.energy_distance(*z),
        "w2": metrics.wasserstein2(*z),
        "mmd2": metrics.mmd2(*z),
        "gene_mean_rmse": metrics.gene_mean_rmse(x, y),
    }
    assert rows.set_index("metric")["value"].to_dict() == pytest.approx(expected, rel=1e-6)


def test_a_type_with_few_cells_has_a_note_and_spoils_no_other_source(
    real, train, sample, simulate
):
    other = simulate(150, 4)
    keep = np.setdiff1d(np.arange(150), np.flatnonzero(other.obs["cell_type"] == "b")[12:])
    with_few = {"good": simulate(len(keep), 5, types="ab"), "few": other[keep].copy()}
    table = run(real, with_few, train, "cell_type", metrics=["w2"])
    rows = table[table["group"] == "b"].set_index("source")
    assert rows.loc["few", "note"] == "too few cells: 12 of at least 30"
    assert rows.loc["few", ["value", "low", "high"]].isna().all()
    assert (rows.loc[["floor", "good"], "n_cells"] >= 30).all()
    assert rows.loc[["floor", "good"], "value"].notna().all()
    assert (rows.loc[["floor", "good"], "note"] == "").all()


def test_a_type_that_is_rare_among_test_cells_has_a_note_for_all(real, train, sample):
    rare = np.flatnonzero(real.obs["cell_type"] == "c")[10:]
    test = real[np.setdiff1d(np.arange(150), rare)].copy()
    table = run(test, sample, train, "cell_type", metrics=["w2"])
    assert (table.loc[table["group"] == "c", "note"] == "too few cells: 10 of at least 30").all()


def test_labels_that_no_training_cell_has_are_left_out_with_a_warning(real, train, new, quick):
    new.obs["cell_type"] = new.obs["cell_type"].replace({"c": "unheard of"})
    with pytest.warns(UserWarning, match=r"cells of `generated` are left out .*'unheard of'\]"):
        table = run(real, new, train, "cell_type")
    pd.testing.assert_series_equal(
        values(table, "floor").drop("train_on_generated_f1"),
        values(quick, "floor").drop("train_on_generated_f1"),
    )
    assert values(table)["label_f1"] > 0.9
    # A learner from generated cells knows no c, which counts as zero.
    assert values(table)["train_on_generated_f1"] < 0.75


def test_labels_of_test_cells_that_are_unknown_are_warned_of_too(real, train, sample):
    test = real.copy()
    test.obs["cell_type"] = test.obs["cell_type"].replace({"c": "unheard of"})
    with pytest.warns(UserWarning, match=r"cells of `real` are left out .*'unheard of'\]"):
        table = run(test, sample, train, "cell_type", metrics=["label_f1"])
    assert (table["value"] > 0.9).all()


def test_where_all_labels_are_unknown_a_note_says_so(real, train, new):
    new.obs["cell_type"] = "unheard of"
    with pytest.warns(UserWarning, match="150 cells of `generated`"):
        table = run(real, new, train, "cell_type", metrics=LABELLED)
    rows = table[table["source"] == "generated"].set_index("metric")
    assert rows["value"].isna().all()
    assert rows.loc["label_f1", "note"] == "no training cell has one of the labels"
    assert rows.loc["train_on_generated_f1", "note"] == "cells of one label teach nothing"
    assert rows.loc["marker_overlap", "note"].startswith("no type has 20 cells")
    assert (rows["n_cells"] == 150).all()


def test_one_label_only_teaches_nothing(real, train, simulate):
    table = run(real, simulate(150, 4, types="a"), train, "cell_type", metrics=LABELLED)
    rows = table[table["source"] == "generated"].set_index("metric")
    assert rows.loc["train_on_generated_f1", "note"] == "cells of one label teach nothing"
    assert np.isnan(rows.loc["train_on_generated_f1", "value"])
    assert rows.loc["label_f1", "value"] > 0.9
    assert table.loc[table["source"] == "floor", "value"].notna().all()


def test_labels_may_be_categories_or_numbers(real, train, sample, quick):
    copies = [adata.copy() for adata in (real, sample, train)]
    for adata in copies:
        adata.obs["cell_type"] = pd.Categorical(adata.obs["cell_type"])
    pd.testing.assert_frame_equal(run(*copies, "cell_type"), quick)
    for adata in copies:
        adata.obs["cell_type"] = adata.obs["cell_type"].cat.codes
    table = run(*copies, "cell_type")
    assert set(table["group"]) == {"all", "0", "1", "2"}
    np.testing.assert_allclose(table["value"], quick["value"], rtol=1e-6)


# Warnings and errors


def test_no_warning_where_all_is_well(real, train, sample):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(real, sample, train, "cell_type")


def test_warnings_point_to_the_line_that_asked(real, train, new):
    new.X = new.X * 1.5
    with pytest.warns(UserWarning, match="`generated` holds values that are not integers") as told:
        evaluate(real, new, train, n_pcs=N_PCS, metrics=["w2"], n_bootstrap=0)
    assert told[0].filename == __file__
    new.X = real.X
    new.obs["cell_type"] = "unheard of"
    options = {"n_pcs": N_PCS, "metrics": ["w2"], "n_bootstrap": 0}
    with pytest.warns(UserWarning, match="`generated` are left out") as told:
        evaluate(real, new, train, "cell_type", **(options | {"metrics": ["label_f1"]}))
    assert told[0].filename == __file__
    with pytest.warns(UserWarning, match="share 150 cell names, for example 'train0'") as told:
        evaluate(train[:150], new, train, **options)
    assert told[0].filename == __file__


def test_a_warning_names_the_set(real, train, new):
    new.X = new.X * 1.5
    with pytest.warns(UserWarning, match=r"`generated\['mine'\]` holds values"):
        run(real, {"mine": new}, train)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": "w2"}, "`metrics='w2'` must be a list of names"),
        ({"metrics": []}, r"`metrics=\[\]` must be a list of names"),
        ({"n_bootstrap": -1}, "`n_bootstrap=-1` must not be below 0"),
        ({"n_pcs": 5000}, "`n_pcs=5000` must be above 0 and below the"),
    ],
)
def test_values_that_make_no_sense(real, train, new, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(real, new, train, **options)


def test_a_label_that_stands_for_all_cells_is_refused(real, train, new):
    real = real.copy()
    real.obs["cell_type"] = "all"
    with pytest.raises(ValueError, match="has the label 'all'"):
        run(real, new, train, "cell_type")


def test_genes_of_the_same_name_cannot_be_put_in_order(real, new):
    new = new[:, ::-1].copy()
    new.var_names = ["same", "same", *new.var_names[2:]]
    with pytest.raises(ValueError, match=r"`generated.var_names` has names that occur more than"):
        run(real, new, None)


def test_one_label_in_training_is_a_note_and_no_error(real, train, new):
    real, train, new = (cells.copy() for cells in (real, train, new))
    for cells in (real, train, new):
        cells.obs["one"] = "same"
    table = run(real, new, train, "one", metrics=["w2", "label_f1"])
    own = table[(table["source"] == "generated") & (table["group"] == "all")].set_index("metric")
    assert own.at["label_f1", "note"].startswith("there is one label only")
    assert own["value"].isna().tolist() == [False, True]


def test_errors_name_the_argument_and_what_is_known(real, train, new):
    with pytest.raises(
        ValueError, match=r"`groupby='kind'` is not a column of `real.obs`. Known: \['cell_type'\]"
    ):
        run(real, new, train, "kind")
    for place, name in ((0, "real"), (1, "generated"), (2, "real_train")):
        copies = [real.copy(), new.copy(), train.copy()]
        copies[place].obs = copies[place].obs.rename(columns={"cell_type": "kind"})
        with pytest.raises(ValueError, match=f"`groupby='cell_type'` is not .* `{name}.obs`"):
            run(*copies, "cell_type")
    missing = new.copy()
    missing.obs["cell_type"] = [None, *new.obs["cell_type"][1:]]
    with pytest.raises(ValueError, match=r"`generated.obs\['cell_type'\]` has 1 missing"):
        run(real, missing, train, "cell_type")
    with pytest.raises(ValueError, match=r"`layer='counts'` is not a layer of `real"):
        run(real, new, train, layer="counts")
    layered = real.copy()
    layered.layers["counts"] = layered.X
    with pytest.raises(ValueError, match=r"`layer='counts'` is not a layer of `real_train`"):
        run(layered, new, train, layer="counts")


def test_genes_that_differ_are_an_error(real, train, new):
    with pytest.raises(ValueError, match=r"The genes of `generated` .* 1 are missing \['gene0'\]"):
        run(real, new[:, 1:], train)
    with pytest.raises(ValueError, match=r"The genes of `real_train` .* 1 are not in `real`"):
        run(real[:, 1:], new[:, 1:], train)
    with pytest.raises(ValueError, match=r"The genes of `generated\['mine'\]`"):
        run(real, {"mine": new[:, 1:]}, train)


def test_values_that_are_no_counts_are_an_error(real, train, new):
    for place, name in ((0, "real"), (2, "real_train")):
        copies = [real.copy(), new, train.copy()]
        copies[place].X = copies[place].X.log1p()
        with pytest.raises(ValueError, match=rf"`{name}` does not hold counts: .* \d\.\d+\. Give"):
            run(*copies)
    new.X = -new.X
    with pytest.raises(ValueError, match="`generated.X` holds negative values"):
        run(real, new, train)
    new.X = csr_matrix(np.full((150, 100), np.nan))
    with pytest.raises(ValueError, match="`generated.X` holds values that are not finite"):
        run(real, new, train)


def test_a_mapping_that_is_empty_or_names_the_floor_is_an_error(real, train, new):
    for sets in ({}, {"mine": new, "floor": new}):
        with pytest.raises(ValueError, match="`generated` must name one or more sets .* 'floor'"):
            run(real, sets, train)


def test_too_few_cells_are_an_error(real, train, new):
    with pytest.raises(ValueError, match="10 generated cells, 10 cells would stand"):
        run(real, new[:10], train)
    with pytest.raises(ValueError, match="With 59 real and 150 generated cells, 19"):
        run(real[:59], new, None)


# Real cells, and time


@pytest.mark.skipif("SCLDM_DATA" not in os.environ, reason="needs SCLDM_DATA")
def test_two_chemistries_differ_and_two_halves_of_one_do_not():
    path = Path(os.environ["SCLDM_DATA"]) / "pbmc_ding2020_10xv2v3.h5ad"
    cells = ad.read_h5ad(path)
    cells = cells[:, np.argsort(-cells.X.mean(axis=0).A1)[:200]]
    first, second = (cells[cells.obs["batch"] == b] for b in cells.obs["batch"].unique())
    order = np.random.default_rng(0).permutation(first.n_obs)
    test, train, same = (first[part].copy() for part in np.split(order[:900], [200, 700]))
    sets = {"same": same, "other": second[:200].copy()}
    chosen = ["auc_genes", "energy", "library_size_w1", "gene_w1"]
    wide = side_by_side(evaluate(test, sets, train, metrics=chosen, n_bootstrap=0))
    assert (abs(wide.loc["auc_genes", ["floor", "same"]] - 0.5) < 0.1).all()
    assert wide.loc["auc_genes", "other"] > 0.95
    assert wide.loc["energy", "other"] > 10 * wide.loc["energy", ["floor", "same"]].abs().max()
    assert wide.loc["library_size_w1", "other"] > 2 * wide.loc["library_size_w1", "same"]
    assert wide.loc["gene_w1", "other"] > 2 * wide.loc["gene_w1", "same"]


@pytest.mark.slow
def test_a_full_table_of_cells_by_the_thousand_computes_for_less_than_a_minute():
    rng = np.random.default_rng(0)
    profiles = rng.lognormal(0, 1.5, size=(4, 2000))
    profiles *= 3000 / profiles.sum(axis=1, keepdims=True)

    def draw(n, prefix):
        kind = rng.integers(4, size=n)
        rate = profiles[kind] * rng.gamma(2.0, 0.5, size=(n, 2000))
        adata = ad.AnnData(csr_matrix(rng.poisson(rate).astype(np.float32)))
        adata.obs_names = [f"{prefix}{i}" for i in range(n)]
        adata.obs["cell_type"] = np.array(list("abcd"))[kind]
        return adata

    real, new, train = draw(1400, "test"), draw(1400, "new"), draw(3000, "train")
    # Of all threads, and not on the clock: other work on the machine shall not fail the test.
    start = time.process_time()
    table = evaluate(real, new, train, "cell_type", n_jobs=2)
    assert time.process_time() - start < 60
    assert (table.loc[table["group"] == "all", "n_cells"] == 1400).all()
    assert table["value"].notna().all()
