"""Later states of cells: what they are, in what form, and what is refused."""

import copy
import warnings

import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from anndata import AnnData

from scldm import SCLDM
from scldm.data import simulate_branching
from scldm.diffusion import EntropicTransport, UnbalancedTransport
from scldm.metrics import energy_distance
from scldm.model import TRAJECTORY_METHODS, TrajectoryMethod
from scldm.model._conditions import Number
from scldm.model._trajectory_methods import FlowThroughTime, Rollout

METHODS = list(TRAJECTORY_METHODS)
BRANCH = 2.3


def branching_model(**train):
    scvi.settings.seed = 0
    adata = simulate_branching(120, 80, times=range(7), branch_time=BRANCH, seed=0)
    adata.obs["batch"] = np.where(np.arange(adata.n_obs) % 2, "one", "two")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        SCLDM.setup_anndata(adata, time_key="time", batch_key="batch", cell_type_key="fate")
        model = SCLDM(adata, n_latent=6, n_hidden=64, width=32, depth=2)
        model.train(
            max_epochs=60,
            max_steps=300,
            trajectory_kwargs={"max_steps": 600, "growth_key": "growth", **train},
            enable_progress_bar=False,
        )
    return model


@pytest.fixture(scope="module")
def model():
    """A trained model of cells that branch. Tests must not change it."""
    return branching_model()


def starting(model, n=40):
    return model.adata[np.flatnonzero(model.adata.obs["time"] == 0)[:n]].copy()


@pytest.mark.parametrize("method", METHODS)
def test_layout(model, method):
    cells = starting(model, 7)
    new = model.predict_trajectory(cells, [2, 1.5, 4], method=method, n_samples=3, seed=0)
    assert new.shape == (7 * 3 * 3, model.adata.n_vars)
    assert (new.X.data == new.X.data.round()).all() and new.X.data.min() >= 0
    assert new.obs["source_cell"].tolist() == np.repeat(cells.obs_names, 9).tolist()
    assert new.obs["sample"].tolist() == np.tile(np.repeat([0, 1, 2], 3), 7).tolist()
    assert new.obs["time"].tolist() == [2, 1.5, 4] * 21
    own = cells.obs["batch"].loc[new.obs["source_cell"]]
    assert (new.obs["batch"].to_numpy() == own.to_numpy()).all()
    assert new.obs_names.is_unique
    assert new.uns["scldm"]["method"] == method and new.uns["scldm"]["seed"] == 0


@pytest.mark.parametrize("method", METHODS)
def test_seed_decides_whatever_the_batch_size_and_the_global_state(model, method):
    def predict(**kwargs):
        return model.predict_trajectory(starting(model), [1, 3], method=method, **kwargs)

    torch.manual_seed(1)
    first = predict(seed=0, batch_size=256, n_samples=7)
    torch.manual_seed(2)
    again = predict(seed=0, batch_size=1024, n_samples=7)
    np.testing.assert_array_equal(first.X.toarray(), again.X.toarray())
    assert (predict(seed=1, n_samples=7).X != first.X).nnz > 0


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_times_does_not_matter(model, method):
    cells = starting(model, 5)

    def latents(times):
        new = model.predict_trajectory(cells, times, method=method, seed=0)
        return new.obsm["X_scldm"].reshape(5, 3, -1)

    np.testing.assert_allclose(latents([1, 2.5, 4])[:, [2, 0, 1]], latents([4, 1, 2.5]), atol=1e-5)


@pytest.mark.parametrize("method", ["rollout", "flow"])
@pytest.mark.parametrize("own", [1.4, 1.6])
def test_a_cell_between_time_points_starts_where_it_is(model, method, own):
    cells = model.adata[np.flatnonzero(model.adata.obs["time"] == 2)[:20]].copy()
    cells.obs["time"] = own

    def latents(time):
        return model.predict_trajectory(cells, time, method=method, seed=0).obsm["X_scldm"]

    still = latents(own)
    near, far = (np.square(latents(t) - still).sum(axis=1).mean() for t in (own + 0.05, 4))
    assert near < 0.2 * far
    with pytest.raises(ValueError, match="before the time"):
        latents(own - 0.1)


