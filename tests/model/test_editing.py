"""Cells changed: noise and back, other conditions, ways between cells."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from scldm import SCLDM
from scldm.diffusion import DDIM, Adaptive

STOCHASTIC = ["ddpm", "churn", "resample", DDIM(eta=0.5)]


def _spread(model):
    return model.module.diffusion.scale[:-1].numpy()


@pytest.mark.parametrize(
    ("sampler", "steps"), [("heun", 50), (Adaptive(rtol=1e-6, atol=1e-6), None)]
)
def test_noise_leads_back_to_the_cells(trained, sampler, steps):
    noise = trained.invert(sampler=sampler, steps=steps)
    assert noise.shape == (400, 7)
    diffusion = trained.module.diffusion
    latents = trained._encode(trained.adata)
    rule = Adaptive(rtol=1e-6, atol=1e-6) if steps is None else _rule(sampler)
    z, log_library = diffusion.sample(
        torch.from_numpy(noise).clone(), latents.conditions, rule, steps
    )
    error = np.abs(z.numpy() - trained.get_latent_representation()) / _spread(trained)
    assert error.mean() < 3e-4
    assert np.quantile(error, 0.999) < 1e-3
    torch.testing.assert_close(log_library, latents.log_library, rtol=0, atol=1e-3)
    # the noise of cells that the model knows is what it starts from
    assert np.abs(noise.mean(0)).max() < 0.15
    assert (noise.std(0) > 0.5).all()
    assert (noise.std(0) < 1.2).all()


def _rule(name):
    from scldm.diffusion import SAMPLERS

    return SAMPLERS[name]()


def test_cells_by_place_or_by_mask(trained):
    everyone = trained.invert(steps=10)
    np.testing.assert_allclose(
        trained.invert(indices=[7, 2], steps=10), everyone[[7, 2]], atol=1e-4
    )
    mask = np.arange(400) < 3
    np.testing.assert_allclose(trained.invert(indices=mask, steps=10), everyone[:3], atol=1e-4)


def test_a_counterfactual_batch_removes_the_batch(trained):
    """Donors can be told apart by their latents until all are taken to one donor."""
    adata = trained.adata
    donor = adata.obs["donor"].to_numpy()
    target = 1
    new = trained.counterfactual(batch=target, seed=0)
    assert list(new.obs_names) == list(adata.obs_names)
    assert (new.obs["donor"] == target).all()
    for column in ("type", "guide", "day", "sex", "age", "concentration"):
        assert new.obs[column].tolist() == adata.obs[column].tolist(), column
    np.testing.assert_allclose(new.obsm["X_place"], adata.obsm["X_place"])
    before, after = trained.get_latent_representation(), new.obsm["X_scldm"]
    # cells that were of this donor stay what they are
    kept = np.abs(after - before)[donor == target] / _spread(trained)
    assert np.quantile(kept, 0.99) < 2e-3
    # the others move, and in expression become like it
    expression = np.log1p(1e3 * _shares(trained, after, adata, target))
    old = np.log1p(1e3 * _shares(trained, before, adata, None))
    gap_old, gap_new = (_gap(x, donor, adata.obs["type"]) for x in (old, expression))
    assert gap_new < 0.6 * gap_old
    # and are still cells of their type
    classifier = LogisticRegression(max_iter=1000).fit(before, adata.obs["type"])
    assert classifier.score(after, adata.obs["type"]) > 0.9 * classifier.score(
        before, adata.obs["type"]
    )


def _shares(model, z, adata, donor):
    batch = adata.obs["donor"] if donor is None else donor
    return model.decode(
        z, 1.0, return_mean=True, batch=batch, sex=adata.obs["sex"], age=adata.obs["age"]
    )


def _gap(x, donor, kind):
    """Mean absolute difference of gene means between donors, within types."""
    return np.mean(
        [
            np.abs(x[(kind == k) & (donor == 0)].mean(0) - x[(kind == k) & (donor == 1)].mean(0))
            for k in ("T", "NK", "B")
        ]
    )


def test_a_counterfactual_type_is_that_type(trained):
    adata = trained.adata
    z = trained.get_latent_representation()
    classifier = LogisticRegression(max_iter=1000).fit(z, adata.obs["type"])
    cells = np.flatnonzero(adata.obs["type"] == "T")[:60]
    new = trained.counterfactual(indices=cells, cell_type="B", seed=0, batch_size=1)
    assert (classifier.predict(new.obsm["X_scldm"]) == "B").mean() > 0.8
    again = trained.counterfactual(indices=cells, cell_type=["B"] * 60, seed=0)
    assert (again.X != new.X).nnz == 0
    record = new.uns["scldm"]
    assert record["steps"] == 50
    assert record["conditions"]["cell_type"] == "B"
    assert "own" in record["conditions"]["batch"]


def test_perturbations_and_doses_go_together(trained):
    adata = trained.adata
    control = np.flatnonzero(adata.obs["guide"] == "control")[:5]
    treated = np.flatnonzero(adata.obs["guide"] == "KLF1")[:5]
    with pytest.raises(ValueError, match=r"'KLF1'` needs a `dose` too: cells have \[0.0\].*10.0"):
        trained.counterfactual(indices=control, perturbation="KLF1")
    with pytest.raises(ValueError, match="needs a `dose` too"):
        # a combination that no cell has
        trained.counterfactual(indices=control, perturbation="KLF1+TP53")
    new = trained.counterfactual(indices=control, perturbation="KLF1", dose=10.0, steps=5)
    assert (new.obs["concentration"] == 10).all()
    back = trained.counterfactual(indices=treated, perturbation="control", steps=5)
    assert (back.obs["guide"] == "control").all()
    assert (back.obs["concentration"] == 0).all()
    same = trained.counterfactual(indices=treated, perturbation="TP53", steps=5)
    assert same.obs["concentration"].tolist() == adata.obs["concentration"].iloc[treated].tolist()


def test_the_ends_of_a_way_are_the_cells(trained):
    adata = trained.adata
    kinds = adata.obs["type"].to_numpy()
    start, end = (adata[np.flatnonzero(kinds == kind)[:40]].copy() for kind in ("T", "B"))
    way = trained.interpolate(start, end, n_points=5, seed=0)
    assert way.n_obs == 200
    assert way.obs["start"].tolist() == np.repeat(start.obs_names, 5).tolist()
    assert way.obs["end"].tolist() == np.repeat(end.obs_names, 5).tolist()
    assert way.obs["share"].tolist() == [0, 0.25, 0.5, 0.75, 1] * 40
    z = way.obsm["X_scldm"].reshape(40, 5, -1) / _spread(trained)
    first, last = (trained.get_latent_representation(x) / _spread(trained) for x in (start, end))
    np.testing.assert_allclose(z[:, 0], first, atol=2e-3)
    np.testing.assert_allclose(z[:, -1], last, atol=2e-3)
    # the middle lies between: nearer to either end than the ends to each other
    apart = np.linalg.norm(first - last, axis=1)
    for point in (first, last):
        assert (np.linalg.norm(z[:, 2] - point, axis=1) < apart).mean() > 0.9
    to_start = np.linalg.norm(z - first[:, None], axis=2).mean(0)
    assert (np.diff(to_start) > 0).all()


def test_conditions_on_the_way_are_those_that_are_shared(trained):
    adata = trained.adata
    start, end = adata[:30].copy(), adata[30:60].copy()
    way = trained.interpolate(start, end, n_points=3, seed=0, steps=5)
    for column in ("type", "day", "guide"):
        one, other = start.obs[column].to_numpy(), end.obs[column].to_numpy()
        agree = one == other
        if column == "guide":
            agree &= start.obs["concentration"].to_numpy() == end.obs["concentration"].to_numpy()
        seen = way.obs[column].isna().to_numpy().reshape(30, 3)
        assert np.array_equal(seen, np.repeat(~agree[:, None], 3, axis=1)), column
        kept = way.obs[column].to_numpy().reshape(30, 3)[agree]
        assert (kept == one[agree, None]).all()
    assert np.isnan(way.obsm["X_place"]).all()
    # the decoder needs one: that of the nearer end
    donors = way.obs["donor"].to_numpy().reshape(30, 3)
    assert (donors[:, 0] == start.obs["donor"]).all()
    assert (donors[:, 2] == end.obs["donor"]).all()
    assert way.obs["age"].notna().all()


@pytest.mark.parametrize("sampler", STOCHASTIC)
def test_rules_that_add_noise_are_refused(trained, sampler):
    cells = trained.adata[:2].copy()
    for call in (
        lambda: trained.invert(sampler=sampler),
        lambda: trained.counterfactual(sampler=sampler, batch=0),
        lambda: trained.interpolate(cells, cells, sampler=sampler),
    ):
        with pytest.raises(ValueError, match="adds noise at every step, which has no way back"):
            call()


def test_the_adaptive_sampler_takes_no_steps(trained):
    new = trained.counterfactual(indices=range(5), batch=0, sampler="adaptive", seed=0)
    assert "steps" not in new.uns["scldm"]
    with pytest.raises(ValueError, match="has no meaning for an adaptive sampler"):
        trained.invert(sampler="adaptive", steps=10)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "No condition is changed"),
        ({"celltype": "B"}, "`celltype` is not a registered condition"),
        ({"cell_type": "Bcell"}, "is not a known cell type"),
        ({"cell_type": None}, "`cell_type=None` says no value"),
        ({"cell_type": ["B", "T"]}, "`cell_type` has 2 values for 400 cells"),
        ({"cell_type": "B", "indices": [0, 400]}, "`indices` has 400"),
        ({"cell_type": "B", "indices": [-1]}, "`indices` has -1"),
        ({"cell_type": "B", "indices": [True, False]}, "one boolean for each of the 400"),
        ({"cell_type": "B", "steps": 0}, "`steps=0` must be"),
        ({"cell_type": "B", "sampler": "distilled"}, "has no way back to noise"),
    ],
)
def test_wrong_counterfactuals(trained, arguments, words):
    with pytest.raises(ValueError, match=words):
        trained.counterfactual(**arguments)


def test_wrong_ways(trained):
    adata = trained.adata
    with pytest.raises(ValueError, match="`start` has 2 cells and `end` 3"):
        trained.interpolate(adata[:2].copy(), adata[:3].copy())
    with pytest.raises(ValueError, match="`n_points=1` leaves no room"):
        trained.interpolate(adata[:2].copy(), adata[:2].copy(), n_points=1)


def test_an_untrained_model_says_so(adata):
    SCLDM.setup_anndata(adata, layer="counts", cell_type_key="type")
    model = SCLDM(adata)
    for call in (
        model.invert,
        lambda: model.counterfactual(cell_type="T"),
        lambda: model.interpolate(adata, adata),
    ):
        with pytest.raises(RuntimeError, match="diffusion is not trained"):
            call()


def test_a_dose_of_control_cells_is_one_of_theirs(trained):
    control = np.flatnonzero(trained.adata.obs["guide"] == "control")[:20]
    new = trained.counterfactual(indices=control, cell_type="B", dose=10.0, seed=0)
    # no control cell has this dose, and the network knows none of a control
    assert (new.obs["concentration"] == 0).all()
