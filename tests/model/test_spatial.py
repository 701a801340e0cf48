"""Cells at places: what they are, what they depend on, and what is refused."""

import inspect
import re
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from lightning.pytorch.callbacks import Callback
from scipy import sparse
from scipy.spatial import KDTree
from scipy.spatial.distance import cdist
from sklearn.linear_model import LogisticRegression

from scldm import SCLDM, MultiLDM
from scldm.data import add_gene_sets, simulate_tissue, true_expression
from scldm.model import SPATIAL_METHODS, FromPlaces, InverseDistance, SpatialMethod
from scldm.model import _spatial_training as training
from scldm.model._point_process import inside
from scldm.model._resolution import _divided

METHODS = list(SPATIAL_METHODS)
DIFFUSION = ["context", "coordinates", "neighbours"]
QUIET = {"enable_progress_bar": False, "logger": None}
SPACING = 20.0


def fitted(adata, epochs, steps, setup, **kwargs):
    scvi.settings.seed = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        SCLDM.setup_anndata(adata, **setup)
        model = SCLDM(adata, n_latent=6, n_hidden=32, width=16, depth=1)
        model.train_autoencoder(epochs, **QUIET)
        model.train_spatial(steps, **QUIET, **kwargs)
    return model


@pytest.fixture(scope="module")
def tissue():
    """A tissue in layers, and which of its cells lie in a hole."""
    adata = simulate_tissue(800, 30, spacing=SPACING, seed=0)
    side = adata.uns["tissue"]["size"]
    return adata, np.linalg.norm(adata.obsm["spatial"] - side / 2, axis=1) < 0.15 * side


@pytest.fixture(scope="module")
def model(tissue):
    """A model of the cells outside the hole. Tests must not change it."""
    adata, hole = tissue
    # the user's own names are not those of the arguments
    own = adata[~hole].copy()
    own.obsm["X_map"] = own.obsm.pop("spatial")
    own.obs["kind"] = own.obs.pop("cell_type")
    own.var["strand"] = "+"
    return fitted(own, 60, 200, {"cell_type_key": "kind", "spatial_key": "X_map"})


@pytest.fixture(scope="module")
def stack():
    """A model of a stack of three sections, hardly trained."""
    adata = simulate_tissue(100, 12, n_sections=3, spacing=SPACING, seed=1)
    setup = {"cell_type_key": "cell_type", "batch_key": "section", "spatial_key": "spatial_3d"}
    return fitted(adata, 3, 30, setup, plan_kwargs={"lr": 0.01})


@pytest.fixture(scope="module")
def sections():
    """A model of two sections that lie each in a plane of its own, hardly trained."""
    adata = simulate_tissue(100, 12, n_sections=2, spacing=SPACING, seed=2)
    # codes and names of types go different ways
    adata.obs["cluster"] = 7 - adata.obs["cell_type"].cat.codes.astype(int)
    x = adata.obsm["spatial"][:, 0]
    adata.obs["side"] = np.where(x < np.median(x), "left", "right")
    adata.obs["depth"] = adata.obsm["spatial"][:, 1]
    setup = {
        "cell_type_key": "cluster",
        "batch_key": "section",
        "spatial_key": "spatial",
        "categorical_covariate_keys": ["side"],
        "continuous_covariate_keys": ["depth"],
    }
    return fitted(adata, 3, 30, setup, plan_kwargs={"lr": 0.01})


@pytest.fixture(scope="module")
def hole(tissue):
    """Places in the hole."""
    adata, missing = tissue
    return adata.obsm["spatial"][missing]


def impute(model, places, cells=None, steps=5, seed=0, method="context", **kwargs):
    if method == "inverse_distance" or isinstance(method, InverseDistance):
        steps = None
    return model.impute_region(cells, places, steps=steps, seed=seed, method=method, **kwargs)


def z_of(model, *args, **kwargs):
    return impute(model, *args, **kwargs).obsm["X_scldm"]


def with_other_counts(adata, rows, seed=0):
    """Copy cells and draw the counts of some of them anew."""
    new = adata.copy()
    counts = new.X.toarray()
    rng = np.random.default_rng(seed)
    counts[rows] = rng.permuted(counts[rows], axis=1) + 1
    new.X = sparse.csr_matrix(counts)
    return new


# what cells at places are


@pytest.mark.parametrize("method", METHODS)
def test_layout(model, hole, method, tmp_path):
    new = impute(model, hole[:7], method=method, n_samples=3)
    assert new.shape == (21, model.adata.n_vars)
    assert sparse.isspmatrix_csr(new.X)
    assert (new.X.data == new.X.data.round()).all() and new.X.data.min() > 0
    assert new.obs_names.tolist() == [f"place_{i}_{k}" for i in range(7) for k in range(3)]
    assert new.obs["place"].tolist() == np.repeat(range(7), 3).tolist()
    assert new.obs["sample"].tolist() == [0, 1, 2] * 7
    np.testing.assert_array_equal(new.obsm["X_map"], np.repeat(hole[:7], 3, axis=0))
    assert "spatial" not in new.obsm and new.obsm["X_scldm"].shape == (21, 6)
    assert new.var.equals(model.adata.var)
    assert new.obs["kind"].cat.categories.equals(model.adata.obs["kind"].cat.categories)
    assert new.obs["kind"].notna().all()
    record = new.uns["scldm"]
    expected = {"method": method, "seed": 0, "n_samples": 3, "return_mean": False}
    assert record.items() >= expected.items()
    settings = {k: record[k] for k in ("sampler", "steps", "guidance_scale") if k in record}
    used = {"sampler": "heun", "steps": 5, "guidance_scale": 1.0}
    assert settings == (used if method in DIFFUSION else {})
    assert set(record["conditions"]) == {"cell_type", "spatial"}
    new.write_h5ad(tmp_path / "new.h5ad")
    again = ad.read_h5ad(tmp_path / "new.h5ad")
    assert dict(again.uns["scldm"]) == record
    assert (again.X != new.X).nnz == 0
    # one cell at each place needs no second number
    assert impute(model, hole[:2]).obs_names.tolist() == ["place_0", "place_1"]
    assert impute(model, hole[0]).n_obs == 1


@pytest.mark.parametrize("method", METHODS)
def test_seed_decides_whatever_the_batch_size_and_the_global_state(model, hole, method):
    def draw(**kwargs):
        return impute(model, hole, method=method, n_samples=10, **{"seed": 0, **kwargs})

    assert 10 * len(hole) > 2 * 256
    torch.manual_seed(1)
    first = draw(batch_size=256)
    torch.manual_seed(2)
    again = draw(batch_size=1024)
    assert (first.X != again.X).nnz == 0 and first.obs.equals(again.obs)
    other = draw(seed=1)
    assert (first.X != other.X).nnz > 0
    same = np.array_equal(first.obsm["X_scldm"], other.obsm["X_scldm"])
    assert same == (method == "inverse_distance")
    torch.manual_seed(3)
    drawn = impute(model, hole, seed=None)
    assert (drawn.X != impute(model, hole, seed=drawn.uns["scldm"]["seed"]).X).nnz == 0


def test_training_cells_are_the_default(model, hole):
    np.testing.assert_array_equal(z_of(model, hole), z_of(model, hole, model.adata))
    rows = np.arange(model.adata.n_obs)
    np.testing.assert_array_equal(z_of(model, hole), z_of(model, hole, indices=rows))


def test_places_look_like_the_tissue(tissue, model, hole):
    """Layers are sharp, so the mean of all cells is far off at most places."""
    adata, _ = tissue
    markers = (adata.var["kind"] == "layer").to_numpy()
    truth = np.log1p(true_expression(adata, hole)[:, markers])

    def error(expected):
        return np.square(np.log1p(expected[:, markers]) - truth).mean()

    overall = np.asarray(model.adata.X.mean(axis=0))
    errors = {
        method: error(np.asarray(new.X))
        for method in METHODS
        for new in [impute(model, hole, method=method, n_samples=10, return_mean=True)]
    }
    assert errors["context"] < 0.6 * error(overall)
    assert errors["neighbours"] < 0.75 * error(overall)
    assert errors["coordinates"] < 0.85 * error(overall)
    assert errors["inverse_distance"] < 0.6 * error(overall)


class Copies(SpatialMethod):
    """Cells that are observed, again and again."""

    def latents(self, job):
        self.features = job.known.features
        return job.latents[job.rows]


def test_types_are_drawn_from_their_probabilities(model, hole):
    n = 300
    method = Copies()
    new = impute(model, hole[:20], method=method, n_samples=n)
    kinds = model.adata.obs["kind"]
    rule = LogisticRegression(max_iter=500).fit(method.features, kinds.to_numpy().astype(str))
    expected = rule.predict_proba(method.features[:20])
    drawn = new.obs["kind"].to_numpy().reshape(20, n)
    shares = np.stack([(drawn == name).mean(axis=1) for name in rule.classes_], axis=1)
    off = (shares - expected) / np.sqrt(expected * (1 - expected) / n + 1e-4)
    assert np.sqrt(np.square(off).mean()) < 1.3
    assert (drawn[:, 1:] != drawn[:, :-1]).any()
    # types that no observed cell has are not drawn
    some = np.flatnonzero(kinds.isin(["B", "D"]))
    assert set(impute(model, hole, indices=some, n_samples=4).obs["kind"]) == {"B", "D"}
    some = np.flatnonzero(kinds == "C")
    one = impute(model, hole, indices=some)
    assert (one.obs["kind"] == "C").all()
    assert one.obs["kind"].cat.categories.equals(kinds.cat.categories)


