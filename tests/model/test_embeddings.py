"""Embeddings from elsewhere, for cell types and perturbations."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from scipy import sparse

import scldm
from scldm.model._embeddings import Embeddings

N_GENES = 40
AT = {f"P{i}": x for i, x in enumerate([-1.0, -0.7, -0.4, 0.4, 0.7, 1.0])}
"""Perturbations and where they lie on the line along which their effect grows."""


def vector(x):
    return np.array([x, 1.0 - x, 0.5 * x + 0.1])


def simulate(n_cells=600, seed=0):
    """Perturbations move the first twenty genes by as much as their embedding says."""
    genes = np.random.default_rng(0)
    rng = np.random.default_rng((1, seed))
    label = rng.choice(["control", *AT, "P0+P5"], n_cells)
    effect = np.array([sum(AT.get(part, 0) for part in x.split("+")) for x in label])
    kind = rng.choice(["T", "B"], n_cells)
    logits = np.tile(genes.normal(0, 0.5, N_GENES), (n_cells, 1))
    logits[:, :20] += effect[:, None]
    logits[:, 30:] += (kind == "T")[:, None]
    scale = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    adata = ad.AnnData(
        sparse.csr_matrix(rng.poisson(800 * scale).astype(np.float32)),
        obs=pd.DataFrame({"type": kind, "guide": label, "donor": rng.choice(["x", "y"], n_cells)}),
    )
    adata.obs_names = [f"cell_{i}" for i in range(n_cells)]
    new = {"NEW": 0.0, "TWIN": AT["P5"]}
    adata.uns["genes"] = pd.DataFrame({n: vector(x) for n, x in {**AT, **new}.items()}).T
    adata.uns["text"] = {"T": [1.0, 0.0], "B": [0.0, 1.0], "NKT": [1.0, 0.0], "HSC": [0.5, 0.5]}
    return adata


SETUP = {
    "cell_type_key": "type",
    "perturbation_key": "guide",
    "embeddings": {"perturbation": "genes", "cell_type": "text"},
}


@pytest.fixture
def adata():
    return simulate(100)


@pytest.fixture(scope="module")
def trained():
    scvi.settings.seed = 0
    data = simulate()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scldm.SCLDM.setup_anndata(data, **SETUP)
        model = scldm.SCLDM(data, n_hidden=32, n_latent=3, width=32, depth=2)
        model.train(max_epochs=60, max_steps=700, enable_progress_bar=False)
    return model


def _response(cells):
    """Return the log-ratio of the genes that perturbations move to those that nothing does."""
    counts = np.asarray(cells.X.sum(0)).ravel()
    return np.log(counts[:20].sum() / counts[20:30].sum())


@pytest.mark.filterwarnings("ignore:No training cell has")
def test_a_perturbation_with_the_vector_of_another_makes_the_same_cells(trained):
    known = trained.generate(200, perturbation="P5", cell_type="T", seed=0)
    twin = trained.generate(200, perturbation="TWIN", cell_type="T", seed=0)
    np.testing.assert_allclose(twin.obsm["X_scldm"], known.obsm["X_scldm"], atol=1e-4)
    assert (twin.obs["guide"] == "TWIN").all()
    assert list(twin.obs["guide"].cat.categories)[-1] == "TWIN"
    assert "NEW" not in twin.obs["guide"].cat.categories


@pytest.mark.filterwarnings("ignore:No training cell has")
def test_an_unseen_perturbation_lies_where_its_vector_says(trained):
    low, new, high = (
        _response(trained.generate(300, perturbation=name, seed=0)) for name in ("P1", "NEW", "P4")
    )
    assert high - low > 0.8
    assert low + 0.3 * (high - low) < new < high - 0.3 * (high - low)


def test_an_unseen_cell_type(trained):
    with pytest.warns(UserWarning, match=r"No training cell has \[\{'cell_type': 'NKT'\}\]"):
        new = trained.generate(100, cell_type="NKT", seed=0)
    assert list(new.obs["type"].cat.categories) == ["B", "T", "NKT"]
    own = dict.fromkeys(["T", "B", "NKT"], 0)
    for name in own:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cells = trained.generate(200, cell_type=name, perturbation="control", seed=0)
        own[name] = cells.X[:, 30:].sum() / cells.X.sum()
    assert abs(own["NKT"] - own["T"]) < 0.2 * abs(own["T"] - own["B"])


@pytest.mark.filterwarnings("ignore:No training cell has")
def test_new_ones_are_combined_with_known_ones(trained):
    new = trained.generate(3, perturbation=["NEW+P1", "P1+TWIN", "P0+P5"], seed=0)
    assert list(new.obs["guide"]) == ["NEW+P1", "P1+TWIN", "P0+P5"]


def test_without_a_vector_it_is_not_known(trained):
    with pytest.raises(
        ValueError, match=r"Known: \['control', 'NEW', 'P0'.*`adata.uns\['genes'\]"
    ):
        trained.generate(5, perturbation="OTHER+P1")
    with pytest.raises(ValueError, match=r"'Mono'.*Known: \['B', 'T', 'NKT', 'HSC'\].*\['text'\]"):
        trained.generate(5, cell_type="Mono")


@pytest.mark.filterwarnings("ignore:No training cell has")
def test_a_saved_model_knows_them_without_data(trained, tmp_path):
    trained.save(tmp_path / "model")
    request = {"perturbation": "NEW", "cell_type": "HSC", "seed": 0}
    new = simulate(30, seed=1)
    new.uns.clear()
    for data in (False, new):
        model = scldm.SCLDM.load(tmp_path / "model", adata=data)
        want, have = (m.generate(40, **request) for m in (trained, model))
        assert (want.X != have.X).nnz == 0
    with pytest.raises(ValueError, match="Known:"):
        model.generate(5, perturbation="OTHER")


def test_new_data_may_have_new_perturbations(trained):
    new = simulate(30, seed=1)
    new.uns.clear()
    new.obs["guide"] = "NEW"
    assert trained.get_latent_representation(new).shape == (30, 3)
    assert (trained._read_conditions(new)["perturbation"] == "NEW").all()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda t: t.drop(index=["P3", "P4"]), ValueError, r"no vector for \['P3', 'P4'\], which"),
        (lambda t: t.assign(x=np.nan), ValueError, "NaN or infinite values for"),
        (lambda t: t.assign(x="a"), ValueError, "does not hold numbers"),
        (lambda t: pd.concat([t, t.iloc[:1]]), ValueError, r"has \['P0'\] more than once"),
        (lambda t: t.iloc[:0], ValueError, "is empty"),
        (lambda t: {**dict(t.T), "P1": [1.0]}, ValueError, r"different lengths.*\['P1'\]"),
        (lambda t: t.to_numpy(), TypeError, "is a ndarray; give a data frame"),
    ],
)
def test_tables_that_do_not_serve(adata, change, error, words):
    adata.uns["genes"] = change(adata.uns["genes"])
    with pytest.raises(error, match=words) as raised:
        scldm.SCLDM.setup_anndata(adata, **SETUP)
    assert "`embeddings['perturbation']`, `adata.uns['genes']`," in str(raised.value)


@pytest.mark.parametrize(
    ("embeddings", "error", "words"),
    [
        ({"cell_type": "typo"}, KeyError, "`embeddings\\['cell_type'\\]='typo'` is not in"),
        ({"batch": "text"}, ValueError, "'batch', but allowed are .*Batch and covariates enter"),
        ({"cell_type": "text"}, ValueError, "'cell_type', which needs `cell_type_key`"),
        ("text", TypeError, "`embeddings` is a str, but must map"),
    ],
)
def test_wrong_embeddings(adata, embeddings, error, words):
    keys = {"batch_key": "donor"}
    if words.startswith("`embeddings\\["):
        keys["cell_type_key"] = "type"
    with pytest.raises(error, match=words):
        scldm.SCLDM.setup_anndata(adata, embeddings=embeddings, **keys)


def test_a_mapping_and_a_frame_are_the_same(adata):
    frame = adata.uns["genes"]
    mapping = {name: list(row) for name, row in frame.T.items()}
    one, two = (Embeddings.from_user("perturbation", "genes", t) for t in (frame, mapping))
    assert one.names == two.names
    np.testing.assert_array_equal(one.vectors, two.vectors)


def test_a_decoder_that_depends_on_the_type_knows_only_observed_ones(adata):
    scldm.SCLDM.setup_anndata(adata, **SETUP)
    model = scldm.SCLDM(adata, dispersion="gene-label")
    condition = next(c for c in model.conditions if c.name == "cell_type")
    with pytest.raises(
        ValueError, match=r"'NKT'` is not a known cell type. Known: \['B', 'T'\]\.$"
    ):
        condition.parse("cell_type", "NKT")


def test_the_separator_is_the_users(adata, tmp_path):
    adata.obs["guide"] = adata.obs["guide"].str.replace("+", " & ")
    adata.obs.loc[adata.obs["guide"] == "P3", "guide"] = "C+"
    adata.uns["genes"].loc["C+"] = vector(0.4)
    scldm.SCLDM.setup_anndata(adata, perturbation_separator=" & ", **SETUP)
    model = scldm.SCLDM(adata)
    condition = next(c for c in model.conditions if c.name == "perturbation")
    assert condition.parse("perturbation", "P5 & P0").iloc[0, 0] == "P0 & P5"
    assert condition.parse("perturbation", "NEW & C+").iloc[0, 0] == "C+ & NEW"
    model.training_frame_ = model._read_conditions(adata)
    model.save(tmp_path / "model")
    loaded = scldm.SCLDM.load(tmp_path / "model", adata=adata)
    (again,) = (c for c in loaded.conditions if c.name == "perturbation")
    assert again.separator == " & " and again.items == condition.items
    with pytest.raises(ValueError, match="`perturbation_separator=''` must be text"):
        scldm.SCLDM.setup_anndata(adata, perturbation_separator="")


def test_a_model_from_before_these_arguments_loads(adata, tmp_path):
    scldm.SCLDM.setup_anndata(adata, cell_type_key="type", perturbation_key="guide")
    model = scldm.SCLDM(adata)
    model.save(tmp_path / "model")
    content = torch.load(tmp_path / "model" / "model.pt", weights_only=True)
    setup = content["attr_dict"]["registry_"]["setup_args"]
    for name in ("perturbation_separator", "embeddings", "source_key", "gene_sets_key"):
        del setup[name]
    torch.save(content, tmp_path / "model" / "model.pt")
    for data in (False, adata):
        loaded = scldm.SCLDM.load(tmp_path / "model", adata=data)
        assert [c.name for c in loaded.conditions] == ["cell_type", "perturbation"]
        assert loaded.conditions[1].separator == "+"
