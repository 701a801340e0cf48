"""Students that make cells in one to a few steps."""

import json

import numpy as np
import pytest
import torch

from scldm import SCLDM
from scldm.diffusion import Euler, Heun


def _copy(model, tmp_path):
    model.save(tmp_path / "copy", overwrite=True)
    return SCLDM.load(tmp_path / "copy", model.adata.copy(), accelerator="cpu")


@pytest.fixture(scope="module")
def distilled(trained, tmp_path_factory):
    """A copy of the trained model with a student of one step. Tests must not change it."""
    model = _copy(trained, tmp_path_factory.mktemp("distilled"))
    torch.manual_seed(0)
    model.distill(1, max_steps=1500, enable_progress_bar=False)
    return model


def _state(model):
    return {k: v.clone() for k, v in model.module.state_dict().items()}


def _same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def _r2(truth, guess):
    return 1 - ((truth - guess) ** 2).sum() / ((truth - truth.mean(0)) ** 2).sum()


def test_one_step_leads_where_the_teacher_s_many_lead(distilled):
    diffusion = distilled.module.diffusion
    frame = distilled.training_frame_
    conditions = {c.name: torch.from_numpy(c.encode(frame)) for c in distilled.conditions}
    noise = torch.randn(400, 7, generator=torch.Generator().manual_seed(0))
    truth = Heun().sample(diffusion.averaged, noise, 20, conditions)
    student = Euler().sample(diffusion.student, noise, 1, conditions)
    # the student starts as this
    untaught = Euler().sample(diffusion.averaged, noise, 1, conditions)
    assert _r2(truth, student) > 0.9
    assert _r2(truth, student) > _r2(truth, untaught) + 0.1


def test_cells_of_the_student_are_like_those_of_the_teacher(distilled):
    student, teacher, other = (
        distilled.generate(1500, seed=seed, sampler=sampler)
        for seed, sampler in ((0, "distilled"), (1, "heun"), (2, "heun"))
    )
    z, truth, floor = (cells.obsm["X_scldm"] for cells in (student, teacher, other))
    spread = truth.std(0)
    assert np.abs(z.mean(0) - truth.mean(0)).max() < 0.15 * spread.max()
    np.testing.assert_allclose(z.std(0), spread, rtol=0.15)
    assert np.abs(floor.mean(0) - truth.mean(0)).max() < 0.15 * spread.max()
    record = student.uns["scldm"]
    assert (record["sampler"], record["steps"]) == ("distilled", 1)
    json.dumps(record)


def test_everything_else_stays_as_it_is(trained, distilled):
    before, after = _state(trained), _state(distilled)
    assert _same(before, {k: v for k, v in after.items() if "student" not in k})
    for name in ("train_indices", "validation_indices", "test_indices"):
        assert np.array_equal(getattr(trained, name), getattr(distilled, name)), name
    assert not any(module.training for module in distilled.module.modules())
    one, other = (model.generate(20, seed=0) for model in (trained, distilled))
    assert (one.X != other.X).nnz == 0
    curve = distilled.history["distillation_loss_train"]
    assert curve.iloc[-1, 0] < 0.5 * curve.iloc[0, 0]


def test_a_student_is_saved_with_its_model(distilled, tmp_path):
    loaded = _copy(distilled, tmp_path)
    one, other = (
        model.generate(300, seed=0, sampler="distilled") for model in (distilled, loaded)
    )
    assert (one.X != other.X).nnz == 0
    assert np.array_equal(one.obsm["X_scldm"], other.obsm["X_scldm"])


def test_more_steps_and_a_guided_teacher(trained, tmp_path):
    model = _copy(trained, tmp_path)
    model.distill(
        3, max_steps=3, guidance_scale=2.0, sampler="adaptive", enable_progress_bar=False
    )
    loaded = _copy(model, tmp_path)
    for one in (model, loaded):
        record = one.generate(5, seed=0, sampler="distilled").uns["scldm"]
        assert (record["steps"], record["guidance_scale"], record["teacher"]) == (
            3,
            2.0,
            "adaptive",
        )
        assert record["sampler"] == "distilled"
    # a second one takes its place
    model.distill(2, max_steps=2, enable_progress_bar=False)
    assert model.generate(5, seed=0, sampler="distilled", steps=2).n_obs == 5


