"""Kinds of autoencoder and their options, from training to a loaded model."""

import numpy as np
import pytest
import scvi
import torch

from scldm import SCLDM
from scldm.model._autoencoders import usage

QUIET = {"enable_progress_bar": False}
SMALL = {"n_hidden": 16, "n_latent": 4, "width": 16, "depth": 1}
VARIANTS = {
    "free bits": {"free_bits": 0.3},
    "all counts seen": {"thinning": 0.0},
    "codes": {"autoencoder": "vq", "n_codes": 8, "code_dims": 2},
    "adversarial": {"adversarial_weight": 5.0},
    "all of it": {"autoencoder": "vq", "adversarial_weight": 5.0, "gene_likelihood": "zinb"},
}


@pytest.fixture
def registered(adata):
    scvi.settings.seed = 0
    SCLDM.setup_anndata(adata, layer="counts", cell_type_key="type", batch_key="donor")
    return adata


@pytest.mark.parametrize("name", VARIANTS)
def test_each_variant_trains_generates_and_loads(registered, tmp_path, name):
    model = SCLDM(registered, **SMALL, **VARIANTS[name])
    model.train(max_epochs=30, max_steps=100, **QUIET)
    losses = model.history["reconstruction_loss_train"].iloc[:, 0].astype(float)
    assert losses.iloc[-1] < losses.iloc[0] - 1
    new = model.generate(40, seed=0)
    assert (new.X.data == np.round(new.X.data)).all() and (new.X.data > 0).all()
    model.save(tmp_path / "model")
    loaded = SCLDM.load(tmp_path / "model", adata=registered)
    assert (loaded.generate(40, seed=0).X != new.X).nnz == 0
    np.testing.assert_allclose(
        loaded.get_latent_representation(), model.get_latent_representation(), atol=1e-6
    )
    loaded.train(max_epochs=1, max_steps=5, **QUIET)


def test_stage_1_is_trained_on_thinned_counts_and_no_other_stage(registered, monkeypatch):
    model = SCLDM(registered, **SMALL, thinning=0.7)
    own, asked = model.module.autoencoder._regular_inference, []

    def watched(*args, thinning=0.0, **kwargs):
        asked.append((model.module.autoencoder.training, thinning))
        return own(*args, thinning=thinning, **kwargs)

    monkeypatch.setattr(model.module.autoencoder, "_regular_inference", watched)
    model.train_autoencoder(max_epochs=2, train_size=0.8, validation_size=0.2, **QUIET)
    assert set(asked) == {(True, 0.7), (False, 0.0)}
    asked.clear()
    model.train_diffusion(max_steps=2, **QUIET)
    model.fine_tune(max_steps=2, **QUIET)
    assert {thinning for _, thinning in asked} == {0.0}


@pytest.fixture
def quantised(registered):
    model = SCLDM(registered, **SMALL, **VARIANTS["codes"])
    model.train(max_epochs=20, max_steps=20, **QUIET)
    return model


def test_usage_of_codes(quantised):
    table = quantised.get_codebook_usage()
    assert len(table) == 2 * 8
    np.testing.assert_allclose(table.groupby("group")["share"].sum(), 1)
    z = quantised.get_latent_representation(indices=quantised.train_indices)
    for group, rows in table.groupby("group"):
        _, counts = np.unique(z[:, 2 * group : 2 * group + 2], axis=0, return_counts=True)
        used = np.sort(rows["share"][rows["share"] > 0])
        np.testing.assert_allclose(used, np.sort(counts) / len(z))
    assert table["perplexity"].between(1.5, 8).all()


def test_perplexity_counts_codes():
    table = usage(np.array([[0, 2], [1, 2], [2, 2], [3, 2]]), n_codes=5)
    np.testing.assert_allclose(table["perplexity"], [4.0] * 5 + [1.0] * 5)
    np.testing.assert_allclose(table["share"], [0.25] * 4 + [0] * 3 + [1, 0, 0])
    uneven = usage(np.array([[0], [0], [0], [1]]), n_codes=2)
    assert uneven["perplexity"][0] == pytest.approx(4 / 3**0.75)


