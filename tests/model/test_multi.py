"""MultiLDM on simulated cells of three modalities, some of which lack one."""

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import scvi
from scipy import sparse

import scldm
from scldm.metrics import translation

LAYERS = {"rna_layer": "rna", "protein_layer": "prot", "atac_layer": "atac"}
N, LACKING = 400, 80
"""Training cells, and how many of them, the last ones, have no proteins."""


def cells(n_cells=N, seed=0, lacking=0, first=0):
    whole = scldm.data.simulate_multiome(600, 60, 12, 50, seed=seed)
    own = whole[first : first + n_cells].copy()
    parts = {"rna": own["rna"], "prot": own["protein"], "atac": own["atac"]}
    parts["prot"] = parts["prot"][: n_cells - lacking].copy()
    mdata = md.MuData(parts)
    mdata.obs = own.obs.reindex(mdata.obs_names)
    mdata.obs["donor"] = np.where(np.arange(mdata.n_obs) % 3 == 0, "one", "two")
    return mdata


def setup(mdata, **kwargs):
    scldm.MultiLDM.setup_mudata(
        mdata,
        **{"cell_type_key": "cell_type", "batch_key": "donor", "modalities": LAYERS, **kwargs},
    )


def train(model, **kwargs):
    options = {"max_epochs": 80, "max_steps": 600, "early_stopping": False, **kwargs}
    model.train(enable_progress_bar=False, **options)


@pytest.fixture(scope="module")
def trained():
    mdata = cells(lacking=LACKING)
    setup(mdata)
    scvi.settings.seed = 0
    model = scldm.MultiLDM(mdata, n_hidden=64, n_latent=6)
    train(model)
    return mdata, model


@pytest.fixture(scope="module")
def new():
    return cells(100, first=450)


def same(a, b):
    return all((a[name].X != b[name].X).nnz == 0 for name in a.mod)


def test_generate_gives_whole_cells_of_counts(trained):
    mdata, model = trained
    made = model.generate(60, cell_type="A", seed=0)
    assert isinstance(made, md.MuData)
    assert {name: made[name].shape for name in made.mod} == {
        "rna": (60, 60),
        "prot": (60, 12),
        "atac": (60, 50),
    }
    for part in made.mod.values():
        assert sparse.isspmatrix_csr(part.X)
        assert (part.X.data >= 0).all() and (part.X.data == part.X.data.round()).all()
    assert made["atac"].X.max() == 1
    assert made["prot"].var_names.equals(mdata["prot"].var_names)
    assert (made.obs["cell_type"] == "A").all() and set(made.obs["donor"]) <= {"one", "two"}
    assert made.uns["scldm"]["conditions"]["cell_type"] == "A"


def test_the_same_seed_gives_the_same_cells_whatever_the_batch_size(trained):
    _, model = trained
    first = model.generate(600, seed=3)
    assert same(first, model.generate(600, seed=3, batch_size=256))
    assert not same(first, model.generate(600, seed=4))


def test_generated_modalities_belong_together(trained):
    _, model = trained
    made = model.generate(400, seed=0)
    real = cells(400, seed=0, first=200)

    def values(mdata):
        return np.log1p(mdata["rna"].X.toarray()), np.log1p(mdata["prot"].X.toarray())

    error = translation.cross_correlation_error(values(real), values(made))
    floor = translation.cross_correlation_error(values(real), values(cells(200)))
    apart = (values(made)[0], np.random.default_rng(0).permutation(values(made)[1]))
    assert error < 2.5 * floor
    assert error < 0.6 * translation.cross_correlation_error(values(real), apart)


