"""From a trained model to cells."""

import json
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import torch
from scipy import sparse

import scldm
from scldm import SCLDM
from scldm.diffusion import DDIM, SAMPLERS


def _same(one, other):
    return (one.X != other.X).nnz == 0 and one.obs.equals(other.obs)


def test_cells_are_integer_counts_with_everything_registered(trained):
    new = trained.generate(300, seed=0)
    source = trained.adata
    assert sparse.issparse(new.X)
    assert new.X.format == "csr"
    assert new.shape == (300, 40)
    assert (new.X.data > 0).all()
    assert np.array_equal(new.X.data, np.round(new.X.data))
    pd.testing.assert_frame_equal(new.var, source.var)
    for column in ("type", "donor", "guide", "concentration", "day", "sex", "age"):
        assert new.obs[column].notna().all(), column
        assert set(new.obs[column]) <= set(source.obs[column]), column
    assert list(new.obs["type"].cat.categories) == ["T", "NK", "B"]
    assert new.obs["day"].dtype == source.obs["day"].dtype
    assert new.obsm["X_place"].shape == (300, 2)
    assert new.obsm["X_scldm"].shape == (300, 6)
    assert new.obs_names.is_unique


@pytest.mark.parametrize("batch_size", [1, 100, 256, 10_000])
def test_same_seed_same_cells_whatever_the_batch_size(trained, batch_size):
    reference = trained.generate(700, seed=3)
    assert _same(reference, trained.generate(700, seed=3, batch_size=batch_size))


def test_another_seed_other_cells(trained):
    one, other = (trained.generate(50, seed=seed, cell_type="T") for seed in (1, 2))
    assert (one.X != other.X).nnz > 0


def test_cells_do_not_depend_on_how_many_follow(trained):
    few, many = (trained.generate(n, seed=3, **_fixed()) for n in (300, 600))
    assert (few.X != many.X[:300]).nnz == 0


def _fixed():
    return {
        "cell_type": "T",
        "batch": 0,
        "perturbation": "control",
        "dose": 0.0,
        "time": 1,
        "spatial": (100.0, 100.0),
        "sex": "F",
        "age": 50.0,
    }


def test_the_global_random_state_is_left_alone(trained):
    torch.manual_seed(0)
    np.random.seed(0)
    before, before_np = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    trained.generate(50, seed=0, sampler="ddpm", steps=4)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], before_np)


def test_without_a_seed_cells_follow_the_global_one_and_tell_it(trained):
    torch.manual_seed(0)
    first, second = trained.generate(20), trained.generate(20)
    assert (first.X != second.X).nnz > 0
    torch.manual_seed(0)
    assert _same(first, trained.generate(20))
    assert _same(second, trained.generate(20, seed=second.uns["scldm"]["seed"]))


def test_conditions_go_round(trained):
    wanted = {
        "cell_type": ["B", "NK"] * 10,
        "batch": [0, 1] * 10,
        "perturbation": ["KLF1+CEBPA", "control"] * 10,
        "dose": [10.0, 0.0] * 10,
        "time": 1.5,
        "spatial": np.arange(40.0).reshape(20, 2),
        "sex": "F",
        "age": 44.0,
    }
    new = trained.generate(**wanted, seed=0)
    assert new.obs["type"].tolist() == wanted["cell_type"]
    assert new.obs["donor"].tolist() == wanted["batch"]
    assert new.obs["guide"].tolist() == ["CEBPA+KLF1", "control"] * 10
    assert new.obs["concentration"].tolist() == wanted["dose"]
    assert (new.obs["day"] == 1.5).all()
    np.testing.assert_allclose(new.obsm["X_place"], wanted["spatial"])
    assert (new.obs["sex"] == "F").all()
    # and what came out can be asked for again
    setup = trained.registry_["setup_args"]
    again = trained.generate(
        cell_type=new.obs[setup["cell_type_key"]],
        batch=new.obs["donor"],
        perturbation=new.obs["guide"],
        dose=new.obs["concentration"],
        time=new.obs["day"],
        spatial=new.obsm["X_place"],
        sex=new.obs["sex"],
        age=new.obs["age"],
        seed=0,
    )
    assert _same(new, again)


