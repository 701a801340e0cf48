"""Control cells under perturbations: pairing, latent arithmetic, the flow, and the methods."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from scldm import SCLDM
from scldm.baselines import Ridge
from scldm.model import PERTURBATION_METHODS, PerturbationMethod
from scldm.model._conditions import Dose
from scldm.model._embeddings import Embeddings
from scldm.model._pairing import Group, compared
from scldm.model._perturbations import PerturbationSet
from scldm.model._shifts import Shifts

METHODS = list(PERTURBATION_METHODS)


def control_cells(model, n=30):
    adata = model.adata
    return adata[np.flatnonzero(adata.obs["guide"] == "control")[:n]].copy()


def shifts_of(model):
    return Shifts.from_plain(model._perturbation_condition(), model.shifts_)


# -- who is compared with whom ------------------------------------------------------------------


def frame_of(rows):
    frame = pd.DataFrame(rows, columns=["perturbation", "cell_type", "batch"])
    return frame.astype("category")


def test_cells_are_compared_with_control_cells_of_their_context():
    rows = [("control", t, b) for t in "BT" for b in "12" for _ in range(6)]
    rows += [("A", t, b) for t in "BT" for b in "12" for _ in range(3)]
    frame = frame_of(rows)
    groups = compared(
        frame, PerturbationSet("p", ["control", "A"], "control"), ["cell_type", "batch"]
    )
    assert len(groups) == 4
    for group in groups:
        inside = frame.iloc[np.concatenate([group.perturbed, group.control])]
        assert inside["cell_type"].nunique() == inside["batch"].nunique() == 1
        assert (frame["perturbation"].iloc[group.control] == "control").all()
        assert len(group.control) == 6
        assert len(group.perturbed) == 3


def test_a_batch_without_control_cells_borrows_those_of_the_type():
    """As where every perturbation was sequenced by itself."""
    rows = [("control", "B", "1")] * 6 + [("A", "B", "2")] * 3
    (group,) = compared(
        frame_of(rows), PerturbationSet("p", ["control", "A"], "control"), ["cell_type", "batch"]
    )
    assert group.control.tolist() == list(range(6))


def test_where_controls_are_of_another_time_the_batch_still_counts():
    rows = [("control", "B", b, 0.0) for b in "12" for _ in range(6)]
    rows += [("A", "B", b, float(t)) for b in "12" for t in (6, 24) for _ in range(3)]
    frame = frame_of([row[:3] for row in rows]).assign(time=[row[3] for row in rows])
    condition = PerturbationSet("p", ["control", "A"], "control")
    groups = compared(frame, condition, ["cell_type", "time", "batch"])
    assert len(groups) == 4
    for group in groups:
        assert frame["batch"].iloc[[*group.perturbed, *group.control]].nunique() == 1
    # control cells of that time go first, whatever their batch
    later = frame.assign(time=np.where(frame["batch"] == "1", 6.0, frame["time"]))
    groups = compared(later, condition, ["cell_type", "time", "batch"])
    (other,) = (g for g in groups if g.context == ("B", 6.0, "2"))
    assert set(frame["batch"].iloc[other.control]) == {"1"}


def test_a_type_without_control_cells_is_left_out_with_a_warning():
    rows = [("control", "B", "1")] * 6 + [("A", "B", "1")] * 3 + [("A", "T", "1")] * 3
    with pytest.warns(UserWarning, match=r"No control cell \('control'\) .*'T'"):
        groups = compared(
            frame_of(rows),
            PerturbationSet("p", ["control", "A"], "control"),
            ["cell_type", "batch"],
        )
    assert len(groups) == 1


# -- latent arithmetic --------------------------------------------------------------------------


def test_a_shift_is_the_mean_difference_within_contexts():
    """Contexts differ in level and in their share of perturbed cells, which must not leak in."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, 4000)
    treated = rng.random(4000) < np.where(kind == 1, 0.8, 0.2)
    x = rng.normal(size=(4000, 3)) * 0.1 + 5.0 * kind[:, None] + treated[:, None] * [1.0, -2.0, 0]
    groups = [
        Group(
            "A",
            np.nan,
            np.flatnonzero(treated & (kind == k)),
            np.flatnonzero(~treated & (kind == k)),
            (k,),
        )
        for k in range(2)
    ]
    shifts = Shifts.fit(x, groups, PerturbationSet("p", ["control", "A"], "control"))
    np.testing.assert_allclose(shifts.at("A"), [1, -2, 0], atol=0.02)
    np.testing.assert_array_equal(shifts.at("control"), np.zeros(3))


