"""The latent of another cell as a condition."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi
from scipy import sparse

import scldm

N_GENES = 30


def simulate(n_cells=400, seed=0):
    """Each cell keeps the first coordinate of the cell that it came from; the others are noise."""
    genes = np.random.default_rng(0)
    rng = np.random.default_rng((1, seed))
    source = rng.normal(5.0, [2.0, 100.0, 1.0], (n_cells, 3))
    source[:, 2] = 7.0
    logits = genes.normal(0, 0.5, N_GENES) + np.zeros((n_cells, 1))
    logits[:, :10] += 0.5 * (source[:, :1] - 5)
    scale = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    adata = ad.AnnData(
        sparse.csr_matrix(rng.poisson(800 * scale).astype(np.float32)),
        obs=pd.DataFrame({"half": np.where(source[:, 0] > 5, "upper", "lower")}),
    )
    adata.obs_names = [f"cell_{i}" for i in range(n_cells)]
    adata.obsm["X_source"] = source
    return adata


@pytest.fixture
def adata():
    return simulate(60)


@pytest.fixture(scope="module")
def trained():
    scvi.settings.seed = 0
    data = simulate()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scldm.SCLDM.setup_anndata(data, cell_type_key="half", source_key="X_source")
        model = scldm.SCLDM(data, n_hidden=32, n_latent=3, width=32, depth=2)
        model.train(max_epochs=60, max_steps=500, enable_progress_bar=False)
    return model


def _response(cells):
    counts = np.asarray(cells.X.sum(0)).ravel()
    return np.log(counts[:10].sum() / counts[10:].sum())


def test_cells_follow_their_source(trained):
    at = [2.0, 4.0, 6.0, 8.0]
    made = [trained.generate(200, source=[x, 5.0, 7.0], cell_type=None, seed=0) for x in at]
    assert np.all(np.diff([_response(cells) for cells in made]) > 0.3)


def test_the_rest_is_drawn_from_cells_with_a_source_like_it(trained):
    new = trained.generate(source=np.array([[1.0, 5.0, 7.0]] * 20 + [[9.0, 5.0, 7.0]] * 20))
    assert (new.obs["half"][:20] == "lower").all()
    assert (new.obs["half"][20:] == "upper").all()
    assert new.obsm["X_source"].shape == (40, 3)
    np.testing.assert_allclose(new.obsm["X_source"][25], [9.0, 5.0, 7.0])


def test_a_source_that_is_not_given_is_drawn(trained):
    drawn = trained.generate(50, cell_type="upper", seed=0).obsm["X_source"]
    rows = {tuple(row) for row in np.round(trained.adata.obsm["X_source"], 6)}
    assert {tuple(row) for row in np.round(drawn, 6)} <= rows
    assert (drawn[:, 0] > 5).all()


def test_sources_are_standardised_by_dimension(trained):
    condition = trained.conditions[1]
    encoded = condition.encode(condition.read(trained.adata))
    np.testing.assert_allclose(encoded.mean(0), 0, atol=1e-5)
    # the third is the same in all cells
    np.testing.assert_allclose(encoded.std(0), [1, 1, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([1.0, 2.0], r"`source` has shape \(2,\), but must be \(n_cells, 3\), or \(3,\)"),
        (np.zeros((4, 3)), "`n_cells` 5, `source` 4"),
        (np.zeros((1, 3)), "`n_cells` 5, `source` 1"),
        ([np.nan, 1.0, 1.0], "`source` has NaN"),
        ("cell_1", "`source` does not hold numbers"),
    ],
)
def test_wrong_sources(trained, value, words):
    with pytest.raises(ValueError, match=words):
        trained.generate(5, source=value)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((60, 2, 2)), r"has shape \(60, 2, 2\); it must be"),
        (sparse.csr_matrix(np.ones((60, 2))), "must be a dense array"),
        (np.full((60, 2), np.inf), "has NaN or infinite values"),
        (np.full((60, 1), "a"), "does not hold numbers"),
    ],
)
def test_arrays_that_are_no_sources(adata, array, words):
    with pytest.raises(ValueError, match=words):
        adata.obsm["wrong"] = array
        scldm.SCLDM.setup_anndata(adata, source_key="wrong")


def test_a_missing_array_is_named(adata):
    with pytest.raises(KeyError, match=r"`source_key='typo'` is not in `adata.obsm`.*X_source"):
        scldm.SCLDM.setup_anndata(adata, source_key="typo")


def test_a_saved_model_generates_without_data(trained, tmp_path):
    trained.save(tmp_path / "model")
    model = scldm.SCLDM.load(tmp_path / "model", adata=False)
    want, have = (m.generate(40, source=[3.0, 5.0, 7.0], seed=0) for m in (trained, model))
    assert (want.X != have.X).nnz == 0


def test_new_data_keep_the_moments_of_the_training_cells(trained):
    new = simulate(30, seed=1)
    trained.get_latent_representation(new)
    condition = trained.conditions[1]
    assert condition.encode(condition.read(new)).mean() != pytest.approx(0, abs=1e-3)
    new.obsm["X_source"] = new.obsm["X_source"][:, :2]
    with pytest.raises(ValueError, match="has 2 columns, but the model was trained with 3"):
        trained.get_latent_representation(new.copy())
    del new.obsm["X_source"]
    with pytest.raises(KeyError, match="`source_key='X_source'` is not in"):
        trained.get_latent_representation(new.copy())


def test_one_dimension_is_enough(adata):
    adata.obsm["short"] = adata.obsm["X_source"][:, :1]
    scldm.SCLDM.setup_anndata(adata, source_key="short")
    (condition,) = scldm.SCLDM(adata).conditions
    assert not condition.per_cell("source", [2.0])
    assert condition.parse("source", [2.0]).shape == (1, 1)