@pytest.mark.parametrize(
    ("source", "way_left"), [("rna", 0.5), ("atac", 0.7), (["rna", "atac"], 0.5)]
)
def test_translation_is_near_what_the_truth_allows(trained, new, source, way_left):
    _, model = trained
    drawn = model.translate(new, source=source, target="protein", n_samples=30, seed=0)
    assert isinstance(drawn, ad.AnnData) and drawn.shape == (3000, 12)
    samples = np.log1p(drawn.X.toarray()).reshape(100, 30, -1).swapaxes(0, 1)
    true = np.log1p(new["prot"].X.toarray())
    known = np.log1p(cells(320)["prot"].X.toarray())
    flat = translation.rmse(true, np.tile(known.mean(axis=0), (100, 1)))
    best = translation.rmse(true, np.log1p(new["prot"].layers["mean"]))
    found = translation.rmse(true, samples.mean(axis=0))
    # on the way from the mean to the true mean of each cell, of which 50 peaks say less than genes
    assert found < best + way_left * (flat - best)
    assert translation.coverage(true, samples, 0.9).mean() == pytest.approx(0.9, abs=0.06)


def test_several_targets_at_once_and_any_direction(trained, new):
    _, model = trained
    both = model.translate(new, source="protein", target=["rna", "atac"], seed=0)
    assert isinstance(both, md.MuData) and set(both.mod) == {"rna", "atac"}
    alone = model.translate(new, source="protein", target="atac", seed=0)
    assert alone.shape == (100, 50)
    assert (both.obs["source_cell"] == new.obs_names).all()


def test_means_are_those_of_the_draws(trained, new):
    _, model = trained
    some = new[:6].copy()
    asked = {"source": "rna", "target": "protein", "seed": 0}
    means = model.translate(some, n_samples=300, return_mean=True, **asked)
    mean, spread = means.X, means.layers["spread"]
    draws = model.translate(some, n_samples=300, **asked).X.toarray().reshape(6, 300, -1)
    error = 5 * draws.std(axis=1) / np.sqrt(300) + 0.2
    assert (np.abs(draws.mean(axis=1) - mean) < error).all()
    squares = (draws - draws.mean(axis=1, keepdims=True)) ** 2
    error = 5 * squares.std(axis=1) / np.sqrt(300) + 0.2
    assert (np.abs(squares.mean(axis=1) - spread**2) < error).all()


def test_names_of_cells_are_kept(trained, new):
    _, model = trained
    drawn = model.translate(new[:3].copy(), source="rna", target="protein", n_samples=2)
    assert list(drawn.obs["source_cell"]) == [new.obs_names[i] for i in (0, 0, 1, 1, 2, 2)]
    assert drawn.obs_names.is_unique
    one = model.translate(new[:3].copy(), source="rna", target="protein")
    assert list(one.obs_names) == list(new.obs_names[:3])


def test_imputation_fills_in_what_is_missing_and_nothing_else(trained):
    mdata, model = trained
    filled = model.impute(seed=0)
    assert filled["rna"].X is not None and (filled["rna"].X != mdata["rna"].X).nnz == 0
    have = N - LACKING
    assert (filled["prot"].X[:have] != mdata["prot"].X).nnz == 0
    assert (filled.obs["imputed_protein"] == (np.arange(N) >= have)).all()
    assert not filled.obs["imputed_rna"].any()
    truth = cells()["prot"]
    mean = model.impute(seed=0, return_mean=True, n_samples=30)["prot"].X[have:]
    true = np.log1p(truth.X.toarray()[have:])
    flat = np.tile(np.log1p(truth.X.toarray()[:have]).mean(axis=0), (LACKING, 1))
    assert translation.rmse(true, np.log1p(mean)) < 0.8 * translation.rmse(true, flat)


def test_a_mask_says_what_was_not_measured():
    """Zeros stand where nothing was measured; with the mask they are not read."""
    held_out = cells()
    truth = held_out["prot"].copy()
    x = truth.X.toarray()
    x[300:] = 0
    held_out.mod["prot"].X = sparse.csr_matrix(x)
    with pytest.raises(ValueError, match="measured_keys"):
        setup(held_out)
    held_out.obs["has_proteins"] = np.arange(N) < 300
    setup(held_out, measured_keys={"protein": "has_proteins"})
    model = scldm.MultiLDM(held_out, n_hidden=16, n_latent=3)
    train(model, max_epochs=2, max_steps=5)
    latent = model.get_latent_representation("protein")
    assert np.isnan(latent[300:]).all() and not np.isnan(latent[:300]).any()
    assert model.impute(seed=0).obs["imputed_protein"].sum() == 100


