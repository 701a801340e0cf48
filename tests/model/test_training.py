"""The two stages."""

import copy

import numpy as np
import pytest
import scvi
import torch
from lightning.pytorch.callbacks import Callback

from scldm import SCLDM

QUIET = {"enable_progress_bar": False}


@pytest.fixture
def model(adata):
    scvi.settings.seed = 0
    SCLDM.setup_anndata(adata, layer="counts", cell_type_key="type", batch_key="donor")
    return SCLDM(adata, n_hidden=16, n_latent=4, width=16, depth=1)


def test_stage_2_leaves_the_autoencoder_as_it_is(model):
    model.train_autoencoder(3, **QUIET)
    before = copy.deepcopy(model.module.autoencoder.state_dict())
    model.train_diffusion(50, **QUIET)
    after = model.module.autoencoder.state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    assert all(p.requires_grad for p in model.module.autoencoder.parameters())


def test_history_has_both_stages_and_grows(model):
    model.train(max_epochs=3, max_steps=400, **QUIET)
    history = model.history
    assert len(history["reconstruction_loss_train"]) == 3
    assert len(history["reconstruction_loss_validation"]) == 3
    assert len(history["diffusion_loss_train"]) == 2
    assert len(history["diffusion_loss_validation"]) == 2
    model.train_diffusion(200, **QUIET)
    assert len(model.history["diffusion_loss_train"]) == 3
    assert model.history["diffusion_loss_train"].index.tolist() == [0, 1, 2]
    assert len(model.history["reconstruction_loss_train"]) == 3


def test_both_stages_use_the_same_validation_cells(model):
    model.train(max_epochs=1, max_steps=5, train_size=0.8, **QUIET)
    assert len(model.train_indices) == 320
    assert len(model.validation_indices) == 80
    assert not set(model.train_indices) & set(model.validation_indices)


def test_early_stopping_ends_a_stage_that_gets_worse(model):
    rates = {"plan_kwargs": {"lr": 0.3}, "gradient_clip_val": None}
    model.train_autoencoder(3, **QUIET)
    model.train_diffusion(
        60 * 200, early_stopping=True, batch_size=8, early_stopping_patience=2, **rates, **QUIET
    )
    losses = model.history["diffusion_loss_validation"].iloc[:, 0].astype(float)
    assert len(losses) < 60
    assert model.generate(5, seed=0).n_obs == 5


def test_without_validation_cells(model):
    model.train(max_epochs=2, max_steps=5, train_size=1.0, **QUIET)
    assert model.generate(5, seed=0).n_obs == 5


def test_stages_know_what_the_other_did(model):
    model.train(max_epochs=1, max_steps=5, **QUIET)
    model.generate(2, seed=0)
    model.train_autoencoder(1, **QUIET)
    with pytest.raises(RuntimeError, match="The diffusion is not trained"):
        model.generate(2, seed=0)


def test_dispersions_start_at_the_data_and_have_their_own_rate(adata):
    SCLDM.setup_anndata(adata, layer="counts")
    model = SCLDM(adata, n_hidden=16, n_latent=4, dispersion="gene")
    model.train_autoencoder(1, plan_kwargs={"dispersion_lr": 1e-12, "lr": 1e-12}, **QUIET)
    adata = model.adata
    x = adata.layers["counts"].toarray()[model.train_indices]
    library = x.sum(1, keepdims=True)
    scale = x.sum(0) / library.sum()
    mu = library * scale
    excess = ((x - mu) ** 2 - mu).sum(0)
    theta = np.where(excess > 0, (mu**2).sum(0) / excess, np.inf).clip(1e-2, 1e3)
    found = model.module.autoencoder.px_r.exp().detach().numpy()
    np.testing.assert_allclose(found, theta, rtol=1e-3)
    before = model.module.autoencoder.px_r.detach().clone()
    model.train_autoencoder(2, plan_kwargs={"lr": 1e-12}, **QUIET)
    assert (model.module.autoencoder.px_r - before).abs().max() > 0.01


def test_same_seed_same_model(adata):
    SCLDM.setup_anndata(adata, layer="counts", cell_type_key="type")

    def train():
        scvi.settings.seed = 7
        model = SCLDM(adata, n_hidden=16, n_latent=4, width=16, depth=1)
        model.train(max_epochs=2, max_steps=20, **QUIET)
        return model.generate(20, seed=0)

    assert (train().X != train().X).nnz == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"max_epochs": 0}, "`max_epochs=0` must be"), ({"max_steps": -1}, "`max_steps=-1` must be")],
)
def test_wrong_lengths_of_training(model, arguments, words):
    with pytest.raises(ValueError, match=words):
        model.train(**{"max_epochs": 1, **arguments}, **QUIET)


def test_from_a_trained_scvi(adata):
    scvi.settings.seed = 0
    scvi.model.SCVI.setup_anndata(
        adata,
        layer="counts",
        batch_key="donor",
        labels_key="type",
        categorical_covariate_keys=["sex"],
    )
    source = scvi.model.SCVI(adata, n_latent=5, n_hidden=16, gene_likelihood="nb")
    with pytest.raises(ValueError, match="must be trained"):
        SCLDM.from_scvi_model(source)
    source.train(3, train_size=0.5, validation_size=0.25, enable_progress_bar=False)
    model = SCLDM.from_scvi_model(source, time_key="day", width=16)
    np.testing.assert_array_equal(model.test_indices, source.test_indices)
    np.testing.assert_allclose(
        model.get_latent_representation(), source.get_latent_representation(), atol=1e-6
    )
    with pytest.raises(RuntimeError, match="The diffusion is not trained"):
        model.generate(5)
    model.train_diffusion(20, **QUIET)
    new = model.generate(10, cell_type="NK", batch=1, time=3, seed=0)
    assert (new.obs["type"] == "NK").all()
    assert {"donor", "sex", "day"} <= set(new.obs)


