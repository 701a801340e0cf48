"""Fates, branches and drivers of a simulated branch whose truth is known."""

import warnings

import numpy as np
import pandas as pd
import pytest
import scvi

from scldm import SCLDM
from scldm.data import simulate_branching
from scldm.model._branches import crossings, curve_of, differing, q_values
from scldm.model._fate_labels import FateLabels

BRANCH = 2.3


@pytest.fixture(scope="module")
def model():
    """A trained model of cells that branch. Tests must not change it."""
    scvi.settings.seed = 0
    adata = simulate_branching(200, 80, times=range(7), branch_time=BRANCH, seed=0)
    adata.obs["label"] = adata.obs["fate"].astype(str).where(adata.obs["time"] > 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        SCLDM.setup_anndata(adata, time_key="time")
        model = SCLDM(adata, n_latent=6, n_hidden=64)
        model.train_autoencoder(80, enable_progress_bar=False)
        model.train_trajectory(800, growth_key="growth", enable_progress_bar=False)
    return model


@pytest.fixture(scope="module")
def fates(model):
    return model.fate_probabilities(targets="fate", n_samples=20, seed=0)


def test_probabilities_are_a_table_of_shares_with_intervals(model, fates):
    assert fates.index.equals(model.adata.obs_names)
    assert list(fates["probability"]) == ["A", "B"]
    np.testing.assert_allclose(fates["probability"].sum(axis=1), 1)
    followed = (model.adata.obs["time"] < 6).to_numpy()
    assert (fates["low"] <= fates["probability"])[followed].all(axis=None)
    assert (fates["high"] >= fates["probability"])[followed].all(axis=None)
    assert fates[["low", "high"]][~followed].isna().all(axis=None)
    assert np.nanmin(fates) >= 0 and np.nanmax(fates) <= 1


def test_fates_agree_with_the_truth(model, fates):
    obs = model.adata.obs
    p = fates["probability", "A"]
    late = (obs["time"] > BRANCH + 2).to_numpy()
    assert (p[late & (obs["fate"] == "A")] > 0.5).mean() > 0.9
    assert (p[late & (obs["fate"] == "B")] < 0.5).mean() > 0.9
    early = ~late & (obs["time"] < BRANCH).to_numpy()
    assert abs(p[early].mean() - obs["p_A"][early].mean()) < 0.1
    assert np.corrcoef(p[early], obs["p_A"][early])[0, 1] > 0.2


def test_seed_decides(model):
    def run(seed):
        rows = np.arange(20)
        return model.fate_probabilities(targets="fate", indices=rows, n_samples=5, seed=seed)

    assert run(0).equals(run(0))
    assert not run(0).equals(run(1))


def test_fates_named_twice_are_one(model):
    twice = model.fate_probabilities(
        targets="fate", fates=["A", "A", "B"], indices=[0, 1], n_samples=3, seed=0
    )
    assert list(twice["probability"]) == ["A", "B"]
    np.testing.assert_allclose(twice["probability"].sum(axis=1), 1)


def test_without_registered_cell_types_a_column_has_to_be_named(model):
    with pytest.raises(ValueError, match="`targets` is missing"):
        model.fate_probabilities()


def test_an_earlier_end_and_cells_without_a_label(model):
    fates = model.fate_probabilities(targets="label", at=5, indices=[0, 1], n_samples=5, seed=0)
    assert list(fates["probability"]) == ["A", "B"]
    one = model.fate_probabilities(
        targets="fate", fates=["B"], indices=[0, 1], n_samples=5, seed=0
    )
    assert (one["probability", "B"] == 1).all()


def test_numbers_can_name_fates_and_rare_ones_are_said(model):
    obs = model.adata.obs
    obs["code"] = obs["fate"].map({"A": 1, "B": 2}).astype(float)
    obs.loc[obs.index[-2:], "code"] = 3
    with pytest.warns(UserWarning, match=r"\['3'\] are no fates"):
        fates = model.fate_probabilities(targets="code", indices=[0], n_samples=2, seed=0)
    assert list(fates["probability"]) == ["1", "2"]
    for wanted in (1, [1.0], "1"):
        one = model.fate_probabilities(
            targets="code", fates=wanted, indices=[0], n_samples=2, seed=0
        )
        assert list(one["probability"]) == ["1"]


def test_who_is_there_already_has_no_interval_and_is_not_its_own_neighbour(model):
    last = np.flatnonzero(model.adata.obs["time"] == 6)[:5]
    fates = model.fate_probabilities(targets="fate", indices=last, n_samples=1, seed=0)
    assert fates[["low", "high"]].isna().all(axis=None)
    # the only cell of a fate would be all of its neighbours that are of it
    names = np.array(["u"] + ["v"] * 20, dtype=object)
    x = np.arange(21.0)[:, None]
    arrived = FateLabels("kind", ["u", "v"], 0, x, names)
    np.testing.assert_allclose(arrived.votes(x[:1]), [[0.0, 1.0]])
    # what is computed in another block of cells differs by rounding
    np.testing.assert_allclose(arrived.votes(x[:1] + 1e-6), [[0.0, 1.0]])
    assert arrived.votes(x[:1] - 0.5)[0, 0] == pytest.approx(1 / 15)


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"targets": "nothing"}, KeyError, "`targets='nothing'`"),
        ({"at": 0}, ValueError, "`at=0`"),
        ({"at": 99}, ValueError, "`at=99`"),
        ({"fates": ["C"]}, ValueError, r"`fates` has \['C'\]"),
        ({"n_samples": 0}, ValueError, "`n_samples=0`"),
        ({"level": 1.0}, ValueError, "`level=1.0`"),
        ({"level": "0.9"}, ValueError, "`level='0.9'`"),
        ({"at": "late"}, ValueError, "`at='late'`"),
        ({"targets": ["fate"]}, KeyError, "`targets="),
        ({"targets": "label", "at": 1}, ValueError, "No fate"),
    ],
)
def test_odd_requests_are_refused(model, kwargs, error, words):
    with pytest.raises(error, match=words):
        model.fate_probabilities(**{"targets": "fate", **kwargs})


