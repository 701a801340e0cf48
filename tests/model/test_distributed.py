"""Training by several processes, and in half precision."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import scvi
import torch

from scldm import SCLDM

SCRIPT = """
import sys, anndata, scvi, scldm, torch
from lightning.pytorch.utilities import rank_zero_only
data = anndata.read_h5ad("cells.h5ad")
scvi.settings.seed = 0
scldm.SCLDM.setup_anndata(data, layer="counts", cell_type_key="type")
model = scldm.SCLDM(data, n_hidden=16, n_latent=4, width=16, depth=1)
model.train(max_epochs=15, max_steps=200, batch_size=32, diffusion_kwargs={"batch_size": 128},
            accelerator="cpu", devices=2, strategy="ddp", checkpoint_dir="run",
            enable_progress_bar=False)
torch.save({"weights": model.module.state_dict(), "noise": torch.rand(()),
            "loss": {k: float(v.iloc[-1, 0]) for k, v in model.history.items()}},
           f"rank_{rank_zero_only.rank}.pt")
model.save("model")
"""


def test_two_processes_train_one_model(adata, tmp_path):
    """Same weights in both, losses as of one process with minibatches of the same size in all."""
    adata.write_h5ad(tmp_path / "cells.h5ad")
    # processes are started anew from the file of the first
    (tmp_path / "train.py").write_text(SCRIPT)
    source = str(Path(__file__).parents[2] / "src")
    env = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "train.py"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"rank_{i}.pt", weights_only=True) for i in (0, 1))
    for name, value in first["weights"].items():
        assert torch.equal(value, second["weights"][name]), name
    # what is drawn outside the stages is common again
    assert first["noise"] == second["noise"]
    assert not second["loss"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "cells.h5ad",
        "model",
        "rank_0.pt",
        "rank_1.pt",
        "run",
        "train.py",
    ]
    scvi.settings.seed = 0
    SCLDM.setup_anndata(adata, layer="counts", cell_type_key="type")
    model = SCLDM(adata, n_hidden=16, n_latent=4, width=16, depth=1)
    model.train(
        15, 200, batch_size=64, diffusion_kwargs={"batch_size": 256}, enable_progress_bar=False
    )
    for name in ("reconstruction_loss_validation", "diffusion_loss_validation"):
        alone = float(model.history[name].iloc[-1, 0])
        assert first["loss"][name] == pytest.approx(alone, rel=0.05)
    loaded = SCLDM.load(tmp_path / "model", adata=False)
    assert loaded.generate(3, seed=0).shape == (3, adata.n_vars)


def test_processes_need_a_seed(adata):
    scvi.settings.seed = None
    SCLDM.setup_anndata(adata, layer="counts")
    model = SCLDM(adata, n_hidden=16, n_latent=4, width=16, depth=1)
    with pytest.raises(ValueError, match="the same split of cells"):
        model.train(1, 1, strategy="ddp", devices=2)


def test_half_precision_trains_as_well(adata):
    losses = {}
    for precision in ("32-true", "bf16-mixed"):
        scvi.settings.seed = 0
        SCLDM.setup_anndata(adata, layer="counts", cell_type_key="type")
        model = SCLDM(adata, n_hidden=16, n_latent=4, width=16, depth=1)
        model.train(15, 400, precision=precision, enable_progress_bar=False)
        assert all(p.dtype == torch.float32 for p in model.module.parameters())
        losses[precision] = [
            float(model.history[name].iloc[-1, 0])
            for name in ("reconstruction_loss_validation", "diffusion_loss_validation")
        ]
    assert losses["bf16-mixed"] == pytest.approx(losses["32-true"], rel=0.02)
    assert losses["bf16-mixed"] != losses["32-true"]
