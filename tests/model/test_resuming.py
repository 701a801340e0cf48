"""Training that is killed and goes on."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import scvi
import torch
from lightning.pytorch.callbacks import Callback

from scldm import SCLDM
from scldm.train import random_state, set_random_state

QUIET = {"enable_progress_bar": False}
ASKED = {"max_epochs": 6, "max_steps": 1000, "batch_size": 64, "checkpoint_interval": 0}


def new_model(adata, seed=0):
    scvi.settings.seed = seed
    SCLDM.setup_anndata(adata, layer="counts", cell_type_key="type")
    return SCLDM(adata, n_hidden=16, n_latent=4, width=16, depth=1)


class Stop(Callback):
    """Ends a stage with an error, as a process that dies would."""

    def __init__(self, loss, epoch):
        self.loss = loss
        self.epoch = epoch

    def on_train_batch_start(self, trainer, plan, batch, batch_idx):
        if self.loss in trainer.callback_metrics and trainer.current_epoch == self.epoch:
            raise RuntimeError("stopped")


def train(adata, folder, stop=None, seed=0, **kwargs):
    model = new_model(adata, seed)
    asked = {**ASKED, **QUIET, "checkpoint_dir": folder, **kwargs}
    if stop is None:
        model.train(**asked)
        return model
    with pytest.raises(RuntimeError, match="stopped"):
        model.train(**asked, callbacks=[Stop(*stop)])
    return None


def same(one, other):
    for name, value in one.module.state_dict().items():
        assert torch.allclose(value, other.module.state_dict()[name], atol=1e-6), name
    assert one.history.keys() == other.history.keys()
    for name, values in one.history.items():
        again = other.history[name]
        assert values.index.tolist() == again.index.tolist(), name
        np.testing.assert_allclose(
            again.astype(float), values.astype(float), rtol=1e-5, err_msg=name
        )
    assert (one.generate(20, seed=1).X != other.generate(20, seed=1).X).nnz == 0


@pytest.mark.parametrize("early_stopping", [False, True])
def test_it_ends_as_if_it_had_not_been_stopped(adata, tmp_path, early_stopping):
    extra = {"early_stopping": early_stopping}
    whole = train(adata, None, **extra)
    # in each stage, each time from an untouched model with other initial weights
    train(adata, tmp_path / "run", ("reconstruction_loss_train", 2), **extra)
    train(adata, tmp_path / "run", ("reconstruction_loss_train", 4), **extra)
    train(adata, tmp_path / "run", ("diffusion_loss_train", 3), **extra)
    model = train(adata, tmp_path / "run", **extra)
    same(whole, model)
    # where all is done, nothing is trained again
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["model-2", "state.pt"]
    same(whole, train(adata, tmp_path / "run", **extra))


def test_a_checkpoint_that_is_cut_off_leaves_the_one_before(adata, tmp_path, monkeypatch):
    whole = train(adata, None)
    save, written = pl.Trainer.save_checkpoint, []

    def cut_off(self, filepath, *args, **kwargs):
        written.append(filepath)
        if len(written) == 3:
            Path(filepath).write_bytes(b"half")
            raise RuntimeError("stopped")
        save(self, filepath, *args, **kwargs)

    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="stopped"):
        patched.setattr(pl.Trainer, "save_checkpoint", cut_off)
        new_model(adata).train(**ASKED, **QUIET, checkpoint_dir=tmp_path / "run")
    same(whole, train(adata, tmp_path / "run"))


def test_without_a_seed_it_ends_the_same_each_time(adata, tmp_path):
    train(adata, tmp_path / "a", ("reconstruction_loss_train", 1), seed=None)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    one, other = (train(adata, tmp_path / name, seed=None) for name in "ab")
    np.testing.assert_array_equal(one.validation_indices, other.validation_indices)
    same(one, other)


SCRIPT = """
import sys, scvi, scldm, anndata
data = anndata.read_h5ad(sys.argv[1])
scvi.settings.seed = 0
scldm.SCLDM.setup_anndata(data, layer="counts", cell_type_key="type")
model = scldm.SCLDM(data, n_hidden=16, n_latent=4, width=16, depth=1)
model.train(max_epochs=6, max_steps=10**6, batch_size=64, checkpoint_interval=0,
            enable_progress_bar=False, checkpoint_dir=sys.argv[2])
