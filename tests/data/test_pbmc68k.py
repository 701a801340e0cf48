import anndata as ad
import numpy as np
import pytest
import scanpy as sc

from scldm.data import pbmc68k


@pytest.fixture(scope="module")
def cells():
    return pbmc68k()


@pytest.fixture
def source():
    return sc.datasets.pbmc68k_reduced()


def test_integer_counts(cells):
    assert cells.shape == (700, 765)
    assert cells.X.format == "csr" and cells.X.dtype == np.float32
    assert (cells.X.data == np.rint(cells.X.data)).all() and cells.X.data.min() == 1


def test_the_counts_give_back_what_scanpy_carries(cells, source):
    total = source.obs["n_counts"].to_numpy(dtype=float)[:, None]
    again = np.log1p(cells.X.toarray() / total * 1e4)
    # The source is rounded to three decimals.
    np.testing.assert_allclose(again, source.raw.X.toarray(), atol=5.01e-4, rtol=0)
    np.testing.assert_array_equal(cells.var_names, source.raw.var_names)
    np.testing.assert_array_equal(cells.obs_names, source.obs_names)


def test_the_full_library_is_larger_than_that_of_these_genes(cells):
    share = cells.X.sum(axis=1).A1 / cells.obs["full_library_size"]
    assert share.min() == pytest.approx(0.109, abs=1e-3)
    assert share.max() == pytest.approx(0.278, abs=1e-3)


def test_labels(cells):
    assert cells.obs["cell_type"].dtype == "category"
    assert cells.obs["cell_type"].value_counts().to_dict()["CD19+ B"] == 95
    assert len(cells.obs["cell_type"].cat.categories) == 10
    # Biology agrees: the B cell antigen receptor is on B cells.
    expressed = cells[:, "CD79A"].X.toarray().ravel() > 0
    is_b = cells.obs["cell_type"] == "CD19+ B"
    assert expressed[is_b].mean() > 0.9 > 0.2 > expressed[~is_b].mean()


def test_a_new_object_each_time(cells):
    other = pbmc68k()
    other.X.data[:] = 0
    other.obs["cell_type"] = "x"
    assert pbmc68k().X.data.min() == 1
    assert cells.obs["cell_type"].nunique() == 10


def test_it_can_be_written(cells, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    again = ad.read_h5ad(tmp_path / "cells.h5ad")
    assert (again.X != cells.X).nnz == 0
    assert "Zheng" in again.uns["source"]["paper"]


@pytest.mark.parametrize("change", ["depth", "value"])
def test_other_values_are_not_taken_for_counts(monkeypatch, source, change):
    if change == "depth":
        source.obs["n_counts"] *= 1.01
    else:
        raw = source.raw.to_adata()
        raw.X.data[0] += 0.01
        source.raw = raw
    monkeypatch.setattr(sc.datasets, "pbmc68k_reduced", lambda: source)
    with pytest.raises(ValueError, match="do not come back as counts: one lies 0"):
        pbmc68k()