def test_scvi_models_that_do_not_fit(adata):
    scvi.model.SCVI.setup_anndata(adata, layer="counts")
    source = scvi.model.SCVI(adata, latent_distribution="ln")
    source.train(1, enable_progress_bar=False)
    with pytest.raises(ValueError, match="latent_distribution='normal'"):
        SCLDM.from_scvi_model(source)


def test_scvi_s_methods_work(trained):
    n, g = trained.adata.shape
    assert trained.get_latent_representation().shape == (n, 6)
    assert trained.get_normalized_expression(n_samples=2).shape == (n, g)
    transformed = trained.get_normalized_expression(transform_batch=0)
    assert not np.allclose(transformed, trained.get_normalized_expression(transform_batch=1))
    assert trained.posterior_predictive_sample(n_samples=2).shape == (n, g, 2)
    assert trained.get_reconstruction_error()["reconstruction_loss"] > 0
    assert trained.get_elbo() < 0
    assert trained.get_marginal_ll(n_mc_samples=3) < 0


def test_posterior_predictive_check(trained):
    adata = trained.adata.copy()
    adata.layers["dense"] = adata.layers["counts"].toarray()
    check = scvi.criticism.PosteriorPredictiveCheck(
        adata, {"SCLDM": trained}, count_layer_key="dense", n_samples=2
    )
    check.coefficient_of_variation("cells")
    assert check.metrics


def test_the_diffusion_trains_on_the_data_at_hand(trained, tmp_path, new_data):
    trained.save(tmp_path / "model")
    model = SCLDM.load(tmp_path / "model", adata=new_data)
    model.train_diffusion(20, **QUIET)
    assert len(model.training_frame_) == 50
    indices = np.concatenate([model.train_indices, model.validation_indices, model.test_indices])
    assert sorted(indices) == list(range(50))


def test_cells_kept_for_testing_stay_known(model):
    model.train(max_epochs=1, max_steps=5, train_size=0.5, validation_size=0.25, **QUIET)
    assert len(model.test_indices) == 100


def test_obs_that_was_changed_after_setup(model):
    model.adata.obs["donor"] = 1 - model.adata.obs["donor"]
    with pytest.raises(ValueError, match="The batch in `adata.obs` is not the one"):
        model.train(1, 5, **QUIET)


def test_too_few_cells_to_train(adata):
    few = adata[:5].copy()
    SCLDM.setup_anndata(few, layer="counts")
    with pytest.raises(ValueError, match="`adata` has 5 cells; training needs 10"):
        SCLDM(few).train(1, 5, **QUIET)


def test_arguments_that_belong_to_one_stage(model):
    with pytest.raises(ValueError, match="`early_stopping_monitor` differs between the stages"):
        model.train(1, 5, early_stopping_monitor="elbo_validation", **QUIET)


def test_codes_of_the_scvi_model_are_kept(adata, tmp_path):
    """Loaded with data whose categories stand in another order, codes must not be swapped."""
    scvi.settings.seed = 0
    adata.obs["donor"] = adata.obs["donor"].map({0: "x", 1: "y"}).astype("category")
    scvi.model.SCVI.setup_anndata(adata, layer="counts", batch_key="donor")
    source = scvi.model.SCVI(adata, n_latent=3, n_hidden=16, encode_covariates=True)
    source.train(2, enable_progress_bar=False)
    source.save(tmp_path / "scvi")
    other = adata[::-1].copy()
    other.obs["donor"] = other.obs["donor"].astype("category").cat.reorder_categories(["y", "x"])
    loaded = scvi.model.SCVI.load(tmp_path / "scvi", adata=other)
    model = SCLDM.from_scvi_model(loaded)
    np.testing.assert_allclose(
        model.get_latent_representation(), loaded.get_latent_representation(), atol=1e-5
    )
    assert model.conditions[0].categories == ["x", "y"]


def test_arguments_that_come_from_the_scvi_model(adata):
    scvi.model.SCVI.setup_anndata(adata, layer="counts")
    source = scvi.model.SCVI(adata)
    source.train(1, enable_progress_bar=False)
    with pytest.raises(TypeError, match=r"\['n_latent'\] come from `scvi_model`"):
        SCLDM.from_scvi_model(source, n_latent=9)
    with pytest.raises(TypeError, match="`scvi_model` is a str"):
        SCLDM.from_scvi_model("model")


def test_cells_after_a_stage_that_broke_off_are_drawn_without_dropout(model):
    class Stop(Callback):
        def on_train_batch_start(self, trainer, plan, batch, batch_idx):
            if trainer.current_epoch == 1:
                raise RuntimeError("stopped")

    model.train(max_epochs=3, max_steps=200, **QUIET)
    with pytest.raises(RuntimeError, match="stopped"):
        model.train_autoencoder(3, callbacks=[Stop()], **QUIET)
    assert model.module.autoencoder.training
    z = np.random.default_rng(0).normal(size=(40, 4))
    before = copy.deepcopy(model.module.state_dict())
    means = model.decode(z, 100.0, return_mean=True, seed=0)
    one = model.decode(z[:1], 100.0, return_mean=True, seed=0)
    np.testing.assert_allclose(means[:1], one, rtol=1e-4)
    assert all(torch.equal(v, model.module.state_dict()[k]) for k, v in before.items())
