import os
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from scldm.metrics import Projection, evaluate, library_size_w1
from scldm.metrics import _evaluate as module
from scldm.metrics import _table as table_module

FLOOR, GENERATED = "floor (real vs real)", "generated"


@pytest.fixture(scope="module")
def real(simulate):
    return simulate(150, seed=1, prefix="test")


@pytest.fixture(scope="module")
def train(simulate):
    return simulate(600, seed=2, prefix="train")


@pytest.fixture
def new(simulate):
    return simulate(150, seed=3, prefix="new")


@pytest.fixture
def quick(monkeypatch):
    """Leaves out the forests, for tests of everything around the numbers."""
    kept = {k: v for k, v in table_module.METRICS.items() if not k.startswith("auc")}
    monkeypatch.setattr(table_module, "METRICS", kept)


def run(real, new, train, **options):
    return evaluate(real, new, train, "cell_type", n_pcs=8, **options)


def test_the_perfect_generator_reaches_the_floor(real, train, new):
    table = run(real, new, train)
    assert table.index.tolist() == [FLOOR, GENERATED]
    assert table.columns.tolist() == ["n_cells", *table_module.METRICS, "label_f1"]
    assert table.notna().all(axis=None)
    floor, made = table.loc[FLOOR], table.loc[GENERATED]
    assert made["auc_genes"] < 0.6 and made["auc_pcs"] < 0.6
    assert made["w2"] == pytest.approx(floor["w2"], rel=0.35)
    assert abs(made["energy"]) < 0.05 and abs(made["mmd2"]) < 0.01
    assert made["label_f1"] == pytest.approx(floor["label_f1"], abs=0.05)
    assert floor["label_f1"] > 0.9


def test_means_in_the_place_of_counts_are_seen(real, train, new):
    mean = np.stack([train[train.obs["cell_type"] == t].X.mean(axis=0).A1 for t in "abc"])
    new.X = csr_matrix(mean[new.obs["cell_type"].map({"a": 0, "b": 1, "c": 2})])
    with pytest.warns(UserWarning, match="not integers"):
        table = run(real, new, train)
    assert table.loc[GENERATED, "auc_genes"] > 0.99
    assert table.loc[GENERATED, "gene_variance_rmse"] > 3 * table.loc[FLOOR, "gene_variance_rmse"]


def test_a_wrong_depth_is_seen(quick, real, train, new):
    thin = np.random.default_rng(0).binomial(new.X.toarray().astype(int), 0.5)
    new.X = csr_matrix(thin.astype(np.float32))
    table = run(real, new, train)
    assert table.loc[GENERATED, "library_size_w1"] > 100 > 2 * table.loc[FLOOR, "library_size_w1"]
    for name in ("gene_mean_rmse", "gene_zeros_rmse", "cell_zeros_w1"):
        assert table.loc[GENERATED, name] > 2 * table.loc[FLOOR, name]


def test_shuffled_labels_are_seen_by_their_column_only(quick, real, train, new):
    before = run(real, new, train)
    new.obs["cell_type"] = np.random.default_rng(0).permutation(new.obs["cell_type"])
    after = run(real, new, train)
    assert after.loc[GENERATED, "label_f1"] < 0.5 < 0.9 < before.loc[GENERATED, "label_f1"]
    assert after.drop(columns="label_f1").equals(before.drop(columns="label_f1"))


def test_a_missing_type_is_seen(quick, real, train, simulate):
    new = simulate(300, seed=3)
    table = run(real, new[new.obs["cell_type"] != "b"].copy(), train)
    for name in ("w2", "energy", "mmd2"):
        assert table.loc[GENERATED, name] > 1.2 * table.loc[FLOOR, name]
    assert table.loc[GENERATED, "energy"] > 0.1


def test_the_projection_stands_on_neither_side(quick, monkeypatch, real, train, new):
    fitted, compared = [], []

    class Spy(Projection):
        def fit(self, counts):
            fitted.append(counts.toarray())
            return super().fit(counts)

    def of(counts, projection):
        compared.append(counts.toarray())
        return table_module.Cells(
            counts, projection.log_normalize(counts), projection.transform(counts)
        )

    monkeypatch.setattr(module, "Projection", Spy)
    monkeypatch.setattr(module.Cells, "of", of)
    for held_out in (train, None):
        fitted.clear()
        compared.clear()
        evaluate(real if held_out is not None else train, new, held_out, n_pcs=8)
        rows = {row.tobytes() for row in fitted[0]}
        assert len(compared) == 3
        assert not any(row.tobytes() in rows for counts in compared for row in counts)


def test_sides_have_equal_size(quick, real, train, simulate):
    table = run(real, simulate(70, seed=4), train)
    assert (table["n_cells"] == 70).all()
    assert (run(real, simulate(70, seed=4), train, max_cells=40)["n_cells"] == 40).all()


def test_cells_that_are_drawn_keep_their_labels(quick, real, train, simulate):
    table = run(real, simulate(400, seed=4), train, max_cells=100)
    assert (table["n_cells"] == 100).all() and (table["label_f1"] > 0.9).all()


def test_the_seed_fixes_the_table(quick, real, train, new):
    first = run(real, new, train, seed=1)
    pd.testing.assert_frame_equal(run(real, new, train, seed=1), first)
    assert not run(real, new, train, seed=2).equals(first)


