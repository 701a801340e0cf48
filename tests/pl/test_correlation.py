import numpy as np
import pytest
import scanpy as sc
from matplotlib import pyplot as plt

from scldm.pl import correlation

GENES = ["CD79A", "NKG7", "LYZ", "CST3", "CD79B", "GNLY"]


def ticks(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def maps(axes):
    return [np.asarray(ax.images[0].get_array()) for ax in axes]


def expected(cells, depth, genes):
    cells = cells.copy()
    sc.pp.normalize_total(cells, target_sum=depth)
    sc.pp.log1p(cells)
    return np.corrcoef(cells[:, genes].X.toarray().T.astype(float))


def test_maps_are_the_correlations_in_one_order(samples):
    axes = correlation(*samples, GENES, show=False)
    order = ticks(axes[0])
    assert sorted(order) == sorted(GENES)
    depth = np.median(np.asarray(samples[0].X.sum(axis=1)))
    real, new, difference = maps(axes)
    np.testing.assert_allclose(real, expected(samples[0], depth, order), atol=1e-5)
    np.testing.assert_allclose(new, expected(samples[1], depth, order), atol=1e-5)
    np.testing.assert_allclose(difference, new - real)


def test_genes_that_go_together_stand_together(samples):
    order = ticks(correlation(*samples, GENES, show=False)[0])
    for pair in (("CD79A", "CD79B"), ("NKG7", "GNLY"), ("LYZ", "CST3")):
        assert abs(order.index(pair[0]) - order.index(pair[1])) == 1


def test_the_title_has_the_difference_over_pairs(samples, titles):
    axes = correlation(*samples, GENES, show=False)
    difference = maps(axes)[2]
    rms = np.sqrt(np.mean(difference[np.triu_indices(6, 1)] ** 2))
    assert titles(axes) == ["Real", "Generated", f"Generated − real, RMS {rms:.2f}"]
    assert titles(correlation(samples[0], samples[0], GENES, show=False))[2].endswith("RMS 0.00")


def test_all_maps_have_one_scale_with_white_at_zero(samples):
    norms = [ax.images[0].norm for ax in correlation(*samples, show=False)]
    assert norms[0] is norms[1] is norms[2]
    assert norms[0].vmin == -norms[0].vmax and norms[0].vmax <= 1


def test_the_genes_that_vary_most_in_the_real_cells(samples):
    axes = correlation(*samples, n_genes=7, show=False)
    cells = samples[0].copy()
    sc.pp.normalize_total(cells, target_sum=np.median(np.asarray(cells.X.sum(axis=1))))
    sc.pp.log1p(cells)
    variance = cells.to_df().var()
    assert sorted(ticks(axes[0])) == sorted(variance.nlargest(7).index)


def test_a_constant_gene_goes_with_no_other(samples):
    real, new = samples[0], samples[1].copy()
    dense = new.to_df()
    dense["LYZ"] = 0
    new.X = dense.to_numpy()
    axes = correlation(real, new, GENES, show=False)
    place = ticks(axes[0]).index("LYZ")
    row = maps(axes)[1][place]
    assert row[place] == 1 and not np.delete(row, place).any()


def test_many_genes_have_no_names(samples):
    assert len(maps(correlation(*samples, n_genes=80, show=False))[0]) == 80
    assert ticks(correlation(*samples, n_genes=80, show=False)[0]) == []


def test_text_save_and_show(samples, tmp_path, monkeypatch, texts_apart):
    texts_apart(correlation(*samples, GENES, show=False)[0].figure)
    assert len(correlation(*samples, GENES, save=tmp_path / "figure.png")) == 3
    assert plt.imread(tmp_path / "figure.png").size
    monkeypatch.setattr(plt, "show", lambda: None)
    assert correlation(*samples, GENES, show=True) is None


def test_errors(samples):
    with pytest.raises(ValueError, match=r"`genes` has \['XYZ'\]. Known"):
        correlation(*samples, ["CD79A", "XYZ"])
    with pytest.raises(ValueError, match="`genes` has 1 gene; a correlation needs two or more"):
        correlation(*samples, ["LYZ", "LYZ"])
    with pytest.raises(ValueError, match="`real` has 1 gene; a correlation needs two or more"):
        correlation(*(cells[:, :1] for cells in samples))
    with pytest.raises(ValueError, match="`n_genes=1` must be a whole number of 2 or more"):
        correlation(*samples, n_genes=1)
    with pytest.raises(ValueError, match="The genes of `generated`"):
        correlation(samples[0], samples[1][:, 1:])