def test_latents_of_each_modality_stand_side_by_side(trained):
    _, model = trained
    joint = model.get_latent_representation()
    parts = [model.get_latent_representation(name) for name in model.modalities]
    assert joint.shape == (N, 18) and [p.shape for p in parts] == [(N, 6)] * 3
    known = ~np.isnan(joint).any(axis=1)
    assert known.sum() == N - LACKING
    # the spread of the posteriors counts too
    assert (joint[known].std(axis=0) < 1.1).all() and (joint[known].std(axis=0) > 0.4).all()
    shared = np.corrcoef(joint[known][:, 6], parts[1][known][:, 0])[0, 1]
    assert shared == pytest.approx(1)


def test_a_bad_antibody_is_flagged(trained, new):
    _, model = trained
    broken = new.copy()
    x = broken["prot"].X.toarray()
    x[:, 4] = np.random.default_rng(0).permutation(x[:, 4])
    broken.mod["prot"].X = sparse.csr_matrix(x)
    table = model.get_feature_agreement(broken, source="rna", target="protein", n_samples=20)
    assert table.index[0] == "protein_4"
    others = table.drop(index="protein_4")
    assert table.loc["protein_4", "pearson"] < others["pearson"].min() - 0.1
    assert others["coverage_90"].mean() == pytest.approx(0.9, abs=0.06)


def test_data_of_other_features_are_matched_by_name(trained, new):
    _, model = trained
    rna = new["rna"]
    expected = model.translate({"rna": rna}, target="protein", seed=0, batch="one")
    mixed = rna[:, rna.var_names[::-1]].copy()
    extra = ad.AnnData(
        sparse.csr_matrix(np.ones((100, 2), np.float32)),
        obs=pd.DataFrame(index=rna.obs_names),
        var=pd.DataFrame(index=["other_1", "other_2"]),
    )
    joined = ad.concat([mixed, extra], axis=1)
    found = model.translate(joined, source="rna", target="protein", seed=0, batch="one")
    assert (found.X != expected.X).nnz == 0 and found.uns["scldm"]["missing_features"] == {}
    with pytest.warns(UserWarning, match="lack 3 of the model's 60"):
        found = model.translate(
            mixed[:, 3:].copy(), source="rna", target="protein", seed=0, batch="one"
        )
    assert found.uns["scldm"]["missing_features"]["rna"] == [f"rna_{i}" for i in (57, 58, 59)]
    with pytest.raises(ValueError, match="none of the model's 60"):
        model.translate(extra, source="rna", target="protein", batch="one")


def test_conditions_that_the_data_do_not_say(trained, new):
    _, model = trained
    bare = ad.AnnData(new["rna"].X, obs=pd.DataFrame(index=new.obs_names), var=new["rna"].var)
    with pytest.raises(ValueError, match="`batch=`"):
        model.translate(bare, source="rna", target="protein")
    found = model.translate(bare, source="rna", target="protein", batch="two", seed=0)
    assert (found.obs["donor"] == "two").all() and found.obs["cell_type"].isna().all()
    assert found.uns["scldm"]["conditions"]["cell_type"] == "unconditional"
    told = model.translate(
        bare, source="rna", target="protein", batch="two", cell_type="A", seed=0
    )
    assert (told.obs["cell_type"] == "A").all()
    with pytest.raises(ValueError, match="not a known batch"):
        model.translate(bare, source="rna", target="protein", batch="three")