def test_contexts_count_by_their_cells_also_without_doses():
    rows = [("control", t, "1") for t in "BT" for _ in range(400)]
    rows += [("A", "B", "1")] * 400 + [("A", "T", "1")]
    condition = PerturbationSet("p", ["control", "A"], "control")
    groups = compared(frame_of(rows), condition, ["cell_type", "batch"])
    x = np.zeros((len(rows), 1))
    x[800:1200], x[1200] = 1.0, 100.0
    weights = np.array([200 / 220, (400 / 401) / (400 / 401 + 20)])
    expected = weights @ [1.0, 100.0] / weights.sum()
    assert Shifts.fit(x, groups, condition).at("A") == pytest.approx(expected)


def test_a_control_named_in_a_combination_is_no_member():
    """As in the labels of Norman et al., ``A+ctrl``."""
    rows = [("ctrl", "B", "1")] * 10 + [("A+ctrl", "B", "1")] * 5 + [("ctrl+C", "B", "1")] * 5
    condition = PerturbationSet("p", ["ctrl", "A+ctrl", "ctrl+C"], "ctrl")
    groups = compared(frame_of(rows), condition, ["cell_type"])
    x = np.repeat([[0.0], [1.0], [3.0]], [10, 5, 5], axis=0)
    shifts = Shifts.fit(x, groups, condition)
    assert shifts.at("A+ctrl") == shifts.at("A") == 1
    assert shifts.at("C+A") == 4


def test_confounded_batches_borrow_all_control_cells():
    rows = [("control", "B", "1")] * 6 + [("A", "B", "2")] * 3
    condition = PerturbationSet("p", ["control", "A"], "control")
    (group,) = compared(frame_of(rows), condition, ["batch"])
    assert group.control.tolist() == list(range(6))


def dosed(doses, changes, **kwargs):
    condition = PerturbationSet(
        "p", ["control", "A"], "control", Dose("dose", "d", 0, 1, "float", unit=1.0), **kwargs
    )
    return Shifts(condition, {"A": (np.array(doses, float), np.array(changes, float))})


def test_over_doses_the_shift_is_a_monotone_curve_through_what_was_seen():
    shifts = dosed([1, 10, 100], [[1.0, -1], [4, -1.1], [4.5, -9]])
    for dose, change in zip(*shifts.curves["A"], strict=True):
        np.testing.assert_allclose(shifts.at("A", dose), change)
    path = np.array([shifts.at("A", dose) for dose in np.geomspace(0.01, 1000, 400)])
    assert (np.diff(path[:, 0]) >= 0).all()
    assert (np.diff(path[:, 1]) <= 0).all()
    # no jumps, nothing at dose zero, and no guess beyond the highest dose
    assert np.abs(np.diff(path, axis=0)).max() < 0.3
    np.testing.assert_allclose(shifts.at("A", 0.0), [0, 0])
    assert np.abs(shifts.at("A", 0.01)).max() < 0.05
    np.testing.assert_allclose(shifts.at("A", 1e6), [4.5, -9])
    with pytest.raises(ValueError, match="`dose=-1` is below 0"):
        shifts.at("A", -1)


def test_a_curve_over_doses_joins_means_of_the_same_contexts():
    """The one context that answers strongly was not seen at the highest dose."""
    rows, x = [], []
    for kind, strength, doses in (("B", 1.0, (1, 3, 10)), ("T", 3.0, (1, 3))):
        for dose in (0, *doses):
            rows += [("A" if dose else "control", kind, "1", dose)] * 30
            x += [[strength * np.log1p(dose), -strength * np.log1p(dose)]] * 30
    frame = frame_of([row[:3] for row in rows]).assign(dose=[float(row[3]) for row in rows])
    dose = Dose("dose", "d", 0, 1, "float", unit=1.0)
    condition = PerturbationSet("p", ["control", "A"], "control", dose)
    shifts = Shifts.fit(np.array(x), compared(frame, condition, ["cell_type"]), condition)
    expected = 2 * np.log1p([1, 3, 10])
    np.testing.assert_allclose(shifts.curves["A"][1], np.stack([expected, -expected], axis=1))


