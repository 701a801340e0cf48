"""Figures of trajectories and fates: what is drawn, and what is refused."""

from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scldm.pl import fates, trajectory
from scldm.pl._trajectory import _steps
from scldm.pl._trends import trend


@pytest.fixture
def real():
    rng = np.random.default_rng(0)
    time = np.repeat([0.0, 1.0, 2.0], 30)
    adata = ad.AnnData(rng.poisson(3, (90, 4)).astype(np.float32))
    adata.obs["time"] = time
    adata.obsm["X_scldm"] = np.stack([time, np.zeros(90)], axis=1) + 0.01 * rng.random((90, 2))
    adata.obsm["X_umap"] = 10 * adata.obsm["X_scldm"]
    return adata


@pytest.fixture
def predicted(real):
    rows = [0, 30, 60] * 5
    new = ad.AnnData(real.X[rows])
    new.obs["time"] = np.tile([0.0, 1.0, 2.0], 5)
    new.obs["source_cell"] = np.repeat([f"cell_{i}" for i in range(5)], 3)
    new.obs["sample"] = 0
    new.obsm["X_scldm"] = real.obsm["X_scldm"][rows]
    return new


@pytest.fixture
def table(real):
    p = np.linspace(0, 1, 90)
    columns = pd.MultiIndex.from_product([["probability", "low", "high"], ["A", "B"]])
    values = np.stack([p, 1 - p] * 3, axis=1)
    return pd.DataFrame(values, index=real.obs_names, columns=columns)


def test_steps_go_from_time_to_time_of_one_path(real, predicted):
    place = np.asarray(real.obsm["X_umap"])
    mixed = predicted[np.random.default_rng(0).permutation(predicted.n_obs)].copy()
    begin, step = _steps(real, mixed, mixed.obs["time"].to_numpy(), place, "X_scldm")
    assert len(step) == 10
    np.testing.assert_allclose(step[:, 0], 10, atol=0.2)
    np.testing.assert_allclose(step[:, 1], 0, atol=0.2)
    assert sorted(begin[:, 0].round(-1)) == [0] * 5 + [10] * 5


def test_a_map_and_a_panel_for_each_gene(real, predicted, tmp_path):
    axes = trajectory(real, predicted, genes=["0", "2"], show=False)
    assert [ax.get_title(loc="left") for ax in axes] == ["", "0", "2"]
    measured, new = axes[1].lines
    x = np.log1p(real.X / real.X.sum(axis=1, keepdims=True) * 1e4)[:, 0]
    np.testing.assert_allclose(measured.get_ydata(), x.reshape(3, 30).mean(axis=1), rtol=1e-5)
    assert new.get_xdata().tolist() == [0, 1, 2]
    trajectory(real, predicted, save=tmp_path / "paths.png")
    assert (tmp_path / "paths.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"time_key": "day"}, "`time_key`"),
        ({"basis": "X_tsne"}, "`basis='X_tsne'`"),
        ({"use_rep": "X_pca"}, "`use_rep='X_pca'`"),
        ({"genes": "none"}, "`genes`"),
        ({"layer": "none"}, "`layer='none'`"),
    ],
)
def test_what_is_missing_is_named(real, predicted, kwargs, words):
    with pytest.raises(ValueError, match=words):
        trajectory(real, predicted, show=False, **kwargs)


def test_one_time_has_no_streams(real, predicted):
    with pytest.raises(ValueError, match="two or more"):
        trajectory(real, predicted[predicted.obs["time"] == 1].copy(), show=False)


def test_fates_have_a_map_each_and_genes_a_line_for_each_fate(real, table):
    curves = pd.DataFrame(
        {"first": "A", "second": "B", "time": [0, 1, 2], "entropy": [1, 0.5, 0.0]}
    ).set_index(["first", "second"])
    row = {"first": "A", "second": "B", "time": 0.4, "half": 1.0, "end": 1.6}
    found = SimpleNamespace(table=pd.DataFrame([row]), curves=curves)
    axes = fates(real, table, found, genes="1", show=False)
    assert [ax.get_title(loc="left") for ax in axes] == ["A", "B", "When fates part", "1"]
    assert len(axes[3].lines) == 2
    lines = [line.get_xdata() for line in axes[2].lines]
    assert any(np.array_equal(x, [1.0, 1.0]) for x in lines)


def test_maps_of_some_cells(real, table):
    axes = fates(real, table.iloc[:10], show=False)
    assert len(axes) == 2
    assert [len(part.get_offsets()) for part in axes[0].collections] == [90, 10]
    with pytest.raises(ValueError, match="not in `adata`"):
        fates(real[:5].copy(), table, show=False)
    with pytest.raises(TypeError, match="`branch_points`"):
        fates(real, table, pd.DataFrame(), show=False)
    assert len(fates(real, table["probability"], show=False)) == 2


def test_many_places_are_put_together():
    at = np.linspace(0, 1, 600)
    summary = trend(at, at)
    assert len(summary) == 12
    np.testing.assert_allclose(summary[:, 0], summary[:, 1])


def test_weights_of_a_trend():
    at = np.zeros(4)
    values = np.array([0.0, 0.0, 1.0, 1.0])
    assert trend(at, values)[0, 1] == 0.5
    assert trend(at, values, np.array([0.0, 0, 1, 1]))[0, 1] == 1
    assert trend(at, values, np.zeros(4)).shape == (0, 5)
