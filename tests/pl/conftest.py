"""Cells, tables and checks that tests of figures share."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.text import Text

from scldm.data import pbmc68k

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture(scope="session")
def samples():
    """Two sets of real cells, of 90 and 110. Tests must not change them."""
    cells = pbmc68k()
    order = np.random.default_rng(0).permutation(cells.n_obs)
    return cells[order[:90]].copy(), cells[order[90:200]].copy()


BETTER = {"auc_genes": "lower", "w2": "lower", "recall": "higher", "nn_ratio": "floor"}


@pytest.fixture(scope="session")
def scored():
    """A function that makes a table as `evaluate` returns, with known values."""

    def make(sources=("generated",), groups=("all",), metrics=tuple(BETTER)):
        rows = []
        for group in groups:
            for i, source in enumerate(("floor", *sources)):
                for j, metric in enumerate(metrics):
                    value = 1.0 + i + 10.0 * j
                    row = (value, value - 0.25, value + 0.25, i, i - 0.5, i + 0.5)
                    rows.append((source, group, metric, *row))
        names = ["source", "group", "metric", "value", "low", "high", "gap", "gap_low", "gap_high"]
        table = pd.DataFrame(rows, columns=names)
        return table.assign(better=table["metric"].map(BETTER), n_cells=50, note="")

    return make


@pytest.fixture
def titles():
    """The titles of axes."""
    return lambda axes: [ax.get_title(loc="left") for ax in axes]


@pytest.fixture
def texts_apart():
    """A function that fails where a text lies on another or outside the figure."""
    return _texts_apart


def _texts_apart(figure):
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    width, height = figure.canvas.get_width_height()
    hidden = {id(t) for ax in figure.axes for t in _not_drawn(ax)}
    drawn = [(t.get_text(), t.get_window_extent(renderer)) for t in texts if id(t) not in hidden]
    assert len(drawn) >= 5
    for i, (name, box) in enumerate(drawn):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, name
        for other, other_box in drawn[:i]:
            assert not box.overlaps(other_box), (name, other)


def _not_drawn(ax):
    """Ticks beyond the limits of an axis, which keep a text, and those of axes switched off."""
    for axis, limits in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
        low, high = sorted(limits)
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
            if not low <= tick.get_loc() <= high:
                yield from (tick.label1, tick.label2)
