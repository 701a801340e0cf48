"""Data at the edge of what can be learned from: it works, or is refused in words."""

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

import scldm

OBS = {"cell_type": "cell_type_key", "batch": "batch_key", "time": "time_key"}


def counts(n=60, n_genes=20, depth=10.0, **obs):
    rng = np.random.default_rng(0)
    x = rng.poisson(np.broadcast_to(depth, (n, 1)), size=(n, n_genes)).astype(np.float32)
    x[x.sum(axis=1) == 0, 0] = 1
    adata = anndata.AnnData(x)
    for name, values in obs.items():
        adata.obs[name] = values
    return adata


def made(adata, **train):
    scldm.SCLDM.setup_anndata(adata, **{OBS[k]: k for k in adata.obs})
    model = scldm.SCLDM(adata, n_hidden=8, n_latent=3, width=8, depth=1)
    options = {"max_epochs": 1, "max_steps": 5, "enable_progress_bar": False, **train}
    model.train(**options)
    return model.generate(15, seed=0)


def silent(adata):
    adata.X[:, :5] = 0
    return adata


def of_kind(kind):
    adata = counts()
    adata.X = kind(adata.X)
    return adata


DATA = {
    "ten cells": lambda: counts(10),
    "one gene": lambda: counts(n_genes=1),
    "genes without counts": lambda: silent(counts()),
    "50,000 genes": lambda: counts(20, 50_000, 0.1),
    "one type": lambda: counts(cell_type="T"),
    "a category for every second cell": lambda: counts(
        400, batch=[str(i // 2) for i in range(400)]
    ),
    "depths of 1 to a million": lambda: counts(depth=np.logspace(-1.5, 4.7, 60)[:, None]),
    "one time": lambda: counts(time=1.0),
    "names in Greek": lambda: counts(cell_type=["κύτταρο α", "β"] * 30),
    "whole numbers": lambda: of_kind(lambda x: x.astype(np.int64)),
    "columns first": lambda: of_kind(sp.csc_matrix),
}


@pytest.mark.parametrize("adata", DATA.values(), ids=DATA)
def test_odd_data_can_be_learned_from(adata):
    data = adata()
    new = made(data)
    assert new.shape == (15, data.n_vars)
    assert np.isfinite(new.X.data).all() and (new.X.data == np.round(new.X.data)).all()
    assert new.X.max() < 100 * max(data.X.max(), 1)


@pytest.mark.parametrize(
    ("adata", "words"),
    [
        (lambda: counts(1), "has 1 cells; training needs 10 or more"),
        (lambda: counts(9), "has 9 cells; training needs 10 or more"),
        (lambda: of_kind(np.zeros_like), "60 cells without any count"),
        (lambda: of_kind(lambda x: x + 0.5), "has fractions"),
        (lambda: counts(cell_type=["A", None] * 30), "no value \\(NaN\\) in 30 of 60 cells"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_in_words(adata, words):
    with pytest.raises(ValueError, match=words):
        made(adata())


def test_a_loss_that_is_not_finite_stops_training_and_spoils_nothing():
    with pytest.raises(FloatingPointError, match="Diffusion: the loss became .* at step .*lr"):
        made(counts(), max_steps=50, diffusion_kwargs={"plan_kwargs": {"lr": 1e30}})


def test_the_message_says_where_and_weights_stay(adata, setup):
    scldm.SCLDM.setup_anndata(adata, **setup)
    model = scldm.SCLDM(adata, n_hidden=8, n_latent=3, width=8, depth=1)
    model.train_autoencoder(1, enable_progress_bar=False)
    before = {k: v.clone() for k, v in model.module.autoencoder.state_dict().items()}
    whole = model.module.diffusion.loss
    calls = []

    def loss(*args, **kwargs):
        calls.append(1)
        value = whole(*args, **kwargs)
        return value * np.nan if len(calls) == 4 else value

    model.module.diffusion.loss = loss
    try:
        with pytest.raises(
            FloatingPointError, match="became nan at step 3 \\(epoch 0, minibatch 3\\)"
        ):
            model.train_diffusion(10, enable_progress_bar=False)
    finally:
        del model.module.diffusion.loss
    assert not model.diffusion_trained_
    assert all(p.isfinite().all() for p in model.module.diffusion.parameters())
    assert all((before[k] == v).all() for k, v in model.module.autoencoder.state_dict().items())