def test_latents_and_predictions_of_codes(quantised):
    z, variance = quantised.get_latent_representation(return_dist=True)
    assert (variance == 0).all()
    assert len(np.unique(z[:, :2], axis=0)) <= 8
    drawn = quantised.get_latent_representation(give_mean=False, mc_samples=10)
    np.testing.assert_allclose(drawn, z, atol=1e-6)
    few = {"indices": range(30), "n_samples": 2}
    assert quantised.posterior_predictive_sample(**few).shape == (30, 40, 2)
    assert quantised.get_normalized_expression(**few).shape == (30, 40)
    error = quantised.get_reconstruction_error()["reconstruction_loss"]
    assert -quantised.get_elbo() == pytest.approx(float(error) + 2 * np.log(8), rel=1e-4)


def test_looking_at_data_moves_no_code(quantised):
    codes = quantised.module.autoencoder.quantiser.codes.clone()
    quantised.get_latent_representation()
    quantised.train_diffusion(5, **QUIET)
    quantised.generate(5)
    assert (quantised.module.autoencoder.quantiser.codes == codes).all()


def test_generated_latents_are_codes(quantised):
    quantised.train_diffusion(5, **QUIET)
    z = torch.from_numpy(quantised.generate(30, seed=0).obsm["X_scldm"])
    torch.testing.assert_close(quantised.module.autoencoder.allowed(z), z)


def test_usage_leaves_the_global_random_state_alone(quantised):
    before = torch.random.get_rng_state()
    quantised.get_codebook_usage()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_decoded_latents_are_snapped(quantised):
    z = quantised.get_latent_representation()[:30]
    near = z + 1e-4 * np.random.default_rng(0).normal(size=z.shape)
    want, have = (quantised.decode(x, 500.0, batch=0, return_mean=True) for x in (z, near))
    np.testing.assert_array_equal(have, want)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"autoencoder": "gan"}, "`autoencoder='gan'` is not known. Known: "),
        ({"free_bits": -1}, "`free_bits=-1` must be a finite number of 0 or more"),
        ({"free_bits": True}, "`free_bits=True` must be"),
        ({"thinning": 1.5}, "`thinning=1.5` must be"),
        ({"kl_weight": float("nan")}, "`kl_weight=nan` must be"),
        ({"adversarial_weight": "1"}, "`adversarial_weight='1'` must be"),
        ({"n_codes": 8}, "`n_codes=8` needs `autoencoder='vq'`, not 'vae'"),
        ({"code_dims": 1}, "`code_dims=1` needs `autoencoder='vq'`"),
        ({"autoencoder": "vq", "free_bits": 0.1}, "`free_bits=0.1` needs `autoencoder='vae'`"),
        ({"autoencoder": "vq", "n_codes": 0}, "`n_codes=0` must be a whole number"),
        ({"autoencoder": "vq", "code_dims": 3}, "`code_dims=3` does not divide `n_latent=4`"),
    ],
)
def test_wrong_options(registered, options, words):
    with pytest.raises(ValueError, match=words):
        SCLDM(registered, **SMALL, **options)


def test_a_model_without_codes_has_no_usage(trained):
    with pytest.raises(ValueError, match="no codebooks; they come with `autoencoder='vq'`"):
        trained.get_codebook_usage()


def test_an_scvi_model_cannot_be_quantised(adata):
    scvi.model.SCVI.setup_anndata(adata, layer="counts")
    source = scvi.model.SCVI(adata)
    source.train(1, **QUIET)
    with pytest.raises(ValueError, match="`autoencoder='vq'` does not fit"):
        SCLDM.from_scvi_model(source, autoencoder="vq")