def test_types_that_are_numbers(sections):
    places = sections.adata.obsm["spatial"][:20]
    new = impute(sections, places, batch="section_1", n_samples=2)
    assert set(new.obs["cluster"]) <= {4, 5, 6, 7}
    assert list(new.obs["cluster"].cat.categories) == [4, 5, 6, 7]


def test_means_and_spreads_are_those_of_draws(model, hole):
    n = 400
    mean = impute(model, hole[:4], n_samples=n, return_mean=True)
    drawn = impute(model, hole[:4], n_samples=n)
    assert mean.shape == (4, model.adata.n_vars)
    assert mean.obs_names.tolist() == [f"place_{i}" for i in range(4)]
    assert mean.obs["place"].tolist() == [0, 1, 2, 3] and (mean.obs["sample"] == 0).all()
    np.testing.assert_array_equal(mean.obsm["X_map"], hole[:4])
    counts = drawn.X.toarray().reshape(4, n, -1)
    spread = mean.layers["spread"]
    off = (counts.mean(axis=1) - np.asarray(mean.X)) / (spread / np.sqrt(n))
    # latents are the same, so only counting differs
    assert np.sqrt(np.square(off).mean()) < 1.2 and np.abs(off).max() < 5
    ratio = counts.std(axis=1) / spread
    assert np.median(ratio) == pytest.approx(1, abs=0.03)
    assert ratio.min() > 0.6 and ratio.max() < 1.6
    own = drawn.obsm["X_scldm"].reshape(4, n, -1).mean(axis=1)
    np.testing.assert_allclose(mean.obsm["X_scldm"], own, atol=1e-4)
    first = mean.layers["sample"]
    assert sparse.issparse(first) and (first.data == first.data.round()).all()
    # of four places one may hold a rare cell: over all of them
    every = impute(model, hole, n_samples=40, return_mean=True)
    off = (every.layers["sample"].toarray() - np.asarray(every.X)) / every.layers["spread"]
    assert np.sqrt(np.square(off).mean()) == pytest.approx(1, abs=0.35)
    votes = drawn.obs["kind"].to_numpy().reshape(4, n)
    most = [max(set(row), key=list(row).count) for row in votes]
    assert mean.obs["kind"].tolist() == most
    assert mean.uns["scldm"]["return_mean"] is True


# what they depend on


