"""Genes that were not measured: what comes back, what is refused, and one real check."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from scipy import sparse
from scipy.stats import spearmanr

from scldm import SCLDM

SHARED = [f"g{i}" for i in range(8)]
OWN, HIDDEN = ["own_0", "own_1"], ["h0", "h1", "h2"]
TINY = {"max_epochs": 2, "max_steps": 20}


def simulate(n, seed):
    """Cells of one program, and what it does to genes; ``h0`` follows it, ``h1`` goes against it."""
    rng = np.random.default_rng(seed)
    program = rng.uniform(-1, 1, n)
    slope = dict(zip(SHARED, np.linspace(-1.5, 1.5, 8), strict=True))
    slope |= {"h0": 1.5, "h1": -1.5, "h2": 0.0, "own_0": 0.5, "own_1": 0.0}
    rate = pd.DataFrame({g: 15 * np.exp(s * program) for g, s in slope.items()})
    return rate, pd.DataFrame(rng.poisson(rate), columns=rate.columns)


def as_cells(counts, genes, name):
    adata = ad.AnnData(sparse.csr_matrix(counts[genes].to_numpy(np.float32)))
    adata.var_names, adata.obs_names = genes, [f"{name}_{i}" for i in range(len(counts))]
    return adata


@pytest.fixture(autouse=True)
def _split_of_scvi(monkeypatch):
    """Let scvi-tools split cells alike each time, as it does where its own seed is set."""
    monkeypatch.setattr(scvi.settings, "_seed", 0)


@pytest.fixture
def reference():
    # genes in an order of their own
    return as_cells(simulate(60, 1)[1], ["h1", *SHARED[::-1], "h0", "h2"], "cell")


def build(n=40, **setup):
    adata = as_cells(simulate(n, 2)[1], [*SHARED, *OWN], "cell")
    rng = np.random.default_rng(0)
    adata.obs["cluster"] = pd.Categorical(rng.choice(["a", "b"], n))
    adata.obs["day"] = rng.uniform(size=n)
    adata.obsm["X_map"] = rng.uniform(size=(n, 2))
    adata.obsm["frame"] = pd.DataFrame({"u": np.arange(n)}, index=adata.obs_names)
    SCLDM.setup_anndata(adata, cell_type_key="cluster", spatial_key="X_map", **setup)
    return SCLDM(adata, n_latent=2, n_hidden=8, width=16, depth=1)


@pytest.fixture(scope="module")
def model():
    """Nothing needs to be trained. Tests must not change it."""
    return build()


def impute(model, reference, adata=None, seed=0, **kwargs):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        return model.impute_genes(
            adata, reference, **{"seed": seed, "train_kwargs": TINY, **kwargs}
        )


def test_layout(model, reference, tmp_path):
    rows = np.arange(5, 17)
    before = reference.copy()
    new = impute(model, reference, indices=rows, n_samples=2)
    assert new.shape == (24, 3) and new.var_names.tolist() == ["h1", "h0", "h2"]
    x = new.X.toarray()
    assert (x == x.round()).all() and x.min() >= 0 and x.sum() > 0
    own = model.adata[rows.repeat(2)]
    assert new.obs["source_cell"].tolist() == own.obs_names.tolist()
    assert new.obs_names.is_unique
    for name in ("cluster", "day"):
        assert (new.obs[name].to_numpy() == own.obs[name].to_numpy()).all()
    assert not [c for c in new.obs if c.startswith("_scvi")]
    np.testing.assert_array_equal(new.obsm["X_map"], own.obsm["X_map"])
    assert new.obsm["frame"]["u"].tolist() == rows.repeat(2).tolist()
    record = new.uns["scldm"]
    assert record["shared_genes"] == SHARED[::-1]
    assert record.items() >= {"method": "impute_genes", "seed": 0, "n_samples": 2}.items()
    new.write_h5ad(tmp_path / "new.h5ad")
    assert (ad.read_h5ad(tmp_path / "new.h5ad").X != new.X).nnz == 0
    # what is given stays as it is
    assert (reference.X != before.X).nnz == 0 and reference.obs_names.equals(before.obs_names)
    assert reference.obs.equals(before.obs)


def test_means(model, reference):
    mean = impute(model, reference, n_samples=3, return_mean=True)
    assert mean.shape == (40, 3) and mean.uns["scldm"]["return_mean"] is True
    x = mean.X.toarray() if sparse.issparse(mean.X) else np.asarray(mean.X)
    assert (x > 0).all() and (x != x.round()).any()
    # that of counting alone is the root of the mean
    assert (mean.layers["spread"] >= 0.99 * np.sqrt(x)).all()
    assert mean.obs["source_cell"].tolist() == model.adata.obs_names.tolist()


def test_genes_that_are_asked_for(model, reference):
    new = impute(model, reference, genes=["h2", "g3"])
    assert new.var_names.tolist() == ["h2", "g3"]
    # which was measured, but is not looked at
    assert new.uns["scldm"]["shared_genes"] == [g for g in SHARED[::-1] if g != "g3"]
    other = model.adata.copy()
    counts = other.X.toarray()
    counts[:, 3] = 500 - counts[:, 3]
    other.X = sparse.csr_matrix(counts)
    again = impute(model, reference, other, genes=["h2", "g3"])
    assert (again.X != new.X).nnz == 0
    assert impute(model, reference, genes="h2").var_names.tolist() == ["h2"]


def test_seed_decides_and_global_states_are_left_alone(model, reference):
    torch.manual_seed(1)
    np.random.seed(1)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = impute(model, reference)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    torch.manual_seed(2)
    np.random.seed(2)
    again = impute(model, reference)
    assert (first.X != again.X).nnz == 0
    assert (first.X != impute(model, reference, seed=1).X).nnz > 0
    # an error on the way leaves them alone, too
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    with pytest.raises(TypeError):
        impute(model, reference, train_kwargs={"max_epochss": 1})
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()


def test_seed_decides_where_scvi_tools_has_none(model, reference, monkeypatch):
    monkeypatch.setattr(scvi.settings, "_seed", None)
    assert (impute(model, reference).X != impute(model, reference).X).nnz == 0


def test_counts_in_layers(reference):
    model = build()
    expected = impute(model, reference)
    adata = model.adata.copy()
    adata.layers["raw"] = adata.X.copy()
    adata.X = np.log1p(adata.X.toarray())
    SCLDM.setup_anndata(adata, layer="raw", cell_type_key="cluster", spatial_key="X_map")
    other = SCLDM(adata, n_latent=2, n_hidden=8, width=16, depth=1)
    reference.layers["raw"] = reference.X.toarray()
    reference.X = np.log1p(reference.X.toarray())
    new = impute(other, reference, reference_layer="raw")
    assert (new.X != expected.X).nnz == 0
    with pytest.raises(ValueError, match="`reference_layer=`"):
        impute(model, reference)
    with pytest.raises(ValueError, match=r"`reference_layer='counts'` is not known.*'raw'"):
        impute(model, reference, reference_layer="counts")


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"genes": ["h0", "nought"]}, r"`genes` has \['nought'\], which the reference lacks"),
        ({"genes": ["own_0"]}, "which the reference lacks"),
        ({"genes": ["h0", "h0"]}, "each once"),
        ({"genes": []}, "`genes` must name one gene or more"),
        ({"genes": SHARED[:7]}, "shares 1 genes"),
        ({"n_samples": 0}, "`n_samples=0`"),
        ({"batch_size": 0}, "`batch_size=0`"),
        ({"seed": -1}, "`seed=-1`"),
        ({"indices": []}, "`indices` is empty"),
    ],
)
def test_odd_requests_are_refused(model, reference, kwargs, words):
    with pytest.raises(ValueError, match=words):
        impute(model, reference, **kwargs)


def test_odd_references_are_refused(model, reference):
    with pytest.raises(ValueError, match="`reference` is missing"):
        model.impute_genes()
    for odd in (pd.DataFrame(), "cells.h5ad"):
        with pytest.raises(TypeError, match=f"`reference` is a {type(odd).__name__}"):
            impute(model, odd)
    with pytest.raises(TypeError, match="`adata` is a DataFrame"):
        impute(model, reference, pd.DataFrame())
    with pytest.raises(ValueError, match=r"shares 1 genes with the model by name; 2 or more"):
        impute(model, reference[:, ["g0", "h0"]].copy())
    with pytest.raises(ValueError, match="no gene that the model lacks"):
        impute(model, reference[:, SHARED].copy())
    twice = reference.copy()
    twice.var_names = ["h0", *twice.var_names[1:]]
    with pytest.raises(ValueError, match="has a name twice"):
        impute(model, twice)


def test_cells_without_shared_counts_are_left_out(model, reference):
    cells = model.adata.copy()
    counts = cells.X.toarray()
    counts[[3, 8], :8] = 0
    cells.X = sparse.csr_matrix(counts)
    with pytest.warns(UserWarning, match="2 of 40 cells have no count of a shared gene"):
        new = impute(model, reference, cells, n_samples=2)
    left = np.delete(np.arange(40), [3, 8])
    assert new.obs["source_cell"].tolist() == cells.obs_names[left.repeat(2)].tolist()
    np.testing.assert_array_equal(new.obsm["X_map"], cells.obsm["X_map"][left.repeat(2)])
    counts = reference.X.toarray()
    counts[0, 1:9] = 0
    counts[[4, 5]] *= np.isin(reference.var_names, SHARED)
    reference.X = sparse.csr_matrix(counts)
    with pytest.warns(UserWarning, match="3 of 60 cells of the reference have no count"):
        impute(model, reference)


def test_a_hidden_gene_that_follows_shared_ones_is_found():
    rate, counts = simulate(120, 3)
    reference = as_cells(simulate(300, 4)[1], [*SHARED, *HIDDEN], "other")
    adata = as_cells(counts, [*SHARED, *OWN], "cell")
    SCLDM.setup_anndata(adata)
    model = SCLDM(adata, n_latent=2, n_hidden=8, width=16, depth=1)
    new = impute(
        model,
        reference,
        n_samples=3,
        return_mean=True,
        train_kwargs={"max_epochs": 30, "max_steps": 200},
    )
    x = np.asarray(new.X.toarray() if sparse.issparse(new.X) else new.X)
    for gene in ("h0", "h1"):
        found = x[:, new.var_names.get_loc(gene)]
        assert spearmanr(found, rate[gene])[0] > 0.5, gene
        # in the units of the reference
        assert found.mean() == pytest.approx(rate[gene].mean(), rel=0.3)
