"""How far predictions of one modality from others are spread."""

import mudata as md
import numpy as np
import pytest
import scvi
from scipy.stats import norm

import scldm
from scldm.metrics import translation
from scldm.model._spread import best_factor
from scldm.module import JointDiffusion

LAYERS = {"rna_layer": "rna", "protein_layer": "protein"}


DIRECTIONS = {"rna to protein", "protein to rna"}


def cells(n_cells=300, first=0, modalities=("rna", "protein")):
    whole = scldm.data.simulate_multiome(500, 40, 10, 30, seed=0)[first : first + n_cells]
    return md.MuData({name: whole[name].copy() for name in modalities})


@pytest.fixture(scope="module")
def trained():
    mdata = cells()
    scldm.MultiLDM.setup_mudata(mdata, modalities=LAYERS)
    scvi.settings.seed = 0
    model = scldm.MultiLDM(mdata, n_hidden=64, n_latent=4)
    model.train(max_epochs=80, max_steps=600, enable_progress_bar=False)
    return model


@pytest.fixture
def untouched(trained):
    """The model, whose factors are put back."""
    before = dict(trained.spreads_)
    yield trained
    trained.spreads_ = before


def variance(model, **spreads):
    """Mean variance of draws of proteins of the same cells."""
    model.spreads_ = {name.replace("_", " "): factor for name, factor in spreads.items()}
    drawn = model.translate(cells(40, 400), target="protein", n_samples=30, seed=0)
    own = spreads.get("rna_to_protein", 1.0)
    assert drawn.uns["scldm"]["spread"] == {"rna to protein": own}
    return np.log1p(drawn.X.toarray()).reshape(40, 30, -1).var(axis=1).mean()


def gaussian(blur, wider=0.0):
    """Coverage of N(0, 1) by predictions from N(0, (factor * blur) ** 2), by factor."""
    ends = norm.ppf([0.75, 0.95])
    return {f: 2 * norm.cdf(ends * f * blur) - 1 + wider for f in (0.8, 1.0, 1.2)}


@pytest.mark.parametrize("blur", [0.9, 1.0, 1.1, 1.2])
def test_a_known_blur_is_undone_for_the_most_part(blur):
    change = 1 / blur - 1
    found = best_factor(gaussian(blur), n_cells=10**6) - 1
    assert found == pytest.approx(0.85 * change, abs=0.01 + 0.15 * abs(change))


def test_few_cells_and_flat_intervals_change_little():
    few, many = (best_factor(gaussian(1.2), n_cells=n) - 1 for n in (5, 10**6))
    assert many < few / 2 < 0
    flat = {f: np.array([0.6, 0.93]) + 0.02 * f for f in (0.8, 1.0, 1.2)}
    assert best_factor(flat, n_cells=200) == pytest.approx(1, abs=0.1)
    # whatever noise makes of the slope
    rng = np.random.default_rng(0)
    noisy = [{f: x + 0.01 * rng.normal(size=2) for f, x in flat.items()} for _ in range(50)]
    found = [best_factor(x, n_cells=200) for x in noisy]
    assert np.abs(np.array(found) - 1).max() < 0.2 and abs(np.mean(found) - 1) < 0.05
    assert best_factor(gaussian(4.0), n_cells=10**6) >= 0.75


def test_intervals_get_better_where_the_diffusion_is_blurred(untouched, monkeypatch):
    sample = JointDiffusion.sample
    monkeypatch.setattr(
        JointDiffusion, "sample", lambda self, noise, *args: sample(self, 1.5 * noise, *args)
    )
    # cells that the factor is not found on
    others, true = cells(150, 350), np.log1p(cells(150, 350)["protein"].X.toarray())

    def off():
        drawn = untouched.translate(others, target="protein", n_samples=20, seed=1).X.toarray()
        draws = np.log1p(drawn).reshape(150, 20, -1).swapaxes(0, 1)
        shares = [translation.coverage(true, draws, level).mean() for level in (0.5, 0.9)]
        return np.abs(np.array(shares) - [0.5, 0.9]).sum()

    untouched.spreads_ = None
    before = off()
    table = untouched.calibrate(cells(50, 300)).loc["rna to protein"]
    assert table["spread"] < 0.95
    gap = {
        kind: abs(table[f"{kind}_50"] - 0.5) + abs(table[f"{kind}_90"] - 0.9)
        for kind in ("coverage", "calibrated")
    }
    assert gap["calibrated"] < gap["coverage"]
    assert off() < before


def test_a_spread_scales_draws_of_its_modality_only(untouched):
    narrow, as_is, wide = (variance(untouched, rna_to_protein=x) for x in (0.6, 1.0, 1.4))
    assert narrow < 0.95 * as_is < 0.9 * wide
    assert variance(untouched, protein_to_rna=0.5) == as_is


def test_cells_from_noise_are_left_alone(untouched):
    made = {}
    for factor in (0.6, 1.0):
        untouched.spreads_ = dict.fromkeys(DIRECTIONS, factor)
        made[factor] = untouched.generate(50, seed=0)
    for name in LAYERS.values():
        assert (made[0.6][name].X != made[1.0][name].X).nnz == 0


