"""Saving and loading."""

import os
import pickle

import numpy as np
import pandas as pd
import pytest
import torch

from scldm import SCLDM
from scldm.model._files import FORMAT
from scldm.model._plain import from_plain, to_plain


@pytest.fixture
def saved(trained, tmp_path):
    trained.save(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("with_data", [False, True])
def test_a_loaded_model_generates_the_same_cells(trained, saved, with_data):
    model = SCLDM.load(saved, adata=trained.adata.copy() if with_data else False)
    want, have = (m.generate(300, seed=1, perturbation="KLF1") for m in (trained, model))
    assert (want.X != have.X).nnz == 0
    pd.testing.assert_frame_equal(want.obs, have.obs)
    pd.testing.assert_frame_equal(want.var, have.var)
    np.testing.assert_array_equal(want.obsm["X_scldm"], have.obsm["X_scldm"])


def test_a_loaded_model_knows_new_data(trained, saved, new_data):
    model = SCLDM.load(saved, adata=new_data.copy())
    np.testing.assert_allclose(
        model.get_latent_representation(), trained.get_latent_representation(new_data), atol=1e-6
    )
    assert model.history.keys() == trained.history.keys()
    for name, frame in trained.history.items():
        pd.testing.assert_frame_equal(model.history[name], frame, check_dtype=False)
    np.testing.assert_array_equal(model.train_indices, trained.train_indices)


def test_data_can_be_attached_later(trained, saved, new_data):
    model = SCLDM.load(saved, adata=False)
    np.testing.assert_allclose(
        model.get_latent_representation(new_data.copy()),
        trained.get_latent_representation(new_data),
        atol=1e-6,
    )


def test_data_can_be_saved_with_the_model(trained, tmp_path):
    trained.save(tmp_path / "model", save_anndata=True)
    model = SCLDM.load(tmp_path / "model")
    assert model.adata.shape == trained.adata.shape
    assert (model.generate(20, seed=0).X != trained.generate(20, seed=0).X).nnz == 0


def test_data_of_other_genes_are_refused(saved, adata):
    with pytest.raises(ValueError, match="lacks 3 of the 40 genes"):
        SCLDM.load(saved, adata=adata[:, 3:].copy())


def test_missing_data_are_told(saved):
    with pytest.warns(UserWarning, match="No data were saved with the model"):
        SCLDM.load(saved)


def test_the_file_is_data_only(saved):
    content = torch.load(saved / "model.pt", weights_only=True)
    assert set(content) == {"model_state_dict", "var_names", "attr_dict"}


class _Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_hostile_file_runs_no_code(saved, tmp_path):
    content = torch.load(saved / "model.pt", weights_only=True)
    content["attr_dict"]["trap"] = _Trap(str(tmp_path / "sprung"))
    torch.save(content, saved / "model.pt")
    with pytest.raises(ValueError, match="holds more than data and was not read"):
        SCLDM.load(saved, adata=False)
    assert not (tmp_path / "sprung").exists()
    with open(saved / "model.pt", "wb") as file:
        pickle.dump(_Trap(str(tmp_path / "sprung")), file)
    with pytest.raises(ValueError, match="not a model that scldm saved"):
        SCLDM.load(saved, adata=False)
    assert not (tmp_path / "sprung").exists()


def test_a_damaged_file_says_so(saved):
    path = saved / "model.pt"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match="damaged"):
        SCLDM.load(saved, adata=False)


def test_a_newer_file_says_so(saved):
    content = torch.load(saved / "model.pt", weights_only=True)
    content["attr_dict"] |= {"format_": FORMAT + 1, "scldm_version_": "9.0"}
    torch.save(content, saved / "model.pt")
    with pytest.raises(ValueError, match=r"saved by scldm 9\.0, which is newer"):
        SCLDM.load(saved, adata=False)


def test_another_class_s_file_says_so(saved):
    content = torch.load(saved / "model.pt", weights_only=True)
    content["attr_dict"]["registry_"]["model_name"] = "SCVI"
    torch.save(content, saved / "model.pt")
    with pytest.raises(ValueError, match="holds a SCVI, not a SCLDM"):
        SCLDM.load(saved, adata=False)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no saved model at"):
        SCLDM.load(tmp_path / "nothing")


def test_a_directory_is_not_overwritten_unasked(trained, saved):
    with pytest.raises(FileExistsError, match="set `overwrite=True`"):
        trained.save(saved)
    trained.save(saved, overwrite=True)


def test_a_failed_save_leaves_the_earlier_model(trained, saved, monkeypatch):
    before = (saved / "model.pt").read_bytes()

    def half(content, path):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="No space left"):
        trained.save(saved, overwrite=True)
    with pytest.raises(OSError, match="No space left"):
        trained.save(saved.parent / "new")
    assert (saved / "model.pt").read_bytes() == before
    assert sorted(p.name for p in saved.parent.iterdir()) == ["model"]


@pytest.mark.parametrize(
    "value",
    [
        None,
        {"a": [1, 2.5, "x", True], "b": {"c": None}},
        np.arange(4),
        pd.DataFrame({"x": [1.5, 2.0], "k": pd.Categorical(["a", "b"], ["b", "a"])}, ["i", "j"]),
        pd.DataFrame(index=["i", "j"]),
    ],
)
def test_plain_data_go_round(value, tmp_path):
    torch.save(to_plain(value), tmp_path / "x.pt")
    back = from_plain(torch.load(tmp_path / "x.pt", weights_only=True))
    if isinstance(value, pd.DataFrame):
        pd.testing.assert_frame_equal(back, value)
    elif isinstance(value, np.ndarray):
        np.testing.assert_array_equal(back, value)
    else:
        assert back == value


def test_columns_of_every_kind_can_be_saved(tmp_path):
    frame = pd.DataFrame(
        {
            "text": pd.array(["a", None], dtype="string"),
            "maybe": pd.array([True, None], dtype="boolean"),
            "count": pd.array([1, None], dtype="Int64"),
            "when": pd.to_datetime(["2020-01-01", "2021-02-03"]),
            "object": ["x", "y"],
        }
    )
    torch.save(to_plain(frame), tmp_path / "x.pt")
    back = from_plain(torch.load(tmp_path / "x.pt", weights_only=True))
    pd.testing.assert_frame_equal(back, frame, check_index_type=False)
    intervals = pd.DataFrame({"bin": pd.cut([1, 2, 3], 2)})
    assert from_plain(to_plain(intervals))["bin"].tolist() == [str(x) for x in intervals["bin"]]


def test_data_of_an_earlier_model_do_not_stay(trained, tmp_path):
    trained.save(tmp_path / "model", save_anndata=True)
    trained.save(tmp_path / "model", overwrite=True)
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["model.pt"]


def test_the_working_directory_is_a_place(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained.save(".", overwrite=True, prefix="a_")
    assert SCLDM.load(".", adata=False, prefix="a_").diffusion_trained_


def test_what_is_not_data_is_refused():
    with pytest.raises(TypeError, match="A function cannot be saved"):
        to_plain({"f": lambda: None}["f"])