def test_inverse_distance_is_that_of_the_textbook(model, hole):
    new = impute(model, hole, method="inverse_distance", n_samples=2)
    mean = model.get_latent_representation()
    distance = cdist(hole, model.adata.obsm["X_map"])
    nearest = np.argsort(distance, axis=1)[:, :3]
    weight = 1 / np.take_along_axis(distance, nearest, axis=1)
    weight /= weight.sum(axis=1, keepdims=True)
    expected = np.einsum("nk,nkd->nd", weight, mean[nearest])
    np.testing.assert_allclose(new.obsm["X_scldm"][::2], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(new.obsm["X_scldm"][::2], new.obsm["X_scldm"][1::2])
    assert (new.X[::2] != new.X[1::2]).nnz > 0
    # at a cell the cell itself
    own = z_of(model, model.adata.obsm["X_map"][:5], method=InverseDistance(3))
    np.testing.assert_allclose(own, mean[:5], atol=1e-4)
    one = z_of(model, hole, method=InverseDistance(1))
    np.testing.assert_allclose(one, mean[nearest[:, 0]], atol=1e-4)


@pytest.mark.parametrize("method", DIFFUSION)
def test_neighbours_matter_and_cells_far_away_do_not(model, hole, method):
    place = hole[:1]
    distance = np.linalg.norm(model.adata.obsm["X_map"] - place, axis=1)
    order = np.argsort(distance)
    plain = z_of(model, place, method=method, n_samples=50)
    far = z_of(
        model, place, with_other_counts(model.adata, order[24:]), method=method, n_samples=50
    )
    np.testing.assert_allclose(far, plain, atol=1e-4)
    near = z_of(
        model, place, with_other_counts(model.adata, order[:24]), method=method, n_samples=50
    )
    if method == "coordinates":
        np.testing.assert_allclose(near, plain, atol=1e-4)
    else:
        assert np.abs(near - plain).max() > 0.05


def moved_by(adata, step):
    new = adata.copy()
    new.obsm["X_map"] = new.obsm["X_map"] + step
    return new


@pytest.mark.parametrize("method", ["context", "neighbours", "inverse_distance"])
def test_what_is_told_by_neighbours_alone_moves_with_the_tissue(model, hole, method):
    step = np.array([300.0, -150.0])
    plain = z_of(model, hole, method=method)
    moved = z_of(model, hole + step, moved_by(model.adata, step), method=method)
    if method == "context":
        assert np.abs(moved - plain).max() > 0.05
    else:
        np.testing.assert_allclose(moved, plain, atol=2e-3)


def test_far_from_all_cells_the_place_alone_decides(model):
    """Beyond the reach of eight steps, there is nothing but the coordinates."""
    x = model.adata.obsm["X_map"]
    corner = np.flatnonzero((x < x.max(axis=0) * 0.4).all(axis=1))
    place = x.max(axis=0, keepdims=True) * 0.95
    with pytest.warns(UserWarning, match="lie outside the observed tissue"):
        context, coordinates, neighbours = (
            z_of(model, place, indices=corner, method=method, n_samples=20) for method in DIFFUSION
        )
    np.testing.assert_array_equal(context, coordinates)
    assert np.abs(context - neighbours).max() > 0.01
    # which is no place, no neighbour: the same wherever it is
    with pytest.warns(UserWarning, match="lie outside the observed tissue"):
        elsewhere = z_of(model, place + 50, indices=corner, method="neighbours", n_samples=20)
    np.testing.assert_array_equal(elsewhere, neighbours)


def test_cells_that_are_held_out_are_not_looked_at(tissue, model, hole):
    adata, missing = tissue
    whole = adata.copy()
    whole.obsm["X_map"], whole.obs["kind"] = whole.obsm["spatial"], whole.obs["cell_type"]
    known = np.flatnonzero(~missing)
    for method in METHODS:
        plain = impute(model, hole, whole, indices=known, method=method)
        other = with_other_counts(whole, np.flatnonzero(missing))
        again = impute(model, hole, other, indices=~missing, method=method)
        assert (plain.X != again.X).nnz == 0 and plain.obs.equals(again.obs)
        # and what is known is what the model was trained on
        np.testing.assert_allclose(
            plain.obsm["X_scldm"], z_of(model, hole, method=method), atol=1e-3
        )
    seen = impute(model, hole, whole, method="inverse_distance")
    assert (seen.X != plain.X).nnz > 0


def test_training_looks_at_training_cells_only(monkeypatch, sections):
    seen = []

    class Spy(training.ContextDataModule):
        def __init__(self, latents, train_idx, val_idx, neighbours, encode, name, *args):
            seen.append((train_idx, val_idx, neighbours))
            super().__init__(latents, train_idx, val_idx, neighbours, encode, name, *args)

    monkeypatch.setattr(training, "ContextDataModule", Spy)
    model = fitted(sections.adata.copy(), 1, 1, sections.registry_["setup_args"])
    ((train, val, (drawn, validated)),) = seen
    assert drawn.shape == (12, len(train), 24) and validated.shape == (1, len(val), 24)
    section = model.adata.obs["section"].cat.codes.to_numpy()
    for rows, around in ((train, drawn), (val, validated)):
        there = around >= 0
        assert there.any() and np.isin(around[there], train).all()
        assert not (around == rows[:, None]).any()
        own = np.broadcast_to(section[rows][:, None], around.shape)
        assert (section[around] == own)[there].all()
    assert (drawn[0] != drawn[1]).any()


def test_sections_know_nothing_of_each_other(sections):
    assert sections.spatial_["section"] == "batch"
    adata = sections.adata
    places = adata.obsm["spatial"][:10] + 1.0
    second = np.flatnonzero(adata.obs["section"] == "section_2")
    plain, changed, own = (
        impute(sections, places, cells, batch="section_1")
        for cells in (
            adata,
            with_other_counts(adata, second),
            with_other_counts(adata, np.arange(100)),
        )
    )
    np.testing.assert_allclose(plain.obsm["X_scldm"], changed.obsm["X_scldm"], atol=1e-5)
    assert np.abs(plain.obsm["X_scldm"] - own.obsm["X_scldm"]).max() > 1e-3
    assert (plain.obs["section"] == "section_1").all()
    nearest = z_of(sections, places, batch="section_2", method=InverseDistance(1))
    mean = sections.get_latent_representation()[second]
    rows = KDTree(adata.obsm["spatial"][second]).query(places)[1]
    np.testing.assert_allclose(nearest, mean[rows], atol=1e-4)
    # one for each place
    names = np.array(["section_1", "section_2"] * 5)
    mixed = impute(sections, places, batch=names, method="inverse_distance")
    assert (mixed.obs["section"] == names).all()
    alone = z_of(sections, places, batch="section_2", method="inverse_distance")
    np.testing.assert_allclose(mixed.obsm["X_scldm"][1::2], alone[1::2], atol=1e-5)
    # where all cells are of one section, it is the one that is meant
    told = impute(sections, places, indices=second)
    assert (told.obs["section"] == "section_2").all()


def test_what_is_not_said_is_the_nearest_cells(sections):
    adata = sections.adata
    places = adata.obsm["spatial"][:30] + 2.0
    new = impute(sections, places, batch="section_2", n_samples=2)
    second = np.flatnonzero(adata.obs["section"] == "section_2")
    nearest = adata.obs.iloc[second[KDTree(adata.obsm["spatial"][second]).query(places)[1]]]
    assert (new.obs["side"].to_numpy() == nearest["side"].to_numpy().repeat(2)).all()
    np.testing.assert_allclose(new.obs["depth"], nearest["depth"].to_numpy().repeat(2))
    said = impute(sections, places, batch="section_2", side="left", depth=np.arange(30.0))
    assert (said.obs["side"] == "left").all()
    assert said.obs["depth"].tolist() == list(range(30))
    assert np.abs(said.obsm["X_scldm"] - new.obsm["X_scldm"][::2]).max() > 1e-4


def test_all_cells_in_one_space(sections):
    model = fitted(sections.adata.copy(), 1, 1, sections.registry_["setup_args"], section=None)
    assert model.spatial_["section"] is None
    places = model.adata.obsm["spatial"][:5]
    new = impute(model, places, method=InverseDistance(1))
    mean = model.get_latent_representation()
    np.testing.assert_allclose(new.obsm["X_scldm"], mean[:5], atol=1e-4)
    # the section, where it is asked for, is then a condition like any other
    assert (impute(model, places, batch="section_2").obs["section"] == "section_2").all()


def test_each_section_may_have_a_frame_of_its_own(sections):
    """All that matters is where a place is within its section."""
    second = (sections.adata.obs["section"] == "section_2").to_numpy()[:, None]
    moved = sections.adata.copy()
    moved.obsm["spatial"] = moved.obsm["spatial"] + 1e5 * second
    moved.obs["depth"] = sections.adata.obs["depth"]
    model = fitted(moved, 1, 1, sections.registry_["setup_args"])
    # with the same networks, so that only the tissue differs
    for name in ("autoencoder", "spatial"):
        own = getattr(model.module, name)
        own.load_state_dict(getattr(sections.module, name).state_dict())
    for name in ("spread", "spacing"):
        ours, theirs = (getattr(m._tissue(), name) for m in (model, sections))
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    places = sections.adata.obsm["spatial"][:20] + 1
    for i, batch in enumerate(("section_1", "section_2")):
        plain = impute(sections, places, batch=batch)
        again = impute(model, places + 1e5 * i, batch=batch)
        np.testing.assert_allclose(plain.obsm["X_scldm"], again.obsm["X_scldm"], atol=1e-2)
        assert (plain.obs["side"].to_numpy() == again.obs["side"].to_numpy()).all()


def test_how_conditions_came_about_is_recorded(sections):
    new = impute(sections, sections.adata.obsm["spatial"][:3], batch="section_1", side="left")
    said = new.uns["scldm"]["conditions"]
    assert set(said) == {"cell_type", "batch", "spatial", "side", "depth"}
    own = [name for name, how in said.items() if how == "the cells' own"]
    assert set(own) == {"cell_type", "depth"}
    assert "section_1" in said["batch"] and "left" in said["side"]


@pytest.mark.parametrize(
    "kwargs", [{"steps": 5}, {"sampler": "euler"}, {"guidance_scale": 2.0}], ids=lambda k: [*k][0]
)
def test_settings_of_a_sampler_are_refused_without_one(model, hole, kwargs):
    for method in ("inverse_distance", InverseDistance(2)):
        with pytest.raises(ValueError, match="have no meaning for `method="):
            model.impute_region(coordinates=hole, method=method, **kwargs)
    plain = model.impute_region(coordinates=hole[:2], method="inverse_distance", seed=0)
    assert not {"sampler", "steps", "guidance_scale"} & set(plain.uns["scldm"])


@pytest.mark.parametrize("method", [FromPlaces, InverseDistance])
def test_a_method_is_an_object_not_a_class(model, hole, method):
    with pytest.raises(ValueError, match="`method="):
        model.impute_region(coordinates=hole, method=method)


def test_places_in_place_of_cells_are_refused(model, hole):
    for ask in (
        lambda: model.impute_region(hole),
        lambda: model.super_resolve(hole, factor=2),
        lambda: model.propose_places(hole),
    ):
        with pytest.raises(TypeError, match="`adata` is a ndarray, not an AnnData"):
            ask()


def test_scores_of_gene_sets_are_not_the_nearest_cells():
    adata = simulate_tissue(60, 12, spacing=SPACING, seed=4)
    add_gene_sets(adata, {"some": adata.var_names[:4]}, key="sets")
    own = fitted(adata, 1, 1, {"spatial_key": "spatial", "gene_sets_key": "sets"})
    places = adata.obsm["spatial"][:5]
    for new in (
        impute(own, places, n_samples=2),
        impute(own, places, n_samples=2, return_mean=True),
        own.super_resolve(coordinates=places, conserve=True, indices=range(5), steps=1),
    ):
        scores = [np.asarray(new.obsm[k]) for k in new.obsm if k not in ("spatial", "X_scldm")]
        assert len(scores) == 1 and np.isnan(scores[0]).all()
        assert new.uns["scldm"]["conditions"]["gene_sets"] == "the cells' own"


def test_control_cells_have_no_dose_of_another_cell(adata):
    setup = {"perturbation_key": "guide", "dose_key": "concentration", "batch_key": "donor"}
    model = fitted(adata, 1, 1, {**setup, "layer": "counts", "spatial_key": "X_place"})
    dosed = np.flatnonzero(adata.obs["concentration"] > 0)[:40]
    x = adata.obsm["X_place"][dosed]
    donor = adata.obs["donor"].to_numpy()[dosed]
    new = impute(model, x, batch=donor, perturbation="control", steps=1)
    assert (new.obs["guide"] == "control").all() and (new.obs["concentration"] == 0).all()
    own = impute(model, x, batch=donor, steps=1).obs
    np.testing.assert_array_equal(own["concentration"], adata.obs["concentration"].iloc[dosed])
    assert (own["guide"].to_numpy() == adata.obs["guide"].to_numpy()[dosed]).all()


def test_a_section_between_sections_is_of_one_batch(stack):
    x = stack.adata.obsm["spatial_3d"]
    depths = np.unique(x[:, 2])
    z = depths[0] + np.array([0.4, 0.5, 0.6, 1.4]) * (depths[1] - depths[0])
    new = stack.impute_sections(z=z, adjacent=False, seed=0, steps=1)
    batches = new.obs["section"].astype(str).groupby(new.obsm["spatial_3d"][:, 2]).unique()
    assert [len(names) for names in batches] == [1] * 4
    assert batches.iloc[0][0] == "section_1" and batches.iloc[2][0] == "section_2"
    # on a section it is that of the section
    same = stack.impute_sections(z=depths[2], seed=0, steps=1)
    assert set(same.obs["section"]) == {"section_3"}
    said = stack.impute_sections(z=z[0], batch="section_3", seed=0, steps=1)
    assert set(said.obs["section"]) == {"section_3"}


def test_a_section_that_is_named_is_obeyed_in_three_dimensions(stack):
    setup = stack.registry_["setup_args"]
    model = fitted(stack.adata.copy(), 1, 2, setup, section="batch")
    assert model.spatial_["section"] == "batch"
    x = model.adata.obsm["spatial_3d"]
    with pytest.raises(ValueError, match="`batch` is missing"):
        impute(model, x[:3])
    other = np.flatnonzero(model.adata.obs["section"] != "section_1")
    places = x[:10] + 1.0
    plain, changed = (
        z_of(model, places, cells, batch="section_1")
        for cells in (model.adata, with_other_counts(model.adata, other))
    )
    assert np.isfinite(plain).all()
    np.testing.assert_allclose(plain, changed, atol=1e-5)


def test_a_section_that_is_not_registered_is_refused(model):
    with pytest.raises(ValueError, match="`section='batch'` is not known"):
        model.train_spatial(1, section="batch")
    with pytest.raises(ValueError, match="`stacked=True` needs coordinates in three dimensions"):
        model.train_spatial(1, stacked=True)


def test_what_is_said_of_a_stack_is_obeyed(stack):
    model = fitted(stack.adata.copy(), 1, 2, stack.registry_["setup_args"], stacked=False)
    assert not model._tissue().stacked
    with pytest.raises(ValueError, match="needs cells in sections of a stack"):
        model.impute_sections(z=1.0)
    assert model.propose_places(n_places=9, seed=0).shape == (9, 3)


@pytest.fixture(scope="module")
def stacks():
    """Two donors with a stack each, at depths of their own; only the one has cells of each side."""
    adata = simulate_tissue(60, 12, n_sections=3, spacing=SPACING, seed=5)
    rng = np.random.default_rng(0)
    adata.obs["donor"] = pd.Categorical(rng.choice(["a", "b"], adata.n_obs))
    second = (adata.obs["donor"] == "b").to_numpy()
    adata.obs["sex"] = pd.Categorical(np.where(second, "F", "M"))
    adata.obsm["spatial_3d"][second, 2] += 7.0
    setup = {
        "batch_key": "donor",
        "spatial_key": "spatial_3d",
        "categorical_covariate_keys": ["sex"],
    }
    return fitted(adata, 1, 2, setup, section="batch", stacked=True)


def test_stacks_of_several_donors_have_the_step_of_each(stacks):
    x = stacks.adata.obsm["spatial_3d"]
    own = np.unique(x[(stacks.adata.obs["donor"] == "a").to_numpy(), 2])
    assert stacks._tissue().spacing[2] == pytest.approx(np.diff(own)[0])


def test_stacks_of_several_donors_lend_to_their_own(stacks):
    x = stacks.adata.obsm["spatial_3d"]
    places = np.column_stack([x[:20, :2], np.full(20, x[:, 2].mean())])
    new = impute(stacks, places, batch=["a", "b"] * 10, steps=1)
    assert new.obs["sex"].tolist() == ["M", "F"] * 10


def test_guidance_and_settings(model, hole):
    plain, guided = (z_of(model, hole, guidance_scale=g) for g in (1, 3))
    assert np.abs(plain - guided).max() > 0.05
    assert np.abs(plain - z_of(model, hole, sampler="euler")).max() > 1e-4
    assert np.abs(plain - z_of(model, hole, steps=2)).max() > 1e-4
    record = impute(model, hole[:2], guidance_scale=2, sampler="euler").uns["scldm"]
    assert (record["guidance_scale"], record["sampler"]) == (2.0, "euler")
    blind = z_of(model, hole, method=FromPlaces(neighbours=False))
    np.testing.assert_array_equal(blind, z_of(model, hole, method="coordinates"))


def test_own_methods(model, hole):
    class First(SpatialMethod):
        def latents(self, job):
            assert job.known.features.shape == job.latents.shape
            return np.repeat(job.latents[:1], len(job.rows), axis=0)

        def record(self, job):
            return {"who": "first"}

    new = impute(model, hole[:4], method=First(), n_samples=2)
    mean = model.get_latent_representation(indices=[0])
    np.testing.assert_allclose(new.obsm["X_scldm"], mean.repeat(8, axis=0), atol=1e-4)
    assert (new.uns["scldm"]["method"], new.uns["scldm"]["who"]) == ("First", "first")


def test_a_saved_model_makes_the_same_cells(model, hole, tmp_path):
    cells = model.adata.copy()
    expected = impute(model, hole, n_samples=2)
    places = model.propose_places(seed=0)
    model.save(tmp_path / "model")
    loaded = SCLDM.load(tmp_path / "model", model.adata.copy())
    assert loaded.spatial_trained_
    assert (impute(loaded, hole, n_samples=2).X != expected.X).nnz == 0
    alone = SCLDM.load(tmp_path / "model", adata=False)
    again = impute(alone, hole, cells, n_samples=2)
    assert (again.X != expected.X).nnz == 0 and again.obs.equals(expected.obs)
    np.testing.assert_array_equal(alone.propose_places(cells, seed=0), places)
    assert alone.super_resolve(cells, factor=1, steps=1, seed=0).n_obs == cells.n_obs
    # cells it was shown are not those it was trained on
    for ask in (
        lambda: alone.impute_region(coordinates=hole),
        lambda: alone.super_resolve(factor=2),
        lambda: alone.propose_places(),
        lambda: alone.train_spatial(1),
    ):
        with pytest.raises(RuntimeError, match="without its training data"):
            ask()


# between spots


def test_spots_that_are_divided_keep_those_around_them(model):
    kind = model.adata.obs["kind"].to_numpy()
    rows = np.flatnonzero(kind == kind[0])
    ask = {"factor": 2, "n_samples": 3, "seed": 0, "steps": 3}
    every, some = (model.super_resolve(indices=i, **ask) for i in (None, rows))
    same = np.isin(every.obs["spot"], model.adata.obs_names[rows])
    assert (every.obs["spot"][same].to_numpy() == some.obs["spot"].to_numpy()).all()
    shares = [(x.obs["kind"] == kind[0]).mean() for x in (every[same], some)]
    assert shares[1] == pytest.approx(shares[0], abs=0.1) and shares[1] < 0.95


def test_a_grid_divides_each_spot(model):
    x = model.adata.obsm["X_map"]
    spacing = np.median(KDTree(x[model.train_indices]).query(x[model.train_indices], 2)[0][:, 1])
    rows = np.arange(10, 40)
    one, two, three = (
        model.super_resolve(indices=rows, factor=f, steps=1, seed=0) for f in (1, 2, 3)
    )
    np.testing.assert_allclose(one.obsm["X_map"], x[rows])
    assert two.n_obs == 120 and three.n_obs == 270
    steps = (two.obsm["X_map"].reshape(30, 4, 2) - x[rows][:, None]) / spacing
    expected = [[-0.25, -0.25], [-0.25, 0.25], [0.25, -0.25], [0.25, 0.25]]
    np.testing.assert_allclose(steps, np.broadcast_to(expected, (30, 4, 2)), atol=1e-6)
    steps = (three.obsm["X_map"].reshape(30, 9, 2) - x[rows][:, None]) / spacing
    assert {tuple(s) for s in steps[0].round(6)} == {
        (a, b) for a in (-0.333333, 0.0, 0.333333) for b in (-0.333333, 0.0, 0.333333)
    }
    np.testing.assert_allclose(steps.mean(axis=1), 0, atol=1e-6)
    for new in (one, two, three):
        nearest = rows[KDTree(x[rows]).query(new.obsm["X_map"])[1]]
        assert (new.obs["spot"] == model.adata.obs_names[nearest]).all()
        assert new.uns["scldm"]["conserve"] is False


def test_spots_are_divided_in_their_plane_and_their_unit(stack):
    flat = stack.adata[stack.adata.obs["section"] == "section_1"].copy()
    level = flat.obsm["spatial_3d"][0, 2]
    model = fitted(flat, 1, 2, {"spatial_key": "spatial_3d"})
    two = model.super_resolve(factor=2, steps=1, seed=0)
    assert two.n_obs == 4 * flat.n_obs and (two.obsm["spatial_3d"][:, 2] == level).all()
    places = model.propose_places(seed=0)
    assert places.shape == (flat.n_obs, 3) and (places[:, 2] == level).all()

    both = simulate_tissue(80, 12, n_sections=2, spacing=SPACING, seed=2)
    second = (both.obs["section"] == "section_2").to_numpy()
    both.obsm["spatial"][second] *= 10
    model = fitted(both, 1, 2, {"batch_key": "section", "spatial_key": "spatial"})
    with pytest.warns(UserWarning, match=r"The spacing of cells differs between sections \(`sec"):
        model.train_spatial(2, **QUIET)
    for here in (second, ~second):
        x = both.obsm["spatial"][here]
        two = model.super_resolve(indices=np.flatnonzero(here), factor=2, steps=1, seed=0)
        off = np.abs(two.obsm["spatial"].reshape(-1, 4, 2) - x[:, None])
        np.testing.assert_allclose(off / np.median(closest(x)), 0.25, rtol=0.3)


@pytest.mark.parametrize("n_samples", [1, 2])
def test_what_is_conserved_adds_up_by_spot_gene_and_sample(model, n_samples):
    rows = np.arange(0, 300, 2)
    new = model.super_resolve(
        indices=rows, factor=2, conserve=True, n_samples=n_samples, steps=2, seed=0
    )
    assert new.uns["scldm"]["conserve"] is True
    assert sparse.isspmatrix_csr(new.X) and new.X.has_sorted_indices
    assert (new.X.data == new.X.data.round()).all() and new.X.data.min() > 0
    names = model.adata.obs_names[rows]
    assert set(new.obs["spot"]) == set(names)
    spot = names.get_indexer(new.obs["spot"])
    parts = new.X.toarray()
    for sample in range(n_samples):
        own = (new.obs["sample"] == sample).to_numpy()
        total = np.zeros((len(rows), new.n_vars))
        np.add.at(total, spot[own], parts[own])
        np.testing.assert_array_equal(total, model.adata.X[rows].toarray())
    again = model.super_resolve(
        indices=rows, factor=2, conserve=True, n_samples=n_samples, steps=2, seed=0
    )
    assert (new.X != again.X).nnz == 0


def test_counts_are_divided_by_what_is_expected():
    rng = np.random.default_rng(0)
    expected = rng.gamma(2.0, size=(4, 12)).astype(np.float32)
    # with a part of next to nothing: shares must not exceed one
    expected[3] = 1e-9
    counts = sparse.csr_matrix(np.full((1, 12), 100_000.0))
    obs = pd.DataFrame({"place": range(4), "sample": 0})
    parts = _divided(counts, np.zeros(4, dtype=int), obs, expected, rng).toarray()
    assert (parts.sum(axis=0) == 100_000).all()
    np.testing.assert_allclose(parts / 100_000, expected / expected.sum(axis=0), atol=0.01)
    # each sample anew, each spot for itself, and a spot without counts
    counts = sparse.csr_matrix(np.array([[50_000.0] * 12, [0.0] * 12, [7.0] * 12]))
    obs = pd.DataFrame({"place": np.tile(range(4), 2), "sample": np.repeat([0, 1], 4)})
    spot = np.array([0, 2, 0, 1] * 2)
    parts = _divided(counts, spot, obs, expected, rng).toarray().reshape(2, 4, 12)
    assert (parts[:, [0, 2]].sum(axis=1) == 50_000).all()
    assert (parts[:, 1] == 7).all() and (parts[:, 3] == 0).all()
    assert (parts[0, 0] != parts[1, 0]).any()


def test_spots_of_sections_and_of_a_stack(sections, stack):
    new = sections.super_resolve(factor=2, conserve=True, steps=1, seed=0)
    section = sections.adata.obs["section"]
    assert (new.obs["section"].to_numpy() == section.to_numpy().repeat(4)).all()
    spot = section.loc[new.obs["spot"]].to_numpy()
    assert (spot == new.obs["section"]).all()
    assert new.X.sum() == sections.adata.X.sum()
    new = stack.super_resolve(factor=2, steps=1, seed=0)
    assert new.n_obs == 4 * stack.adata.n_obs
    depth = stack.adata.obsm["spatial_3d"][:, 2]
    np.testing.assert_allclose(new.obsm["spatial_3d"][:, 2], depth.repeat(4))


def test_own_places_between_spots(model, hole):
    new = model.super_resolve(coordinates=hole, seed=0, steps=5)
    np.testing.assert_array_equal(new.obsm["X_scldm"], z_of(model, hole))
    nearest = KDTree(model.adata.obsm["X_map"]).query(hole)[1]
    assert (new.obs["spot"] == model.adata.obs_names[nearest]).all()
    mean = model.super_resolve(
        coordinates=hole, seed=0, steps=5, n_samples=2, method="coordinates", return_mean=True
    )
    assert mean.n_obs == len(hole) and "spread" in mean.layers
    assert mean.uns["scldm"]["method"] == "coordinates"


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({}, "either `factor` or `coordinates`"),
        ({"factor": 2, "coordinates": [[1.0, 2.0]]}, "either `factor` or `coordinates`"),
        ({"factor": 0}, "`factor=0`"),
        ({"factor": 1.5}, "`factor=1.5`"),
        ({"factor": 2, "conserve": True, "return_mean": True}, "`return_mean` has no meaning"),
        ({"factor": 2, "method": "magic"}, "`method='magic'`"),
    ],
)
def test_odd_requests_between_spots_are_refused(model, kwargs, words):
    with pytest.raises(ValueError, match=words):
        model.super_resolve(**kwargs)