def test_nothing_is_learned_of_doses_below_the_lowest():
    shifts = dosed([1, 10], [[1.0], [2.0]])
    found = [shifts.known_share("A", dose) for dose in (0, 1e-3, 0.1, 0.5, 1, 5, 100)]
    assert found[0] == 0 and found[4:] == [1, 1, 1]
    assert (np.diff(found[:5]) > 0).all() and found[1] < 2e-3
    assert shifts.known_share("control", 5.0) == 0
    # a dose of zero, or logarithms of doses, were seen
    assert dosed([0, 1], [[0.1], [1.0]]).known_share("A", 0.5) == 1
    assert dosed([-2, 1], [[0.1], [1.0]]).known_share("A", -3) == 1


def test_logarithms_of_doses_are_doses_too():
    shifts = dosed([-2, 0, 1], [[1.0, 0], [2.0, 0], [2.5, 0]])
    np.testing.assert_allclose(shifts.at("A", -2), [1, 0])
    np.testing.assert_allclose(shifts.at("A", -9), [1, 0])
    assert 1 < shifts.at("A", -1)[0] < 2


def combined(changes):
    """Shifts of cells whose change is given by context and perturbation."""
    labels = ["control", "A", "B", "C", "A+B"]
    rows, x = [], []
    for context, own in changes.items():
        for label, change in {"control": [0.0] * 3, **own}.items():
            rows += [(label, context, "1")] * 30
            x += [change] * 30
    condition = PerturbationSet("p", labels, "control")
    groups = compared(frame_of(rows), condition, ["cell_type"])
    return Shifts.fit(np.array(x, float), groups, condition)


SINGLES = {"A": [1.0, 0, 0], "B": [0, 2.0, 0], "C": [0, 0, 1.0]}


@pytest.mark.parametrize(("factor", "expected"), [(1.0, 1.0), (0.5, 0.75), (2.0, 1.5)])
def test_unseen_combinations_are_sums_as_far_as_seen_ones_are(factor, expected):
    """One combination seen counts as much as the belief that combinations are additive."""
    shifts = combined({"B": {**SINGLES, "A+B": [factor, 2 * factor, 0]}})
    assert shifts.interaction == pytest.approx(expected)
    np.testing.assert_allclose(shifts.at("A+C"), expected * np.array([1, 0, 1]))
    np.testing.assert_allclose(shifts.at("A+B"), [factor, 2 * factor, 0])


def test_combinations_are_compared_with_sums_of_their_own_context():
    """Members answer three times as strongly in a context that lacks the combination."""
    strong = {label: [3 * x for x in change] for label, change in SINGLES.items()}
    shifts = combined({"B": {**SINGLES, "A+B": [1, 2, 0]}, "T": strong})
    assert shifts.interaction == pytest.approx(1)
    # none has both: nothing is known of how they combine
    shifts = combined({"B": {"A+B": [1, 2, 0]}, "T": strong})
    assert shifts.interaction == 1


def test_perturbations_without_cells_are_guessed_from_embeddings():
    vectors = {"A": [1.0, 0], "B": [0, 1.0], "New": [1.0, 1.0]}
    embeddings = Embeddings("vectors", list(vectors), np.array(list(vectors.values()), np.float32))
    condition = PerturbationSet("p", ["control", "A", "B"], "control", embeddings=embeddings)
    known = {"A": np.array([1.0, 0, 2]), "B": np.array([0, 1.0, 2])}
    shifts = Shifts(condition, {k: (np.array([np.nan]), v[None]) for k, v in known.items()})
    ridge = Ridge(vectors).fit_shifts(known)
    np.testing.assert_allclose(shifts.at("New"), ridge.shift("New"))
    np.testing.assert_allclose(shifts.at("A+New"), known["A"] + ridge.shift("New"))