def test_nothing_given_is_changed(quick, real, train, new):
    copies = [adata.copy() for adata in (real, train, new)]
    run(real, new, train)
    for adata, copy in zip((real, train, new), copies, strict=True):
        assert (adata.X != copy.X).nnz == 0
        pd.testing.assert_frame_equal(adata.obs, copy.obs)


def test_the_order_of_genes_does_not_matter(quick, real, train, new):
    expected = run(real, new, train)
    pd.testing.assert_frame_equal(run(real, new[:, ::-1], train), expected)


def test_counts_in_a_layer(quick, real, train, new):
    expected = run(real, new, train)
    layered = [adata.copy() for adata in (real, train)]
    for adata in layered:
        adata.layers["counts"] = adata.X.copy()
        adata.X = adata.X.log1p()
    pd.testing.assert_frame_equal(run(layered[0], new, layered[1], layer="counts"), expected)


def test_one_set_of_real_cells_is_cut_in_three(quick, train, new):
    table = run(train, new, None, max_cells=1000)
    assert (table["n_cells"] == 150).all()
    assert abs(table.loc[FLOOR, "energy"]) < 0.05


def test_copied_training_cells_are_told_by_the_components(simulate):
    # Why the projection is not fitted on a side: here the generated cells were in its fit.
    rng = np.random.default_rng(0)
    noise = [csr_matrix(rng.poisson(1.0, size=(n, 300))) for n in (60, 120)]
    test, train = (ad.AnnData(x) for x in noise)
    train.obs_names = "train" + train.obs_names
    table = evaluate(test, train[:60].copy(), train, n_pcs=20)
    assert table.loc[GENERATED, "auc_pcs"] > table.loc[FLOOR, "auc_pcs"] + 0.1


def test_errors_name_the_argument_and_what_is_known(real, train, new):
    with pytest.raises(
        ValueError, match=r"`groupby='kind'` is not a column of `real.obs`. Known: \['cell_type'\]"
    ):
        evaluate(real, new, train, "kind")
    renamed = train.copy()
    renamed.obs = renamed.obs.rename(columns={"cell_type": "kind"})
    with pytest.raises(ValueError, match="is not a column of `real_train.obs`"):
        evaluate(real, new, renamed, "cell_type")
    with pytest.raises(ValueError, match=r"`layer='counts'` is not a layer of `real`"):
        evaluate(real, new, train, layer="counts")
    with pytest.raises(ValueError, match=r"The genes of `generated` .* 1 are missing \['gene0'\]"):
        evaluate(real, new[:, 1:], train)
    with pytest.raises(ValueError, match="10 generated cells, 10 cells would stand"):
        evaluate(real, new[:10], train)
    logged = real.copy()
    logged.X = logged.X.log1p()
    with pytest.raises(
        ValueError, match=r"`real` does not hold counts: it has the value \d\.\d+\. Give the raw"
    ):
        evaluate(logged, new, train)
    negative = new.copy()
    negative.X = -negative.X
    with pytest.raises(ValueError, match="`generated.X` holds negative values"):
        evaluate(real, negative, train)
    missing = new.copy()
    missing.obs["cell_type"] = [None, *new.obs["cell_type"][1:]]
    with pytest.raises(ValueError, match=r"`generated.obs\['cell_type'\]` has 1 missing"):
        evaluate(real, missing, train, "cell_type", n_pcs=8)


def test_labels_that_no_training_cell_has_are_left_out(quick, real, train, new):
    expected = run(real, new, train)
    new.obs["cell_type"] = new.obs["cell_type"].replace({"c": "unheard of"})
    with pytest.warns(UserWarning, match=r"left out .* label: \['unheard of'\]"):
        table = run(real, new, train)
    assert table.loc[FLOOR].equals(expected.loc[FLOOR])
    assert table.loc[GENERATED, "label_f1"] > 0.9
    new.obs["cell_type"] = "unheard of"
    with pytest.warns(UserWarning, match="150 cells of `generated`"):
        assert np.isnan(run(real, new, train).loc[GENERATED, "label_f1"])


def test_shared_cells_are_warned_of(quick, real, train, new):
    with pytest.warns(UserWarning, match="share 150 cell names"):
        evaluate(train[:150], new, train, n_pcs=8)


@pytest.mark.skipif("SCLDM_DATA" not in os.environ, reason="needs SCLDM_DATA")
def test_two_chemistries_differ_and_two_halves_of_one_do_not():
    path = Path(os.environ["SCLDM_DATA"]) / "pbmc_ding2020_10xv2v3.h5ad"
    cells = ad.read_h5ad(path)
    cells = cells[:, np.argsort(-cells.X.mean(axis=0).A1)[:200]]
    first, second = (cells[cells.obs["batch"] == b] for b in cells.obs["batch"].unique())
    order = np.random.default_rng(0).permutation(first.n_obs)
    test, train, same = (first[part].copy() for part in np.split(order[:900], [200, 700]))
    other = second[:200].copy()
    floor, within = evaluate(test, same, train)["auc_genes"]
    between = evaluate(test, other, train).loc[GENERATED, "auc_genes"]
    assert abs(floor - 0.5) < 0.1 and abs(within - 0.5) < 0.1
    assert between > 0.95
    assert library_size_w1(test.X, other.X) > 2 * library_size_w1(test.X, same.X)