def test_a_saved_model_is_the_same_model(trained, new, tmp_path):
    mdata, model = trained
    model.save(tmp_path / "model", save_anndata=True)
    expected = model.generate(50, seed=0)
    asked = {"source": "rna", "target": "protein", "seed": 0}
    translated = model.translate(new, **asked)
    for data in (None, mdata, False):
        loaded = scldm.MultiLDM.load(tmp_path / "model", adata=data)
        assert same(loaded.generate(50, seed=0), expected)
        assert (loaded.translate(new, **asked).X != translated.X).nnz == 0
    assert (tmp_path / "model" / "mdata.h5mu").is_file()
    with pytest.raises(ValueError, match="holds a MultiLDM"):
        scldm.SCLDM.load(tmp_path / "model", adata=False)


def test_generated_cells_go_through_muon_and_back_from_disk(trained, tmp_path):
    import muon as mu

    _, model = trained
    made = model.generate(80, seed=0)
    mu.prot.pp.clr(made["prot"])
    made = model.generate(80, seed=0)
    made.write_h5mu(tmp_path / "made.h5mu")
    back = md.read_h5mu(tmp_path / "made.h5mu")
    assert same(made, back)
    assert (back.obs["cell_type"].astype(str) == made.obs["cell_type"].astype(str)).all()
    np.testing.assert_allclose(back.obsm["X_scldm"], made.obsm["X_scldm"])


def test_proteins_in_obsm_as_totalvi_takes_them():
    mdata = cells(200)
    adata = mdata["rna"].copy()
    adata.obs["donor"] = mdata.obs["donor"].to_numpy()
    adata.obsm["protein"] = pd.DataFrame(
        mdata["prot"].X.toarray(), index=adata.obs_names, columns=mdata["prot"].var_names
    )
    scldm.MultiLDM.setup_anndata(adata, "protein", batch_key="donor")
    model = scldm.MultiLDM(adata, n_hidden=16, n_latent=3, protein_likelihood="nb_mixture")
    assert model.modalities == ["rna", "protein"]
    train(model, max_epochs=2, max_steps=5)
    made = model.generate(20, seed=0)
    assert isinstance(made, ad.AnnData) and made.shape == (20, 60)
    assert list(made.obsm["protein"].columns) == list(mdata["prot"].var_names)
    foreground = model.get_protein_foreground_probability()
    assert foreground.shape == (200, 12) and foreground.index.equals(adata.obs_names)
    assert ((foreground > 0) & (foreground < 1)).all(axis=None)
    alone = adata.copy()
    del alone.obsm["protein"]
    assert model.translate(alone, source="rna", target="protein", seed=0).shape == (200, 12)


@pytest.mark.parametrize(
    "options",
    [
        {"latent": "aligned"},
        {
            "gene_likelihood": "zinb",
            "protein_likelihood": "nb_mixture",
            "atac_likelihood": "poisson",
        },
        {"n_latent": {"rna": 5, "atac": 2}, "backbone": "dit", "conditioning": "film"},
        {"schedule": "vp_cosine", "parametrisation": "velocity", "conditioning": "concat"},
    ],
)
def test_options_train_and_sample(options):
    mdata = cells(150, lacking=30)
    setup(mdata)
    if "n_latent" not in options:
        options = {"n_latent": 4, **options}
    model = scldm.MultiLDM(mdata, n_hidden=16, width=16, depth=2, **options)
    train(model, max_epochs=2, max_steps=5)
    assert model.generate(10, seed=0).shape == (10, 122)
    drawn = model.translate(mdata, source=["rna", "atac"], target="protein", guidance_scale=2.0)
    assert drawn.shape == (150, 12)
    assert np.isfinite(drawn.X.data).all()