def test_nothing_is_made_up_of_members_never_seen_alone():
    condition = PerturbationSet("p", ["control", "A", "B+C"], "control")
    shifts = Shifts(condition, {k: (np.array([np.nan]), np.ones((1, 2))) for k in ("A", "B+C")})
    with pytest.raises(ValueError, match=r"'A\+B'.*\['B'\] never stand alone"):
        shifts.at("A+B")


# -- the model ----------------------------------------------------------------------------------


def test_arithmetic_moves_latents_by_the_shift(trained):
    cells = control_cells(trained, 12)
    new = trained.predict_perturbation(
        cells, "KLF1", 10.0, method="arithmetic", n_samples=300, seed=0
    )
    expected = shifts_of(trained).at("KLF1", 10.0)[:-1]
    np.testing.assert_allclose(new.obsm["X_scldm_delta"], np.tile(expected, (3600, 1)), atol=1e-4)
    # from draws of the posteriors, not their means
    start = new.obsm["X_scldm"] - new.obsm["X_scldm_delta"]
    known = trained._encode(cells)
    first = start[:300]
    np.testing.assert_allclose(first.var(axis=0), known.variance[0], rtol=0.4)


@pytest.mark.parametrize("method", ["flow", "conditional", "delta", "arithmetic"])
def test_the_control_leaves_cells_as_they_are(trained, method):
    cells = control_cells(trained, 5)
    new = trained.predict_perturbation(
        cells,
        ["control", "KLF1"] * 2 + ["control"],
        [0.0, 10.0] * 2 + [0.0],
        method=method,
        seed=0,
    )
    moved = np.abs(new.obsm["X_scldm_delta"]).max(axis=1)
    assert (moved[[0, 2, 4]] < 1e-6).all()
    assert (moved[[1, 3]] > 1e-3).all()


def test_an_untrained_flow_is_latent_arithmetic(setup, trained, adata):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        SCLDM.setup_anndata(adata, **setup)
    model = SCLDM(adata, n_hidden=32, n_latent=6, width=32, depth=2)
    state = {k: v for k, v in trained.module.state_dict().items() if "perturbation" not in k}
    model.module.load_state_dict(state, strict=False)
    latents = model._encode(adata)
    model.module.perturbation.fit_standardisation(
        latents.mean, latents.variance, latents.log_library
    )
    model.training_frame_, model.shifts_ = trained.training_frame_, trained.shifts_
    model.autoencoder_trained_ = model.perturbation_trained_ = model.is_trained_ = True
    flow, arithmetic = (
        model.predict_perturbation(perturbation="TP53", dose=1.0, method=m, seed=1)
        for m in ("flow", "arithmetic")
    )
    np.testing.assert_allclose(flow.obsm["X_scldm"], arithmetic.obsm["X_scldm"], atol=2e-5)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_returns_counts_of_the_very_cells(trained, method):
    cells = control_cells(trained)
    new = trained.predict_perturbation(cells, "KLF1", 10.0, method=method, seed=3, steps=8)
    assert new.n_obs == 30
    assert (new.X.data == np.round(new.X.data)).all()
    assert (new.X.data > 0).all()
    assert list(new.obs_names) == list(cells.obs_names) == new.obs["source_cell"].tolist()
    assert (new.obs["guide"] == "KLF1").all()
    assert (new.obs["concentration"] == 10.0).all()
    for column in ("type", "donor", "day", "sex"):
        assert new.obs[column].tolist() == cells.obs[column].tolist(), column
    assert new.uns["scldm"]["method"] == method
    again = trained.predict_perturbation(
        cells, "KLF1", 10.0, method=method, seed=3, steps=8, batch_size=1
    )
    assert (again.X != new.X).nnz == 0


