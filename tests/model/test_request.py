"""Requests on the frame of training cells: what is drawn, what is refused."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

from scldm.model._array_conditions import Coordinates
from scldm.model._conditions import Category, Number
from scldm.model._perturbations import PerturbationSet
from scldm.model._request import complete

CONDITIONS = [
    Category("cell_type", "type", ["T", "NK", "B"]),
    Category("batch", "donor", [0, 1], in_decoder=True),
    PerturbationSet(
        "guide",
        ["control", "KLF1", "CEBPA", "KLF1+CEBPA"],
        "control",
        Number("dose", "concentration", 1.0, 1.0, "float64"),
    ),
    Number("time", "day", 1.0, 1.0, "int64"),
    Coordinates("spatial", "X_place", [0.0, 0.0], [1.0, 1.0], [0.1, 0.1]),
]
TRAINING = pd.DataFrame(
    {
        "cell_type": pd.Categorical(["T"] * 60 + ["NK"] * 40, categories=["T", "NK", "B"]),
        "batch": pd.Categorical([0] * 50 + [1] * 50),
        "perturbation": pd.Categorical((["control"] + ["KLF1"] * 3 + ["CEBPA"]) * 20),
        "dose": ([0.0] + [1.0] * 3 + [10.0]) * 20,
        "time": [0.0, 1.0, 3.0, 3.0] * 25,
        "spatial_0": np.arange(100.0),
        "spatial_1": np.zeros(100),
    }
)


def _complete(n_cells=None, **given):
    return complete(CONDITIONS, given, n_cells, TRAINING, np.random.default_rng(0))


def test_nothing_given_draws_whole_training_cells():
    frame = _complete(500).frame
    drawn = set(map(tuple, frame.astype(str).to_numpy()))
    assert drawn <= set(map(tuple, TRAINING.astype(str).to_numpy()))
    assert (frame["cell_type"] == "T").mean() == pytest.approx(0.6, abs=0.08)


def test_the_rest_is_drawn_from_matching_cells():
    frame = _complete(400, cell_type="NK").frame
    assert (frame["cell_type"] == "NK").all()
    assert (frame["batch"] == 1).all(), "every NK cell of the training data is of batch 1"
    assert (frame["spatial_0"] >= 60).all()


def test_one_value_for_each_cell():
    kinds = ["T", "NK", "NK", "T"] * 50
    frame = _complete(cell_type=kinds).frame
    assert frame["cell_type"].tolist() == kinds
    assert (frame.loc[frame["cell_type"] == "NK", "batch"] == 1).all()
    assert len(_complete(cell_type=pd.Series(["T"])).frame) == 1


def test_numbers_match_exactly_or_the_nearest():
    assert (_complete(100, time=3).frame["spatial_0"] % 4 >= 2).all()
    near = _complete(100, time=2.9).frame
    assert (near["time"] == 2.9).all()
    assert (near["spatial_0"] % 4 >= 2).all(), "cells of day 3 lend the rest"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"time": 3.5}, "`time` has 3.5, outside of what training cells have, 0 to 3"),
        ({"time": [1, -1]}, "`time` has -1"),
        (
            {"perturbation": "KLF1", "dose": 10},
            "`dose` has 10 of 'KLF1', .* training cells have, 1",
        ),
        ({"perturbation": "KLF1+CEBPA", "dose": 100}, "`dose` has 100 of 'KLF1', .*, 1"),
        ({"spatial": (5.0, 4.0)}, "`spatial` has 4 along axis 1, .* 0 to 0"),
        ({"spatial": (-50.0, 400.0)}, "`spatial` has 400 along axis 1"),
    ],
)
def test_numbers_that_no_cell_comes_near_are_warned_of(given, words, recwarn):
    _complete(2, time=3.0000001, dose=10, perturbation="CEBPA", spatial=(99.0, 0.0))
    # a tissue has no sharp edge, and what doses below the lowest do is known
    _complete(2, spatial=(-4.0, 0.0))
    _complete(2, perturbation="CEBPA", dose=0.1)
    assert not [w for w in recwarn if "guess" in str(w.message)]
    with pytest.warns(UserWarning, match=words) as caught:
        _complete(2, **given)
    assert len([w for w in caught if "guess" in str(w.message)]) == 1


def test_a_place_takes_the_types_around_it():
    frame = _complete(spatial=[[5.0, 0.0]] * 50 + [[95.0, 0.0]] * 50).frame
    assert (frame["cell_type"][:50] == "T").all()
    assert (frame["cell_type"][50:] == "NK").mean() > 0.6
    assert _complete(3, spatial=(5.0, 0.0)).frame["spatial_0"].tolist() == [5.0] * 3


def test_what_no_cell_matches_is_drawn_from_all_with_a_warning():
    with pytest.warns(UserWarning, match=r"No training cell has \[\{'cell_type': 'B'\}\]"):
        frame = _complete(300, cell_type="B").frame
    assert set(frame["batch"]) == {0, 1}


def test_a_new_combination_gets_doses_of_perturbed_cells():
    with pytest.warns(UserWarning, match="No training cell has"):
        frame = _complete(300, perturbation="CEBPA+KLF1").frame
    assert (frame["perturbation"] == "KLF1+CEBPA").all(), "spelt as in the setup"
    assert set(frame["dose"]) == {1.0, 10.0}


def test_a_dose_is_not_of_the_control():
    frame = _complete(perturbation=["control", "KLF1"] * 30, dose=10.0).frame
    control = frame["perturbation"] == "control"
    assert (frame.loc[control, "dose"] == 0.0).all(), "the dose that control cells have"
    assert (frame.loc[~control, "dose"] == 10.0).all()
    assert (_complete(10, perturbation="control", dose=0.0).frame["dose"] == 0.0).all()


def test_none_is_unconditional_and_stays_out_of_obs():
    request = _complete(50, cell_type=None)
    assert np.isnan(request.encoded["cell_type"]).all()
    assert request.frame["cell_type"].isna().all()
    assert not np.isnan(request.encoded["time"]).any()
    assert request.described["cell_type"] == "unconditional"


def test_none_for_what_the_decoder_needs_is_drawn():
    request = _complete(50, batch=None)
    assert np.isnan(request.encoded["batch"]).all()
    assert set(request.frame["batch"]) == {0, 1}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"cell_type": "Bcell"}, r"`cell_type='Bcell'` is not a known cell type. Known: \['T'"),
        ({"cell_type": ["T", "x"]}, "`cell_type='x'` is not a known cell type"),
        ({"celltype": "T"}, r"`celltype` is not a registered condition. Registered: \['cell"),
        ({"perturbation": "KLF1+X"}, "`perturbation='KLF1\\+X'` is not known, nor a combination"),
        ({"perturbation": ""}, "`perturbation=''` is not known"),
        ({"time": "day 1"}, "`time='day 1'` is not a number"),
        ({"time": np.nan}, "`time` has NaN"),
        ({"dose": np.inf}, "`dose` has NaN or infinite"),
        ({"dose": None}, "`dose=None` goes with `perturbation=None` only"),
        ({"spatial": [1.0, 2.0, 3.0]}, r"`spatial` has shape \(3,\), but must be \(n_cells, 2\)"),
        ({"spatial": [[0.0, np.nan]] * 5}, "`spatial` has NaN"),
        ({"cell_type": ["T"] * 4}, "Numbers of cells differ: `n_cells` 5, `cell_type` 4"),
        ({"cell_type": ["T"]}, "Numbers of cells differ: `n_cells` 5, `cell_type` 1"),
        ({"cell_type": []}, "Numbers of cells differ: `n_cells` 5, `cell_type` 0"),
        ({"cell_type": [["T"]] * 5}, "`cell_type` is nested"),
    ],
)
def test_wrong_requests(given, words):
    with pytest.raises(ValueError, match=words):
        _complete(5, **given)


@pytest.mark.parametrize("n_cells", [0, -1, 2.5, "many", True])
def test_n_cells_is_a_whole_number(n_cells):
    with pytest.raises(ValueError, match=f"`n_cells={n_cells!r}` must be a whole number"):
        _complete(n_cells)


def test_n_cells_is_needed_or_implied():
    with pytest.raises(ValueError, match="`n_cells` is needed"):
        _complete(cell_type="T")
    with pytest.raises(ValueError, match="`cell_type` is empty"):
        _complete(cell_type=[])


def test_sets_are_encoded_with_their_doses():
    frame = pd.DataFrame(
        {
            "perturbation": pd.Categorical(["control", "KLF1", "KLF1+CEBPA", None]),
            "dose": [0.0, 2.0, 3.0, np.nan],
        }
    )
    condition = CONDITIONS[2]
    assert condition.items == ["CEBPA", "KLF1"]
    np.testing.assert_array_equal(
        condition.encode(frame),
        # doses are standardised by their mean and spread, which are 1 here
        [[-1, -1, -1, -1], [1, -1, 1, 1], [1, 0, 2, 2], [np.nan] * 4],
    )


def test_a_plus_at_the_end_of_a_name_joins_nothing():
    condition = PerturbationSet("guide", ["KLF1+ctrl", "CD4", "CD4+", "CD4+KLF1"], "KLF1+ctrl")
    assert condition.items == ["CD4", "CD4+", "KLF1"]
    frame = condition.parse("perturbation", ["KLF1+ctrl", "CD4", "CD4+", "KLF1+CD4"])
    codes = condition.encode(frame)[:, :2].tolist()
    assert codes == [[-1, -1], [0, -1], [1, -1], [0, 2]]


def test_labels_that_are_numbers_come_back_as_numbers():
    condition = PerturbationSet("guide", [0, 1, 2], 0)
    frame = condition.parse("perturbation", [0, 1, "1+2"])
    adata = ad.AnnData(np.ones((3, 1)))
    condition.write(frame, adata)
    assert adata.obs["guide"].tolist() == [0, 1, "1+2"]


def test_numbers_keep_their_digits():
    seconds = Number("time", "t", 1.7e9, 20.0, "int64")
    frame = pd.DataFrame({"time": [1.7e9, 1.7e9 + 20, 1.7e9 + 40]})
    np.testing.assert_allclose(seconds.encode(frame).ravel(), [0, 1, 2])


def test_a_category_without_cells_cannot_be_asked_for():
    condition = Category("cell_type", "type", ["T", "ghost", "B"], observed=["T", "B"])
    with pytest.raises(ValueError, match=r"'ghost'` is not a known.*Known: \['T', 'B'\]"):
        condition.parse("cell_type", "ghost")
    # codes are those of all categories
    frame = condition.parse("cell_type", ["T", "B"])
    assert condition.encode(frame).ravel().tolist() == [0, 2]


@pytest.mark.parametrize(
    "value", [np.array("T"), torch.tensor(0), ("T", "NK"), pd.Series(["T", "NK"]), iter(["T"])]
)
def test_values_in_many_forms(value):
    condition = CONDITIONS[1] if isinstance(value, torch.Tensor) else CONDITIONS[0]
    frame = condition.parse(condition.name, value)
    assert frame[condition.name].notna().all()


@pytest.mark.parametrize("value", [{"T"}, {"a": "T"}, object()])
def test_values_without_an_order_are_refused(value):
    with pytest.raises(ValueError, match="`cell_type` is"):
        CONDITIONS[0].parse("cell_type", value)