def test_types_are_told_apart(trained):
    """A classifier of real types finds the asked-for type in generated cells."""
    from sklearn.linear_model import LogisticRegression

    def features(adata, layer=None):
        x = (adata.layers[layer] if layer else adata.X).toarray()
        return np.log1p(1e3 * x / x.sum(1, keepdims=True))

    real = trained.adata
    classifier = LogisticRegression(max_iter=1000).fit(features(real, "counts"), real.obs["type"])
    new = trained.generate(cell_type=real.obs["type"].tolist(), seed=0)
    assert (classifier.predict(features(new)) == new.obs["type"]).mean() > 0.8


def test_depth_is_the_data_s(trained):
    new = trained.generate(2000, seed=0)
    real = np.asarray(trained.adata.layers["counts"].sum(1)).ravel()
    made = np.asarray(new.X.sum(1)).ravel()
    assert np.median(made) == pytest.approx(np.median(real), rel=0.15)
    assert np.log(made).std() == pytest.approx(np.log(real).std(), rel=0.3)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_runs_and_is_recorded(trained, sampler):
    steps = None if SAMPLERS[sampler].chooses_steps else 3
    new = trained.generate(10, sampler=sampler, steps=steps, guidance_scale=2.0, seed=7)
    record = new.uns["scldm"]
    assert record["sampler"] == sampler
    assert record.get("steps") == steps
    assert record["guidance_scale"] == 2.0
    assert record["seed"] == 7
    assert record["version"] == scldm.__version__
    json.dumps(record)


def test_a_sampler_can_be_an_object(trained):
    new = trained.generate(10, sampler=DDIM(eta=0.5), steps=3, seed=7, cell_type=None)
    assert new.uns["scldm"]["sampler"] == "ddim"
    assert new.uns["scldm"]["conditions"]["cell_type"] == "unconditional"
    assert new.obs["type"].isna().all()


def test_latents_and_counts_can_be_had_apart(trained):
    new = trained.generate(300, seed=0, cell_type="T")
    z, what = trained.sample_latent(300, seed=0, cell_type="T")
    np.testing.assert_array_equal(z, new.obsm["X_scldm"])
    assert (trained.decode(z, seed=0, **what) != new.X).nnz == 0
    mean = trained.decode(z, return_mean=True, **what)
    dist = trained.decode(z, return_dist=True, **what)
    np.testing.assert_allclose(mean, dist.mean.numpy())
    total = np.asarray(new.X.sum(0)).ravel()
    assert np.corrcoef(np.log(mean.sum(0)), np.log(total))[0, 1] > 0.99
    assert mean.sum() == pytest.approx(total.sum(), rel=0.03)


def test_the_decoder_gets_what_it_was_trained_on(trained):
    """Decoding the encoded training cells with their own conditions reconstructs them."""
    adata = trained.adata
    z = trained.get_latent_representation()
    mean = trained.decode(
        z,
        np.asarray(adata.layers["counts"].sum(1)).ravel(),
        return_mean=True,
        batch=adata.obs["donor"],
        sex=adata.obs["sex"],
        age=adata.obs["age"],
    )
    by_scvi = trained.get_normalized_expression(library_size="latent", return_numpy=True)
    # scvi-tools draws z, and the posterior is narrow
    assert np.corrcoef(np.log(mean).ravel(), np.log(by_scvi).ravel())[0, 1] > 0.99


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"z": np.zeros((3, 5))}, r"`z` has shape \(3, 5\), but must be \(n_cells, 6\)"),
        ({"z": np.full((3, 6), np.nan)}, "`z` has NaN"),
        ({"library_size": 0.0}, "`library_size` must be above 0"),
        ({"library_size": [1.0, 2.0]}, "`library_size` has 2 values for 3 cells"),
        ({"batch": 5}, "`batch=5` is not a known batch"),
    ],
)
def test_wrong_latents(trained, arguments, words):
    with pytest.raises(ValueError, match=words):
        trained.decode(**{"z": np.zeros((3, 6)), "library_size": 100.0, **arguments})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n_cells": 0}, "`n_cells=0` must be a whole number of 1 or more"),
        ({"n_cells": -5}, "`n_cells=-5` must be"),
        ({"steps": 0}, "`steps=0` must be a whole number"),
        ({"batch_size": 0}, "`batch_size=0` must be"),
        ({"seed": -1}, "`seed=-1` must be"),
        ({"seed": 1.5}, "`seed=1.5` must be"),
        ({"sampler": "magic"}, r"`sampler='magic'` is not known. Known: \['heun'"),
        ({"guidance_scale": np.nan}, "`guidance_scale=nan` must be a finite number"),
        ({"guidance_scale": "big"}, "`guidance_scale='big'` must be a finite number"),
        ({"cell_type": "Bcell"}, r"`cell_type='Bcell'` is not a known cell type. Known: \['T'"),
        ({"celltype": "T"}, "`celltype` is not a registered condition"),
    ],
)
def test_wrong_arguments(trained, arguments, words):
    with pytest.raises(ValueError, match=words):
        trained.generate(**{"n_cells": 5, **arguments})