@pytest.mark.parametrize("method", ["train_diffusion", "fine_tune"])
def test_a_student_goes_when_its_teacher_changes(distilled, tmp_path, method):
    model = _copy(distilled, tmp_path)
    getattr(model, method)(2, enable_progress_bar=False)
    with pytest.raises(ValueError, match="needs a student"):
        model.generate(5, sampler="distilled")
    assert _copy(model, tmp_path).student_ is None


@pytest.mark.parametrize("with_student", [False, True])
def test_a_failure_midway_leaves_no_trace(trained, distilled, tmp_path, monkeypatch, with_student):
    model = _copy(distilled if with_student else trained, tmp_path)
    before, history = _state(model), set(model.history)
    attributes = model.train_indices, model.student_
    student = model.module.diffusion.student
    draw, calls = torch.randint, []

    def failing(*args, **kwargs):
        calls.append(1)
        if len(calls) > 6:
            raise RuntimeError("out of memory")
        return draw(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "randint", failing)
        with pytest.raises(RuntimeError, match="out of memory"):
            model.distill(2, max_steps=50, enable_progress_bar=False)
    assert len(calls) > 6
    assert _same(_state(model), before)
    assert model.module.diffusion.student is student
    assert set(model.history) == history
    assert model.train_indices is attributes[0]
    assert model.student_ == attributes[1]
    assert not any(module.training for module in model.module.modules())
    if with_student:
        again, first = (m.generate(9, seed=0, sampler="distilled") for m in (model, distilled))
        assert (again.X != first.X).nnz == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"steps": 2}, "`steps=2` does not go with `sampler='distilled'`: .* made for 1"),
        ({"guidance_scale": 2.0}, "`guidance_scale` has no meaning for a student"),
    ],
)
def test_what_a_student_cannot_do(distilled, arguments, words):
    with pytest.raises(ValueError, match=words):
        distilled.generate(5, sampler="distilled", **arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n_steps": 0}, "`n_steps=0` must be"),
        ({"max_steps": 0}, "`max_steps=0` must be"),
        ({"batch_size": 0}, "`batch_size=0` must be"),
        ({"sampler": "ddpm"}, "adds noise at every step"),
        ({"sampler": "distilled"}, "has no way back to noise"),
        ({"steps": 0}, "`steps=0` must be"),
        ({"sampler": "adaptive", "steps": 5}, "has no meaning for an adaptive sampler"),
        ({"guidance_scale": "big"}, "`guidance_scale='big'` must be"),
    ],
)
def test_wrong_arguments(trained, arguments, words):
    with pytest.raises(ValueError, match=words):
        trained.distill(**arguments)
    assert trained.module.diffusion.student is None


def test_without_a_student(trained):
    with pytest.raises(ValueError, match=r"needs a student. Call `distill\(\)` first"):
        trained.generate(5, sampler="distilled")


def test_a_network_that_predicts_noise_has_a_student_too(adata):
    SCLDM.setup_anndata(adata, layer="counts", cell_type_key="type")
    torch.manual_seed(0)
    model = SCLDM(adata, parametrisation="noise", n_hidden=16, n_latent=3, width=32, depth=1)
    model.train(max_epochs=5, max_steps=1000, enable_progress_bar=False)
    model.distill(1, max_steps=1000, enable_progress_bar=False)
    diffusion = model.module.diffusion
    conditions = {"cell_type": torch.zeros(300, 1)}
    noise = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    truth = Heun().sample(diffusion.averaged, noise, 20, conditions)
    student = Euler().sample(diffusion.student, noise, 1, conditions)
    # the teacher itself can only guess the centre in one step
    untaught = Euler().sample(diffusion.averaged, noise, 1, conditions)
    error, untaught_error = ((x - truth).square().mean() for x in (student, untaught))
    assert error < 0.5 * untaught_error
