"""Files of a model that are damaged, changed, or of other versions; and disks that are full."""

import errno
import resource
import signal
import warnings
from contextlib import contextmanager
from pathlib import Path

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import scldm
from scldm.model._files import FORMAT

FIXTURES = Path(__file__).parents[1] / "fixtures"
SAVED = FIXTURES / f"format_{FORMAT}"


def load(folder):
    return scldm.SCLDM.load(folder, adata=False)


def test_the_present_format_has_a_fixture():
    assert (SAVED / "model.pt").stat().st_size < 300_000


def test_the_fixture_loads_and_generates_the_cells_that_it_did():
    cells = load(SAVED).generate(20, seed=0, cell_type="B")
    with np.load(SAVED / "cells.npz") as expected:
        # arithmetic of other machines may round a count the other way
        assert (cells.X.toarray() != expected["counts"]).mean() < 0.01
        np.testing.assert_allclose(cells.obsm["X_scldm"], expected["latents"], atol=1e-3)
        np.testing.assert_array_equal(cells.obs["donor"].to_numpy(), expected["donor"])
        np.testing.assert_allclose(cells.obs["age"], expected["age"])


@pytest.mark.parametrize("folder", sorted(FIXTURES.glob("format_*")), ids=lambda path: path.name)
def test_every_format_that_was_released_is_read_or_refused_in_words(folder):
    if int(folder.name.removeprefix("format_")) == FORMAT:
        assert load(folder).diffusion_trained_
    else:
        with pytest.raises(ValueError, match="was saved by"):
            load(folder)


@pytest.fixture
def saved(tmp_path):
    content = torch.load(SAVED / "model.pt", weights_only=True)

    def save(change):
        change(content)
        torch.save(content, tmp_path / "model.pt")
        return tmp_path

    return save


def weight_of(content):
    return next(name for name, x in content["model_state_dict"].items() if x.ndim == 2)


def reshape(content):
    state = content["model_state_dict"]
    state[weight_of(content)] = state[weight_of(content)].T.contiguous()[:1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (reshape, "(?s)damaged: its weights are not those.*size mismatch"),
        (
            lambda c: c["model_state_dict"].pop(weight_of(c)),
            "(?s)damaged: its weights.*Missing key",
        ),
        (
            lambda c: c["model_state_dict"].update(more=torch.ones(1)),
            "(?s)damaged: its weights.*Unexpected key",
        ),
        (lambda c: c["attr_dict"].pop("registry_"), r"damaged: it lacks \['registry_'\]"),
        (lambda c: c["attr_dict"].pop("init_params_"), r"damaged: it lacks \['init_params_'\]"),
        (lambda c: c["attr_dict"].pop("format_"), "not a model that scldm saved: it lacks parts"),
        (lambda c: c.pop("model_state_dict"), "not a model that scldm saved: it lacks parts"),
        (lambda c: c.update(attr_dict=[]), "not a model that scldm saved: it lacks parts"),
        (lambda c: c["attr_dict"].update(format_=FORMAT + 1), "which is newer than this one"),
        (lambda c: c["attr_dict"].update(format_=FORMAT - 1), "saved by an early version"),
        (lambda c: c["attr_dict"].update(format_="x"), "not a model that scldm saved"),
    ],
)
def test_a_changed_file_says_what_is_wrong(saved, change, words):
    with pytest.raises(ValueError, match=words):
        load(saved(change))


def test_a_flipped_byte_of_a_weight_is_seen(tmp_path):
    whole = bytearray((SAVED / "model.pt").read_bytes())
    state = torch.load(SAVED / "model.pt", weights_only=True)["model_state_dict"]
    weight = max(state.values(), key=lambda x: x.numel())
    at = whole.find(weight.numpy().tobytes())
    assert at > 0
    whole[at + 5] ^= 1
    (tmp_path / "model.pt").write_bytes(whole)
    with pytest.raises(ValueError, match="is damaged: .* is not what was written"):
        load(tmp_path)