def test_training_sets_it_and_says_how(untouched):
    kept = dict(untouched.spreads_)
    assert set(kept) == DIRECTIONS and all(0.75 <= x <= 1.25 for x in kept.values())
    # what was found before has no part in it
    untouched.spreads_ = dict.fromkeys(DIRECTIONS, 0.8)
    table = untouched.calibrate()
    assert untouched.spreads_ == kept
    shares = ["coverage_50", "coverage_90", "calibrated_50", "calibrated_90"]
    assert list(table.columns) == ["spread", "n_cells", *shares]
    assert dict(table["spread"]) == kept
    assert (table["n_cells"] == len(untouched.validation_indices)).all()


def test_the_users_random_state_is_left_alone(untouched):
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    untouched.calibrate()
    assert (np.random.get_state()[1] == before).all()


def test_it_is_saved(trained, tmp_path):
    trained.save(tmp_path / "model")
    again = scldm.MultiLDM.load(tmp_path / "model", adata=False)
    assert again.spreads_ == trained.spreads_
    with pytest.raises(RuntimeError, match="without its training data"):
        again.calibrate()
    assert again.spreads_ == trained.spreads_
    assert (again.calibrate(cells(60, 400))["n_cells"] == 60).all()


def test_other_data_have_no_validation_cells(trained, tmp_path):
    trained.save(tmp_path / "model")
    other = scldm.MultiLDM.load(tmp_path / "model", adata=cells(50, 400))
    with pytest.raises(RuntimeError, match="data="):
        other.calibrate()
    assert other.spreads_ == trained.spreads_


def test_what_is_refused_changes_nothing(untouched):
    before = dict(untouched.spreads_)
    with pytest.raises(ValueError, match="two modalities"):
        untouched.calibrate({"rna": cells(20, 400)["rna"]})
    with pytest.raises(ValueError, match="max_steps"):
        untouched.train_diffusion(max_steps=-1)
    assert untouched.spreads_ == before


@pytest.mark.parametrize("asked", [{"sampler": "ddpm", "steps": 5}, {"guidance_scale": 2.0}])
def test_it_holds_for_what_it_was_found_with(untouched, asked):
    made = []
    for factor in (0.6, 1.0):
        untouched.spreads_ = dict.fromkeys(DIRECTIONS, factor)
        made.append(untouched.translate(cells(20, 400), target="protein", seed=0, **asked))
        assert made[-1].uns["scldm"]["spread"] == {"rna to protein": 1.0}
    assert (made[0].X != made[1].X).nnz == 0


def test_without_validation_cells_nothing_is_changed():
    mdata = cells(60)
    scldm.MultiLDM.setup_mudata(mdata, modalities=LAYERS)
    model = scldm.MultiLDM(mdata, n_hidden=8, n_latent=2)
    with pytest.raises(RuntimeError, match="train"):
        model.calibrate()
    model.train(
        max_epochs=1, max_steps=2, train_size=1.0, early_stopping=False, enable_progress_bar=False
    )
    assert model.spreads_ is None
    with pytest.raises(ValueError, match="data="):
        model.calibrate()
    assert model.translate(mdata, target="protein").uns["scldm"]["spread"] == {
        "rna to protein": 1.0
    }


def test_each_set_of_modalities_that_is_given_has_its_own():
    names = ("rna", "protein", "atac")
    mdata = cells(80, modalities=names)
    # some cells have no proteins, others neither these nor peaks
    mdata = md.MuData(
        {"rna": mdata["rna"], "protein": mdata["protein"][:60], "atac": mdata["atac"][:70]}
    )
    scldm.MultiLDM.setup_mudata(mdata, modalities={f"{name}_layer": name for name in names})
    model = scldm.MultiLDM(mdata, n_hidden=8, n_latent=2)
    model.train(max_epochs=2, max_steps=5, train_size=0.5, enable_progress_bar=False)
    assert set(model.spreads_) == {
        f"{sources} to {target}"
        for target in names
        for a, b in [[name for name in names if name != target]]
        for sources in (a, b, f"{a} and {b}")
    }
    # of peaks that are there or not, any mean has intervals that hold what they should
    assert all(x == 1 for name, x in model.spreads_.items() if name.endswith("to atac"))
    model.spreads_ = {"rna and atac to protein": 0.9, "rna to protein": 0.8}
    full = model.impute(seed=0, return_mean=True)
    assert full.uns["scldm"]["spread"] == {
        "rna and atac to protein": 0.9,
        "rna to protein": 0.8,
        "rna to atac": 1.0,
    }
    # the ten that lack peaks too keep theirs when the others' spread is changed
    model.spreads_ = {"rna and atac to protein": 0.75, "rna to protein": 0.8}
    again = model.impute(seed=0, return_mean=True)
    order = full.obs_names.get_indexer(mdata["rna"].obs_names)
    first, second = (x["protein"].X[order] for x in (full, again))
    assert (first[:60] == second[:60]).all() and (first[70:] == second[70:]).all()
    assert (first[60:70] != second[60:70]).any()


@pytest.mark.parametrize("name", ["n_cells", "n_samples"])
def test_what_is_not_a_number_of_things_is_refused(trained, name):
    with pytest.raises(ValueError, match=name):
        trained.calibrate(**{name: 0})
