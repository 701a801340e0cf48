"""The simulated tissue against its own equations."""

import anndata as ad
import numpy as np
import pytest
from scipy.spatial import cKDTree

from scldm.data import layer_at, simulate_tissue, true_expression


@pytest.fixture(scope="module")
def tissue():
    return simulate_tissue(1500, 40, seed=3)


@pytest.fixture(scope="module")
def sections():
    return simulate_tissue(300, 20, n_layers=4, n_sections=4, spacing=5.0, seed=1)


def test_layout_and_seed(tissue):
    assert tissue.shape == (1500, 40)
    assert tissue.X.dtype == np.float32 and (tissue.X.data == tissue.X.data.round()).all()
    assert set(tissue.var["kind"]) == {"layer", "gradient", "cell_type", "flat"}
    assert list(tissue.obs["layer"].cat.categories) == ["layer_1", "layer_2", "layer_3"]
    assert set(tissue.obs["section"]) == {"section_1"} and "spatial_3d" not in tissue.obsm
    again = simulate_tissue(1500, 40, seed=3)
    assert (tissue.X != again.X).nnz == 0
    np.testing.assert_array_equal(tissue.obsm["spatial"], again.obsm["spatial"])
    assert tissue.obs.equals(again.obs)
    assert (tissue.X != simulate_tissue(1500, 40, seed=4).X).nnz > 0


@pytest.mark.parametrize("n_cells", [2, 17, 1000])
def test_spacing_is_the_median_distance_to_the_nearest_cell(n_cells):
    adata = simulate_tissue(n_cells, 8, spacing=7.5)
    xy, size = adata.obsm["spatial"], adata.uns["tissue"]["size"]
    assert np.median(cKDTree(xy).query(xy, k=2)[0][:, 1]) == pytest.approx(7.5)
    assert xy.min() >= 0 and xy.max() <= size


def test_counts_have_the_true_mean(tissue):
    truth = true_expression(tissue, tissue.obsm["spatial"])
    assert truth.shape == tissue.shape
    np.testing.assert_allclose(truth.sum(axis=1), tissue.uns["tissue"]["library_size"])
    x = tissue.X.toarray()
    place = tissue.obsm["spatial"] / tissue.uns["tissue"]["size"]
    part = tissue.obs["layer"].cat.codes.to_numpy() * 5 + np.minimum(place[:, 0] * 5, 4).astype(
        int
    )
    scores = []
    for i in np.unique(part):
        off = x[part == i] - truth[part == i]
        scores.append(off.mean(axis=0) / (off.std(axis=0, ddof=1) / np.sqrt(len(off))))
    scores = np.concatenate(scores)
    assert np.square(scores).mean() == pytest.approx(1, abs=0.25)
    assert np.abs(scores).max() < 5


def test_counts_have_the_known_dispersion(tissue):
    flat = (tissue.var["kind"] == "flat").to_numpy()
    x = tissue.X.toarray()[:, flat]
    mu = true_expression(tissue, tissue.obsm["spatial"])[:, flat]
    mu = (
        mu
        * (tissue.obs["library_size"].to_numpy() / tissue.uns["tissue"]["library_size"])[:, None]
    )
    theta = np.square(mu).mean(axis=0) / (np.square(x - mu).mean(axis=0) - mu.mean(axis=0))
    assert np.median(theta) == pytest.approx(tissue.uns["tissue"]["dispersion"], rel=0.15)


def test_kinds_of_genes_do_what_they_say(tissue):
    size = tissue.uns["tissue"]["size"]
    column = np.column_stack([np.full(2001, 0.3 * size), np.linspace(0, size, 2001)])
    layers = layer_at(tissue, column)
    (edges,) = np.nonzero(layers[1:] != layers[:-1])
    assert len(edges) == 2
    # L y / S = k + b sin(2 pi x / S) at the k-th boundary
    expected = size * (np.array([1, 2]) + 0.2 * np.sin(0.6 * np.pi)) / 3
    np.testing.assert_allclose(column[edges, 1], expected, atol=size / 2000)
    kind = tissue.var["kind"].to_numpy()
    along_y = np.diff(true_expression(tissue, column), axis=0)
    inside = np.delete(along_y, edges, axis=0)
    assert (inside == 0).all()
    jumps = np.abs(along_y[edges])
    assert (jumps[:, np.isin(kind, ["gradient", "flat"])] < 1e-9).all()
    assert (jumps[:, kind == "layer"].max(axis=0) > 0.1).all()
    assert (jumps[:, kind == "cell_type"].max(axis=0) > 0.01).all()
    row = np.column_stack([np.linspace(0, size, 2001), np.full(2001, 0.02 * size)])
    assert set(layer_at(tissue, row)) == {"layer_1"}
    along_x = true_expression(tissue, row)
    spread = np.ptp(along_x, axis=0) / along_x.mean(axis=0)
    assert (spread[kind != "gradient"] < 1e-9).all()
    assert (spread[kind == "gradient"] > 0.2).all()
    steps = np.abs(np.diff(along_x, axis=0)).max(axis=0) / along_x.mean(axis=0)
    assert steps.max() < 0.02


