"""Small data with every key, and models of them that are hardly trained."""

import warnings

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest

import scldm

KEYS = {
    "layer": "counts",
    "library_size_key": "size",
    "cell_type_key": "type",
    "batch_key": "donor",
    "perturbation_key": "guide",
    "control_label": "control",
    "dose_key": "concentration",
    "time_key": "day",
    "spatial_key": "X_place",
    "categorical_covariate_keys": ["sex"],
    "continuous_covariate_keys": ["age"],
    "perturbation_separator": "+",
    "embeddings": {"cell_type": "vectors"},
    "source_key": "X_from",
    "gene_sets_key": "sets",
}
TINY = {"n_hidden": 8, "n_latent": 3, "width": 8, "depth": 1}
SHORT = {"max_epochs": 1, "max_steps": 2, "enable_progress_bar": False, "logger": False}


def cells(n=60, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.poisson(5, (n, 10)).astype(np.float32)
    guide = np.where(
        np.arange(n) % 3 == 0, "control", np.where(np.arange(n) % 3 == 1, "KLF1", "TP53")
    )
    adata = ad.AnnData(
        x,
        obs=pd.DataFrame(
            {
                "type": pd.Categorical(rng.choice(["B", "T"], n)),
                "donor": rng.choice([0, 1], n),
                "guide": guide,
                "concentration": np.where(guide == "control", 0.0, rng.choice([1.0, 10.0], n)),
                "day": rng.choice([0, 1, 3], n),
                "sex": rng.choice(["F", "M"], n),
                "age": rng.normal(50, 10, n),
                "size": x.sum(axis=1),
            },
            index=[f"cell_{i}" for i in range(n)],
        ),
        var=pd.DataFrame(index=[f"gene_{i}" for i in range(10)]),
    )
    adata.layers["counts"] = x.copy()
    adata.obsm["X_place"] = rng.normal(size=(n, 2))
    adata.obsm["X_from"] = rng.normal(size=(n, 3))
    adata.uns["vectors"] = pd.DataFrame(
        rng.normal(size=(3, 4)), index=["B", "T", "NK"], columns=list("abcd")
    )
    adata.varm["sets"] = pd.DataFrame({"one": [1.0] * 5 + [0.0] * 5}, index=adata.var_names)
    return adata


def several(n=40, seed=0):
    rng = np.random.default_rng(seed)
    names = [f"cell_{i}" for i in range(n)]
    parts = {}
    for key, n_features in (("rna", 8), ("prot", 4), ("peaks", 6)):
        x = rng.poisson(3, (n, n_features)).astype(np.float32) + (key != "peaks")
        if key == "peaks":
            x = np.minimum(x, 1)
            x[:, 0] = 1
        var = pd.DataFrame(index=[f"{key}_{i}" for i in range(n_features)])
        parts[key] = ad.AnnData(x, obs=pd.DataFrame(index=names), var=var)
        parts[key].layers["counts"] = x.copy()
    mdata = md.MuData(parts)
    obs = cells(n, seed).obs
    for name in obs:
        mdata.obs[name] = obs[name].to_numpy()
    mdata.obs["whole"] = True
    mdata.obsm["X_place"] = rng.normal(size=(n, 2))
    return mdata


@pytest.fixture(scope="module")
def model():
    adata = cells()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scldm.SCLDM.setup_anndata(adata, **KEYS)
        model = scldm.SCLDM(adata, **TINY)
        model.train(
            **SHORT,
            trajectory_kwargs={"max_steps": 2},
            spatial_kwargs={"max_steps": 2},
            perturbation_kwargs={"max_steps": 2},
        )
    return model


@pytest.fixture(scope="module")
def multi():
    mdata = several()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scldm.MultiLDM.setup_mudata(mdata, **MULTI_KEYS)
        model = scldm.MultiLDM(mdata, **TINY)
        model.train(**SHORT)
    return model


MULTI_KEYS = {
    "rna_layer": "counts",
    "protein_layer": "counts",
    "atac_layer": "counts",
    "cell_type_key": "type",
    "batch_key": "donor",
    "perturbation_key": "guide",
    "control_label": "control",
    "dose_key": "concentration",
    "time_key": "day",
    "spatial_key": "X_place",
    "categorical_covariate_keys": ["sex"],
    "continuous_covariate_keys": ["age"],
    "perturbation_separator": "+",
    "measured_keys": {"protein": "whole"},
    "modalities": {"rna_layer": "rna", "protein_layer": "prot", "atac_layer": "peaks"},
}
