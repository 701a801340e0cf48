"""Stage 3."""

import copy

import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from lightning.pytorch.callbacks import Callback

from scldm import SCLDM

QUIET = {"enable_progress_bar": False}


def _trained(adata, **kwargs):
    scvi.settings.seed = 0
    SCLDM.setup_anndata(adata, layer="counts", cell_type_key="type", batch_key="donor")
    # after few epochs on few cells a second layer leaves latents that say nothing yet
    model = SCLDM(adata, n_hidden=16, n_layers=1, n_latent=4, width=16, depth=1, **kwargs)
    model.train(max_epochs=20, max_steps=200, **QUIET)
    return model


@pytest.fixture
def model(adata):
    return _trained(adata)


def _state(model):
    return {k: v.clone() for k, v in model.module.state_dict().items()}


class _At(Callback):
    """Does something before a step of training."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_train_batch_start(self, trainer, plan, *args):
        if trainer.global_step == self.step:
            self.action(plan.module)


def test_both_parts_and_the_average_change_and_the_standardisation_stays(model, tmp_path):
    before, n_averaged = _state(model), int(model.module.diffusion.n_averaged)
    history = {name: frame.copy() for name, frame in model.history.items()}
    model.fine_tune(max_steps=400, lr=1e-3, **QUIET)
    after = model.module.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    for part in ("autoencoder.z_encoder", "autoencoder.decoder"):
        assert any(name.startswith(part) for name in changed), part
    for part in ("trained", "averaged"):
        weights = [n for n, _ in getattr(model.module.diffusion, part).named_parameters()]
        assert all(f"diffusion.{part}.{n}" in changed for n in weights), part
    assert not {"diffusion.shift", "diffusion.scale", "diffusion.trained.bounds"} & changed
    assert int(model.module.diffusion.n_averaged) == n_averaged + 400
    assert model.diffusion_trained_ and not model.module.training
    assert len(model.history["fine_tune_loss_train"]) == 2
    assert len(model.history["fine_tune_diffusion_validation"]) == 2
    for name, frame in history.items():
        pd.testing.assert_frame_equal(model.history[name], frame)
    model.save(tmp_path / "model")
    loaded = SCLDM.load(tmp_path / "model", adata=False)
    assert (loaded.generate(20, seed=0).X != model.generate(20, seed=0).X).nnz == 0
    pd.testing.assert_frame_equal(loaded.latent_check_, model.latent_check_, check_dtype=False)


def test_the_diffusion_s_gradient_reaches_the_encoder(model):
    """With its weight the same step moves the encoder elsewhere, and the decoder not at all."""
    source, moved = _state(model), {}
    for weight in (0.0, 50.0):
        model.module.load_state_dict(source)
        scvi.settings.seed = 1
        kwargs = {"plan_kwargs": {"weight_decay": 0.0}, "gradient_clip_val": None}
        model.fine_tune(1, diffusion_weight=weight, lr=1e-3, **kwargs, **QUIET)
        moved[weight] = _state(model)
    name = "autoencoder.{}.weight"
    encoder = name.format("z_encoder.mean_encoder")
    decoder = name.format("decoder.px_scale_decoder.0")
    assert not torch.allclose(moved[0.0][encoder], moved[50.0][encoder], rtol=0, atol=1e-6)
    torch.testing.assert_close(moved[0.0][decoder], moved[50.0][decoder], rtol=0, atol=1e-6)


def test_it_lowers_the_joint_loss(model):
    model.fine_tune(400, lr=2e-3, **QUIET)
    losses = model.history["fine_tune_loss_validation"].iloc[:, 0].astype(float)
    assert losses.iloc[-1] < losses.iloc[0]


def test_codes_can_be_fine_tuned(adata):
    model = _trained(adata, autoencoder="vq", n_codes=8)
    before = _state(model)
    model.fine_tune(20, **QUIET)
    assert not torch.equal(
        before["autoencoder.quantiser.codes"], model.module.autoencoder.quantiser.codes
    )
    assert model.latent_check_["kl_after"].isna().all()
    assert model.generate(5, seed=0).n_obs == 5


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_model_as_it_was(model, error):
    def fail(module):
        raise error("stop")

    before, cells = _state(model), model.generate(20, seed=0)
    history, attributes = copy.deepcopy(model.history), set(vars(model))
    with pytest.raises((error, SystemExit)):
        model.fine_tune(20, lr=1e-2, callbacks=[_At(7, fail)], **QUIET)
    for name, value in model.module.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not model.module.training
    assert model.latent_check_ is None
    assert model.history.keys() == history.keys()
    assert set(vars(model)) == attributes
    assert (model.generate(20, seed=0).X != cells.X).nnz == 0


def test_a_loss_that_is_not_finite_ends_it(model):
    def break_it(module):
        torch.nn.init.constant_(next(module.diffusion.trained.parameters()), torch.nan)

    before = _state(model)
    with pytest.raises(
        RuntimeError, match=r"became infinite or NaN; set a rate below `lr=0\.001`"
    ):
        model.fine_tune(5, lr=1e-3, callbacks=[_At(2, break_it)], **QUIET)
    for name, value in model.module.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_latents_that_collapse_are_told(model):
    """The encoder's last layer shrinks to a tenth, in one dimension."""

    def shrink(module):
        with torch.no_grad():
            module.autoencoder.z_encoder.mean_encoder.weight[2].mul_(0.1)
            module.autoencoder.z_encoder.mean_encoder.bias[2].mul_(0.1)

    with pytest.warns(UserWarning, match=r"1 of \d active latents lost .*: 2 from [\d.]+ to 0"):
        model.fine_tune(3, lr=1e-8, callbacks=[_At(2, shrink)], **QUIET)
    check = model.latent_check_
    ratio = (check["variance_after"] / check["variance_before"]).to_numpy()
    # batch norm's statistics move the others a little
    np.testing.assert_allclose(ratio, [1, 1, 0.01, 1], atol=0.05)
    assert check["kl_after"][2] < check["kl_before"][2]
    assert model.diffusion_trained_


def test_a_check_without_change_is_silent_and_true(model, recwarn):
    rows = model.train_indices
    mean, variance = model.get_latent_representation(indices=rows, return_dist=True)
    model.fine_tune(1, lr=0.0, **QUIET)
    assert not [w for w in recwarn if "active latents" in str(w.message)]
    check = model.latent_check_
    scale = model.module.diffusion.scale[:4].numpy()
    np.testing.assert_allclose(check["variance_before"], mean.var(0) / scale**2, rtol=1e-4)
    kl = 0.5 * (mean**2 + variance - 1 - np.log(variance))
    np.testing.assert_allclose(check["kl_before"], kl.mean(0), rtol=1e-4)


def test_both_stages_must_be_trained(adata):
    SCLDM.setup_anndata(adata, layer="counts")
    model = SCLDM(adata, n_hidden=16, n_latent=4, width=16, depth=1)
    with pytest.raises(RuntimeError, match="The autoencoder is not trained"):
        model.fine_tune(1, **QUIET)
    model.train_autoencoder(1, **QUIET)
    with pytest.raises(RuntimeError, match="The diffusion is not trained"):
        model.fine_tune(1, **QUIET)
    model.train_diffusion(1, **QUIET)
    with pytest.raises(ValueError, match="`diffusion_weight=-1` must be"):
        model.fine_tune(1, diffusion_weight=-1, **QUIET)
    model.fine_tune(1, **QUIET)
    model.train_autoencoder(1, **QUIET)
    assert not model.diffusion_trained_
