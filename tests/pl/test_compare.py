import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.text import Text

from scldm.data import pbmc68k
from scldm.metrics import library_sizes
from scldm.pl import compare
from scldm.pl._compare import _running_median
from scldm.pl._style import category_styles

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def samples():
    cells = pbmc68k()
    order = np.random.default_rng(0).permutation(cells.n_obs)
    return cells[order[:90]].copy(), cells[order[90:200]].copy()


@pytest.fixture(scope="module")
def figure(samples):
    return compare(*samples, "cell_type", show=False)


def axes(figure):
    return {ax.get_title(loc="left"): ax for ax in figure.axes}


def test_six_panels(figure):
    assert list(axes(figure)) == [
        "UMAP of real and generated",
        "Real",
        "Generated",
        "Mean and variance of genes",
        "Zeros of genes",
        "Library size of cells",
    ]


def test_both_samples_are_drawn_with_the_same_number_of_cells(figure, samples):
    panels = axes(figure)
    assert len(panels["UMAP of real and generated"].collections[0].get_offsets()) == 180
    for name in ("Real", "Generated"):
        backdrop, *types = panels[name].collections
        assert len(backdrop.get_offsets()) == 90
        assert sum(len(points.get_offsets()) for points in types) == 90


def test_each_cell_has_the_place_it_has_among_all(figure):
    panels = axes(figure)
    together = panels["UMAP of real and generated"].collections[0].get_offsets()
    apart = [
        points.get_offsets()
        for name in ("Real", "Generated")
        for points in panels[name].collections[1:]
    ]
    np.testing.assert_allclose(
        np.sort(together[:, 0]), np.sort(np.concatenate(apart)[:, 0]), rtol=1e-6
    )


def test_the_library_sizes_are_those_of_the_real_cells(figure, samples):
    patches = axes(figure)["Library size of cells"].patches
    bars = [p for p in patches if isinstance(p, matplotlib.patches.Rectangle)]
    edges = [p.get_x() for p in bars] + [bars[-1].get_x() + bars[-1].get_width()]
    expected, _ = np.histogram(library_sizes(samples[0].X), bins=edges)
    np.testing.assert_array_equal([p.get_height() for p in bars], expected)


@pytest.mark.parametrize("groupby", ["cell_type", None])
def test_no_text_lies_on_another_or_outside(samples, groupby):
    figure = compare(*samples, groupby, show=False)
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    width, height = figure.canvas.get_width_height()
    hidden = {id(t) for ax in figure.axes for t in _ticks_outside(ax)}
    drawn = [(t.get_text(), t.get_window_extent(renderer)) for t in texts if id(t) not in hidden]
    assert len(drawn) > 20
    for i, (name, box) in enumerate(drawn):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, name
        for other, other_box in drawn[:i]:
            assert not box.overlaps(other_box), (name, other)


def _ticks_outside(ax):
    """Ticks beyond the limits of an axis, which keep a text that is not drawn."""
    for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
            if not low <= tick.get_loc() <= high:
                yield from (tick.label1, tick.label2)


def test_all_types_are_named_once(figure, samples):
    types = set(samples[0].obs["cell_type"]) | set(samples[1].obs["cell_type"])
    (legend,) = (legend for sub in figure.subfigs for legend in sub.legends)
    assert sorted(text.get_text() for text in legend.texts) == sorted(types)


def test_save_writes_and_does_not_show(samples, tmp_path, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: pytest.fail("shown"))
    assert compare(*samples, save=tmp_path / "figure.png") is not None
    width = plt.imread(tmp_path / "figure.png").shape[1]
    assert width >= 1400


def test_show_returns_nothing(samples, monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(True))
    assert compare(*samples, show=True) is None
    assert shown


def test_settings_of_matplotlib_stay(samples):
    before = dict(plt.rcParams)
    compare(*samples, show=False)
    assert dict(plt.rcParams) == before


def test_names_of_the_samples(samples):
    figure = compare(*samples, names=("IFN-b", "held out"), show=False)
    assert list(axes(figure))[:3] == ["UMAP of IFN-b and held out", "IFN-b", "Held out"]


def test_errors(samples):
    real, new = samples
    with pytest.raises(ValueError, match=r"`groupby='kind'` is not a column of `real.obs`"):
        compare(real, new, "kind", show=False)
    with pytest.raises(ValueError, match="The genes of `generated`"):
        compare(real, new[:, 1:], show=False)


def test_few_cells_and_few_genes(samples):
    real, new = samples
    figure = compare(real[:12, :8].copy(), new[:12, :8].copy(), "cell_type", show=False)
    assert sum(ax.has_data() for ax in figure.axes) == 6


def test_running_median_by_hand():
    x = np.array([1.0] * 5 + [100.0] * 5 + [10.0])
    y = np.array([1.0, 2, 3, 4, 50, 10, 20, 30, 40, 500, 7])
    middle, median = _running_median(x, y, points=4, fewest=5)
    np.testing.assert_array_equal(middle, [1, 100])
    np.testing.assert_array_equal(median, [3, 30])


def test_sixty_types_look_different():
    styles = category_styles([str(i) for i in range(60)])
    assert len(set(styles.values())) == 60