@pytest.fixture(scope="module")
def sized():
    """A model of cells with sizes of the user's own, hardly trained. Two cells are at one place."""
    adata = simulate_tissue(100, 12, spacing=SPACING, seed=3)
    adata.obsm["spatial"][1] = adata.obsm["spatial"][0]
    adata.obs["size"] = np.asarray(adata.X.sum(axis=1)).ravel() * np.linspace(1, 3, 100)
    setup = {"spatial_key": "spatial", "library_size_key": "size"}
    return fitted(adata, 2, 2, setup, plan_kwargs={"lr": 0.01})


@pytest.mark.filterwarnings("ignore:.*occur more than once")
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_two_spots_at_one_place_keep_their_own_counts(sized, factor):
    adata = sized.adata
    rows = np.array([5, 1, 0, 44])
    new = sized.super_resolve(
        indices=rows, factor=factor, conserve=True, n_samples=2, steps=1, seed=0
    )
    spot = adata.obs_names[rows].repeat(2 * factor**2)
    assert new.obs["spot"].tolist() == spot.tolist()
    parts = new.X.toarray().reshape(4, factor**2, 2, -1)
    expected = adata.X[rows].toarray()[:, None].repeat(2, axis=1)
    np.testing.assert_array_equal(parts.sum(axis=1), expected)
    # the size is divided along with counts
    sizes = new.obs["size"].to_numpy().reshape(4, factor**2, 2)
    total = adata.obs["size"].to_numpy()[rows]
    np.testing.assert_allclose(sizes.sum(axis=1), total[:, None].repeat(2, axis=1))
    ratio = parts.sum(axis=3) / expected.sum(axis=2)[:, None]
    np.testing.assert_allclose(sizes / total[:, None, None], ratio)