@pytest.mark.parametrize("method", ["flow", "delta", "arithmetic"])
def test_predictions_come_close_to_perturbed_cells(trained, method):
    """Means of predicted log expression, by type, against cells of the guide: better than no change."""

    def log_mean(adata, x):
        x = np.asarray(x.todense())
        x = np.log1p(1e3 * x / x.sum(1, keepdims=True))
        return np.stack([x[(adata.obs["type"] == t).to_numpy()].mean(0) for t in "BT"])

    adata = trained.adata
    truth = adata[adata.obs["guide"] == "KLF1"]
    control = adata[adata.obs["guide"] == "control"]
    new = trained.predict_perturbation(
        perturbation="KLF1", dose=10.0, method=method, n_samples=5, seed=0
    )
    target = log_mean(truth, truth.layers["counts"])
    missed = np.square(log_mean(new, new.X) - target).sum()
    unchanged = np.square(log_mean(control, control.layers["counts"]) - target).sum()
    assert missed < 0.5 * unchanged


def test_samples_and_means(trained):
    cells = control_cells(trained, 10)
    settings = {"perturbation": "TP53", "dose": 1.0, "n_samples": 40, "seed": 2}
    drawn = trained.predict_perturbation(cells, **settings)
    assert drawn.n_obs == 400
    assert drawn.obs_names[41] == f"{cells.obs_names[1]}_1"
    assert (drawn.obs["source_cell"].to_numpy() == np.repeat(cells.obs_names, 40)).all()
    mean = trained.predict_perturbation(cells, **settings, return_mean=True)
    assert mean.shape == (10, drawn.n_vars)
    assert list(mean.obs_names) == list(cells.obs_names)
    averaged = np.asarray(drawn.X.todense()).reshape(10, 40, -1)
    error = averaged.std(axis=1) / np.sqrt(40)
    assert (np.abs(averaged.mean(axis=1) - mean.X) < 5 * error + 0.5).mean() > 0.99
    np.testing.assert_allclose(
        mean.obsm["X_scldm"], drawn.obsm["X_scldm"].reshape(10, 40, -1).mean(axis=1), rtol=1e-5
    )


def test_kept_residuals_leave_nothing_but_the_perturbation_between_a_cell_and_its_control(trained):
    cells = control_cells(trained)
    settings = {"keep_residuals": True, "n_samples": 2, "seed": 0}
    counts = np.repeat(cells.layers["counts"].toarray(), 2, axis=0)
    same = trained.predict_perturbation(cells, "control", method="arithmetic", **settings)
    np.testing.assert_array_equal(same.X.toarray(), counts)
    kept, drawn = (
        trained.predict_perturbation(cells, "KLF1", 10.0, **{**settings, "keep_residuals": keep})
        for keep in (True, False)
    )
    np.testing.assert_array_equal(kept.obsm["X_scldm"], drawn.obsm["X_scldm"])
    far = [np.abs(new.X.toarray() - counts).mean() for new in (kept, drawn)]
    assert 0 < far[0] < 0.8 * far[1]
    assert kept.uns["scldm"]["keep_residuals"] and not drawn.uns["scldm"]["keep_residuals"]
    again = trained.predict_perturbation(cells, "KLF1", 10.0, **settings, batch_size=1)
    np.testing.assert_array_equal(again.X.toarray(), kept.X.toarray())
    with pytest.raises(ValueError, match="`return_mean=True` draws none"):
        trained.predict_perturbation(cells, "KLF1", 10.0, return_mean=True, **settings)


def test_without_cells_those_of_the_control_are_taken(trained):
    new = trained.predict_perturbation(perturbation="TP53", dose=1.0, seed=0)
    adata = trained.adata
    assert list(new.obs_names) == list(adata.obs_names[adata.obs["guide"] == "control"])


def test_one_perturbation_for_each_cell(trained):
    cells = control_cells(trained, 3)
    guides = ["KLF1", "TP53", "KLF1+TP53"]
    new = trained.predict_perturbation(
        cells, guides, [1.0, 10.0, 1.0], method="arithmetic", seed=0
    )
    assert new.obs["guide"].astype(str).tolist() == guides
    assert new.obs["concentration"].tolist() == [1.0, 10.0, 1.0]


def test_a_method_of_ones_own(trained):
    class Nothing(PerturbationMethod):
        """Leaves cells as they are."""

        def prepare(self, job):
            return lambda block, rows: (
                job.cells[job.source[rows]].mean,
                job.cells[job.source[rows]].log_library,
            )

    new = trained.predict_perturbation(perturbation="TP53", dose=1.0, method=Nothing(), seed=0)
    np.testing.assert_allclose(new.obsm["X_scldm_delta"], 0, atol=1e-6)
    assert new.uns["scldm"]["method"] == "Nothing"