def test_predicted_populations_are_like_the_measured_ones(model):
    adata = model.adata
    latents = model.get_latent_representation(give_mean=False)
    time = adata.obs["time"].to_numpy()
    scale = latents.std(axis=0)
    start = np.flatnonzero(time == 0)
    for method in ("rollout", "flow"):
        new = model.predict_trajectory(
            adata, [3], indices=start, method=method, n_samples=3, seed=0
        )
        new = new.obsm["X_scldm"] / scale
        own = energy_distance(new, latents[time == 3] / scale)
        still = energy_distance(latents[start] / scale, latents[time == 3] / scale)
        assert own < 0.25 * still


def test_rollouts_branch_and_the_flow_does_not(model):
    cells = starting(model, 10)

    def spread(method):
        new = model.predict_trajectory(cells, 6, method=method, n_samples=20, seed=0)
        return new.obsm["X_scldm"].reshape(10, 20, -1).var(axis=1).sum(axis=1).mean()

    assert spread("rollout") > 1.5 * spread("flow")


def test_means_are_means_over_paths(model):
    cells = starting(model, 4)
    mean = model.predict_trajectory(cells, [1, 5], n_samples=6, return_mean=True, seed=0)
    drawn = model.predict_trajectory(cells, [1, 5], n_samples=6, seed=0)
    assert mean.shape == (8, model.adata.n_vars)
    weight = drawn.obs["weight"].to_numpy().reshape(4, 6, 2)
    assert weight[..., 1].std() > 0.01
    weight = (weight / weight.sum(axis=1, keepdims=True))[..., None]
    expected = (weight * drawn.obsm["X_scldm"].reshape(4, 6, 2, -1)).sum(axis=1).reshape(8, -1)
    np.testing.assert_allclose(mean.obsm["X_scldm"], expected, atol=1e-5)
    assert mean.obs["time"].tolist() == [1, 5] * 4
    assert mean.obs["source_cell"].tolist() == np.repeat(cells.obs_names, 2).tolist()
    counts = drawn.X.toarray().reshape(4, 6, 2, -1).mean(axis=1).reshape(8, -1)
    assert np.corrcoef(counts.ravel(), np.asarray(mean.X).ravel())[0, 1] > 0.95


