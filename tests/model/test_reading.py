"""What a model has learned, against differences and averages taken by hand."""

import numpy as np
import pandas as pd
import pytest
import scvi
import torch

from scldm import SCLDM

LATENTS = [f"z{k}" for k in range(6)]


@pytest.fixture(scope="module")
def attending(trained):
    """A model that attends to its conditions, hardly trained."""
    data = trained.adata[:120].copy()
    SCLDM.setup_anndata(data, **trained.registry_["setup_args"])
    model = SCLDM(data, conditioning="cross_attention", n_hidden=16, n_latent=4, width=16, depth=3)
    model.train(max_epochs=2, max_steps=30, enable_progress_bar=False)
    return model


def _log_mean(model, z):
    obs = model.adata.obs
    columns = {"batch": obs["donor"], "sex": obs["sex"], "age": obs["age"]}
    return np.log(model.decode(z, 100.0, return_mean=True, **columns))


def test_loadings_are_the_slopes_of_the_decoder(trained):
    frame = trained.get_gene_loadings()
    assert list(frame) == ["gene", "latent", "loading"]
    assert list(frame["latent"].unique()) == LATENTS
    table = frame.pivot(index="latent", columns="gene", values="loading")[trained.var_names]
    z = trained.get_latent_representation()
    scale = trained.module.diffusion.scale.numpy()
    for k in range(6):
        step = np.zeros(6)
        step[k] = 0.02 * scale[k]
        slope = (_log_mean(trained, z + step) - _log_mean(trained, z - step)).mean(0) / 0.04
        np.testing.assert_allclose(
            table.loc[f"z{k}"], slope, atol=2e-3 + 0.02 * np.abs(slope).max()
        )


def test_loadings_of_groups_are_those_of_their_cells(trained):
    by_type = trained.get_gene_loadings(groupby="type", n_cells=10_000)
    assert list(by_type) == ["group", "gene", "latent", "loading"]
    assert list(by_type["group"].unique()) == ["T", "NK", "B"]
    of_b = by_type.loc[by_type["group"] == "B", "loading"].to_numpy()
    cells = np.flatnonzero(trained.adata.obs["type"] == "B")
    alone = trained.get_gene_loadings(indices=cells)
    np.testing.assert_allclose(of_b, alone["loading"], rtol=1e-4, atol=1e-6)


def test_a_subsample_is_always_the_same(trained):
    few = trained.get_gene_loadings(n_cells=20)
    pd.testing.assert_frame_equal(few, trained.get_gene_loadings(n_cells=20))
    everyone = trained.get_gene_loadings()
    assert not np.allclose(few["loading"], everyone["loading"])
    assert np.corrcoef(few["loading"], everyone["loading"])[0, 1] > 0.95


def test_cells_without_a_group_are_left_out(trained):
    adata = trained.adata.copy()
    adata.obs["cluster"] = np.where(adata.obs["type"] == "T", "one", None)
    frame = trained.get_gene_loadings(adata, groupby="cluster")
    assert list(frame["group"].unique()) == ["one"]
    assert frame["loading"].notna().all()


def test_loadings_of_codes_have_a_slope(adata):
    SCLDM.setup_anndata(adata, layer="counts")
    model = SCLDM(adata, autoencoder="vq", n_hidden=16, n_latent=4, width=16, depth=1)
    model.train(max_epochs=3, max_steps=5, enable_progress_bar=False)
    assert model.get_gene_loadings(n_cells=50)["loading"].abs().max() > 1e-4


def test_effects_are_those_of_the_cells_that_are_made(trained):
    frame = trained.get_condition_effects()
    assert list(frame) == ["condition", "value", "latent", "effect"]
    found = frame.groupby("condition", sort=False)["value"].unique()
    assert list(found["cell_type"]) == ["T", "NK", "B"]
    assert list(found["perturbation"]) == ["control", "CEBPA", "KLF1", "TP53"]
    assert list(found["time"]) == ["-1 SD", "+1 SD"]
    assert "spatial_0 +1 SD" in found["spatial"]
    assert list(frame["latent"].unique()) == [*LATENTS, "library_size"]

    def mean(**given):
        everything = ("cell_type", "batch", "perturbation", "time", "spatial", "sex", "age")
        conditions = dict.fromkeys(everything) | given
        z, what = trained.sample_latent(4000, seed=1, steps=10, **conditions)
        x = np.column_stack([z, np.log(what["library_size"])])
        return x.mean(0) / trained.module.diffusion.scale.numpy()

    day = trained.adata.obs["day"]
    for condition, value, given in (
        ("cell_type", "NK", {"cell_type": "NK"}),
        ("time", "+1 SD", {"time": day.mean() + day.std(ddof=0)}),
    ):
        chosen = (frame["condition"] == condition) & (frame["value"] == value)
        wanted = mean(**given) - mean()
        np.testing.assert_allclose(frame.loc[chosen, "effect"], wanted, atol=0.12)


