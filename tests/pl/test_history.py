from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from scldm.pl import history


def table(name, values, index=None):
    return pd.DataFrame({name: values}, index=pd.Index(index or range(len(values)), name="epoch"))


def curves(*names, values=(3.0, 1.0, 2.0)):
    return {name: table(name, list(values)) for name in names}


def test_a_panel_for_each_quantity_of_both_stages(titles):
    tables = curves(
        "diffusion_loss_train",
        "diffusion_loss_validation",
        "elbo_train",
        "reconstruction_loss_train",
        "reconstruction_loss_validation",
        "kl_weight",
    )
    axes = history(tables, show=False)
    assert titles(axes) == [
        "Stage 1: reconstruction",
        "Stage 1: negative ELBO",
        "Stage 2: diffusion",
    ]
    lines = [[line.get_label() for line in ax.lines if len(line.get_xdata()) > 1]
             for ax in axes]  # fmt: skip
    assert lines == [["train", "validation"], ["train"], ["train", "validation"]]


def test_a_model_is_read_like_its_history():
    tables = curves("elbo_train")
    axes = history(SimpleNamespace(history=tables), show=False)
    np.testing.assert_array_equal(axes[0].lines[0].get_ydata(), [3, 1, 2])


def test_the_ring_is_at_the_lowest_validation_value():
    name = "diffusion_loss_validation"
    axes = history({name: table(name, [3.0, 1.0, 2.0], [10, 20, 30])}, show=False)
    ring = axes[0].lines[-1]
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (20, 1)


def test_missing_values_are_left_out():
    name = "elbo_validation"
    tables = {name: table(name, [5.0, np.nan, 4.0])}
    line = history(tables, show=False)[0].lines[0]
    np.testing.assert_array_equal(line.get_xdata(), [0, 2])


def test_steep_first_epochs_do_not_flatten_the_rest():
    tables = curves("elbo_train", values=[1e6, 1e5, *np.linspace(110, 100, 98)])
    assert history(tables, show=False)[0].get_ylim()[1] < 200
    tables = curves("elbo_train", values=np.linspace(200, 100, 100))
    assert history(tables, show=False)[0].get_ylim()[1] > 199


def test_save(tmp_path):
    history(curves("elbo_train"), save=tmp_path / "history.png")
    assert plt.imread(tmp_path / "history.png").size


@pytest.mark.parametrize("nothing", [{}, {"kl_weight": None}, SimpleNamespace(history=None)])
def test_without_training_there_is_nothing_to_draw(nothing):
    with pytest.raises(ValueError, match="There is no training curve. Train the model first"):
        history(nothing, show=False)