"""


def test_a_killed_process_leaves_what_can_be_taken_up(adata, tmp_path):
    """SIGKILL in stage 2, which the script asks too many steps of to ever end."""
    adata.write_h5ad(tmp_path / "cells.h5ad")
    command = [sys.executable, "-c", SCRIPT, tmp_path / "cells.h5ad", tmp_path / "run"]
    source = Path(__file__).parents[2] / "src"
    env = {**os.environ, "PYTHONPATH": str(source)}
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=env)
        checkpoint = tmp_path / "run" / "diffusion.ckpt"
        until = time.monotonic() + 120
        while not ((tmp_path / "run" / "model-1").exists() and checkpoint.exists()):
            assert process.poll() is None and time.monotonic() < until, (
                tmp_path / "log"
            ).read_text()
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    step = torch.load(checkpoint, weights_only=True)["global_step"]
    assert step >= 200
    stop = Stop("diffusion_loss_train", step // 200 + 1)
    train(adata, tmp_path / "run", (stop.loss, stop.epoch), max_steps=10**6)
    after = torch.load(checkpoint, weights_only=True)
    assert after["global_step"] == step + 200
    kept = next(v for k, v in after["callbacks"].items() if "EpochCheckpoint" in k)
    assert list(kept["losses"]) == [step // 200 - 1, step // 200]


def test_the_checkpoint_of_a_stage_that_is_done_is_not_the_next_ones(adata, tmp_path):
    """As a kill leaves it, between saying that a stage is done and removing its checkpoint."""
    whole = train(adata, None)
    run, kept = tmp_path / "run", tmp_path / "kept.ckpt"
    train(adata, run, ("reconstruction_loss_train", 2))
    shutil.copy(run / "autoencoder.ckpt", kept)
    train(adata, run, ("reconstruction_loss_train", 4))
    train(adata, run, ("diffusion_loss_train", 1))
    (run / "diffusion.ckpt").unlink()
    shutil.copy(kept, run / "autoencoder.ckpt")
    same(whole, train(adata, run))
    assert sorted(p.name for p in run.iterdir()) == ["model-2", "state.pt"]


def test_another_training_is_refused(adata, tmp_path):
    train(adata, tmp_path / "run", ("reconstruction_loss_train", 2))
    with pytest.raises(ValueError, match=r"differs in: max_epochs \(6, now 7\)"):
        new_model(adata).train(**{**ASKED, "max_epochs": 7}, checkpoint_dir=tmp_path / "run")
    adata.obs["type"] = adata.obs["type"].to_numpy()[::-1]
    with pytest.raises(ValueError, match="differs in: conditions"):
        new_model(adata).train(**ASKED, **QUIET, checkpoint_dir=tmp_path / "run")


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("hostile",)


@pytest.mark.parametrize("name", ["state.pt", "autoencoder.ckpt"])
@pytest.mark.parametrize("content", ["hostile", "truncated"])
def test_files_that_are_not_data_are_not_run(adata, tmp_path, monkeypatch, name, content):
    monkeypatch.chdir(tmp_path)
    train(adata, tmp_path / "run", ("reconstruction_loss_train", 2))
    path = tmp_path / "run" / name
    if content == "hostile":
        path.write_bytes(pickle.dumps(Hostile()))
    else:
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged, or holds more than data"):
        train(adata, tmp_path / "run")
    assert not (tmp_path / "hostile").exists()


def test_streams_go_on_where_they_were():
    import random

    state = random_state()
    drawn = [torch.randn(3).tolist(), np.random.randn(3).tolist(), random.random()]
    set_random_state(state)
    assert [torch.randn(3).tolist(), np.random.randn(3).tolist(), random.random()] == drawn