def test_the_state_of_the_user_is_left_alone(trained, new):
    _, model = trained
    before = {name: part.X.copy() for name, part in new.mod.items()}
    columns = list(new.obs.columns)
    model.translate(new, source="rna", target="protein", seed=0)
    assert list(new.obs.columns) == columns
    assert all((new[name].X != x).nnz == 0 for name, x in before.items())


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"modalities": {"rna_layer": "rna"}}, ValueError, "two or more"),
        ({"modalities": {**LAYERS, "protein_layer": "adt"}}, KeyError, "adt"),
        ({"modalities": {**LAYERS, "layer": "rna"}}, ValueError, "not an argument"),
        ({"modalities": ["rna"]}, ValueError, "dictionary|must map"),
        ({"rna_layer": "raw"}, KeyError, "raw"),
        ({"batch_key": "plate"}, KeyError, "plate"),
        ({"measured_keys": {"adt": "x"}}, ValueError, "measured_keys"),
        ({"measured_keys": {"protein": "nothing"}}, KeyError, "nothing"),
    ],
)
def test_a_wrong_setup_is_refused(change, error, said):
    with pytest.raises((error, TypeError), match=said):
        setup(cells(30), **change)


def test_wrong_data_are_refused():
    with pytest.raises(TypeError, match="MuData"):
        setup(cells(30)["rna"])
    for name, x, said in (
        ("rna", 0.5, "fractions"),
        ("prot", -1.0, "negative"),
        ("atac", np.nan, "NaN"),
    ):
        wrong = cells(30)
        values = wrong[name].X.toarray()
        values[0, 0] = x
        wrong.mod[name].X = sparse.csr_matrix(values)
        with pytest.raises(ValueError, match=said):
            setup(wrong)
    with pytest.raises(ValueError, match="not registered"):
        scldm.MultiLDM(cells(30))
    with pytest.raises(ValueError, match="poisson"):
        counts = cells(30)
        counts.mod["atac"].X = counts["atac"].X * 3
        setup(counts)
        scldm.MultiLDM(counts)


def test_a_wrong_question_is_refused(trained, new):
    _, model = trained
    for arguments, said in (
        ({"source": "rna", "target": "rna"}, "share"),
        ({"source": "rna", "target": "adt"}, "not known"),
        ({"source": [], "target": "rna"}, "empty"),
        ({"source": "rna", "target": "protein", "n_samples": 0}, "n_samples"),
        ({"source": "rna", "target": "protein", "dose": 1.0}, "not a registered condition"),
    ):
        with pytest.raises(ValueError, match=said):
            model.translate(new, **arguments)
    with pytest.raises(ValueError, match="80 of 400 cells have none of"):
        model.translate(source="protein", target="rna")
    with pytest.raises(ValueError, match="nb_mixture"):
        model.get_protein_foreground_probability()
    with pytest.raises(TypeError, match="needed"):
        model.translate(new["rna"], source=["rna", "atac"], target="protein")
    untrained = cells(30)
    setup(untrained)
    with pytest.raises(RuntimeError, match="train"):
        scldm.MultiLDM(untrained).translate(source="rna", target="protein")


def test_the_diffusion_alone_stops_early_unless_told_otherwise(monkeypatch):
    mdata = cells(30)
    setup(mdata)
    model = scldm.MultiLDM(mdata, n_hidden=8, n_latent=2)
    asked = {}
    for stage in ("autoencoder", "diffusion"):
        monkeypatch.setattr(
            model,
            f"train_{stage}",
            lambda *_, stage=stage, **kwargs: asked.update({stage: kwargs}),
        )

    def stops(**kwargs):
        model.train(**kwargs)
        return [asked[stage]["early_stopping"] for stage in ("autoencoder", "diffusion")]

    assert stops() == [False, True]
    assert stops(early_stopping=True) == [True, True]
    assert stops(early_stopping=False) == [False, False]
    assert stops(diffusion_kwargs={"early_stopping": False}) == [False, False]


def test_steps_are_more_than_those_of_one_modality(trained):
    _, model = trained
    assert model.generate(5, seed=0).uns["scldm"]["steps"] == 16
    assert model.generate(5, seed=0, steps=4).uns["scldm"]["steps"] == 4
    assert "steps" not in model.generate(5, seed=0, sampler="adaptive").uns["scldm"]


