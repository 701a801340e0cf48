"""Genes in their places: what is drawn where, in which colours, and what is refused."""

import anndata as ad
import numpy as np
import pytest
from matplotlib.collections import EllipseCollection
from scipy.spatial import cKDTree

from scldm.data import simulate_tissue, true_expression
from scldm.pl import spatial_compare

GENES = ["gene_1", "gene_5"]
ALL = ["Truth", "Mean of samples", "One sample", "Uncertainty"]


@pytest.fixture(scope="module")
def tissue():
    return simulate_tissue(400, 12, seed=0)


@pytest.fixture(scope="module")
def hole(tissue):
    xy, size = tissue.obsm["spatial"], tissue.uns["tissue"]["size"]
    return np.hypot(*(xy - size / 2).T) < 0.25 * size


@pytest.fixture
def prediction(tissue):
    new = tissue.copy()
    new.layers["mean"] = true_expression(tissue, tissue.obsm["spatial"])
    new.X = np.random.default_rng(0).poisson(new.layers["mean"]).astype(np.float32)
    new.layers["spread"] = np.sqrt(new.layers["mean"])
    return new


def discs(ax):
    return [part for part in ax.collections if isinstance(part, EllipseCollection)]


def shown(ax):
    """Values of the cells in the order of their places."""
    (own,) = discs(ax)
    places = np.asarray(own.get_offsets())
    return np.asarray(own.get_array())[np.lexsort(places.T)]


def log_normalized(counts, depth):
    return np.log1p(depth * counts / counts.sum(axis=1, keepdims=True))


def test_a_row_for_each_gene_shows_the_values(tissue, prediction, titles):
    axes = spatial_compare(tissue, prediction, GENES, show=False)
    assert titles(axes) == ALL + [""] * 4
    assert [ax.get_ylabel() for ax in axes[::4]] == GENES
    order = np.lexsort(tissue.obsm["spatial"].T)
    counts = tissue.X.toarray()
    depth = np.median(counts.sum(axis=1))
    for i, gene in enumerate(GENES):
        column = tissue.var_names.get_loc(gene)
        expected = [
            *(log_normalized(x, depth) for x in (counts, prediction.layers["mean"], prediction.X)),
            prediction.layers["spread"],
        ]
        for ax, values in zip(axes[4 * i : 4 * i + 4], expected, strict=True):
            np.testing.assert_allclose(shown(ax), values[order, column], rtol=1e-5)
            assert ax.get_aspect() == 1


def test_scales_of_colours(tissue, prediction):
    axes = spatial_compare(tissue, prediction, GENES, show=False)
    for row in (axes[:4], axes[4:]):
        norms = [discs(ax)[0].norm for ax in row]
        assert norms[0] is norms[1] is norms[2] is not norms[3]
        every = np.concatenate([shown(ax) for ax in row[:3]])
        assert (norms[0].vmin, norms[0].vmax) == (0, pytest.approx(np.quantile(every, 0.99)))
    assert discs(axes[0])[0].norm.vmax != discs(axes[4])[0].norm.vmax


def test_counts_as_they_are(tissue, prediction):
    axes = spatial_compare(tissue, prediction, GENES[0], normalize=False, show=False)
    order = np.lexsort(tissue.obsm["spatial"].T)
    np.testing.assert_array_equal(shown(axes[0]), tissue[order, GENES[0]].X.toarray()[:, 0])


def test_points_are_as_large_as_their_spacing(tissue, prediction):
    for scale in (1.0, 1000.0):
        prediction.obsm["spatial"] = scale * tissue.obsm["spatial"]
        (own,) = discs(spatial_compare(None, prediction, GENES[0], show=False)[0])
        spacing = scale * tissue.uns["tissue"]["spacing"]
        assert own.get_widths() == pytest.approx(1.4 * spacing)
    # cells in clumps stay visible
    prediction.obsm["spatial"] = np.round(tissue.obsm["spatial"], -2) + np.linspace(0, 1e-3, 800
    ).reshape(400, 2)  # fmt: skip
    (own,) = discs(spatial_compare(None, prediction, GENES[0], show=False)[0])
    assert own.get_widths() == pytest.approx(
        np.ptp(prediction.obsm["spatial"], axis=0).max() / 150
    )


def test_columns_without_data_are_left_out(tissue, prediction, titles):
    assert titles(spatial_compare(None, prediction, GENES[0], show=False)) == ALL[1:]
    del prediction.layers["spread"]
    assert titles(spatial_compare(tissue, prediction, GENES[0], show=False)) == ALL[:3]
    only = ad.AnnData(
        X=None, var=prediction.var, obsm={"spatial": prediction.obsm["spatial"]},
        layers={"mean": prediction.layers["mean"]},
    )  # fmt: skip
    assert titles(spatial_compare(None, only, GENES[0], show=False)) == ALL[1:2]
    del prediction.layers["mean"]
    assert titles(spatial_compare(tissue, prediction, GENES[0], show=False)) == [ALL[0], ALL[2]]


