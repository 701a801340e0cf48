"""How far predictions of one modality from others are spread."""

import mudata as md
import numpy as np
import pytest
import scvi
from scipy.stats import norm

import scldm
from scldm.model._spread import _factor, _Interval

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


def gaussian(factor, blur):
    """Coverage of N(0, 1) by predictions from N(0, (factor * blur) ** 2)."""
    ends = norm.ppf([0.75, 0.95]) * factor * blur
    return _Interval(tuple(2 * norm.cdf(ends) - 1))


@pytest.mark.parametrize("blur", [0.9, 1.0, 1.1, 1.2])
def test_a_known_blur_is_undone(blur):
    found = _factor(gaussian(1.0, blur), gaussian(0.9, blur), n_cells=10**6)
    assert found == pytest.approx(1 / blur, abs=0.02)


def test_few_cells_and_flat_intervals_change_little():
    wide = gaussian(1.0, 1.2), gaussian(0.9, 1.2)
    assert abs(_factor(*wide, n_cells=10) - 1) < 0.2 * abs(_factor(*wide, n_cells=10**6) - 1)
    assert _factor(_Interval((0.6, 0.95)), _Interval((0.599, 0.95)), n_cells=10**6) == 1
    assert _factor(gaussian(1.0, 4.0), gaussian(0.9, 4.0), n_cells=10**6) >= 0.75


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
    assert list(table.columns) == ["spread", "n_cells", "coverage_50", "coverage_90"]
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
    assert model.calibrate().empty
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