def test_a_latent_does_not_depend_on_the_cells_beside_it(trained, new):
    _, model = trained
    whole = model.get_latent_representation(data=new)
    np.testing.assert_allclose(
        model.get_latent_representation(data=new[:3].copy()), whole[:3], atol=1e-5
    )
    alone = model.get_latent_representation("rna", data=new["rna"])
    np.testing.assert_allclose(alone, model.get_latent_representation("rna", data=new), atol=1e-5)


def test_a_part_of_registered_data_is_not_the_data():
    mdata = cells(60)
    setup(mdata)
    for part in (mdata[:20].copy(), mdata.copy()):
        with pytest.raises(ValueError, match="copy or a part"):
            scldm.MultiLDM(part)


def test_coordinates_follow_their_cells():
    mdata = cells(60)
    place = np.arange(60.0)[:, None] * [1.0, 2.0]
    mdata["rna"].obsm["place"] = place
    setup(mdata, spatial_key="place", modalities={**LAYERS, "spatial_key": "rna"})
    model = scldm.MultiLDM(mdata, n_hidden=8, n_latent=2)
    train(model, max_epochs=1, max_steps=2)
    order = np.random.default_rng(0).permutation(60)
    parts = {"atac": mdata["atac"].copy(), "rna": mdata["rna"][order].copy()}
    moved = model.translate(parts, target="protein", batch="one", seed=0)
    expected = place[mdata.obs_names.get_indexer(moved.obs["source_cell"])]
    np.testing.assert_allclose(moved.obsm["place"], expected)
    with pytest.raises(ValueError, match="lacks 20 of the cells"):
        model.translate({**parts, "rna": parts["rna"][:40].copy()}, target="protein", batch="one")


def test_a_batch_that_stands_with_the_modality_to_predict():
    mdata = cells(60)
    mdata["prot"].obs["lane"] = mdata.obs["donor"].to_numpy()
    setup(mdata, batch_key="lane", modalities={**LAYERS, "batch_key": "prot"})
    model = scldm.MultiLDM(mdata, n_hidden=8, n_latent=2)
    train(model, max_epochs=1, max_steps=2)
    without = md.MuData({"rna": mdata["rna"], "atac": mdata["atac"]})
    with pytest.raises(ValueError, match="`batch=`"):
        model.translate(without, target="protein")
    assert model.translate(without, target="protein", batch="one", seed=0).shape == (60, 12)
    made = model.generate(10, seed=0)
    assert set(made["prot"].obs["lane"]) <= {"one", "two"}
    assert model.translate(made, source="rna", target="protein", seed=0).shape == (10, 12)


def test_imputed_cells_are_the_users_own_copy_and_whole():
    mdata = cells(90)
    mdata = md.MuData(
        {
            "rna": mdata["rna"].copy(),
            "prot": mdata["prot"][:30].copy(),
            "atac": mdata["atac"][:60].copy(),
        }
    )
    mdata.obs["note"] = pd.Categorical([f"note {i % 3}" for i in range(90)])
    mdata["prot"].obs["lane"] = "first"
    mdata.pull_obs("lane")
    setup(mdata, cell_type_key=None, batch_key=None)
    model = scldm.MultiLDM(mdata, n_hidden=8, n_latent=2)
    train(model, max_epochs=1, max_steps=2)
    before = mdata["rna"].X.copy()
    with pytest.raises(ValueError, match="`n_samples=3`.*`return_mean=True`"):
        model.impute(n_samples=3)
    filled = model.impute(seed=0)
    pd.testing.assert_series_equal(filled.obs["note"], mdata.obs["note"])
    assert (
        filled["prot"].obs.loc[mdata["prot"].obs_names, "lane"] == mdata["prot"].obs["lane"]
    ).all()
    assert not any("_scvi" in column or ":" in column for column in filled.obs)
    apart = model.impute({"rna": mdata["rna"].copy(), "protein": mdata["prot"].copy()}, seed=0)
    assert apart["prot"].obs["lane"].notna().sum() == 30 and apart.obs["imputed_atac"].all()
    assert filled.obs["imputed_protein"].sum() == 60 and filled.obs["imputed_atac"].sum() == 30
    assert (filled["atac"].X[:60] != mdata["atac"].X).nnz == 0
    filled["rna"].X.data[:] = 0
    assert (mdata["rna"].X != before).nnz == 0


