import pytest
import torch

from scldm.diffusion import DDPM, PARAMETRISATIONS, SCHEDULES, Heun, UniformTimes
from scldm.module import LatentDiffusion
from scldm.nn import AdaLNMLP, CategoryEmbedder, ConditionEmbedder


def _diffusion(schedule="rectified_flow", parametrisation="flow", width=32):
    torch.manual_seed(0)
    embedder = ConditionEmbedder({"c": CategoryEmbedder(2, width)}, width)
    return LatentDiffusion(
        AdaLNMLP(3, embedder, depth=2),
        2,
        SCHEDULES[schedule](),
        PARAMETRISATIONS[parametrisation](),
        UniformTimes(),
    )


def test_standardised_draws_have_mean_zero_and_spread_one():
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(5000, 2, generator=generator) * torch.tensor([3.0, 0.1]) + 4
    variance = torch.rand(5000, 2, generator=generator)
    log_library = torch.randn(5000, 1, generator=generator) * 0.5 + 7
    diffusion = _diffusion()
    diffusion.fit_standardisation(mean, variance, log_library)
    z = mean + variance.sqrt() * torch.randn(mean.shape, generator=generator)
    x = diffusion.standardise(z, log_library)
    assert x.mean(0).abs().max() < 0.05
    assert (x.std(0) - 1).abs().max() < 0.05
    back_z, back_library = diffusion.unstandardise(x)
    torch.testing.assert_close(back_z, z)
    torch.testing.assert_close(back_library, log_library)


def test_a_constant_dimension_stays_finite():
    diffusion = _diffusion()
    diffusion.fit_standardisation(torch.ones(9, 2), torch.zeros(9, 2), torch.full((9, 1), 7.0))
    x = diffusion.standardise(torch.ones(9, 2), torch.full((9, 1), 7.0))
    torch.testing.assert_close(x, torch.zeros(9, 3))


def test_estimates_stay_near_the_data():
    """A network of random weights cannot send cells off to infinity."""
    diffusion = _diffusion("vp_linear", "noise")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100, 3, generator=generator)
    diffusion.fit_standardisation(x[:, :2], torch.zeros(100, 2), x[:, 2:])
    reach = diffusion.standardise(x[:, :2], x[:, 2:]).abs().amax(0)
    noise = torch.randn(50, 3, generator=generator)
    conditions = {"c": torch.zeros(50, 1)}
    estimate = diffusion.averaged(noise, torch.tensor(1.0), conditions)
    assert (estimate.abs() <= torch.clamp(1.5 * reach, min=4.0) + 1e-6).all()
    assert (estimate.abs() > 3).any(), "the bound was put to use"
    unbounded = torch.full_like(diffusion.averaged.bound, torch.inf)
    diffusion.averaged.bound.copy_(unbounded)
    assert diffusion.averaged(noise, torch.tensor(1.0), conditions).abs().max() > 50


def test_the_average_forgets_its_start_and_then_moves_slowly():
    diffusion = _diffusion()
    with torch.no_grad():
        for parameter in diffusion.trained.parameters():
            parameter.fill_(1.0)
    for _ in range(50):
        diffusion.update_average()
    for parameter in diffusion.averaged.parameters():
        torch.testing.assert_close(parameter, torch.ones_like(parameter), rtol=0, atol=0.01)
    diffusion.n_averaged.fill_(10**6)
    with torch.no_grad():
        for parameter in diffusion.trained.parameters():
            parameter.fill_(2.0)
    diffusion.update_average()
    moved = next(diffusion.averaged.parameters()).mean().item()
    assert moved == pytest.approx(1.0 + 1e-3, abs=0.01)
    assert not any(p.requires_grad for p in diffusion.averaged.parameters())


@pytest.mark.parametrize(
    ("schedule", "parametrisation", "sampler"),
    [("rectified_flow", "flow", Heun()), ("vp_linear", "noise", DDPM())],
)
def test_it_learns_two_classes_and_samples_with_the_average(schedule, parametrisation, sampler):
    diffusion = _diffusion(schedule, parametrisation, width=64)
    centre = torch.tensor([[-2.0, 1.0, 7.0], [2.0, -1.0, 8.0]])
    spread = torch.tensor([[0.5, 0.2, 0.1], [0.1, 0.6, 0.3]])
    generator = torch.Generator().manual_seed(0)

    def draw(n):
        label = torch.randint(2, (n,), generator=generator)
        x = centre[label] + spread[label] * torch.randn(n, 3, generator=generator)
        return x, {"c": label.unsqueeze(1).float()}

    x, _ = draw(5000)
    diffusion.fit_standardisation(x[:, :2], torch.zeros(5000, 2), x[:, 2:])
    optimizer = torch.optim.Adam(diffusion.trained.parameters(), lr=3e-3)
    for _ in range(800):
        x, conditions = draw(256)
        loss = diffusion.loss(diffusion.standardise(x[:, :2], x[:, 2:]), conditions, generator)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        diffusion.update_average()
    with torch.no_grad():
        # what samples is the average, whatever the trained weights are
        for parameter in diffusion.trained.parameters():
            parameter.fill_(torch.nan)
    for label in (0, 1):
        conditions = {"c": torch.full((2000, 1), float(label))}
        noise = torch.randn(2000, 3, generator=generator)
        z, log_library = diffusion.sample(noise, conditions, sampler, generator=generator)
        sample = torch.cat([z, log_library], 1)
        torch.testing.assert_close(sample.mean(0), centre[label], rtol=0, atol=0.12)
        torch.testing.assert_close(sample.std(0), spread[label], rtol=0.35, atol=0)