def test_an_untrained_model_says_so(adata):
    SCLDM.setup_anndata(adata, layer="counts")
    model = SCLDM(adata)
    for call in (
        lambda: model.generate(5),
        lambda: model.sample_latent(5),
        lambda: model.decode(np.zeros((1, 16)), 100.0),
    ):
        with pytest.raises(RuntimeError, match=r"is not trained. Call `train\(\)`"):
            call()
    with pytest.raises(RuntimeError, match=r"needs a trained autoencoder.*train_autoencoder\(\)"):
        model.train_diffusion()


def test_generated_cells_go_through_scanpy_and_back_from_disk(trained, tmp_path):
    new = trained.generate(200, seed=0)
    path = tmp_path / "new.h5ad"
    new.write_h5ad(path)
    back = ad.read_h5ad(path)
    assert _same(new, back)
    assert back.uns["scldm"]["seed"] == 0
    real = trained.adata.copy()
    real.X = real.layers["counts"]
    both = ad.concat({"real": real, "new": new}, label="source", index_unique="-")
    assert set(both.obs["source"]) == {"real", "new"}
    assert set(both.obs["type"]) == {"T", "NK", "B"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.pp.normalize_total(both)
        sc.pp.log1p(both)
        sc.pp.pca(both, n_comps=10)
        sc.pp.neighbors(both)
        sc.tl.umap(both, maxiter=5)
    assert np.isfinite(both.obsm["X_umap"]).all()


def test_generation_without_any_condition(adata):
    SCLDM.setup_anndata(adata, layer="counts")
    model = SCLDM(adata, n_hidden=16, n_latent=3, width=16, depth=1)
    model.train(max_epochs=2, max_steps=5, enable_progress_bar=False)
    new = model.generate(7, seed=0, guidance_scale=2.0)
    assert new.shape == (7, 40)
    assert list(new.obs) == []


def test_library_sizes_of_the_user_come_back(adata):
    adata.obs["total"] = 10.0 * np.asarray(adata.layers["counts"].sum(1)).ravel()
    SCLDM.setup_anndata(adata, layer="counts", library_size_key="total", cell_type_key="type")
    model = SCLDM(adata, n_hidden=32, n_latent=4, width=32, depth=1)
    model.train(max_epochs=30, max_steps=300, enable_progress_bar=False)
    new = model.generate(400, seed=0)
    made = np.asarray(new.X.sum(1)).ravel()
    assert np.median(new.obs["total"]) == pytest.approx(adata.obs["total"].median(), rel=0.25)
    assert np.median(made / new.obs["total"]) == pytest.approx(0.1, rel=0.2)


@pytest.mark.parametrize("gene_likelihood", ["nb", "zinb", "poisson"])
@pytest.mark.parametrize("dispersion", ["gene", "gene-batch", "gene-label", "gene-cell"])
def test_every_likelihood_and_dispersion(adata, gene_likelihood, dispersion):
    SCLDM.setup_anndata(adata, layer="counts", batch_key="donor", cell_type_key="type")
    model = SCLDM(
        adata,
        gene_likelihood=gene_likelihood,
        dispersion=dispersion,
        n_hidden=16,
        n_latent=3,
        width=16,
        depth=1,
    )
    model.train(max_epochs=2, max_steps=5, enable_progress_bar=False)
    assert model.generate(5, seed=0).X.sum() > 0


def test_ddpm_is_an_option(adata):
    SCLDM.setup_anndata(adata, layer="counts", cell_type_key="type")
    model = SCLDM(
        adata, schedule="vp_linear", parametrisation="noise", n_hidden=16, n_latent=3, width=16
    )
    model.train(max_epochs=2, max_steps=5, enable_progress_bar=False)
    assert model.generate(5, seed=0, sampler="ddpm", steps=10).n_obs == 5