def test_what_a_user_gives_goes_before_what_the_data_say(trained, new):
    _, model = trained
    odd = new.copy()
    odd.obs["donor"] = "three"
    with pytest.raises(ValueError, match="three"):
        model.translate(odd, source="rna", target="protein")
    found = model.translate(odd, source="rna", target="protein", batch="one", seed=0)
    assert (found.obs["donor"] == "one").all()
    odd.obs["cell_type"] = "unheard of"
    found = model.translate(
        odd, source="rna", target="protein", batch="one", cell_type=None, seed=0
    )
    assert found.obs["cell_type"].isna().all()


def test_odd_data_are_refused_in_words(trained, new):
    _, model = trained
    counts = new["atac"].copy()
    counts.X = counts.X * 7
    with pytest.raises(ValueError, match="largest count of 'atac' is 7"):
        model.translate({"atac": counts}, target="protein", batch="one")
    renamed = new["atac"].copy()
    renamed.obs_names = [f"other_{i}" for i in range(100)]
    with pytest.raises(ValueError, match="no cell in common"):
        model.translate({"rna": new["rna"], "atac": renamed}, target="protein", batch="one")
    twice = new["rna"].copy()
    twice.var_names = ["gene"] * 60
    with pytest.raises(ValueError, match="not unique"):
        model.translate(twice, source="rna", target="protein", batch="one")
    only = md.MuData({"rna": new["rna"]})
    with pytest.raises(ValueError, match="the data have \\['rna'\\]"):
        model.translate(only, source=["rna", "atac"], target="protein", batch="one")
    found = model.translate(only, target="protein", batch="one", seed=0)
    assert found.uns["scldm"]["source"] == ["rna"]
    with pytest.raises(ValueError, match="The data have no 'protein'"):
        model.get_feature_agreement({"rna": new["rna"]}, source="rna", target="protein")
    with pytest.raises(ValueError, match="does not make"):
        model.generate(5, sampler="distilled")
    with pytest.raises(ValueError, match="twice"):
        setup(cells(30), modalities={"rna_layer": "rna", "atac_layer": "rna"})


def test_layers_and_features_come_back():
    mdata = cells(60)
    mdata["rna"].layers["counts"] = mdata["rna"].X.copy()
    mdata["rna"].X = np.log1p(mdata["rna"].X.toarray())
    mdata["rna"].var["kind"] = "gene"
    setup(mdata, rna_layer="counts")
    model = scldm.MultiLDM(mdata, n_hidden=8, n_latent=2)
    train(model, max_epochs=1, max_steps=2)
    made = model.generate(20, seed=0)
    assert (made["rna"].var["kind"] == "gene").all()
    assert model.translate(made, source="rna", target="protein", seed=0).shape == (20, 12)


def test_nan_stands_where_nothing_was_measured():
    mdata = cells(60)
    x = mdata["prot"].X.toarray()
    x[40:] = np.nan
    mdata.mod["prot"].X = x
    mdata.obs["has"] = np.arange(60) < 40
    setup(mdata, measured_keys={"protein": "has"})
    model = scldm.MultiLDM(mdata, n_hidden=8, n_latent=2)
    train(model, max_epochs=1, max_steps=2)
    assert np.isnan(model.get_latent_representation("protein")[40:]).all()
    filled = model.impute(seed=0)["prot"].X
    assert np.isfinite(filled.toarray() if sparse.issparse(filled) else filled).all()


def test_a_minibatch_of_one_cell_is_survived():
    mdata = cells(41)
    setup(mdata)
    model = scldm.MultiLDM(mdata, n_hidden=8, n_latent=2)
    train(model, max_epochs=1, max_steps=2, train_size=1.0, batch_size=40)
    assert all(p.isfinite().all() for p in model.module.parameters())