def test_spots_without_a_place_are_warned_of(sized):
    adata = sized.adata
    places = adata.obsm["spatial"][10:20] + 0.5
    with pytest.warns(UserWarning, match="90 of 100 spots, with 0.* of all counts") as caught:
        new = sized.super_resolve(coordinates=places, conserve=True, steps=1, seed=0)
    (text,) = [str(w.message) for w in caught if "have no place" in str(w.message)]
    size = np.asarray(adata.X.sum(axis=1)).ravel()
    left = 1 - size[10:20].sum() / size.sum()
    assert float(re.search(r"with ([\d.]+) of", text)[1]) == pytest.approx(left, rel=0.01)
    # one place for each
    np.testing.assert_array_equal(new.X.toarray(), adata.X[10:20].toarray())
    assert new.obs["spot"].tolist() == adata.obs_names[10:20].tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        sized.super_resolve(coordinates=places, steps=1)
        sized.super_resolve(
            coordinates=places, indices=range(10, 20), conserve=True, steps=1, seed=0
        )


def test_sections_of_a_grid_are_those_of_its_spots(sections):
    for batch in ("section_1", ["section_1"] * 800):
        with pytest.raises(ValueError, match="`batch` has no meaning with `factor`"):
            sections.super_resolve(factor=2, batch=batch)
    x = sections.adata.obsm["spatial"][:4]
    new = sections.super_resolve(coordinates=x, batch=["section_1", "section_2"] * 2, steps=1)
    assert (
        sections.adata.obs["section"].loc[new.obs["spot"]].tolist()
        == [
            "section_1",
            "section_2",
        ]
        * 2
    )
    assert new.obs["spot"].iloc[0] == sections.adata.obs_names[0]


# between sections


def test_sections_between_sections(stack):
    assert stack.spatial_["section"] is None and stack._tissue().stacked
    depths = np.unique(stack.adata.obsm["spatial_3d"][:, 2])
    z = [depths[:2].mean(), depths[1:].mean()]
    new = stack.impute_sections(z=z, seed=0, steps=1)
    x = new.obsm["spatial_3d"]
    assert new.n_obs == 200 and (x[:, 2] == np.repeat(z, 100)).all()
    np.testing.assert_array_equal(x[:100], stack.propose_places(z=z[0], seed=0))
    again = stack.impute_sections(z=z, seed=0, steps=1)
    assert (again.X != new.X).nnz == 0
    plane = x[:5, :2]
    one = stack.impute_sections(
        z=z[0], coordinates=plane, adjacent=False, seed=0, n_samples=2, return_mean=True
    )
    np.testing.assert_array_equal(one.obsm["spatial_3d"], np.column_stack([plane, [z[0]] * 5]))
    same = impute(stack, one.obsm["spatial_3d"], steps=None, n_samples=2, return_mean=True)
    np.testing.assert_array_equal(np.asarray(one.X), np.asarray(same.X))
    # some of the cells, in one section
    rows = np.flatnonzero(stack.adata.obsm["spatial_3d"][:, 2] == depths[0])[:60]
    assert stack.impute_sections(z=z[0], indices=rows, seed=0, steps=1).n_obs == 60


