"""Data and a small trained model that tests share."""

import os
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi
from hypothesis import HealthCheck, settings
from scipy import sparse

import scldm

# the same few examples in every run; `--hypothesis-profile=long` looks for new ones
_QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
settings.register_profile(
    "suite", max_examples=25, deadline=None, derandomize=True, suppress_health_check=_QUIET
)
settings.register_profile(
    "long",
    parent=settings.get_profile("suite"),
    max_examples=3000,
    derandomize=False,
    print_blob=True,
)
settings.load_profile("suite")

SETUP = {
    "layer": "counts",
    "cell_type_key": "type",
    "batch_key": "donor",
    "perturbation_key": "guide",
    "dose_key": "concentration",
    "time_key": "day",
    "spatial_key": "X_place",
    "categorical_covariate_keys": ["sex"],
    "continuous_covariate_keys": ["age"],
}


def simulate(n_cells=400, n_genes=40, seed=0, cells=0):
    """Negative binomial counts that depend on type, donor and perturbation, with every key."""
    genes = np.random.default_rng(seed)
    rng = np.random.default_rng((seed, cells))
    kind = rng.choice(["B", "NK", "T"], n_cells, p=[0.5, 0.2, 0.3])
    donor = rng.integers(0, 2, n_cells)
    guide = rng.choice(["control", "KLF1", "CEBPA", "CEBPA+KLF1", "TP53"], n_cells)
    number = np.array([{"B": 0, "NK": 1, "T": 2}[k] for k in kind])[:, None]
    logits = genes.normal(0, 1, n_genes) + number * genes.normal(0, 1, n_genes)
    logits = logits + donor[:, None] * genes.normal(0, 0.3, n_genes)
    for name in ("KLF1", "CEBPA", "TP53"):
        has = np.array([name in g for g in guide])[:, None]
        logits = logits + has * genes.normal(0, 0.8, n_genes)
    scale = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    mu = rng.lognormal(6, 0.3, (n_cells, 1)) * scale
    counts = rng.poisson(rng.gamma(5.0, mu / 5.0)).astype(np.float32)
    obs = pd.DataFrame(
        {
            "type": pd.Categorical(kind, categories=["T", "NK", "B"]),
            "donor": donor,
            "guide": guide,
            "concentration": np.where(guide == "control", 0.0, rng.choice([1.0, 10.0], n_cells)),
            "day": rng.choice([0, 1, 3], n_cells),
            "sex": rng.choice(["F", "M"], n_cells),
            "age": rng.normal(50, 10, n_cells),
        },
        index=[f"cell_{i}" for i in range(n_cells)],
    )
    adata = ad.AnnData(
        np.log1p(counts),
        obs=obs,
        var=pd.DataFrame(
            {"highly_variable": rng.random(n_genes) > 0.5},
            index=[f"gene_{i}" for i in range(n_genes)],
        ),
    )
    adata.layers["counts"] = sparse.csr_matrix(counts)
    adata.obsm["X_place"] = rng.normal(100, 20, (n_cells, 2))
    return adata


@pytest.fixture
def adata():
    return simulate()


@pytest.fixture
def new_data():
    """Fifty cells that no model has seen, from the distribution of ``adata``."""
    return simulate(n_cells=50, seed=0, cells=1)


@pytest.fixture
def setup():
    return dict(SETUP)


@pytest.fixture(scope="session")
def trained():
    """A model with every condition, trained a little. Tests must not change it."""
    scvi.settings.seed = 0
    data = simulate()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scldm.SCLDM.setup_anndata(data, **SETUP)
        model = scldm.SCLDM(data, n_hidden=32, n_latent=6, width=32, depth=2)
        model.train(
            max_epochs=150,
            max_steps=2000,
            batch_size=64,
            trajectory_kwargs={"max_steps": 200},
            spatial_kwargs={"max_steps": 50},
            enable_progress_bar=False,
        )
    return model


@pytest.fixture(scope="session")
def real_data():
    """The folder of real data sets; tests that need it are skipped where it is not set."""
    folder = os.environ.get("SCLDM_DATA")
    if not folder:
        pytest.skip("SCLDM_DATA is not set")
    return Path(folder)