def test_what_matters_shows(trained):
    """In the simulation type and perturbation move genes; sex and day do not."""
    frame = trained.get_condition_effects(64)
    size = frame.groupby("condition")["effect"].apply(lambda x: np.sqrt(np.mean(x**2)))
    assert min(size["cell_type"], size["perturbation"]) > 2 * max(size["sex"], size["time"])


def test_effects_follow_their_seed_alone(trained):
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    one = trained.get_condition_effects(16)
    pd.testing.assert_frame_equal(one, trained.get_condition_effects(16))
    assert not np.allclose(one["effect"], trained.get_condition_effects(16, seed=1)["effect"])
    trained.get_gene_loadings(n_cells=10)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("schedule", ["vp_cosine", "ve"])
def test_effects_of_a_network_that_predicts_noise(adata, schedule):
    scvi.settings.seed = 0
    SCLDM.setup_anndata(adata, layer="counts", cell_type_key="type")
    model = SCLDM(
        adata,
        schedule=schedule,
        parametrisation="noise",
        n_hidden=16,
        n_layers=1,
        n_latent=3,
        width=32,
        depth=1,
    )
    model.train(max_epochs=20, max_steps=400, enable_progress_bar=False)
    effects = model.get_condition_effects(128)["effect"]
    assert effects.abs().max() < 4
    assert effects.abs().max() > 0.2


def test_attention_is_shared_out_among_conditions(attending):
    frame = attending.get_attention()
    assert list(frame) == ["block", "token", "weight"]
    np.testing.assert_allclose(frame.groupby("block")["weight"].sum(), 1, rtol=1e-5)
    assert set(frame["block"]) == {0, 1, 2}
    assert {"cell_type", "batch", "time", "spatial", "sex", "age"} < set(frame["token"])
    assert [token for token in frame["token"].unique() if "perturbation" in token] == [
        "perturbation: 1",
        "perturbation: 2",
    ]
    pd.testing.assert_frame_equal(frame, attending.get_attention())


def test_attention_of_groups_adds_up(attending):
    together = attending.get_attention(n_cells=10_000)
    by_type = attending.get_attention(groupby="type", n_cells=10_000)
    share = attending.adata.obs["type"].value_counts(normalize=True)
    weights = by_type["weight"] * by_type["group"].map(share).astype(float)
    sums = weights.groupby([by_type["block"], by_type["token"]]).sum()
    wanted = together.set_index(["block", "token"])["weight"].loc[sums.index]
    np.testing.assert_allclose(sums, wanted, rtol=1e-4)


def test_attention_needs_a_network_that_attends(trained):
    with pytest.raises(
        ValueError, match=r"needs conditions and `conditioning='cross_attention'`.*adaln"
    ):
        trained.get_attention()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"groupby": "kind"}, r"`groupby='kind'` is not a column of `adata.obs`. Known: \['type'"),
        ({"n_cells": 0}, "`n_cells=0` must be"),
        ({"indices": [1000]}, "`indices` has 1000"),
    ],
)
def test_wrong_arguments(attending, arguments, words):
    for method in (attending.get_gene_loadings, attending.get_attention):
        with pytest.raises(ValueError, match=words):
            method(**arguments)


def test_wrong_times_and_draws(attending):
    with pytest.raises(ValueError, match=r"`t=1.5` must be a number from 0 \(data\) to 1"):
        attending.get_attention(t=1.5)
    with pytest.raises(ValueError, match="`n_draws=0` must be"):
        attending.get_condition_effects(0)


def test_a_model_without_conditions_has_no_effects(adata):
    SCLDM.setup_anndata(adata, layer="counts")
    model = SCLDM(adata, n_hidden=16, n_latent=3, width=16, depth=1)
    with pytest.raises(RuntimeError, match="diffusion is not trained"):
        model.get_condition_effects()
    model.diffusion_trained_ = True
    with pytest.raises(ValueError, match="The model has no conditions"):
        model.get_condition_effects()
