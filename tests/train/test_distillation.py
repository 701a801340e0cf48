"""The plan that teaches a student, on a diffusion of its own."""

import lightning.pytorch as pl
import pytest
import torch

from scldm.diffusion import (
    Euler,
    Flow,
    GaussianMixtureDenoiser,
    Heun,
    RectifiedFlow,
    UniformTimes,
)
from scldm.module import LatentDiffusion
from scldm.nn import MLP, CategoryEmbedder, ConditionEmbedder
from scldm.train import DistillationPlan, LatentDataModule, Latents


@pytest.fixture
def diffusion():
    torch.manual_seed(0)
    embedder = ConditionEmbedder({"c": CategoryEmbedder(2, 32)}, 32)
    network = MLP(3, embedder, depth=2, dropout_rate=0.5)
    return LatentDiffusion(network, 2, RectifiedFlow(), Flow(), UniformTimes())


def _teacher():
    """A mixture of two, whose flow is known."""
    means = torch.tensor([[-1.0, 0.5, 0.0], [1.0, -0.5, 0.5]])
    return GaussianMixtureDenoiser(RectifiedFlow(), means, torch.full((2, 3), 0.4))


def _train(plan, steps):
    nothing = torch.zeros(64, 1)
    latents = Latents(nothing, nothing, nothing, {"c": torch.zeros(64, 1)})
    rows, none = torch.arange(64).numpy(), torch.arange(0).numpy()
    data = LatentDataModule(latents, rows, none, none, 64, steps)
    trainer = pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(plan, data)


@pytest.mark.parametrize("n_steps", [1, 2])
def test_a_student_learns_the_flow_of_a_known_teacher(diffusion, n_steps):
    for module in diffusion.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    diffusion.add_student(n_steps)
    plan = DistillationPlan(diffusion, _teacher(), Heun(), 10, lr=3e-3)
    _train(plan, 600)
    noise = torch.randn(500, 3, generator=torch.Generator().manual_seed(1))
    conditions = {"c": torch.zeros(500, 1)}
    truth = Heun().sample(_teacher(), noise, 40)
    diffusion.student.eval()
    made = Euler().sample(diffusion.student, noise, n_steps, conditions)
    error = (made - truth).square().sum() / (truth - truth.mean(0)).square().sum()
    assert error < 0.12


def test_only_the_student_changes(diffusion):
    before = {k: v.clone() for k, v in diffusion.state_dict().items()}
    diffusion.add_student(1)
    plan = DistillationPlan(diffusion, diffusion.averaged, Heun(), 3)
    _train(plan, 3)
    after = diffusion.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    # the network starts by predicting nothing, so its last layer is the first to learn
    moved = [name for name in after if "student" in name and "leave" in name]
    assert any(
        (after[name] != before[name.replace("student", "averaged")]).any() for name in moved
    )


def test_the_teacher_keeps_its_dropout_off(diffusion, monkeypatch):
    diffusion.add_student(1)
    plan = DistillationPlan(diffusion, diffusion.averaged, Heun(), 3)
    seen = []
    sample = plan.sampler.sample

    def watched(teacher, *args):
        assert plan.trained.training
        seen.append(any(module.training for module in teacher.modules()))
        return sample(teacher, *args)

    monkeypatch.setattr(plan.sampler, "sample", watched)
    _train(plan, 2)
    assert seen == [False, False]


def test_without_a_student(diffusion):
    with pytest.raises(ValueError, match="`diffusion` has no student"):
        DistillationPlan(diffusion, diffusion.averaged, Heun(), 3)