def test_cells_are_in_the_layer_of_their_place(tissue, sections):
    assert (layer_at(tissue, tissue.obsm["spatial"]) == tissue.obs["layer"]).all()
    assert (layer_at(sections, sections.obsm["spatial_3d"]) == sections.obs["layer"]).all()
    share = tissue.obs.groupby("layer", observed=True)["cell_type"].value_counts(normalize=True)
    np.testing.assert_allclose([share["layer_1", "A"], share["layer_3", "C"]], 0.6, atol=0.08)


def test_sections_shift_smoothly(sections):
    place = sections.obsm["spatial_3d"]
    np.testing.assert_array_equal(place[:, :2], sections.obsm["spatial"])
    np.testing.assert_array_equal(place[:, 2], sections.obs["z"])
    size, z = sections.uns["tissue"]["size"], np.unique(sections.obs["z"])
    np.testing.assert_allclose(z, np.arange(4) * size / 12)
    line = np.linspace(0, size, 4001)
    edges = []
    for at in np.linspace(0, z[-1], 31):
        column = np.column_stack([np.full(4001, 0.5 * size), line, np.full(4001, at)])
        layers = layer_at(sections, column)
        edges.append(line[1:][layers[1:] != layers[:-1]])
    moved = np.diff(np.array(edges) / size, axis=0)
    assert np.ptp(np.array(edges) / size, axis=0).min() > 0.05
    assert np.abs(moved).max() < 0.01
    with pytest.raises(ValueError, match="z is needed"):
        layer_at(sections, sections.obsm["spatial"])


def test_a_file_keeps_the_truth(sections, tmp_path):
    sections.write_h5ad(tmp_path / "tissue.h5ad")
    read = ad.read_h5ad(tmp_path / "tissue.h5ad")
    place = sections.obsm["spatial_3d"] + 0.5
    np.testing.assert_array_equal(true_expression(read, place), true_expression(sections, place))
    assert (layer_at(read, place) == layer_at(sections, place)).all()
    some = read[:, ["gene_7", "gene_2"]]
    np.testing.assert_array_equal(
        true_expression(some, place), true_expression(sections, place)[:, [7, 2]]
    )


@pytest.mark.parametrize(
    "odd",
    [
        {"n_cells": 1},
        {"n_genes": 7},
        {"n_layers": 0},
        {"n_layers": True},
        {"n_sections": 1.5},
        {"spacing": 0},
        {"spacing": np.inf},
    ],
)
def test_odd_numbers_are_refused(odd):
    with pytest.raises(ValueError, match=f"`{next(iter(odd))}="):
        simulate_tissue(**{"n_cells": 10, "n_genes": 10, **odd})


def test_smallest_tissue():
    adata = simulate_tissue(2, 8, n_layers=1)
    assert adata.var["kind"].value_counts().tolist() == [2, 2, 2, 2]
    assert np.isfinite(true_expression(adata, adata.obsm["spatial"])).all()


def test_odd_places_are_refused(tissue):
    for odd in ([1.0, 2.0], [[1.0]], [[np.nan, 0.0]]):
        with pytest.raises(ValueError, match="`coordinates`"):
            true_expression(tissue, odd)
    with pytest.raises(ValueError, match="simulate_tissue"):
        layer_at(ad.AnnData(np.ones((2, 2))), [[0.0, 0.0]])
    strange = tissue[:, :2].copy()
    strange.var_names = ["gene_1", "other"]
    with pytest.raises(ValueError, match="1 genes that were not simulated"):
        true_expression(strange, [[0.0, 0.0]])