def test_cells_between_sections_are_as_in_one_of_them(stack):
    x = stack.adata.obsm["spatial_3d"]
    depths = np.unique(x[:, 2])
    z = depths[0] + 0.3 * (depths[1] - depths[0])
    plane = stack.propose_places(z=z, seed=0)[:, :2]
    ask = {"coordinates": plane, "n_samples": 20, "seed": 0, "steps": 5}
    new = stack.impute_sections(z=z, **ask)
    assert (new.obsm["spatial_3d"] == np.column_stack([plane, [z] * 100]).repeat(20, axis=0)).all()
    assert (new.obs["place"].to_numpy() == np.arange(100).repeat(20)).all()
    section = new.obs["section"].astype(str).to_numpy()
    assert set(section) == {"section_1", "section_2"}
    assert (section == "section_2").mean() == pytest.approx(0.3, abs=0.04)
    # each cell is the one that would have been drawn in its section
    for depth, name in zip(depths, ("section_1", "section_2"), strict=False):
        there = stack.impute_sections(z=depth, **ask)
        rows = section == name
        np.testing.assert_array_equal(new.obsm["X_scldm"][rows], there.obsm["X_scldm"][rows])
    mean = stack.impute_sections(z=z, return_mean=True, **ask)
    drawn = new.X.toarray().reshape(100, 20, -1).mean(axis=1)
    off = (drawn - mean.X) / (mean.layers["spread"] / np.sqrt(20))
    # of the same latents, so that no more than counting sets them apart
    assert 0.3 < np.sqrt(np.square(off).mean()) < 1.05


def test_beyond_the_outer_sections_cells_are_as_in_them(stack):
    x = stack.adata.obsm["spatial_3d"]
    depths = np.unique(x[:, 2])
    gap = depths[1] - depths[0]
    for depth, way in ((depths[0], -1), (depths[-1], 1)):
        plane = x[x[:, 2] == depth][:9, :2] + 1.0
        ask = {"coordinates": plane, "seed": 0, "steps": 1}
        there = stack.impute_sections(z=depth, **ask)
        with warnings.catch_warnings():
            # a section is as thick as that
            warnings.filterwarnings("error", message=".*above or below")
            near = stack.impute_sections(z=depth + 0.4 * way * gap, **ask)
        with pytest.warns(UserWarning, match="9 of 9 `coordinates` lie above or below") as caught:
            beyond = stack.impute_sections(z=depth + 2 * way * gap, **ask)
        (text,) = [str(w.message) for w in caught if "above or below" in str(w.message)]
        assert float(re.search(r"[\d.]+(?= in the unit)", text)[0]) == pytest.approx(
            2 * gap, rel=0.01
        )
        assert (there.X != near.X).nnz == (there.X != beyond.X).nnz == 0


def test_only_in_a_stack_are_there_adjacent_sections(model, hole):
    with pytest.raises(ValueError, match="`adjacent` needs cells in sections of a stack"):
        impute(model, hole, adjacent=True)
    with pytest.raises(ValueError, match="`adjacent='yes'` must be True or False"):
        impute(model, hole, adjacent="yes")


def test_the_mean_between_sections_has_the_conditions_of_the_nearer(stack):
    depths = np.unique(stack.adata.obsm["spatial_3d"][:, 2])
    for share, name in ((0.3, "section_1"), (0.7, "section_2")):
        z = depths[0] + share * (depths[1] - depths[0])
        mean = stack.impute_sections(z=z, n_samples=3, return_mean=True, seed=0, steps=1)
        assert set(mean.obs["section"]) == {name}


def test_neighbours_of_other_sections_count(stack):
    x = stack.adata.obsm["spatial_3d"]
    depths = np.unique(x[:, 2])
    place = np.array([[x[:, 0].mean(), x[:, 1].mean(), depths[:2].mean()]])
    steps = (x - place) / [SPACING, SPACING, depths[1]]
    near = np.argsort(np.linalg.norm(steps, axis=1))[:24]
    assert len(set(x[near, 2])) > 1
    plain = z_of(stack, place, method="neighbours", n_samples=20)
    for depth in depths[:2]:
        rows = near[x[near, 2] == depth]
        changed = with_other_counts(stack.adata, rows)
        other = z_of(stack, place, changed, method="neighbours", n_samples=20)
        assert np.abs(other - plain).max() > 1e-3


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"z": np.nan}, "`z=nan` must be a finite number"),
        ({"z": []}, "must be a finite number"),
        ({"z": [[1.0, 2.0]]}, "must be a finite number"),
        ({"z": "deep"}, "`z='deep'` must be a finite number"),
        ({"z": [1.0, np.nan]}, "must be a finite number"),
        ({"z": [5.0, 3.0, 5.0]}, "has a depth twice"),
        ({"z": 5.0, "coordinates": [[1.0, 2.0, 3.0]]}, r"`coordinates` has shape \(1, 3\)"),
        ({"z": 5.0, "coordinates": [1.0, 2.0]}, r"`coordinates` has shape \(2,\)"),
        ({"z": 5.0, "coordinates": [[1.0, np.inf]]}, "`coordinates` has NaN or infinite"),
    ],
)
def test_odd_sections_are_refused(stack, kwargs, words):
    with pytest.raises(ValueError, match=words):
        stack.impute_sections(**kwargs)


def test_only_a_stack_has_sections_between(model, sections):
    for other in (model, sections):
        with pytest.raises(
            ValueError, match="`impute_sections` needs cells in sections of a stack"
        ):
            other.impute_sections(z=3.0)
    with pytest.raises(ValueError, match="`z` needs cells in sections of a stack"):
        model.propose_places(z=3.0)


def test_places_are_proposed_for_one_section_at_a_time(sections):
    with pytest.raises(ValueError, match=r"several sections \(`batch`\)"):
        sections.propose_places()
    assert sections.propose_places(indices=range(100), seed=0).shape == (100, 2)


# where cells might be


def closest(x):
    return KDTree(x).query(x, 2)[0][:, 1]


def test_places_are_as_many_as_cells_and_as_far_apart(model):
    x = model.adata.obsm["X_map"]
    places = model.propose_places(seed=0)
    assert places.shape == x.shape
    assert closest(places).min() > np.quantile(closest(x), 0.05) - 1e-6
    # where cells are, and not in the hole
    assert (places > x.min(axis=0) - 4 * SPACING).all()
    assert (places < x.max(axis=0) + 4 * SPACING).all()
    assert np.median(KDTree(x).query(places)[0]) < SPACING
    np.testing.assert_array_equal(places, model.propose_places(seed=0))
    assert not np.array_equal(places, model.propose_places(seed=1))
    assert model.propose_places(n_places=17, seed=0).shape == (17, 2)
    left = np.flatnonzero(x[:, 0] < x[:, 0].mean() / 2)
    some = model.propose_places(indices=left, seed=0)
    assert len(some) == len(left)
    assert some[:, 0].max() < x[:, 0].mean() / 2 + 4 * SPACING


def test_places_in_a_region(tissue, model, hole):
    """The hole is filled with as many places as there are cells."""
    side = tissue[0].uns["tissue"]["size"]
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    corners = side / 2 + 0.15 * side * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    places = model.propose_places(within=corners, seed=0)
    assert inside(corners, places).all()
    assert len(places) == pytest.approx(len(hole), rel=0.25)
    assert closest(places).min() > np.quantile(closest(model.adata.obsm["X_map"]), 0.05) - 1e-6
    assert not np.array_equal(places, model.propose_places(within=corners, seed=1))
    assert model.propose_places(None, 9, within=corners.tolist(), seed=0).shape == (9, 2)
    # as many as find room
    with pytest.warns(
        UserWarning, match="`n_places=300`: .* places fit at the distance that cells"
    ):
        some = model.propose_places(None, 300, within=corners, seed=0)
    assert len(places) < len(some) < 300
    # the region may lie anywhere
    far = model.propose_places(within=corners + 1e4, seed=0)
    assert len(far) == len(places) and inside(corners + 1e4, far).all()


def test_thin_regions_are_filled_too(model):
    side = model.adata.uns["tissue"]["size"]
    ribbon = np.array([[0, 0], [side, side], [side + 1, side], [1, 0]]) + [0, 2 * side]
    places = model.propose_places(None, 12, within=ribbon, seed=0)
    assert len(places) == 12 and inside(ribbon, places).all()


def square(adata):
    side = adata.uns["tissue"]["size"]
    return np.array([[0, 0], [side, 0], [side, side], [0, side]])


def test_places_of_a_stack_lie_in_its_sections(stack):
    x = stack.adata.obsm["spatial_3d"]
    depths = np.unique(x[:, 2])
    own = x[x[:, 2] == depths[1]]
    places = stack.propose_places(z=depths[1], seed=0)
    assert places.shape == (100, 3) and (places[:, 2] == depths[1]).all()
    least = np.quantile(closest(own), 0.05)
    assert closest(places).min() > least - 1e-6
    corners = square(stack.adata)
    within = stack.propose_places(z=depths[1], within=corners, seed=0)
    assert inside(corners, within[:, :2]).all() and (within[:, 2] == depths[1]).all()
    # as many as the observed cells leave room for, at the edges, and not on top of them
    assert len(within) < 30
    assert KDTree(own[:, :2]).query(within[:, :2])[0].min() > least - 1e-6
    # beyond the last section it is that one
    beyond = stack.propose_places(z=10 * depths[-1], seed=0)
    assert len(beyond) == 100
    # of one section alone
    rows = np.flatnonzero(x[:, 2] == depths[0])
    for z in (-1.0, depths[0], depths[1]):
        assert len(stack.propose_places(indices=rows, z=z, seed=0)) == len(rows)


