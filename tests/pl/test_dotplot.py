import numpy as np
import pytest
import scanpy as sc
from matplotlib import pyplot as plt

from scldm.pl import dotplot

GENES = ["CD79A", "NKG7", "LYZ"]
RARE = ["HES4", "TNFRSF4"]


def expected(cells, depth, genes, types):
    """Mean and fraction by gene and type, by scanpy."""
    cells = cells.copy()
    sc.pp.normalize_total(cells, target_sum=depth)
    sc.pp.log1p(cells)
    frame = cells[:, genes].to_df().groupby(cells.obs["cell_type"].astype(str).to_numpy())
    mean = frame.mean().reindex(types).T
    return mean, frame.agg(lambda x: (x > 0).mean()).reindex(types).T


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


@pytest.mark.parametrize("genes", [GENES, RARE])
def test_dots_are_means_and_fractions(samples, genes):
    axes = dotplot(*samples, "cell_type", genes, show=False)
    types = ticks(axes[0].xaxis)
    assert ticks(axes[0].yaxis) == genes
    depth = np.median(np.asarray(samples[0].X.sum(axis=1)))
    areas = []
    for ax, cells in zip(axes, samples, strict=True):
        mean, fraction = expected(cells, depth, genes, types)
        (dots,) = ax.collections
        there = mean.notna().to_numpy()
        np.testing.assert_allclose(dots.get_array(), mean.to_numpy()[there], rtol=1e-5)
        areas.append((dots.get_sizes(), fraction.to_numpy()[there]))
        # where each dot stands: genes from above, types from the left
        rows, columns = np.nonzero(there)
        np.testing.assert_array_equal(dots.get_offsets(), np.column_stack([columns, rows]))
    # one size for one fraction on both sides
    per_cell = [area[share > 0] / share[share > 0] for area, share in areas]
    np.testing.assert_allclose(np.concatenate(per_cell), per_cell[0][0], rtol=1e-5)


def test_both_sides_have_one_scale(samples, titles):
    axes = dotplot(*samples, "cell_type", show=False)
    assert titles(axes) == ["Real", "Generated"]
    norms = [ax.collections[0].norm for ax in axes]
    assert norms[0] is norms[1]
    assert norms[0].vmax == max(ax.collections[0].get_array().max() for ax in axes)
    assert axes[0].get_ylim() == axes[1].get_ylim()
    assert ticks(axes[0].xaxis) == ticks(axes[1].xaxis)
    figure = axes[0].figure.canvas.figure
    assert len(figure.axes) == 3  # both sides and the bar of colours
    assert sum(len(sub.legends) for sub in figure.subfigs) == 1


def test_markers_mark_their_type(samples):
    (left, right) = dotplot(*samples, "cell_type", n_genes=2, show=False)
    genes = ticks(left.yaxis)
    assert len(genes) == len(set(genes))
    named = [text.get_text() for text in right.texts if text.get_text() != "no cells"]
    assert "CD19+ B" in named and len(genes) <= 2 * len(named)
    depth = np.median(np.asarray(samples[0].X.sum(axis=1)))
    mean, _ = expected(samples[0], depth, genes, ticks(left.xaxis))
    # the first genes of the B cells, where no other type comes close
    own = [g for g in genes if mean.loc[g].idxmax() == "CD19+ B"]
    assert {"CD79A", "CD79B", "CD74", "HLA-DRA"} & set(own)


def test_genes_of_groups_keep_together(samples):
    groups = {"B": ["CD79A", "CD79B"], "NK": "NKG7"}
    left, right = dotplot(*samples, "cell_type", groups, show=False)
    assert ticks(left.yaxis) == ["CD79A", "CD79B", "NKG7"]
    first, second, third = left.get_yticks()
    assert third - second > second - first
    texts = {text.get_text(): text.get_position()[1] for text in right.texts}
    assert texts["B"] == pytest.approx((first + second) / 2)
    assert texts["NK"] == pytest.approx(third)


def test_a_type_without_cells_says_so(samples):
    real, new = samples
    fewer = new[new.obs["cell_type"] != "CD19+ B"].copy()
    left, right = dotplot(real, fewer, "cell_type", GENES, show=False)
    place = ticks(left.xaxis).index("CD19+ B")
    assert (place, "no cells") in [(t.get_position()[0], t.get_text()) for t in right.texts]
    assert place not in right.collections[0].get_offsets()[:, 0]
    assert place in left.collections[0].get_offsets()[:, 0]


@pytest.mark.parametrize("genes", [None, GENES, {"B cells": GENES[:1], "others": GENES[1:]}])
def test_no_text_lies_on_another_or_outside(samples, genes, texts_apart):
    axes = dotplot(*samples, "cell_type", genes, show=False)
    texts_apart(axes[0].figure.canvas.figure)


def test_save_and_show(samples, tmp_path, monkeypatch):
    assert len(dotplot(*samples, "cell_type", GENES, save=tmp_path / "figure.png")) == 2
    assert plt.imread(tmp_path / "figure.png").size
    monkeypatch.setattr(plt, "show", lambda: None)
    assert dotplot(*samples, "cell_type", GENES, show=True) is None


def test_the_cells_stay_as_they_are(samples):
    before = [cells.X.copy() for cells in samples]
    dotplot(*samples, "cell_type", show=False)
    for cells, counts in zip(samples, before, strict=True):
        assert (cells.X != counts).nnz == 0
        assert not cells.uns.get("rank_genes_groups")


def test_errors(samples):
    real, new = samples
    with pytest.raises(ValueError, match=r"`genes` has \['XYZ'\]. Known: \['HES4'.*, \.\.\.\]"):
        dotplot(real, new, "cell_type", ["CD79A", "XYZ"])
    with pytest.raises(ValueError, match="`genes` is empty"):
        dotplot(real, new, "cell_type", {"B": []})
    with pytest.raises(ValueError, match="`n_genes=0` must be a whole number of 1 or more"):
        dotplot(real, new, "cell_type", n_genes=0)
    with pytest.raises(ValueError, match="`groupby='kind'` is not a column of `real.obs`"):
        dotplot(real, new, "kind")
    alike = [cells[cells.obs["cell_type"] == "Dendritic"].copy() for cells in samples]
    with pytest.raises(ValueError, match="`genes` is needed here: markers are found from two"):
        dotplot(*alike, "cell_type")
    twice = [cells.copy() for cells in samples]
    for cells in twice:
        cells.var_names = ["A", "A", *cells.var_names[2:]]
    with pytest.raises(ValueError, match="not unique. Call `var_names_make_unique"):
        dotplot(*twice, "cell_type", ["CD79A"])