def test_the_branch_is_found(model):
    found = model.branch_points("fate", n_samples=20, max_cells=100, seed=0)
    (row,) = found.table.to_dict("records")
    assert (row["first"], row["second"]) == ("A", "B")
    assert abs(row["time"] - BRANCH) < 1.2
    assert row["time"] <= row["half"] <= row["end"]
    assert row["entropy_before"] > 0.7 and row["entropy_after"] < 0.1
    curve = found.curves.loc[("A", "B")]
    assert curve["separation"].iloc[-1] > 2 * curve["separation"].iloc[0]
    role = model.adata.var["role"]
    genes = found.genes.loc[("A", "B")]
    # who leans to a fate differs before it begins
    genes = genes[role[genes.index].isin(["A", "B"]).to_numpy()]
    rising, falling = (genes[genes["log2_fold_change"] * s > 0].index[:5] for s in (1, -1))
    assert set(role[rising]) == {"B"} and set(role[falling]) == {"A"}
    with pytest.raises(ValueError, match="one fate"):
        model.branch_points("fate", fates=["A"])


def test_drivers_are_the_genes_of_the_fate(model, fates):
    late = fates[(model.adata.obs["time"] > BRANCH).to_numpy()]
    drivers = model.driver_genes(late)
    role = model.adata.var["role"]
    for fate in ("A", "B"):
        top = drivers.loc[fate].index[: (role == fate).sum()]
        assert (role[top] == fate).mean() > 0.85
        assert drivers.loc[fate]["correlation"].is_monotonic_decreasing
    with pytest.raises(KeyError, match="not in the data"):
        model.driver_genes(late.rename(index=lambda name: f"x{name}"))
    with pytest.raises(ValueError, match="three or more"):
        model.driver_genes(late.iloc[:2])
    with pytest.raises(ValueError, match="missing"):
        model.driver_genes(late.where(late > 0))
    with pytest.raises(ValueError, match="twice"):
        model.driver_genes(pd.concat([late, late]))
    assert model.driver_genes(late["probability"]).equals(drivers)
    one = model.driver_genes(late["probability", "A"].rename("A"))
    assert one.loc["A"].equals(drivers.loc["A"])