def test_observed_cells_around_a_region(tissue, prediction, hole, texts_apart, tmp_path):
    path = tmp_path / "region.png"
    axes = spatial_compare(
        tissue[hole], prediction[hole], GENES, observed=tissue[~hole], show=False
    )
    for i, ax in enumerate(axes[:4]):
        around, own = discs(ax)
        assert len(around.get_offsets()) == (~hole).sum()
        assert len(own.get_offsets()) == hole.sum()
        assert (around.get_array() is None) == (i == 3)
        lines = [part for part in ax.collections if part not in (around, own)]
        # between cells within and around, which are a spacing or so apart
        radius = np.hypot(
            *(np.concatenate([p.vertices for p in lines[-1].get_paths()]) - _middle(tissue)).T
        )
        size = tissue.uns["tissue"]["size"]
        assert np.abs(radius / size - 0.25).max() < 0.05
    assert discs(axes[0])[0].norm is discs(axes[0])[1].norm
    texts_apart(axes[0].figure)
    axes[0].figure.savefig(path)
    assert path.stat().st_size > 10_000


def _middle(tissue):
    return tissue.uns["tissue"]["size"] / 2


@pytest.mark.parametrize("shape", [(1.0, 0.2), (0.2, 1.0)])
def test_texts_are_apart_in_long_tissues(tissue, prediction, texts_apart, shape):
    prediction.obsm["spatial"] = tissue.obsm["spatial"] * shape
    axes = spatial_compare(None, prediction, GENES, show=False)
    texts_apart(axes[0].figure)


def test_genes_and_places_may_be_others(tissue, prediction):
    turned = tissue[::2, ::-1].copy()
    turned.obsm["spatial"] = np.column_stack([turned.obsm["spatial"], np.zeros(200)])
    axes = spatial_compare(turned, prediction, GENES[0], show=False)
    order = np.lexsort(turned.obsm["spatial"][:, :2].T)
    counts = turned.X.toarray()
    expected = log_normalized(counts, np.median(counts.sum(axis=1)))
    column = turned.var_names.get_loc(GENES[0])
    np.testing.assert_allclose(shown(axes[0]), expected[order, column], rtol=1e-5)
    assert len(cKDTree(discs(axes[1])[0].get_offsets()).data) == 400


def test_few_cells_and_no_counts(tissue, prediction):
    one = prediction[:1].copy()
    assert len(spatial_compare(None, one, GENES, show=False)) == 6
    one.X = 0 * one.X
    one.layers["mean"], one.layers["spread"] = one.X, one.X
    assert shown(spatial_compare(None, one, GENES, show=False)[0]) == [0]


def test_layer_and_file(tissue, prediction, tmp_path):
    moved = tissue.copy()
    moved.layers["counts"] = moved.X.copy()
    moved.X = np.ones(moved.shape)
    first = spatial_compare(tissue, prediction, GENES[0], show=False)[0]
    second = spatial_compare(moved, prediction, GENES[0], layer="counts", show=False)[0]
    np.testing.assert_array_equal(shown(first), shown(second))
    spatial_compare(tissue, prediction, GENES[0], save=tmp_path / "tissue.pdf")
    assert (tmp_path / "tissue.pdf").stat().st_size > 5000


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"genes": []}, "`genes` is empty"),
        ({"genes": ["none"]}, "`genes` has"),
        ({"spatial_key": "X_map"}, "`spatial_key='X_map'` is not in `truth.obsm`"),
        ({"layer": "none"}, "`layer='none'`"),
    ],
)
def test_what_is_missing_is_named(tissue, prediction, kwargs, words):
    with pytest.raises(ValueError, match=words):
        spatial_compare(tissue, prediction, **{"genes": GENES, "show": False, **kwargs})


def test_odd_cells_are_refused(tissue, prediction):
    with pytest.raises(ValueError, match="The genes of `observed`.*1 are missing"):
        spatial_compare(tissue, prediction, GENES, tissue[:, 1:])
    with pytest.raises(ValueError, match="`observed` has no cells"):
        spatial_compare(tissue, prediction, GENES, tissue[:0])
    double = tissue.copy()
    double.var_names = ["gene_1"] * 12
    with pytest.raises(ValueError, match="`truth` are not unique"):
        spatial_compare(double, prediction, GENES)
    for odd, words in ((np.ones((400, 1)), "shape"), (np.full((400, 2), np.nan), "not finite")):
        broken = prediction.copy()
        broken.obsm["spatial"] = odd
        with pytest.raises(ValueError, match=words):
            spatial_compare(tissue, broken, GENES)
    empty = ad.AnnData(X=None, var=tissue.var, obsm={"spatial": tissue.obsm["spatial"]})
    with pytest.raises(ValueError, match="neither counts"):
        spatial_compare(tissue, empty, GENES)
    prediction.layers["mean"] = -prediction.layers["mean"]
    with pytest.raises(ValueError, match="negative"):
        spatial_compare(tissue, prediction, GENES)
