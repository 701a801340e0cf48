"""A trained model taken to new cells."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from scipy import sparse

from scldm import SCLDM
from scldm.module import LatentDiffusion

PARTS = ("encoder", "decoder", "denoiser", "conditions")
QUIET = {"enable_progress_bar": False}
SHORT = {"max_epochs": 3, "max_steps": 30, **QUIET}


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="scvi|lightning")
        yield


@pytest.fixture
def cells(new_data):
    """Fifty cells with a new type, batch, perturbation, combination and covariate."""
    new = new_data.copy()
    obs = new.obs
    obs["type"] = obs["type"].astype(str).replace("T", "A new one")
    obs["donor"] += 1
    obs["guide"] = obs["guide"].replace({"TP53": "AAA", "CEBPA+KLF1": "AAA+KLF1"})
    obs["sex"] = obs["sex"].replace("F", "X")
    return new


def state_of(model):
    return {name: value.clone() for name, value in model.module.state_dict().items()}


def same_cells(a, b):
    return (
        (a.X != b.X).nnz == 0
        and np.array_equal(a.obsm["X_scldm"], b.obsm["X_scldm"])
        and a.obs.astype(str).equals(b.obs.astype(str))
    )


OLD = [
    {},
    {"cell_type": "B"},
    {"cell_type": "T", "batch": 1, "perturbation": "KLF1"},
    {"sex": "F", "batch": 0},
    {"perturbation": "CEBPA+KLF1", "guidance_scale": 2.0},
]


def test_until_it_is_trained_it_makes_the_reference_s_very_cells(trained, cells, tmp_path):
    before = state_of(trained)
    trained.save(tmp_path / "model")
    for reference in (trained, tmp_path / "model"):
        query = SCLDM.load_query_data(cells.copy(), reference)
        for asked in OLD:
            made = query.generate(60, seed=0, **asked)
            assert same_cells(made, trained.generate(60, seed=0, **asked)), asked
    for name, value in trained.module.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_old_categories_keep_their_codes_and_new_ones_come_after(trained, cells):
    query = SCLDM.load_query_data(cells, trained)
    old = {c.name: c for c in trained.conditions}
    for condition in query.conditions:
        if condition.name in ("cell_type", "batch", "sex"):
            n = len(old[condition.name].categories)
            assert condition.categories[:n] == old[condition.name].categories
            assert condition.observed[: len(old[condition.name].observed)] == list(
                old[condition.name].observed
            )
    assert query.conditions[0].categories == ["T", "NK", "B", "A new one"]
    assert "AAA+KLF1" in {c.name: c for c in query.conditions}["perturbation"].labels
    made = query.generate(20, cell_type="A new one", batch=2, perturbation="AAA", seed=0)
    assert set(made.obs["type"]) == {"A new one"}


def test_new_categories_begin_at_nothing_known_and_at_means(trained, cells):
    query = SCLDM.load_query_data(cells, trained)
    old, new = trained.module.diffusion.averaged, query.module.diffusion.trained
    old, new = (d.network.conditions.embedders for d in (old, new))
    torch.testing.assert_close(new[0].vectors.weight[3], old[0].absent)
    # the perturbations' vectors stand in the order of their names, where the new one is the first
    torch.testing.assert_close(new[2].vectors.weight[0], old[2].vectors.weight.mean(0))
    assert torch.equal(new[2].vectors.weight[1:], old[2].vectors.weight)
    name = "decoder.px_decoder.fc_layers.Layer 0.0.weight"
    old, new = (m.module.autoencoder.state_dict()[name] for m in (trained, query))
    # latents, a continuous covariate, two batches, two sexes; then one more of each
    torch.testing.assert_close(new[:, [0, 6, 7, 8, 10, 11]], old[:, [0, 6, 7, 8, 9, 10]])
    torch.testing.assert_close(new[:, 9], old[:, 7:9].mean(1))
    torch.testing.assert_close(new[:, 12], old[:, 9:11].mean(1))


def test_what_is_frozen_stays_bit_by_bit_and_what_is_new_moves(trained, cells):
    query = SCLDM.load_query_data(cells, trained, frozen=PARTS)
    before = state_of(query)
    plan = {"plan_kwargs": {"weight_decay": 0.5}}
    query.train(**SHORT, autoencoder_kwargs=plan, diffusion_kwargs=plan)
    moved = {}
    for name, value in query.module.state_dict().items():
        changed = (value != before[name]).reshape(len(value), -1) if value.ndim > 1 else None
        if changed is not None and changed.any():
            moved[name] = [d.nonzero().ravel().tolist() for d in (changed.any(1), changed.any(0))]
        elif changed is None and name not in ("diffusion.n_averaged",):
            assert torch.equal(value, before[name]), name
    embedders = "diffusion.{}.network.conditions.embedders.{}.vectors.weight"
    expected = {"autoencoder.decoder.px_decoder.fc_layers.Layer 0.0.weight"}
    expected |= {embedders.format(n, i) for n in ("trained", "averaged") for i in (0, 1, 2, 5)}
    expected_with_bounds = expected | {f"diffusion.{n}.bounds" for n in ("trained", "averaged")}
    assert expected <= set(moved) <= expected_with_bounds
    for n in ("trained", "averaged"):
        rows = [moved[embedders.format(n, i)][0] for i in (0, 1, 2, 5)]
        assert rows == [[3], [2], [0], [2]]
    assert moved["autoencoder.decoder.px_decoder.fc_layers.Layer 0.0.weight"][1] == [9, 12]
    assert query.history["diffusion_loss_train"].notna().all().all()


def test_by_default_the_encoder_is_frozen_and_the_rest_learns(trained, cells):
    query = SCLDM.load_query_data(cells, trained)
    before = state_of(query)
    query.train(**SHORT)
    after = query.module.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert not [n for n in changed if n.split(".")[1] in ("z_encoder", "l_encoder")]
    assert not [n for n in changed if "running_" in n or n.endswith("num_batches_tracked")]
    assert not {"diffusion.shift", "diffusion.scale"} & changed
    assert any(n.startswith("autoencoder.decoder.px_scale_decoder") for n in changed)
    assert any(n.startswith("diffusion.averaged.network.blocks") for n in changed)
    # what was learned on latents that did not move holds
    assert query.perturbation_trained_ and query.trajectory_trained_ and query.spatial_trained_
    assert not [n for n in changed if n.split(".")[0] in ("perturbation", "trajectory", "spatial")]


def test_it_goes_on_drawing_from_the_reference_s_cells(trained, cells):
    query = SCLDM.load_query_data(cells, trained)
    query.train(**SHORT)
    frame = query.training_frame_
    assert len(frame) == len(trained.training_frame_) + cells.n_obs
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        made = query.generate(50, cell_type="T", batch=0, seed=0)
    assert set(made.obs["sex"]) <= {"F", "M"}
    query.train_diffusion(10, **QUIET)
    assert len(query.training_frame_) == len(frame)


def test_saved_and_loaded_it_is_the_same_and_still_frozen(trained, cells, tmp_path):
    query = SCLDM.load_query_data(cells, trained, frozen=PARTS)
    query.train(**SHORT)
    query.save(tmp_path / "model", save_anndata=True)
    loaded = SCLDM.load(tmp_path / "model")
    assert same_cells(loaded.generate(50, seed=0), query.generate(50, seed=0))
    assert loaded.recipe == query.recipe
    before = state_of(loaded)
    loaded.train_diffusion(20, **QUIET)
    after = loaded.module.state_dict()
    for name in ("diffusion.shift", "diffusion.scale", "diffusion.trained.network.enter.0.weight"):
        assert torch.equal(after[name], before[name]), name
    new = "diffusion.trained.network.conditions.embedders.0.vectors.weight"
    assert not torch.equal(after[new][3], before[new][3])
    assert torch.equal(after[new][:3], before[new][:3])


def _reference(adata, **kwargs):
    scvi.settings.seed = 0
    keys = {k: v for k, v in kwargs.items() if k in ("cell_type_key", "batch_key", "embeddings")}
    kwargs = {k: v for k, v in kwargs.items() if k not in keys}
    SCLDM.setup_anndata(adata, layer="counts", **keys)
    model = SCLDM(adata, n_hidden=16, n_latent=4, width=16, depth=1, **kwargs)
    model.train(max_epochs=20, max_steps=300, **QUIET)
    return model


@pytest.mark.parametrize(
    "kwargs",
    [
        {"batch_key": "type", "dispersion": "gene-batch"},
        {"cell_type_key": "type", "dispersion": "gene-label"},
        {"batch_key": "type", "batch_representation": "embedding"},
        {"batch_key": "type", "encode_covariates": True, "n_layers": 2},
        {"cell_type_key": "type", "autoencoder": "vq", "n_codes": 8},
        {"cell_type_key": "type", "conditioning": "cross_attention"},
    ],
)
def test_every_kind_of_model(adata, cells, kwargs):
    model = _reference(adata, **kwargs)
    made = model.generate(40, seed=0)
    query = SCLDM.load_query_data(cells, model, frozen=PARTS)
    assert same_cells(query.generate(40, seed=0), made)
    query.train(**SHORT)
    name = "batch" if "batch_key" in kwargs else "cell_type"
    assert query.generate(3, seed=0, **{name: "A new one"}).n_obs == 3
    old = {"seed": 0, name: ["B", "T", "NK"] * 10}
    assert same_cells(query.generate(**old), model.generate(**old))


def test_a_reference_with_one_batch(adata, cells):
    """A batch that is the only one has no column, and still means the same when it gets one."""
    model = _reference(adata[adata.obs["donor"] == 0].copy(), batch_key="donor")
    query = SCLDM.load_query_data(cells, model)
    assert same_cells(query.generate(40, batch=0, seed=0), model.generate(40, batch=0, seed=0))
    assert query.generate(2, batch=2, seed=0).n_obs == 2


def test_embeddings_of_new_types(adata, cells):
    vectors = {"T": [1.0, 0.0], "NK": [0.0, 1.0], "B": [0.0, 0.5], "HSC": [1.0, 1.0]}
    adata.uns["text"] = vectors
    model = _reference(adata, cell_type_key="type", embeddings={"cell_type": "text"})
    with pytest.raises(ValueError, match="has no vector for \\['A new one'\\]"):
        SCLDM.load_query_data(cells, model)
    cells.uns["text"] = {"A new one": [1.0, 1.0], "T": [9.0, 9.0]}
    query = SCLDM.load_query_data(cells, model)
    for name in ("T", "HSC"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = [m.generate(20, cell_type=name, seed=0) for m in (model, query)]
        assert same_cells(*made)
    table = query.module.diffusion.averaged.network.conditions.embedders[0].vectors.table
    at = query.conditions[0].categories.index
    torch.testing.assert_close(table[at("A new one")], table[at("HSC")])
    cells.uns["text"] = {"A new one": [1.0, 1.0, 1.0]}
    with pytest.raises(ValueError, match="vectors of length 3, but .* of length 2"):
        SCLDM.load_query_data(cells, model)


def test_old_cells_are_rehearsed(trained, cells, monkeypatch):
    """Cells of new conditions alone are given; the diffusion is shown old ones too."""
    seen = []
    loss = LatentDiffusion.loss

    def spied(self, x_0, conditions, *args, **kwargs):
        seen.append(conditions["batch"].nan_to_num(-1).unique().tolist())
        return loss(self, x_0, conditions, *args, **kwargs)

    monkeypatch.setattr(LatentDiffusion, "loss", spied)
    cells = cells[cells.obs["donor"] == 2].copy()
    query = SCLDM.load_query_data(cells, trained)
    query.train_diffusion(5, **QUIET)
    assert seen == [[2.0], [0.0, 1.0]] * 5


def test_genes_are_put_in_order_and_filled_in(trained, cells):
    genes = trained.var_names
    assert SCLDM.prepare_query_anndata(cells, trained, True).equals(genes)
    odd = cells[:, list(genes[5:][::-1])].copy()
    extra = cells[:, :2].copy()
    extra.var_names = ["other_0", "other_1"]
    odd = ad.concat([cells[:, list(genes[5:][::-1])], extra], axis="var", merge="first")
    odd.obs, odd.obsm["X_place"] = cells.obs, cells.obsm["X_place"]
    with pytest.warns(UserWarning, match=r"lacks 5 of the 40 genes .*\['gene_0', 'gene_1'"):
        ready = SCLDM.prepare_query_anndata(odd, trained)
    assert ready.var_names.equals(genes)
    assert ready.layers["counts"][:, :5].nnz == 0
    both = ready.layers["counts"][:, 5:], cells.layers["counts"][:, 5:]
    assert (sparse.csr_matrix(both[0]) != both[1]).nnz == 0
    assert odd.n_vars == 37
    pd.testing.assert_frame_equal(ready.obs, cells.obs)
    with pytest.raises(ValueError, match=r"Give what `prepare_query_anndata\(adata, ref"):
        SCLDM.load_query_data(odd, trained)
    SCLDM.load_query_data(ready, trained).generate(2, batch=2, seed=0)
    with pytest.raises(ValueError, match="has none of the 40 genes"):
        SCLDM.prepare_query_anndata(extra, trained)


def test_what_cannot_be(trained, cells, new_data, adata, setup):
    with pytest.raises(ValueError, match=r"`frozen` has 'decodr', .* Known: \['encoder', 'dec"):
        SCLDM.load_query_data(cells, trained, frozen=["decodr"])
    with pytest.raises(TypeError, match="`reference_model` is a int, not a SCLDM"):
        SCLDM.load_query_data(cells, 3)
    with pytest.raises(FileNotFoundError, match="no saved model at"):
        SCLDM.load_query_data(cells, "/nowhere")
    with pytest.raises(ValueError, match="leaves nothing to train: `adata` has no new categories"):
        SCLDM.load_query_data(new_data, trained, frozen=PARTS)
    SCLDM.setup_anndata(adata, **setup)
    untrained = SCLDM(adata, n_hidden=8, n_latent=2, width=8, depth=1)
    with pytest.raises(RuntimeError, match="The autoencoder of `reference_model` is not trained"):
        SCLDM.load_query_data(cells, untrained)
    cells.obs["day"] = "soon"
    with pytest.raises(ValueError, match="`time_key='day'` holds"):
        SCLDM.load_query_data(cells, trained)
