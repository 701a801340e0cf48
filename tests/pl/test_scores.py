import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex

from scldm.pl import scores, steps
from scldm.pl._style import FLOOR_BAND


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def dots(ax):
    (line,) = (line for line in ax.lines if line.get_marker() == "o")
    return line.get_data()


def intervals(ax, side):
    (lines,) = ax.collections
    return [segment[:, side].tolist() for segment in lines.get_segments()]


def band(ax):
    (patch,) = ax.patches
    assert to_hex(patch.get_facecolor()) == FLOOR_BAND
    box = patch.get_path().get_extents(patch.get_patch_transform())
    return box.x0, box.x1, box.y0, box.y1


def test_a_panel_for_each_metric_and_a_row_for_each_source(scored, titles):
    table = scored(("ours", "theirs"))
    axes = scores(table, metrics=["recall", "w2"], show=False)
    assert titles(axes) == ["Recall", "2-Wasserstein distance"]
    assert ticks(axes[0].yaxis) == ["ours", "theirs"]
    low, high = axes[0].get_ylim()
    assert low > high  # the first source is at the top
    for ax, metric in zip(axes, ("recall", "w2"), strict=True):
        own = table[table["metric"] == metric].set_index("source")
        value, place = dots(ax)
        np.testing.assert_array_equal(value, own.loc[["ours", "theirs"], "value"])
        np.testing.assert_array_equal(place, [0, 1])
        wanted = own.loc[["ours", "theirs"], ["low", "high"]].to_numpy().tolist()
        assert intervals(ax, 0) == wanted


def test_the_floor_is_a_line_and_a_band(scored):
    (ax,) = scores(scored(), metrics=["w2"], show=False)
    assert ax.lines[0].get_xdata() == [11, 11]
    assert band(ax)[:2] == (10.75, 11.25)


def test_which_way_is_better(scored):
    axes = scores(scored(), metrics=["w2", "recall", "nn_ratio"], show=False)
    assert [ax.get_xlabel() for ax in axes] == [
        "lower is better",
        "higher is better",
        "best at the floor",
    ]


def test_sources_and_groups_are_chosen(scored):
    table = scored(("a", "b", "c"), ("all", "B cells"))
    table.loc[table["group"] == "B cells", ["value", "low", "high"]] += 100
    axes = scores(table, ["w2"], ["c", "a"], group="B cells", show=False)
    assert ticks(axes[0].yaxis) == ["c", "a"]
    np.testing.assert_array_equal(dots(axes[0])[0], [114, 112])
    assert axes[0].figure._suptitle.get_text() == "B cells"


def test_by_default_the_headlines_come_first_and_no_more_than_eight(scored, titles):
    table = scored()
    assert titles(scores(table, show=False))[:3] == [
        "AUC on genes",
        "2-Wasserstein distance",
        "Recall",
    ]
    more = [table.assign(metric=table["metric"] + f"_{i}") for i in range(5)]
    assert len(scores(pd.concat([*more, table]), show=False)) == 8


def test_a_metric_of_the_user_has_its_own_name(scored, titles):
    table = scored().replace({"metric": {"w2": "my_distance"}})
    assert titles(scores(table, ["my_distance"], show=False)) == ["my_distance"]


def test_missing_values_are_said_and_missing_intervals_left_out(scored):
    table = scored(("a", "b"))
    lost = (table["source"] == "a") & (table["metric"] == "w2")
    table.loc[lost, ["value", "low", "high"]] = np.nan
    table.loc[table["source"] == "floor", ["low", "high"]] = np.nan
    (ax,) = scores(table, ["w2"], show=False)
    assert [(t.get_text(), t.get_position()[1]) for t in ax.texts] == [("no value", 0)]
    assert not ax.patches and ax.lines[0].get_xdata() == [11, 11]