def test_places_between_sections_are_as_many_and_as_far_apart_as_in_one(stack):
    x = stack.adata.obsm["spatial_3d"]
    depths = np.unique(x[:, 2])
    z = depths[:2].mean()
    corners = square(stack.adata)
    assert len(stack.propose_places(z=z, within=corners, seed=0)) == pytest.approx(100, rel=0.25)
    least = min(np.quantile(closest(x[x[:, 2] == d]), 0.05) for d in depths[:2])
    assert closest(stack.propose_places(z=z, seed=0)).min() > 0.8 * least


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"within": [[0, 0], [1, 1]]}, r"`within` has shape \(2, 2\)"),
        ({"within": [[0, 0, 0]] * 3}, r"`within` has shape \(3, 3\)"),
        ({"within": [[0, 0], [1, np.nan], [1, 1]]}, "`within` has NaN"),
        ({"n_places": 0}, "`n_places=0`"),
        ({"n_places": 2.5}, "`n_places=2.5`"),
        ({"seed": -1}, "`seed=-1`"),
        ({"indices": []}, "`indices` is empty"),
    ],
)
def test_odd_requests_for_places_are_refused(model, kwargs, words):
    with pytest.raises(ValueError, match=words):
        model.propose_places(**kwargs)


def test_a_stack_needs_a_depth(stack):
    with pytest.raises(ValueError, match="`z` is missing"):
        stack.propose_places()


def test_each_depth_has_draws_of_its_own(stack):
    depths = np.unique(stack.adata.obsm["spatial_3d"][:, 2])
    near = depths[0] + np.array([0.3, 0.3001]) * (depths[1] - depths[0])
    one, other = (stack.propose_places(z=z, seed=0)[:, :2] for z in near)
    assert KDTree(one).query(other)[0].min() > 1e-6
    np.testing.assert_array_equal(one, stack.propose_places(z=near[0], seed=0)[:, :2])
    # which are those of the section, whatever else is asked for with it
    both = stack.impute_sections(z=near, seed=0, steps=1).obsm["spatial_3d"]
    np.testing.assert_array_equal(both[: len(one), :2], one)
    np.testing.assert_array_equal(both[len(one) :, :2], other)


@pytest.mark.parametrize("z", ["deep", np.nan, np.inf, None])
def test_depths_of_places_are_numbers(stack, z):
    with pytest.raises(ValueError, match="`z` is missing" if z is None else "finite number"):
        stack.propose_places(z=z)


def test_places_need_cells_to_go_by(model, stack):
    with pytest.raises(ValueError, match="need 4 or more cells"):
        model.propose_places(indices=range(3))
    twins = model.adata.copy()
    twins.obsm["X_map"][:] = twins.obsm["X_map"][:1]
    with pytest.raises(ValueError, match="need 4 or more cells"):
        model.propose_places(twins)
    depth = stack.adata.obsm["spatial_3d"][:, 2]
    few = np.flatnonzero(depth == depth.max())[:3]
    with pytest.raises(ValueError, match="need 4 or more cells of a section"):
        stack.propose_places(indices=few, z=depth.max())


@pytest.mark.parametrize("corners", [[[0, 0], [1, 1], [2, 2]], [[3, 3]] * 4])
def test_corners_on_a_line_enclose_nothing(model, corners):
    with pytest.raises(ValueError, match="corners on one line"):
        model.propose_places(within=corners)


def test_cells_on_a_line_have_no_area(model):
    line = model.adata.copy()
    line.obsm["X_map"][:, 1] = 5.0
    with pytest.raises(ValueError, match="line"):
        model.propose_places(line, within=[[0, 0], [100, 0], [0, 100]])


# what is refused, and what is warned of


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"coordinates": None}, "`coordinates` is missing"),
        ({"coordinates": np.zeros((0, 2))}, "`coordinates` is empty"),
        ({"coordinates": [[1.0, np.nan]]}, "`coordinates` has NaN or infinite"),
        ({"coordinates": [[1.0, np.inf]]}, "`coordinates` has NaN or infinite"),
        ({"coordinates": [[1.0, 2.0, 3.0]]}, r"`coordinates` has shape \(1, 3\)"),
        ({"coordinates": [["here", "there"]]}, "`coordinates` does not hold numbers"),
        ({"cell_type": "A"}, "`cell_type` is found together"),
        ({"kind": "A"}, "`kind` is not a registered condition"),
        ({"batch": "a"}, "`batch` is not a registered condition"),
        ({"method": "magic"}, "`method='magic'` is not known. Known: .*'context'"),
        ({"method": 3}, "`method=3`"),
        ({"n_samples": 0}, "`n_samples=0`"),
        ({"batch_size": 0}, "`batch_size=0`"),
        ({"steps": 0}, "`steps=0`"),
        ({"sampler": "none"}, "`sampler='none'`"),
        ({"guidance_scale": -1}, "`guidance_scale=-1`"),
        ({"guidance_scale": {"spatial": 2}}, "`guidance_scale="),
        ({"seed": -1}, "`seed=-1`"),
        ({"indices": []}, "`indices` is empty"),
    ],
)
def test_odd_requests_are_refused(model, hole, kwargs, words):
    with pytest.raises(ValueError, match=words):
        model.impute_region(**{"coordinates": hole, **kwargs})


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({}, r"`batch` is missing.*Known: \['section_1', 'section_2'\]"),
        ({"batch": None}, "`batch` is missing"),
        ({"batch": "section_3"}, r"`batch='section_3'`.*Known: \['section_1', 'section_2'\]"),
        ({"batch": ["section_1"] * 2}, "`batch` has 2 values for 3 places"),
        ({"batch": "section_2", "indices": range(100)}, "No observed cell is of the `batch`"),
        ({"batch": "section_1", "side": "middle"}, "`side='middle'`"),
        ({"batch": "section_1", "depth": [1.0, 2.0]}, "`depth` has 2 values for 3"),
        ({"batch": "section_1", "depth": np.nan}, "`depth` has NaN"),
    ],
)
def test_odd_sections_and_conditions_are_refused(sections, kwargs, words):
    with pytest.raises(ValueError, match=words):
        sections.impute_region(coordinates=sections.adata.obsm["spatial"][:3], **kwargs)


def test_a_place_outside_is_warned_of_with_its_distance(model, hole):
    x = model.adata.obsm["X_map"]
    unit = model._tissue().spacing[0]
    away = x[np.argmin(x[:, 0])] - [7.5 * unit, 0]
    nearest = KDTree(x).query(away)[0]
    with pytest.warns(UserWarning, match="1 of 3 `coordinates` lie outside") as caught:
        impute(model, [hole[0], away, hole[1]])
    (text,) = [str(w.message) for w in caught if "outside" in str(w.message)]
    distance, spacing = (float(n) for n in re.findall(r"[\d.]+\d(?= in the unit|\. What)", text))
    assert distance == pytest.approx(nearest, rel=0.01)
    assert spacing == pytest.approx(unit, rel=0.01)
    # near the edge, and in the midst of a hole, there is nothing to say
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        impute(model, [x.min(axis=0) - 2 * unit])
        ring = np.linalg.norm(x - x.mean(axis=0), axis=1) > 12 * unit
        impute(model, [x.mean(axis=0)], indices=ring)
    # cells on a line have no inside
    line = np.argsort(x[:, 0])[:2]
    with pytest.warns(UserWarning, match="1 of 1 `coordinates` lie outside"):
        impute(model, [x[line[0]] + 50 * unit], indices=line)


def test_a_place_far_below_a_stack_is_warned_of_with_its_distance(stack):
    x = stack.adata.obsm["spatial_3d"]
    with pytest.warns(UserWarning, match="1 of 1 `coordinates` lie outside") as caught:
        impute(stack, x[-1:] + [0, 0, 500.0])
    (text,) = [str(w.message) for w in caught if "outside" in str(w.message)]
    assert float(re.search(r"[\d.]+(?= in the unit)", text)[0]) == pytest.approx(500, rel=0.01)


def test_places_that_occur_twice_are_warned_of(model, hole):
    with pytest.warns(UserWarning, match="2 of 5 `coordinates` occur more than once"):
        new = impute(model, hole[[0, 1, 0, 0, 2]])
    assert new.n_obs == 5 and new.obs_names.is_unique


def test_the_same_place_of_two_sections_is_no_twin(sections):
    x = sections.adata.obsm["spatial"][[0, 0]] + 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        impute(sections, x, batch=["section_1", "section_2"])


def test_places_of_observed_cells_are_warned_of(model):
    x = model.adata.obsm["X_map"]
    with pytest.warns(UserWarning, match="At 3 of 3 `coordinates` there is an observed cell"):
        impute(model, x[:3])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        impute(model, x[:3], indices=np.arange(3, len(x)))