def test_at_its_own_time_a_cell_is_itself(model):
    cells = starting(model, 30)
    new = model.predict_trajectory(cells, [0, 1], n_samples=20, seed=0)
    own = new[new.obs["time"] == 0].obsm["X_scldm"].reshape(30, 20, -1).mean(axis=1)
    mean = model.get_latent_representation(cells)
    assert np.corrcoef(own.ravel(), mean.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("method", METHODS)
def test_cells_have_the_type_that_they_come_to(model, method):
    """No cell is a progenitor at the end, and every one is at the beginning."""
    cells = starting(model, 30)
    new = model.predict_trajectory(cells, [0, 1, 6], method=method, n_samples=4, seed=0)
    kinds = new.obs.groupby("time")["fate"].value_counts().unstack()
    assert (kinds.loc[[0, 1], "progenitor"] == 120).all() and kinds.loc[6, "progenitor"] == 0
    real = model.adata.obs.query("time == 6")["fate"].value_counts(normalize=True)
    weight = new.obs.get("weight", pd.Series(1.0, new.obs_names))
    late = new.obs["time"] == 6
    share = weight[late & (new.obs["fate"] == "A")].sum() / weight[late].sum()
    assert share == pytest.approx(real["A"], abs=0.2)
    latents = new.obsm["X_scldm"][late.to_numpy()]
    is_a = (new.obs["fate"] == "A")[late].to_numpy()
    known = model.adata.obs["time"].to_numpy() == 6
    z, fate = model.get_latent_representation()[known], model.adata.obs["fate"][known]
    centres = [z[(fate == name).to_numpy()].mean(axis=0) for name in "AB"]
    near = [np.square(latents - centre).sum(axis=1) for centre in centres]
    assert ((near[0] < near[1]) == is_a).mean() > 0.9


def test_means_have_the_type_of_most_paths(model):
    cells = starting(model, 20)
    settings = {"n_samples": 9, "seed": 0}
    mean = model.predict_trajectory(cells, [6], return_mean=True, **settings)
    drawn = model.predict_trajectory(cells, [6], **settings)
    is_a = (drawn.obs["fate"] == "A").to_numpy().reshape(20, 9)
    share = np.average(is_a, axis=1, weights=drawn.obs["weight"].to_numpy().reshape(20, 9))
    clear = np.abs(share - 0.5) > 0.1
    assert ((mean.obs["fate"] == "A").to_numpy() == (share > 0.5))[clear].all()


def test_names_of_cells_that_are_not_unique_are_refused(model):
    cells = starting(model, 4)
    cells.obs_names = ["x", "x", "y", "z"]
    with pytest.raises(ValueError, match="names of cells that are not unique"):
        model.predict_trajectory(cells, 2)


def test_the_same_time_in_single_precision_is_not_before_it(model):
    cells = starting(model, 3)
    cells.obs["time"] = np.float32(0.1)
    assert model.predict_trajectory(cells, [0.1, 0.7], seed=0).n_obs == 6


def test_times_between_large_whole_ones_are_kept():
    days = Number("time", "seconds", 86400.0, 1e4, "int64")
    for times in ([86400.0, 86400.5], [86400.0, 86401.0]):
        adata = AnnData(obs=pd.DataFrame(index=["a", "b"]))
        days.write(pd.DataFrame({"time": times}), adata)
        assert adata.obs["seconds"].tolist() == times


def test_training_cells_of_the_first_time_are_the_default(model):
    new = model.predict_trajectory(times=1, seed=0)
    expected = model.adata.obs_names[model.adata.obs["time"] == 0]
    assert new.obs["source_cell"].tolist() == expected.tolist()


def test_beyond_the_last_time_cells_stay_and_a_warning_says_so(model):
    with pytest.warns(UserWarning, match="beyond the last time"):
        new = model.predict_trajectory(starting(model, 3), [6, 9], seed=0)
    latents = new.obsm["X_scldm"].reshape(3, 2, -1)
    np.testing.assert_allclose(latents[:, 0], latents[:, 1], atol=1e-5)
    # also those that start there
    last = model.adata[np.flatnonzero(model.adata.obs["time"] == 6)[:3]].copy()
    with pytest.warns(UserWarning, match="beyond the last time"):
        assert model.predict_trajectory(last, 7, seed=0).n_obs == 3


def test_times_that_no_cell_has_are_guesses_without_a_path(model):
    for when, words in ((99, "99, beyond the last"), (-1, "before the first .*, 0; .* a guess")):
        cells = starting(model, 3)
        if when < 0:
            cells.obs["time"] = -2.0
        with pytest.warns(UserWarning, match=words) as caught:
            model.predict_trajectory(cells, when, method="marginal", seed=0)
        assert len([w for w in caught if "guess" in str(w.message)]) == 1
    with pytest.warns(UserWarning, match="`time` has 99, outside of what training cells have"):
        model.counterfactual(starting(model, 3), time=99, seed=0)


def test_time_points_that_end_early_are_the_end(model):
    """Also where cells are later: nothing was learned of them."""
    first = copy.deepcopy(model.trajectory_)
    knots = np.asarray(first["knots"])
    try:
        model.trajectory_ = {**first, "knots": knots[:5]}
        with pytest.warns(
            UserWarning, match="beyond the last time point of the training cells, 4"
        ):
            model.predict_trajectory(starting(model, 3), 6, seed=0)
    finally:
        model.trajectory_ = first


def test_cells_of_several_times_go_from_their_own(model):
    rows = [np.flatnonzero(model.adata.obs["time"] == t)[0] for t in (0, 3, 5)]
    new = model.predict_trajectory(model.adata, [5], indices=rows, n_samples=2, seed=0)
    assert new.n_obs == 6
    with pytest.raises(
        ValueError, match=r"`times` has 4, before the time of 1 of the cells \(5 or later\)"
    ):
        model.predict_trajectory(model.adata, [4], indices=rows)


def test_own_methods_and_settings(model):
    class Still(TrajectoryMethod):
        def block(self, job, block, rows):
            x = job.put_together(job.start(block, rows))
            return x.unsqueeze(1).repeat(1, len(job.times), 1)

    cells = starting(model, 5)
    still = model.predict_trajectory(cells, [1, 5], method=Still(), seed=0)
    latents = still.obsm["X_scldm"].reshape(5, 2, -1)
    np.testing.assert_array_equal(latents[:, 0], latents[:, 1])
    assert still.uns["scldm"]["method"] == "Still"

    def spread(method):
        new = model.predict_trajectory(cells, 0.5, method=method, n_samples=60, seed=0)
        return new.obsm["X_scldm"].reshape(5, 60, -1).var(axis=1).sum()

    assert spread(Rollout(noise=1.0)) > spread(Rollout())
    assert spread(FlowThroughTime(noise=1.0)) > spread(FlowThroughTime())
    for odd in ({"noise": -1}, {"clock": 0}, {"clock": "4"}):
        with pytest.raises(ValueError, match=f"`{next(iter(odd))}="):
            Rollout(**odd)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"times": None}, "`times` is missing"),
        ({"times": []}, "`times` is empty"),
        ({"times": ["soon"]}, "`times=.* is not a number"),
        ({"times": [1, np.nan]}, "`times` has NaN"),
        ({"times": -1}, "before the time"),
        ({"times": 1, "method": "magic"}, "`method='magic'`"),
        ({"times": 1, "n_samples": 0}, "`n_samples=0`"),
        ({"times": 1, "sampler": "ddpm"}, "adds noise"),
        ({"times": 1, "steps": 0}, "`steps=0`"),
        ({"times": [1, 1]}, "`times` has 1 twice"),
        ({"times": 1, "batch_size": 0}, "`batch_size=0`"),
    ],
)
def test_odd_requests_are_refused(model, kwargs, words):
    with pytest.raises(ValueError, match=words):
        model.predict_trajectory(starting(model, 3), **kwargs)


