import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex

from scldm.metrics import library_sizes
from scldm.pl import compare, umap
from scldm.pl._style import GENERATED, REAL

SIX = [
    "UMAP of real and generated",
    "Real",
    "Generated",
    "Mean and variance of genes",
    "Zeros of genes",
    "Library size of cells",
]


@pytest.fixture(scope="module")
def axes(samples):
    return compare(*samples, "cell_type", show=False)


def points(ax):
    return [np.asarray(drawn.get_offsets()) for drawn in ax.collections]


def test_six_panels(axes, titles):
    assert titles(axes) == SIX


def test_both_samples_are_drawn_with_the_same_number_of_cells(axes):
    together, *apart = axes[:3]
    assert len(points(together)[0]) == 180
    for ax in apart:
        backdrop, *types = points(ax)
        assert len(backdrop) == 90
        assert sum(map(len, types)) == 90


def test_each_cell_has_the_place_it_has_among_all(axes):
    together, *apart = axes[:3]
    colours = [to_hex(colour) for colour in together.collections[0].get_facecolors()]
    for ax, colour in zip(apart, (REAL, GENERATED), strict=True):
        among_all = points(together)[0][[c == colour for c in colours]]
        own = np.concatenate(points(ax)[1:])
        np.testing.assert_array_equal(np.sort(own, axis=0), np.sort(among_all, axis=0))


def test_the_map_is_the_one_drawn_alone(axes, samples, titles):
    alone = umap(*samples, "cell_type", show=False)
    assert titles(alone) == SIX[:3]
    for ax, other in zip(alone, axes[:3], strict=True):
        for mine, theirs in zip(points(ax), points(other), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_the_library_sizes_are_those_of_the_real_cells(axes, samples):
    bars = [p for p in axes[5].patches if isinstance(p, matplotlib.patches.Rectangle)]
    edges = [p.get_x() for p in bars] + [bars[-1].get_x() + bars[-1].get_width()]
    expected, _ = np.histogram(library_sizes(samples[0].X), bins=edges)
    np.testing.assert_array_equal([p.get_height() for p in bars], expected)


@pytest.mark.parametrize("draw", [compare, umap])
@pytest.mark.parametrize("groupby", ["cell_type", None])
def test_no_text_lies_on_another_or_outside(draw, samples, groupby, texts_apart):
    texts_apart(draw(*samples, groupby, show=False)[0].figure.canvas.figure)


def test_all_types_are_named_once(axes, samples):
    types = set(samples[0].obs["cell_type"]) | set(samples[1].obs["cell_type"])
    (legend,) = (legend for sub in axes[0].figure.canvas.figure.subfigs for legend in sub.legends)
    assert sorted(text.get_text() for text in legend.texts) == sorted(types)


@pytest.mark.parametrize("draw", [compare, umap])
def test_save_writes_closes_and_does_not_show(draw, samples, tmp_path, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: pytest.fail("shown"))
    assert len(draw(*samples, save=tmp_path / "figure.png")) >= 3
    assert plt.imread(tmp_path / "figure.png").shape[1] >= 1400
    assert not plt.get_fignums()


def test_show_returns_nothing(samples, monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(True))
    assert compare(*samples, show=True) is None
    assert shown


def test_settings_of_matplotlib_stay(samples):
    before = dict(plt.rcParams)
    compare(*samples, show=False)
    assert dict(plt.rcParams) == before


def test_names_of_the_samples(samples, titles):
    axes = compare(*samples, names=("IFN-b", "held out"), show=False)
    assert titles(axes)[:3] == ["UMAP of IFN-b and held out", "IFN-b", "Held out"]
    for ax in axes[3:]:
        assert [t.get_text() for t in ax.get_legend().texts][:2] == ["IFN-b", "held out"]


@pytest.mark.parametrize("draw", [compare, umap])
def test_errors(draw, samples):
    real, new = samples
    with pytest.raises(ValueError, match=r"`groupby='kind'` is not a column of `real.obs`"):
        draw(real, new, "kind", show=False)
    with pytest.raises(ValueError, match=r"`layer='raw'` is not a layer of `real`"):
        draw(real, new, layer="raw", show=False)
    with pytest.raises(ValueError, match="The genes of `generated`"):
        draw(real, new[:, 1:], show=False)
    with pytest.raises(ValueError, match=r"`names=\('a',\)` must be two names"):
        draw(real, new, names=("a",), show=False)
    with pytest.raises(ValueError, match="`n_pcs=0` must be a whole number of 1 or more"):
        draw(real, new, n_pcs=0, show=False)
    with pytest.raises(ValueError, match="`max_cells=1` must be a whole number of 2 or more"):
        draw(real, new, max_cells=1, show=False)
    with pytest.raises(ValueError, match="`generated` has 1 cells; at least 2"):
        draw(real, new[:1], show=False)


def test_few_cells_and_few_genes(samples):
    real, new = samples
    axes = compare(real[:12, :8].copy(), new[:12, :8].copy(), "cell_type", show=False)
    assert all(ax.has_data() for ax in axes)


def test_types_have_the_colours_that_scanpy_gave_them(samples):
    real, new = (cells.copy() for cells in samples)
    kinds = real.obs["cell_type"].cat.categories
    own = matplotlib.colormaps["viridis"](np.linspace(0, 1, len(kinds)))
    real.uns["cell_type_colors"] = [to_hex(colour) for colour in own]
    _, ax, _ = umap(real, new, "cell_type", show=False)
    drawn = {
        to_hex(part.get_facecolors()[0]) for part in ax.collections[1:] if len(part.get_offsets())
    }
    assert drawn <= set(real.uns["cell_type_colors"]) and len(drawn) > 3
    # a type of the generated cells without a colour: all get ours
    new.obs["cell_type"] = new.obs["cell_type"].cat.rename_categories({kinds[0]: "unheard of"})
    _, ax, _ = umap(real, new, "cell_type", show=False)
    assert not {to_hex(part.get_facecolors()[0]) for part in ax.collections[1:]} & drawn


def test_names_are_no_formulas(samples, tmp_path):
    real, new = (cells.copy() for cells in samples)
    for cells in (real, new):
        first = cells.obs["cell_type"].cat.categories[0]
        cells.obs["cell_type"] = cells.obs["cell_type"].cat.rename_categories({first: "Ig$^{hi$"})
    compare(real, new, "cell_type", save=tmp_path / "names.png")
    assert (tmp_path / "names.png").stat().st_size > 10_000


def test_what_is_no_count_is_refused(samples):
    real, new = (cells.copy() for cells in samples)
    real.X = real.X.log1p()
    with pytest.raises(ValueError, match="`real` does not hold counts"):
        compare(real, new, show=False)
    new.X = new.X.log1p()
    with pytest.warns(UserWarning, match="`generated` holds values that are not integers"):
        compare(samples[0], new, show=False)