def test_a_hole_in_a_section_of_a_stack_is_filled_with_cells_of_that_section(stack):
    x = stack.adata.obsm["spatial_3d"]
    off = np.linalg.norm(x[:, :2] - x[:, :2].mean(axis=0), axis=1)
    for z in np.unique(x[:, 2]):
        here = x[:, 2] == z
        hole = here & (off < np.quantile(off[here], 0.3))
        new = impute(stack, x[hole], indices=np.flatnonzero(~hole))
        kept = {
            c
            for c in stack.adata.obs
            if c in new.obs and stack.adata.obs.loc[here, c].nunique() == 1
        }
        assert "section" in kept
        for column in kept:
            assert set(new.obs[column].astype(str)) == set(
                stack.adata.obs.loc[here, column].astype(str)
            )


ASK = {
    "impute_region": {"coordinates": [[1.0, 2.0]]},
    "super_resolve": {"factor": 2},
    "impute_sections": {"z": 1.0},
    "propose_places": {},
}


@pytest.mark.parametrize("name", ASK)
def test_without_coordinates_or_training_it_is_said(adata, name):
    SCLDM.setup_anndata(adata, layer="counts")
    model = SCLDM(adata, n_latent=2, n_hidden=8, width=16, depth=1)
    assert model.module.spatial is None
    with pytest.raises(ValueError, match="No coordinates are registered"):
        getattr(model, name)(**ASK[name])
    SCLDM.setup_anndata(adata, layer="counts", spatial_key="X_place")
    model = SCLDM(adata, n_latent=2, n_hidden=8, width=16, depth=1)
    with pytest.raises(RuntimeError, match=r"spatial stage is not trained.*`train_spatial\(\)`"):
        getattr(model, name)(**ASK[name])


def test_columns_that_the_result_needs_are_refused(adata):
    adata.obs["sample"], adata.obs["place"] = "a", 1.0
    SCLDM.setup_anndata(
        adata,
        layer="counts",
        spatial_key="X_place",
        categorical_covariate_keys=["sample"],
        continuous_covariate_keys=["place"],
    )
    model = SCLDM(adata, n_latent=2, n_hidden=8, width=16, depth=1)
    model.spatial_trained_ = True
    with pytest.raises(ValueError, match=r"\['place', 'sample'\] of `obs` are needed"):
        model.impute_region(coordinates=[[1.0, 2.0]])


def test_arguments_are_no_names_of_covariates():
    for ask in (SCLDM.impute_region, SCLDM.super_resolve, SCLDM.impute_sections):
        taken = {
            name
            for name, parameter in inspect.signature(ask).parameters.items()
            if parameter.kind is not parameter.VAR_KEYWORD and name != "self"
        }
        assert taken <= SCLDM._reserved_names(), ask.__name__


# training


def test_training_says_what_is_wrong(adata):
    SCLDM.setup_anndata(adata, layer="counts", cell_type_key="type")
    model = SCLDM(adata, n_latent=2, n_hidden=8, width=16, depth=1)
    with pytest.raises(RuntimeError, match="trained autoencoder"):
        model.train_spatial()
    model.autoencoder_trained_ = True
    with pytest.raises(ValueError, match="No coordinates are registered"):
        model.train_spatial()
    model.train(1, 1, **QUIET)
    assert not model.spatial_trained_
    with pytest.raises(ValueError, match="No coordinates are registered"):
        model.train(1, 1, spatial_kwargs={"max_steps": 1}, **QUIET)


class Failing(Callback):
    def on_train_batch_end(self, *args):
        raise RuntimeError("stopped on the way")


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"max_steps": 0}, ValueError, "`max_steps=0`"),
        ({"section": "donor"}, ValueError, r"`section='donor'` is not known. Known: .*'batch'"),
        ({"section": "cell_type"}, ValueError, r"`section='cell_type'`"),
        ({"section": "depth"}, ValueError, "`section='depth'`"),
        ({"plan_kwargs": {"rate": 1}}, TypeError, "rate"),
        ({"max_stepss": 1}, TypeError, "max_stepss"),
        ({"max_steps": 2, "callbacks": [Failing()]}, RuntimeError, "stopped on the way"),
    ],
)
def test_training_that_fails_keeps_what_was_trained(sections, kwargs, error, words):
    x = sections.adata.obsm["spatial"][:5]
    expected = impute(sections, x, batch="section_1")
    before = sections.module.spatial
    with pytest.raises(error, match=words):
        sections.train_spatial(**{**QUIET, **kwargs})
    assert sections.spatial_trained_ and sections.module.spatial is before
    again = impute(sections, x, batch="section_1")
    assert (expected.X != again.X).nnz == 0
    np.testing.assert_array_equal(expected.obsm["X_scldm"], again.obsm["X_scldm"])


def small(adata, n=60, **setup):
    own = adata[:n].copy()
    SCLDM.setup_anndata(own, layer="counts", spatial_key="X_place", **setup)
    return SCLDM(own, n_latent=2, n_hidden=8, width=16, depth=1)


def test_all_stages_train_one_after_the_other(adata):
    model = small(adata)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.train(1, 1, spatial_kwargs={"max_steps": 2}, **QUIET)
    assert model.diffusion_trained_ and model.spatial_trained_
    state = {k: v.clone() for k, v in model.module.state_dict().items()}
    split = model.train_indices.copy()
    model.train_spatial(2, **QUIET)
    moved = {k for k, v in model.module.state_dict().items() if not torch.equal(v, state[k])}
    assert moved and all(name.startswith("spatial.") for name in moved)
    np.testing.assert_array_equal(model.train_indices, split)
    # a new autoencoder makes other latents
    model.train_autoencoder(1, **QUIET)
    assert not model.spatial_trained_


def test_training_without_validation_cells(adata):
    model = small(adata)
    model.train_autoencoder(1, train_size=1.0, **QUIET)
    model.train_spatial(2, early_stopping=True, **QUIET)
    assert impute(model, adata.obsm["X_place"][:2]).n_obs == 2


def test_early_stopping_stops(adata, monkeypatch):
    model = small(adata)
    model.train_autoencoder(1, **QUIET)
    monkeypatch.setattr(training, "STEPS_PER_EPOCH", 1)
    # what does not learn cannot get better; the history goes on
    for stopping, expected in ((False, 20), (True, 26)):
        model.train_spatial(
            20, early_stopping=stopping, plan_kwargs={"lr": 0.0}, enable_progress_bar=False
        )
        assert len(model.history["spatial_loss_validation"]) == expected


@pytest.mark.parametrize("section", [None, "batch"])
def test_cells_at_one_place_are_left_out_of_training(adata, section):
    adata = adata[:60].copy()
    adata.obsm["X_place"][:] = 3.0
    if section == "batch":
        adata.obsm["X_place"] += adata.obs[["donor"]].to_numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = small(adata, **({} if section is None else {"batch_key": "donor"}))
    with pytest.warns(UserWarning, match="Nothing of space is learned.*same coordinates"):
        model.train(1, 1, **QUIET)
    assert model.diffusion_trained_ and not model.spatial_trained_
    with pytest.raises(ValueError, match="have the same coordinates"):
        model.train_spatial(1, **QUIET)
    if section is not None:
        with pytest.warns(UserWarning, match="58 of 60 cells have the coordinates of another"):
            model.train_spatial(1, section=None, **QUIET)
        assert model.spatial_trained_


@pytest.mark.parametrize("kind", ["one cell", "one place"])
def test_one_section_that_says_nothing_does_not_keep_others_from_training(adata, kind):
    adata = adata[:60].copy()
    if kind == "one cell":
        adata.obs["donor"] = (np.arange(60) == 7).astype(int)
    else:
        adata.obsm["X_place"][(adata.obs["donor"] == 1).to_numpy()] = 3.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = small(adata, batch_key="donor")
        model.train_autoencoder(1, train_size=1.0, **QUIET)
        assert model._can_learn_space()
        model.train_spatial(2, **QUIET)
        assert model.spatial_trained_
        new = impute(model, adata.obsm["X_place"][:2], batch=[0, 1])
        # the one section was not seen at all
        model.train_autoencoder(1, **QUIET)
        model.train_spatial(2, **QUIET)
    assert np.isfinite(new.obsm["X_scldm"]).all()
    assert all(p.isfinite().all() for p in model.module.spatial.parameters())


def test_few_cells_are_left_out_of_training(adata):
    model = small(adata, 15)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", module="lightning")
        model.train(1, 1, **QUIET)
    assert not model.spatial_trained_


def test_twins_are_warned_of(adata):
    adata.obsm["X_place"][:4] = adata.obsm["X_place"][0]
    model = small(adata)
    model.train_autoencoder(1, **QUIET)
    with pytest.warns(UserWarning, match="3 of 60 cells have the coordinates of another"):
        model.train_spatial(1, **QUIET)


def test_multimodal_models_have_no_such_stage():
    with pytest.raises(
        TypeError, match="`spatial_kwargs` belongs to a stage that this model lacks"
    ):
        MultiLDM.train(object.__new__(MultiLDM), spatial_kwargs={})
