"""Gene sets: how cells are scored, and cells made to have a score."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi
from scipy import sparse

import scldm
from scldm.model._gene_scores import GeneSetScores

N_GENES = 60
SETS = {"up": [f"g{i}" for i in range(10)], "other": [f"g{i}" for i in range(10, 20)]}


def simulate(n_cells=500, seed=0):
    """Two activities that are independent of each other, each of which drives ten genes."""
    genes = np.random.default_rng(0)
    rng = np.random.default_rng((1, seed))
    logits = np.tile(genes.normal(0, 0.7, N_GENES), (n_cells, 1))
    logits[:, :10] += rng.normal(0, 0.8, (n_cells, 1))
    logits[:, 10:20] += rng.normal(0, 0.8, (n_cells, 1))
    scale = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    counts = rng.poisson(rng.lognormal(6.5, 0.4, (n_cells, 1)) * scale).astype(np.float32)
    adata = ad.AnnData(
        np.log1p(counts),
        obs=pd.DataFrame({"half": rng.choice(["a", "b"], n_cells)}),
        var=pd.DataFrame(index=[f"g{i}" for i in range(N_GENES)]),
    )
    adata.obs_names = [f"cell_{i}" for i in range(n_cells)]
    adata.layers["counts"] = sparse.csr_matrix(counts)
    scldm.data.add_gene_sets(adata, SETS, key="pathways")
    return adata


@pytest.fixture
def adata():
    return simulate(100)


@pytest.fixture(scope="module")
def trained():
    scvi.settings.seed = 0
    data = simulate()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scldm.SCLDM.setup_anndata(
            data, layer="counts", cell_type_key="half", gene_sets_key="pathways"
        )
        model = scldm.SCLDM(data, n_hidden=32, n_latent=4, width=32, depth=2)
        model.train(max_epochs=150, max_steps=700, enable_progress_bar=False)
    return model


def _setup(adata, **changes):
    scldm.SCLDM.setup_anndata(adata, layer="counts", **{"gene_sets_key": "pathways", **changes})


def test_a_score_is_the_mean_of_its_genes_less_that_of_like_genes(adata):
    adata.varm["pathways"] = adata.varm["pathways"] * np.linspace(1, 3, N_GENES)[:, None]
    _setup(adata)
    model = scldm.SCLDM(adata)
    scores = model.get_gene_set_scores()
    counts = adata.layers["counts"].toarray().astype(float)
    x = np.log1p(counts / counts.sum(1, keepdims=True) * np.median(counts.sum(1)))
    third = np.argsort(np.argsort(x.mean(0), kind="stable")) // 20
    for name in SETS:
        weight = adata.varm["pathways"][name].to_numpy()
        raw = 0
        for gene in np.flatnonzero(weight):
            like = (third == third[gene]) & (weight == 0)
            raw = raw + weight[gene] * (x[:, gene] - x[:, like].mean(1))
        expected = (raw - raw.mean()) / raw.std()
        np.testing.assert_allclose(scores[name], expected, atol=1e-6)
    assert list(scores.index) == list(adata.obs_names)


def test_scores_do_not_follow_depth():
    """Cells that differ in nothing but depth, over a wide range of gene expression."""
    rng = np.random.default_rng(0)
    share = rng.lognormal(0, 1.5, 400)
    depth = rng.lognormal(7, 0.8, 2000)
    counts = sparse.csr_matrix(rng.poisson(depth[:, None] * share / share.sum()))
    low, high = np.argsort(share)[50:90], np.argsort(share)[250:290]
    membership = np.zeros((400, 2), np.float32)
    membership[low, 0] = membership[high, 1] = 1
    scores = GeneSetScores.fit(counts, ["low", "high"], membership, "sets")(counts)
    x = np.log1p(counts.toarray() / depth[:, None] * np.median(depth))
    for genes, score in zip((low, high), scores.T, strict=True):
        naive = x[:, genes].mean(1) - x.mean(1)
        assert abs(np.corrcoef(naive, np.log(depth))[0, 1]) > 0.35
        assert abs(np.corrcoef(score, np.log(depth))[0, 1]) < 0.15


def test_sparse_arrays_take_their_names_from_uns(adata):
    weights = sparse.csc_matrix(adata.varm["pathways"].to_numpy())
    adata.varm["plain"] = weights
    _setup(adata, gene_sets_key="plain")
    assert list(scldm.SCLDM(adata).get_gene_set_scores()) == ["set_0", "set_1"]
    adata.uns["plain_names"] = np.array(["up", "other"])
    _setup(adata, gene_sets_key="plain")
    scores = scldm.SCLDM(adata).get_gene_set_scores()
    _setup(adata)
    pd.testing.assert_frame_equal(scores, scldm.SCLDM(adata).get_gene_set_scores())


def test_a_set_that_fills_a_bin_is_compared_with_the_nearest():
    """Genes 20 to 39 are one of the three bins, and the set; genes 0 to 19 are the next."""
    membership = np.zeros((60, 1))
    membership[20:40] = 1
    bins = np.repeat([0, 1, 2], 20)
    scores = GeneSetScores(["a"], membership, bins, 1.0, np.zeros(1), np.ones(1))
    expected = np.repeat([-1 / 20, 1 / 20, 0], 20)
    np.testing.assert_allclose(scores.contrast[:, 0], expected)
    everything = GeneSetScores(["a"], np.ones((60, 1)), bins, 1.0, np.zeros(1), np.ones(1))
    assert not everything.contrast.any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.assign(other=0.0), r"sets without genes: \['other'\]"),
        (lambda t: t.assign(other=-t["other"]), "negative or not finite weights"),
        (lambda t: t.assign(other=np.nan), "negative or not finite weights"),
        (lambda t: t.assign(other="a"), "does not hold numbers"),
        (lambda t: t.set_axis(["a", "a"], axis=1), r"their names are \['a', 'a'\]"),
        (lambda t: t.assign(other=1.0), r"score is the same in all cells: \['other'\]"),
    ],
)
def test_sets_that_cannot_be_scored(adata, change, words):
    adata.varm["pathways"] = change(adata.varm["pathways"])
    with pytest.raises(ValueError, match=f"`gene_sets_key='pathways'` has .*{words}|{words}"):
        _setup(adata)


def test_a_set_of_constant_genes_is_named(adata):
    counts = adata.layers["counts"].tolil()
    counts[:, 10:20] = 0
    adata.layers["counts"] = counts.tocsr()
    with pytest.raises(ValueError, match=r"expression is the same in all cells: \['other'\]"):
        _setup(adata)


def test_a_missing_key_points_to_the_helper(adata):
    with pytest.raises(KeyError, match=r"`gene_sets_key='typo'` is not in `adata.varm`.*add_gene"):
        _setup(adata, gene_sets_key="typo")


def _mean_scores(model, **conditions):
    new = model.generate(256, seed=0, **conditions)
    return new, model.get_gene_set_scores(new).mean()


def test_a_score_that_is_asked_for_is_reached(trained):
    asked = [-2.0, -1.0, 0.0, 1.0, 2.0]
    means = [_mean_scores(trained, gene_sets={"up": score})[1] for score in asked]
    up = [mean["up"] for mean in means]
    assert np.all(np.diff(up) > 0.3), up
    assert up[-1] - up[0] > 2.0, up
    assert max(abs(mean["other"]) for mean in means) < 0.7, "the other set is left free"


def test_sets_are_free_unless_asked_for(trained):
    new, mean = _mean_scores(trained)
    assert new.obsm["pathways"].isna().all().all()
    assert new.uns["scldm"]["conditions"]["gene_sets"] == "left free"
    assert mean.abs().max() < 0.4
    assert trained.get_gene_set_scores(new).std().between(0.6, 1.4).all()
    none = trained.generate(256, seed=0, gene_sets=None)
    np.testing.assert_array_equal(none.obsm["X_scldm"], new.obsm["X_scldm"])


def test_what_was_asked_for_comes_back(trained, tmp_path):
    scores = np.linspace(-1, 1, 30)
    new = trained.generate(gene_sets={"up": scores, "other": 1}, seed=0)
    assert new.n_obs == 30
    np.testing.assert_allclose(new.obsm["pathways"]["up"], scores, rtol=1e-6)
    assert (new.obsm["pathways"]["other"] == 1).all()
    one = trained.generate(5, gene_sets={"up": 1.5}, seed=0)
    assert one.uns["scldm"]["conditions"]["gene_sets"] == "up: 1.5"
    assert one.obsm["pathways"]["other"].isna().all()
    one.write_h5ad(tmp_path / "one.h5ad")
    pd.testing.assert_frame_equal(
        ad.read_h5ad(tmp_path / "one.h5ad").obsm["pathways"], one.obsm["pathways"]
    )
    # the table is a request too, and so are the conditions of latents
    again = trained.generate(gene_sets=one.obsm["pathways"], cell_type=one.obs["half"], seed=0)
    np.testing.assert_array_equal(again.obsm["X_scldm"], one.obsm["X_scldm"])
    z, what = trained.sample_latent(8, gene_sets={"up": 0.5, "other": [1.0] * 8}, seed=0)
    assert trained.decode(z, **what, seed=0).shape == (8, N_GENES)


def test_the_rest_is_drawn_from_cells_of_like_scores(trained):
    frame = trained.training_frame_.copy()
    try:
        high = frame["gene_sets[up]"] > 0.5
        trained.training_frame_["cell_type"] = pd.Categorical(np.where(high, "a", "b"))
        assert (trained.generate(50, gene_sets={"up": 2}, seed=0).obs["half"] == "a").all()
        assert (trained.generate(50, gene_sets={"up": -2}, seed=0).obs["half"] == "b").all()
    finally:
        trained.training_frame_ = frame


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"typo": 1}, r"'typo', which is not a known gene set. Known: \['up', 'other'\]"),
        ({"up": "high"}, r"gene_sets\['up'\]='high'` is not a number"),
        ({"up": np.inf}, r"gene_sets\['up'\]` has infinite"),
        ({"up": [1, 2], "other": [1, 2, 3]}, "different numbers of cells: 'up' 2, 'other' 3"),
        ({"up": [1, 2]}, "`n_cells` 5, `gene_sets` 2"),
        (np.zeros((2, 5)), r"has shape \(2, 5\), but must be \(n_cells, 2\), or \(2,\)"),
        (np.zeros(4), r"has shape \(4,\)"),
        ({}, "must map names of gene sets to scores"),
        (2.0, "must map names of gene sets to scores"),
    ],
)
def test_wrong_scores(trained, value, words):
    with pytest.raises(ValueError, match=words):
        trained.generate(5, gene_sets=value)


def test_a_saved_model_scores_and_generates_without_data(trained, tmp_path):
    trained.save(tmp_path / "model")
    model = scldm.SCLDM.load(tmp_path / "model", adata=False)
    want, have = (m.generate(40, gene_sets={"up": 1}, seed=0) for m in (trained, model))
    assert (want.X != have.X).nnz == 0
    pd.testing.assert_frame_equal(
        trained.get_gene_set_scores(want), model.get_gene_set_scores(have)
    )


def test_new_cells_are_scored_as_the_training_cells_were(trained, tmp_path):
    new = simulate(80, seed=1)
    direct = trained.get_gene_set_scores(new)
    del new.varm["pathways"]
    trained.save(tmp_path / "model")
    model = scldm.SCLDM.load(tmp_path / "model", adata=new)
    pd.testing.assert_frame_equal(model.get_gene_set_scores(), direct)
    np.testing.assert_allclose(
        model._read_conditions(new)[["gene_sets[up]", "gene_sets[other]"]], direct, rtol=1e-5
    )
    # moments of the training cells, not their own
    assert abs(direct.mean()).max() > 1e-3


def test_scores_of_cells_in_other_shapes(trained):
    new = simulate(20, seed=1)
    scores = trained.get_gene_set_scores(new)
    counts = ad.AnnData(new.layers["counts"], obs=new.obs, var=new.var)
    pd.testing.assert_frame_equal(trained.get_gene_set_scores(counts), scores)
    pd.testing.assert_frame_equal(trained.get_gene_set_scores(counts[:, ::-1].copy()), scores)
    with pytest.raises(ValueError, match="lacks 3 of the 60 genes of the model"):
        trained.get_gene_set_scores(counts[:, 3:].copy())
    del new.layers["counts"]
    with pytest.raises(ValueError, match="`adata.X` has fractions"):
        trained.get_gene_set_scores(new)


def test_a_model_without_gene_sets_says_so(adata):
    scldm.SCLDM.setup_anndata(adata, layer="counts")
    with pytest.raises(ValueError, match="has no gene sets. Register them"):
        scldm.SCLDM(adata).get_gene_set_scores()


def test_the_setup_is_printed(trained, capsys):
    trained.view_anndata_setup()
    assert "pathways" in capsys.readouterr().out