def test_entropy_falls_where_shares_part():
    knot = np.repeat(np.arange(4), 20)
    p = np.where(knot < 2, 0.5, np.where(np.arange(80) % 2, 0.0, 1.0))
    shares = np.stack([p, 1 - p], axis=1)
    x = np.random.default_rng(0).standard_normal((80, 2)) + 9 * ((knot > 1) * p)[:, None]
    curve = curve_of(shares, knot, x, np.array([0.0, 1.0, 2.0, 4.0]))
    np.testing.assert_allclose(curve["entropy"], [1, 1, 0, 0])
    assert curve["separation"].iloc[3] > 5
    found = crossings(curve)
    assert found["time"] == pytest.approx(1.2) and found["half"] == pytest.approx(1.5)
    assert found["end"] == pytest.approx(1.8)


def test_cells_of_other_fates_do_not_count():
    shares = np.full((20, 2), 0.1)
    curve = curve_of(shares, np.zeros(20, int), np.zeros((20, 2)), np.array([0.0]))
    assert curve["n_cells"].tolist() == [0] and curve["entropy"].isna().all()
    assert np.isnan(crossings(curve)["time"])


@pytest.mark.parametrize("entropy", [[0.5, 0.5, 0.5], [0.1, 0.5, 0.9], [1.0, 1.0, 0.95]])
def test_what_loses_no_uncertainty_does_not_part(entropy):
    found = crossings(pd.DataFrame({"time": [0.0, 1.0, 2.0], "entropy": entropy}))
    assert np.isnan(found["time"]) and np.isnan(found["half"])
    assert found["entropy_after"] == entropy[-1]


def test_the_fall_begins_at_the_last_peak():
    curve = pd.DataFrame({"time": [0.0, 1.0, 2.0, 3.0], "entropy": [0.5, 1.0, 0.9, 0.1]})
    found = crossings(curve)
    assert found["entropy_before"] == 1.0 and 2 < found["half"] < 3


def test_labels_that_mean_nothing_do_not_part(model):
    rng = np.random.default_rng(0)
    model.adata.obs["coin"] = rng.choice(["x", "y"], model.adata.n_obs)
    found = model.branch_points("coin", n_samples=10, max_cells=40, seed=0)
    assert found.table["time"].isna().all() and found.genes.empty


def test_differing_genes_agree_with_scipy():
    from scipy.stats import false_discovery_control, mannwhitneyu

    rng = np.random.default_rng(0)
    x = np.log1p(rng.poisson([1.0, 5.0, 2.0], (50, 3)).astype(float))
    x[:20, 1] += 1
    first, second = np.arange(50) < 20, np.arange(50) >= 20
    found = differing(x, first, second, pd.Index(list("abc"))).loc[list("abc")]
    for i, gene in enumerate("abc"):
        test = mannwhitneyu(x[second, i], x[first, i], method="asymptotic", use_continuity=False)
        assert found.loc[gene, "p_value"] == pytest.approx(test.pvalue)
        assert found.loc[gene, "auroc"] == pytest.approx(test.statistic / (20 * 30))
    np.testing.assert_allclose(q_values(found["p_value"].to_numpy()),
                               false_discovery_control(found["p_value"]))  # fmt: skip
    assert differing(x, first, np.zeros(50, bool), pd.Index(list("abc"))).empty