def test_text_that_says_a_number_is_one(model):
    new = model.predict_trajectory(starting(model, 2), ["1", "2.5"], seed=0)
    assert new.obs["time"].tolist() == [1, 2.5] * 2


def test_training_says_what_is_wrong(adata):
    SCLDM.setup_anndata(adata, layer="counts")
    model = SCLDM(adata)
    with pytest.raises(RuntimeError, match="trained autoencoder"):
        model.train_trajectory()
    model.autoencoder_trained_ = True
    with pytest.raises(ValueError, match="No time is registered"):
        model.train_trajectory()
    with pytest.raises(ValueError, match="No time is registered"):
        model.predict_trajectory(times=1)


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"transport": "plane"}, ValueError, "`transport='plane'`"),
        ({"within": ["time"]}, ValueError, "`within='time'`"),
        ({"growth_key": "nothing"}, KeyError, "`growth_key='nothing'`"),
        ({"growth_key": "fate"}, ValueError, "`growth_key='fate'`"),
        ({"time_points": [1]}, ValueError, "`time_points`"),
        ({"max_steps": 0}, ValueError, "`max_steps=0`"),
        ({"growth_key": "wild"}, ValueError, "`growth_key='wild'`.*per unit"),
        ({"plan_kwargs": {"rate": 1}}, TypeError, "rate"),
        ({"early_stopping": True}, TypeError, "`early_stopping`"),
        ({"max_stepss": 1}, TypeError, "max_stepss"),
    ],
)
def test_odd_training_is_refused_and_what_was_trained_stays(model, kwargs, error, words):
    model.adata.obs["wild"] = np.arange(model.adata.n_obs)
    expected = model.predict_trajectory(starting(model, 3), 2, seed=0)
    with pytest.raises(error, match=words):
        model.train_trajectory(**kwargs)
    again = model.predict_trajectory(starting(model, 3), 2, seed=0)
    np.testing.assert_array_equal(expected.X.toarray(), again.X.toarray())