def test_a_dose_of_zero_changes_nothing(trained):
    settings = {"perturbation": "TP53", "dose": 0.0, "seed": 0}
    ways = ("arithmetic", "flow", "delta", "conditional")
    made = [trained.predict_perturbation(**settings, method=way) for way in ways]
    for new in made[1:]:
        np.testing.assert_allclose(new.obsm["X_scldm"], made[0].obsm["X_scldm"], atol=1e-5)


@pytest.mark.parametrize("method", ["flow", "delta", "conditional"])
def test_the_smaller_the_dose_the_smaller_the_change(trained, method):
    settings = {"method": method, "seed": 0, "steps": 4}
    sizes = [
        np.abs(
            trained.predict_perturbation(control_cells(trained), "KLF1", dose, **settings).obsm[
                "X_scldm_delta"
            ]
        ).max()
        for dose in (1.0, 0.1, 1e-2, 1e-3, 1e-4)
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 1e-3 * sizes[0]


def test_control_cells_may_have_several_doses(trained):
    frame = trained.training_frame_
    own = (frame["perturbation"] == "control").to_numpy()
    doses = frame["dose"].to_numpy(copy=True)
    doses[np.flatnonzero(own)[::2]] += 0.5
    try:
        trained.training_frame_ = frame.assign(dose=doses)
        new = trained.predict_perturbation(perturbation="control", seed=0)
    finally:
        trained.training_frame_ = frame
    assert new.n_obs == trained.adata.obs["guide"].eq("control").sum()


def test_predictions_survive_saving(trained, tmp_path):
    trained.save(tmp_path / "model")
    loaded = SCLDM.load(tmp_path / "model", trained.adata.copy())
    settings = {"perturbation": "KLF1+TP53", "dose": 10.0, "seed": 5}
    cells = control_cells(trained)
    one, two = (m.predict_perturbation(cells, **settings) for m in (trained, loaded))
    assert (one.X != two.X).nnz == 0


def test_the_perturbation_stage_leaves_the_others_alone(setup, adata):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        SCLDM.setup_anndata(adata, **setup)
        model = SCLDM(adata, n_hidden=16, n_latent=4, width=16, depth=1)
        model.train_autoencoder(3, enable_progress_bar=False)
        before = {k: v.clone() for k, v in model.module.state_dict().items()}
        split = model.train_indices.copy()
        model.train_perturbation(10, enable_progress_bar=False)
    for name, value in model.module.state_dict().items():
        same = torch.equal(value, before[name])
        if not name.startswith("perturbation"):
            assert same, name
    moved = [
        name
        for name, value in model.module.perturbation.named_parameters()
        if "trained" in name and torch.equal(value, before[f"perturbation.{name}"])
    ]
    # only vectors of conditions that are never absent stay where they were
    assert all(name.endswith("absent") for name in moved), moved
    np.testing.assert_array_equal(model.train_indices, split)
    assert "perturbation_loss_train" in model.history
    trained_once = model.predict_perturbation(perturbation="TP53", dose=1.0, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.train_perturbation(1, plan_kwargs={"lr": 0.0}, enable_progress_bar=False)
    flow, arithmetic = (
        model.predict_perturbation(perturbation="TP53", dose=1.0, method=m, seed=0)
        for m in ("flow", "arithmetic")
    )
    # it starts anew
    np.testing.assert_allclose(flow.obsm["X_scldm"], arithmetic.obsm["X_scldm"], atol=1e-4)
    assert not np.allclose(trained_once.obsm["X_scldm"], flow.obsm["X_scldm"], atol=1e-4)
    model.predict_perturbation(perturbation="TP53", dose=1.0)
    model.train_autoencoder(1, enable_progress_bar=False)
    with pytest.raises(RuntimeError, match=r"train_perturbation\(\)"):
        model.predict_perturbation(perturbation="TP53", dose=1.0)


# -- what is asked for wrongly ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, r"`perturbation` is missing. Known: \['CEBPA', 'CEBPA\+KLF1'"),
        ({"perturbation": "MYC", "dose": 1.0}, "`perturbation='MYC'` is not known"),
        ({"perturbation": "KLF1"}, r"needs a `dose` too: .* \[1.0, 10.0\]"),
        ({"perturbation": "KLF1", "dose": -1.0}, "`dose=-1` is below 0"),
        ({"perturbation": "KLF1", "dose": 1.0, "sampler": "ddpm"}, "adds noise at every step"),
        ({"perturbation": "KLF1", "dose": "much"}, "`dose` has 'much', which is not a number"),
        (
            {"perturbation": "KLF1", "dose": 1.0, "method": "magic"},
            "`method='magic'` is not known",
        ),
        ({"perturbation": "KLF1", "dose": 1.0, "n_samples": 0}, "`n_samples=0`"),
        ({"perturbation": ["KLF1"] * 3, "dose": 1.0}, "3 values for"),
    ],
)
def test_clear_errors(trained, asked, message):
    with pytest.raises(ValueError, match=message):
        trained.predict_perturbation(**asked)