def test_many_sources_and_metrics_can_be_read(scored, texts_apart):
    sources = ["scldm", "scldm, guided", "scVI", "scDiffusion", "CFGen", "scGAN",
               "Gaussian in components", "shuffled genes", "training cells"]  # fmt: skip
    table = scored(sources)
    table = pd.concat([table, table.assign(metric=table["metric"] + "_again")])
    axes = scores(table, table["metric"].unique(), show=False)
    assert len(axes) == 8
    hidden = [t for ax in axes for t in ax.get_yticklabels() if ax not in (axes[0], axes[4])]
    for label in hidden:
        label.set_visible(False)
    texts_apart(axes[0].figure)


def test_a_line_for_each_sampler_by_steps(scored, titles):
    tables = {"heun": scored(("50", "3", "10")), "euler": scored(("3", "10"))}
    axes = steps(tables, ["w2", "recall"], show=False)
    assert titles(axes) == ["2-Wasserstein distance", "Recall"]
    floor, heun, euler = axes[0].lines
    assert floor.get_ydata() == [11, 11]
    assert band(axes[0])[2:] == (10.75, 11.25)
    np.testing.assert_array_equal(heun.get_xdata(), [3, 10, 50])
    np.testing.assert_array_equal(heun.get_ydata(), [13, 14, 12])
    np.testing.assert_array_equal(euler.get_ydata(), [12, 13])
    assert heun.get_color() != euler.get_color()
    names = [text.get_text() for text in axes[0].figure.legends[0].get_texts()]
    assert names == ["heun", "euler", "floor: real against real cells"]


def test_one_table_by_steps(scored, texts_apart):
    axes = steps(scored(("1", "2", "8", "10", "100")), show=False)
    assert len(axes) == 2
    texts_apart(axes[0].figure)
    for ax in axes:
        assert ax.get_xscale() == "log"
        # 8 and 10 would lie on each other
        assert ticks(ax.xaxis) == ["1", "2", "8", "100"]
    spans = [segment[:, 1].tolist() for segment in axes[1].collections[0].get_segments()]
    assert spans[0] == [11.75, 12.25]


@pytest.mark.parametrize("draw", [scores, lambda table, **k: steps(table, ["w2"], **k)])
def test_save_show_and_other_tables(draw, scored, tmp_path, monkeypatch):
    table = scored(("1", "2"))
    before = table.copy()
    draw(table, save=tmp_path / "figure.png")
    pd.testing.assert_frame_equal(table, before)
    assert plt.imread(tmp_path / "figure.png").size
    monkeypatch.setattr(plt, "show", lambda: None)
    assert draw(table, show=True) is None
    maker = r"it comes from `scldm.metrics.evaluate\(\)`"
    with pytest.raises(ValueError, match=f"`table` has no column .*; {maker}"):
        draw(pd.DataFrame({"a": [1]}))
    with pytest.raises(ValueError, match="`table` is empty"):
        draw(table.iloc[:0])
    with pytest.raises(ValueError, match=r"`group='B'` is not in the table. Known: \['all'\]"):
        draw(table, group="B")


def test_errors(scored):
    table = scored(("a",))
    with pytest.raises(ValueError, match=r"`metrics` has \['w3'\]. Known: \['auc_genes'"):
        scores(table, ["w2", "w3"])
    with pytest.raises(ValueError, match=r"`sources` has \['floor'\]. Known: \['a'\]"):
        scores(table, sources=["a", "floor"])
    with pytest.raises(ValueError, match="`metrics` is empty"):
        scores(table, [])
    with pytest.raises(ValueError, match=r"`table` has the sources \['a'\]; they must be numbers"):
        steps(table)
    with pytest.raises(ValueError, match=r"`table` has the sources \['0'\]; they must be numbers"):
        steps(scored(("0", "3")))
    with pytest.raises(ValueError, match="`table` is empty; at least one table"):
        steps({})
    with pytest.raises(ValueError, match=r"`metrics` has \['w3'\]"):
        steps(scored(("3",)), ["w3"])