def test_growth_rates_are_those_given():
    model = branching_model(max_steps=5, transport="entropic")
    rates = model.get_growth_rates()
    given = model.adata.obs["growth"].loc[rates.index]
    time = model.adata.obs["time"].loc[rates.index]
    assert time.max() < 6
    for t in (4, 5):
        own = rates[time == t]
        gap = own[given[time == t] > 0].mean() - own[given[time == t] == 0].mean()
        assert gap == pytest.approx(0.1, abs=0.01)


def test_weights_follow_growth(model):
    obs = model.adata.obs
    late = np.flatnonzero(obs["time"] == 4)
    new = model.predict_trajectory(model.adata, [4, 5, 6], indices=late, n_samples=3, seed=0)
    weight = new.obs["weight"].to_numpy().reshape(-1, 3)
    np.testing.assert_allclose(weight.mean(axis=0), 1)
    np.testing.assert_allclose(weight[:, 0], 1)
    is_a = np.repeat((obs["fate"].iloc[late] == "A").to_numpy(), 3)
    assert weight[is_a, 2].mean() > weight[~is_a, 2].mean()
    mean = model.predict_trajectory(
        model.adata, [6], indices=late, n_samples=3, return_mean=True, seed=0
    )
    np.testing.assert_allclose(
        mean.obs["weight"], weight[:, 2].reshape(-1, 3).mean(axis=1), rtol=0.2
    )


def test_unbalanced_transport_estimates_growth_and_others_say_so():
    model = branching_model(max_steps=5, growth_key=None, transport=UnbalancedTransport())
    assert np.isfinite(model.get_growth_rates()).all()
    scvi.settings.seed = 0
    model.train_trajectory(
        5,
        transport=EntropicTransport(0.2),
        growth_key=None,
        within=["batch"],
        enable_progress_bar=False,
    )
    assert model.trajectory_["within"] == ["batch"]
    with pytest.raises(RuntimeError, match="Growth is not known"):
        model.get_growth_rates()
    assert "weight" not in model.predict_trajectory(starting(model, 3), 2, seed=0).obs
    # conditions that cells keep go along
    assert model.predict_trajectory(starting(model, 3), 2, seed=0).n_obs == 3


def test_a_saved_model_predicts_the_same(model, tmp_path):
    cells = starting(model, 5)
    expected = model.predict_trajectory(cells, [1, 3.5], seed=0)
    model.save(tmp_path / "model")
    loaded = SCLDM.load(tmp_path / "model", model.adata)
    again = loaded.predict_trajectory(cells, [1, 3.5], seed=0)
    np.testing.assert_array_equal(expected.X.toarray(), again.X.toarray())
    assert loaded.get_growth_rates().equals(model.get_growth_rates())
    alone = SCLDM.load(tmp_path / "model", adata=False)
    again = alone.predict_trajectory(cells, [1, 3.5], seed=0)
    np.testing.assert_array_equal(expected.X.toarray(), again.X.toarray())
    # cells it was shown are not those it was trained on
    for ask in (
        lambda: alone.predict_trajectory(times=1),
        lambda: alone.fate_probabilities(cells, "fate"),
        lambda: alone.branch_points("fate"),
        lambda: alone.train_trajectory(5),
    ):
        with pytest.raises(RuntimeError, match="without its training data"):
            ask()