def test_cells_must_be_control_cells(trained):
    with pytest.raises(ValueError, match=r"not control cells \('control'\) but \['CEBPA'"):
        trained.predict_perturbation(trained.adata, "KLF1", 1.0)


def test_names_of_cells_must_tell_them_apart(trained):
    cells = control_cells(trained, 3)
    cells.obs_names = ["a", "a", "b"]
    with pytest.raises(ValueError, match="`adata` has names of cells that are not unique"):
        trained.predict_perturbation(cells, "KLF1", 1.0)
    # one cell may be asked twice
    new = trained.predict_perturbation(cells, "KLF1", 1.0, indices=[1, 2, 2], seed=0)
    assert new.obs["source_cell"].tolist() == ["a", "b", "b"]


def test_what_was_not_registered(adata, setup):
    for key, given, message in (
        ("dose_key", {"perturbation": "KLF1", "dose": 1.0}, "no dose is registered"),
        ("perturbation_key", {"perturbation": "KLF1"}, "Give `perturbation_key`"),
    ):
        keys = {k: v for k, v in setup.items() if k not in (key, "dose_key")}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            SCLDM.setup_anndata(adata, **keys)
        model = SCLDM(adata, n_hidden=8, n_latent=2, width=16, depth=1)
        model.autoencoder_trained_ = model.perturbation_trained_ = True
        model.training_frame_ = model._read_conditions(adata)
        with pytest.raises(ValueError, match=message):
            model.predict_perturbation(**given)


def test_the_record_says_what_was_done(trained):
    def record(method):
        new = trained.predict_perturbation(
            control_cells(trained, 2), "KLF1", 1.0, method=method, seed=0
        )
        return new.uns["scldm"]

    assert (record("flow")["sampler"], record("flow")["steps"]) == ("heun", 4)
    assert (record("delta")["sampler"], record("delta")["steps"]) == ("euler", 1)
    assert record("inversion")["steps"] == 50
    assert "sampler" not in record("arithmetic")


def test_settings_of_a_stage_that_is_not_there_are_refused_at_once(adata):
    SCLDM.setup_anndata(adata := adata.copy(), layer="counts")
    model = SCLDM(adata, n_latent=2, n_hidden=8, width=16, depth=1)
    for stage in ("perturbation", "trajectory", "spatial"):
        with pytest.raises(ValueError, match=" registered"):
            model.train(1, **{f"{stage}_kwargs": {"max_steps": 1}})
    assert not model.autoencoder_trained_


def test_there_must_be_something_to_learn_from(adata, setup):
    adata.obs["guide"] = "control"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        SCLDM.setup_anndata(adata, **setup)
        model = SCLDM(adata, n_hidden=8, n_latent=2, width=16, depth=1)
        with pytest.raises(RuntimeError, match=r"Call `train_autoencoder\(\)`"):
            model.train_perturbation()
        model.train(
            1,
            1,
            trajectory_kwargs={"max_steps": 1},
            spatial_kwargs={"max_steps": 1},
            enable_progress_bar=False,
        )
    assert not model.perturbation_trained_
    with pytest.raises(ValueError, match="no perturbed cells with control cells"):
        model.train_perturbation()