@given(
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=3),
    st.floats(0, 1) | st.just(1.0),
)
def test_whatever_is_flipped_or_cut_off_is_said_or_does_no_harm(tmp_path_factory, flips, kept):
    """Bytes between the parts of the archive mean nothing: then the model is as it was."""
    whole = bytearray((SAVED / "model.pt").read_bytes())
    for place, bits in flips:
        whole[int(place * len(whole))] ^= bits
    folder = tmp_path_factory.mktemp("flipped")
    (folder / "model.pt").write_bytes(whole[: int(kept * len(whole))])
    try:
        model = load(folder)
    except ValueError as error:
        assert "damaged" in str(error) or "not a model that scldm saved" in str(error)
    else:
        expected = load(SAVED).module.state_dict()
        for name, x in model.module.state_dict().items():
            assert torch.equal(x, expected[name])


@contextmanager
def room_for(n_bytes):
    """Let no file grow beyond a size, so that a write fails in its middle as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


@pytest.fixture(scope="module")
def model():
    return load(SAVED)


def test_a_save_without_room_keeps_the_earlier_model(model, tmp_path):
    model.save(tmp_path / "model")
    before = (tmp_path / "model" / "model.pt").read_bytes()
    for name in ("model", "new"):
        with room_for(20_000), pytest.raises(OSError, match="`dir_path=.* could not be written"):
            model.save(tmp_path / name, overwrite=True)
    assert (tmp_path / "model" / "model.pt").read_bytes() == before
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["model.pt"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_save_where_nothing_can_be_written_says_so(model, tmp_path, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(PermissionError, match="`dir_path=.* could not be written"):
        model.save(tmp_path / "new")
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", ["h5ad", "zarr"])
def test_cells_without_room_leave_no_half_file_and_can_go_on(model, tmp_path, ending):
    out = tmp_path / f"cells.{ending}"
    whole = model.generate(5000, seed=0, cell_type="B")
    with room_for(40_000), pytest.raises(OSError, match="make room and ask again"):
        model.generate(5000, seed=0, cell_type="B", out=out)
    assert not out.exists()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.generate(5000, seed=0, cell_type="B", out=out)
        read = {"h5ad": ad.read_h5ad, "zarr": ad.read_zarr}[ending]
        assert (read(out).X != whole.X).nnz == 0
    assert [p.name for p in tmp_path.iterdir()] == [out.name]


@pytest.mark.parametrize("ending", ["h5ad", "zarr"])
def test_room_for_the_parts_but_not_for_the_file(model, tmp_path, ending, monkeypatch):
    """What is made is kept where joining it fails, and joining is what the same call then does."""
    out = tmp_path / f"cells.{ending}"

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("scldm.model._streaming.PartStore._fill", full)
        with pytest.raises(OSError, match="`out=.*No space left on device.*make room and ask"):
            model.generate(300, seed=0, out=out)
    assert not out.exists() and [p.name for p in tmp_path.iterdir()] == [f".{out.name}.parts"]
    calls = []
    monkeypatch.setattr(type(model), "_sample_block", lambda *args: calls.append(args))
    assert model.generate(300, seed=0, out=out) == out.resolve()
    assert not calls and [p.name for p in tmp_path.iterdir()] == [out.name]


def figure(save):
    adata = load(SAVED).generate(50, seed=0)
    return scldm.pl.library_size(adata, adata.copy(), show=False, save=save)


def test_a_figure_without_room_keeps_the_earlier_one(tmp_path):
    figure(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    with room_for(1000), pytest.raises(OSError, match="`save=.* could not be written"):
        figure(tmp_path / "a.png")
    with pytest.raises(OSError, match="`save=.* could not be written .No such file"):
        figure(tmp_path / "nowhere" / "a.png")
    assert (tmp_path / "a.png").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert not plt.get_fignums(), "a figure that could not be saved is closed too"