def test_times_that_cannot_be_learned_from_are_said(adata):
    adata.obs["day"] = np.where(np.arange(adata.n_obs) < 3, 0.0, 1.0)
    scvi.settings.seed = 0
    SCLDM.setup_anndata(adata, layer="counts", time_key="day")
    model = SCLDM(adata, n_latent=3, n_hidden=16, width=16, depth=1)
    with pytest.warns(UserWarning, match="No trajectories are learned.*less than 5 cells"):
        model.train(max_epochs=1, max_steps=2, enable_progress_bar=False)
    assert not model.trajectory_trained_
    with pytest.raises(ValueError, match="less than 5 cells"):
        model.train(
            max_epochs=1,
            max_steps=2,
            trajectory_kwargs={"max_steps": 1},
            enable_progress_bar=False,
        )


def of_two_drugs(**columns):
    """Cells that a drug takes one way and its absence another, which begin alike."""
    rng = np.random.default_rng(0)
    time, drug = np.repeat([0, 1, 2], 120), np.tile(np.repeat(["control", "A"], 60), 3)
    rate = rng.uniform(2, 8, 20) * np.ones((360, 1))
    rate[:, :8] *= np.exp(0.6 * time * np.where(drug == "A", 1, -1))[:, None]
    obs = pd.DataFrame({"time": time, "drug": drug, **columns}, index=np.arange(360).astype(str))
    adata = AnnData(rng.poisson(rate).astype(np.float32), obs)
    SCLDM.setup_anndata(adata, time_key="time", perturbation_key="drug", **{
        "batch_key": "batch" if "batch" in columns else None
    })  # fmt: skip
    scvi.settings.seed = 0
    model = SCLDM(adata, n_latent=4, n_hidden=32, width=32, depth=2)
    model.train_autoencoder(60, enable_progress_bar=False)
    return model


def test_cells_keep_their_perturbation_where_all_times_have_it():
    model = of_two_drugs(batch=np.tile(["one", "two"], 180))
    model.train_trajectory(400, enable_progress_bar=False)
    assert model.trajectory_["within"] == ["perturbation", "batch"]
    new = model.predict_trajectory(times=2, n_samples=2, seed=0)
    up = np.asarray(new.X[:, :8].sum(axis=1)).ravel()
    drug = (new.obs["drug"] == "A").to_numpy()
    assert np.median(up[drug]) > 3 * np.median(up[~drug])
    model.train_trajectory(1, within=[], enable_progress_bar=False)
    assert model.trajectory_["within"] == []


def test_a_perturbation_that_begins_later_is_not_kept_and_it_is_said():
    model = of_two_drugs()
    begun = (model.adata.obs["time"] > 0) | (model.adata.obs["drug"] == "control")
    SCLDM.setup_anndata(
        later := model.adata[begun].copy(), time_key="time", perturbation_key="drug"
    )
    model = SCLDM(later, n_latent=2, n_hidden=8, width=16, depth=1)
    model.train_autoencoder(1, enable_progress_bar=False)
    with pytest.warns(UserWarning, match="Not every `perturbation` has five cells at every time"):
        model.train_trajectory(1, enable_progress_bar=False)
    assert model.trajectory_["within"] == []


def test_a_stage_of_steps_takes_no_epochs(model):
    for train in (model.train_trajectory, model.train_diffusion):
        with pytest.raises(
            TypeError, match="`max_epochs` has no meaning here: the stage takes `max_steps`"
        ):
            train(max_epochs=3)


def test_a_single_time_is_left_out_of_training(adata):
    adata.obs["day"] = 2.0
    scvi.settings.seed = 0
    SCLDM.setup_anndata(adata, layer="counts", time_key="day")
    model = SCLDM(adata, n_latent=3, n_hidden=16, width=16, depth=1)
    with pytest.warns(UserWarning, match=r"No trajectories are learned: .*two or more times"):
        model.train(max_epochs=1, max_steps=2, enable_progress_bar=False)
    assert not model.trajectory_trained_
    with pytest.raises(ValueError, match="two or more times"):
        model.train_trajectory()
    with pytest.raises(RuntimeError, match="trajectory is not trained"):
        model.predict_trajectory(times=2)
