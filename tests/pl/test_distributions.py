import numpy as np
import pytest
from matplotlib import pyplot as plt
from scipy import sparse

from scldm.metrics import gene_moments, library_sizes
from scldm.pl import library_size, mean_variance, zeros
from scldm.pl._distributions import _running_median

PANELS = [mean_variance, zeros, library_size]


@pytest.mark.parametrize(("draw", "moment"), [(mean_variance, "variance"), (zeros, "zeros")])
def test_points_are_the_genes_of_both(draw, moment, samples):
    real, new = samples[0], samples[1][:90]
    ax = draw(real, new, show=False)
    for drawn, cells in zip(ax.collections, (real, new), strict=True):
        moments = gene_moments(cells.X)
        seen = moments.mean > 0
        expected = np.column_stack([moments.mean, getattr(moments, moment)])[seen]
        np.testing.assert_allclose(drawn.get_offsets(), expected)


def test_the_dashed_line_is_poisson(samples):
    x, y = mean_variance(*samples, show=False).lines[-1].get_data()
    np.testing.assert_allclose(y, x)
    x, y = zeros(*samples, show=False).lines[-1].get_data()
    np.testing.assert_allclose(y, np.exp(-x))


def test_all_cells_are_in_the_outlines(samples):
    ax = library_size(*samples, max_cells=50, show=False)
    real, new = ax.patches[-2:]
    for outline in (real, new):
        # An outline goes up to each bar and along it.
        assert outline.get_xy()[1:-1:2, 1].sum() == 50


def test_a_cell_without_counts_is_drawn(samples):
    real, new = samples[0].copy(), samples[1]
    real.X = sparse.vstack([real.X[:1] * 0, real.X[1:]], format="csr")
    assert library_sizes(real.X).min() == 0
    ax = library_size(real, new, show=False)
    assert ax.get_xlim()[0] < 1


@pytest.mark.parametrize("draw", PANELS)
def test_axes_of_the_user(draw, samples, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: pytest.fail("shown"))
    figure, (left, right) = plt.subplots(1, 2)
    size = left.title.get_size()
    assert draw(*samples, ax=right) is right
    assert right.has_data() and not left.has_data()
    assert plt.get_fignums() == [figure.number]
    # The title is as large as the user has it, not as in figures of this package.
    assert [ax._left_title.get_size() for ax in (left, right)] == [size, size]


@pytest.mark.parametrize("draw", PANELS)
def test_saving_axes_of_the_user_keeps_them_open(draw, samples, tmp_path):
    figure, ax = plt.subplots()
    assert draw(*samples, ax=ax, save=tmp_path / "figure.png") is ax
    assert plt.imread(tmp_path / "figure.png").size
    assert plt.get_fignums() == [figure.number]


@pytest.mark.parametrize("draw", PANELS)
def test_a_figure_of_its_own(draw, samples, tmp_path, monkeypatch, texts_apart):
    texts_apart(draw(*samples, show=False).figure)
    assert draw(*samples, save=tmp_path / "figure.png").has_data()
    assert plt.imread(tmp_path / "figure.png").size
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(1))
    assert draw(*samples, show=True) is None and shown == [1]


@pytest.mark.parametrize("draw", PANELS)
def test_a_layer(draw, samples):
    real, new = (cells.copy() for cells in samples)
    real.layers["counts"], real.X = real.X.copy(), real.X * 0
    plain, layered = draw(*samples, show=False), draw(real, new, layer="counts", show=False)
    assert layered.get_xlim() == plain.get_xlim()
    with pytest.raises(ValueError, match="`layer='raw'` is not a layer"):
        draw(real, new, layer="raw")


def test_running_median_by_hand():
    x = np.array([1.0] * 5 + [100.0] * 5 + [10.0])
    y = np.array([1.0, 2, 3, 4, 50, 10, 20, 30, 40, 500, 7])
    middle, median = _running_median(x, y, points=4, fewest=5)
    np.testing.assert_array_equal(middle, [1, 100])
    np.testing.assert_array_equal(median, [3, 30])
