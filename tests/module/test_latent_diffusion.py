import pytest
import torch

from scldm.diffusion import (
    DDPM,
    PARAMETRISATIONS,
    SCHEDULES,
    Coupling,
    Euler,
    GaussianMixtureDenoiser,
    GuidedDenoiser,
    Heun,
    MinSNR,
    OptimalTransport,
    RectifiedFlow,
    UniformTimes,
)
from scldm.module import LatentDiffusion
from scldm.nn import MLP, CategoryEmbedder, ConditionEmbedder


def _diffusion(schedule="rectified_flow", parametrisation="flow", width=32, **kwargs):
    torch.manual_seed(0)
    embedder = ConditionEmbedder({"c": CategoryEmbedder(2, width)}, width)
    return LatentDiffusion(
        MLP(3, embedder, depth=2),
        2,
        SCHEDULES[schedule](),
        PARAMETRISATIONS[parametrisation](),
        UniformTimes(),
        **kwargs,
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
    x = diffusion.standardise(x[:, :2], x[:, 2:])
    low, high = x.amin(0), x.amax(0)
    noise = torch.randn(50, 3, generator=generator)
    conditions = {"c": torch.zeros(50, 1)}
    estimate = diffusion.averaged(noise, torch.tensor(1.0), conditions)
    assert (estimate <= torch.clamp(1.5 * high, min=4.0) + 1e-6).all()
    assert (estimate >= torch.clamp(1.5 * low, max=-4.0) - 1e-6).all()
    assert (estimate.abs() > 3).any(), "the bounds were put to use"
    diffusion.averaged.bounds.copy_(torch.tensor([[-torch.inf], [torch.inf]]).expand(2, 3))
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
    spread = torch.tensor([[0.5, 0.3, 0.2], [0.3, 0.6, 0.3]])
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


class _Reversed(Coupling):
    """Noise in reverse order, and a record of what it was told."""

    def pair(self, x_0, noise, conditions):
        self.seen = x_0, conditions
        return noise.flip(0)


def test_the_loss_uses_coupling_weight_and_dropped_conditions():
    coupling = _Reversed()
    diffusion = _diffusion(coupling=coupling, weight=MinSNR(), condition_dropout=0.5)
    with torch.no_grad():
        for parameter in diffusion.trained.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    x_0 = torch.randn(64, 3, requires_grad=True)
    conditions = {"c": torch.randint(2, (64, 1)).float()}
    found = diffusion.loss(x_0, conditions, torch.Generator().manual_seed(5))
    # the same draws, in the same order
    generator = torch.Generator().manual_seed(5)
    t = diffusion.times.draw(64, diffusion.trained.schedule, x_0.device, generator)
    noise = torch.randn(64, 3, generator=generator)
    dropped = diffusion.drop_at_random(conditions, generator)
    assert 0.2 < dropped["c"].isnan().float().mean() < 0.9
    expected = diffusion.trained.loss(x_0, t, noise.flip(0), dropped)
    torch.testing.assert_close(found, expected)
    assert found.shape == (64,)
    assert not coupling.seen[0].requires_grad
    plain = _diffusion(condition_dropout=0.5)
    plain.trained.load_state_dict(diffusion.trained.state_dict())
    other = plain.loss(x_0, conditions, torch.Generator().manual_seed(5))
    assert not torch.allclose(found, other)


def test_optimal_transport_shortens_the_ways():
    x_0 = torch.randn(256, 3) + torch.tensor([3.0, 0.0, 0.0]) * torch.randint(2, (256, 1))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(256, 3, generator=generator)
    paired = OptimalTransport().pair(x_0, noise, {"c": torch.zeros(256, 1)})
    assert (paired - x_0).square().sum() < (noise - x_0).square().sum()
    loss = _diffusion(coupling=OptimalTransport()).loss(x_0, {"c": torch.zeros(256, 1)}, generator)
    assert loss.isfinite().all()


def test_validation_follows_its_generator_and_the_average():
    diffusion = _diffusion()
    x_0, conditions = torch.randn(40, 3), {"c": torch.zeros(40, 1)}

    def loss(seed):
        return diffusion.validation_loss(x_0, conditions, torch.Generator().manual_seed(seed))

    before = loss(0)
    torch.testing.assert_close(before, loss(0))
    assert not torch.equal(before, loss(1))
    with torch.no_grad():
        for parameter in diffusion.trained.parameters():
            parameter.fill_(torch.nan)
    torch.testing.assert_close(before, loss(0))


def test_there_and_back_again():
    diffusion = _diffusion()
    _fit(diffusion)
    z, log_library = torch.randn(30, 2) * 3, torch.randn(30, 1) * 0.2 + 7
    diffusion.averaged = _gaussian()
    noise = diffusion.invert(z, log_library, {}, Heun(), 60)
    assert noise.shape == (30, 3)
    back_z, back_library = diffusion.sample(noise, {}, Heun(), 60)
    torch.testing.assert_close(back_z, z, rtol=0, atol=2e-2)
    torch.testing.assert_close(back_library, log_library, rtol=0, atol=2e-3)
    with pytest.raises(ValueError, match="DDPM adds noise at every step"):
        diffusion.invert(z, log_library, {}, DDPM(), 5)


def test_the_log_density_is_of_latents_in_their_own_units():
    diffusion = _diffusion()
    _fit(diffusion)
    diffusion.averaged = _gaussian()
    z, log_library = torch.randn(30, 2) * 3, torch.randn(30, 1) * 0.2 + 7
    x = torch.cat([z, log_library], dim=1)
    mean = diffusion.shift + 0.5 * diffusion.scale
    truth = torch.distributions.Normal(mean, 0.8 * diffusion.scale).log_prob(x).sum(1)
    found = diffusion.log_prob(z, log_library, {})
    torch.testing.assert_close(found, truth, rtol=1e-3, atol=1e-2)
    generator = torch.Generator().manual_seed(0)
    probed = diffusion.log_prob(z, log_library, {}, n_probes=1, generator=generator)
    torch.testing.assert_close(probed, truth, rtol=1e-3, atol=1e-2)


def _fit(diffusion):
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(500, 2, generator=generator) * torch.tensor([3.0, 0.5]) + 1
    log_library = torch.randn(500, 1, generator=generator) * 0.2 + 7
    diffusion.fit_standardisation(mean, torch.zeros(500, 2), log_library)


def _gaussian():
    return GaussianMixtureDenoiser(RectifiedFlow(), torch.full((3,), 0.5), torch.full((3,), 0.8))


def test_which_denoiser_samples():
    diffusion = _diffusion()
    assert diffusion.denoiser() is diffusion.averaged
    assert diffusion.denoiser(scale=1.0, interval=(0.0, 0.5)) is diffusion.averaged
    guided = diffusion.denoiser(scale=2.0, negative={"c": torch.zeros(4, 1)})
    assert isinstance(guided, GuidedDenoiser)
    assert guided.denoiser is diffusion.averaged


def test_a_student_starts_as_the_average_and_is_its_own():
    diffusion = _diffusion()
    assert diffusion.student is None
    assert not any("student" in name for name in diffusion.state_dict())
    student = diffusion.add_student(2)
    assert student is diffusion.student
    assert diffusion.n_student_steps == 2
    noise, conditions = torch.randn(9, 3), {"c": torch.zeros(9, 1)}
    teacher_made = diffusion.sample(noise, conditions, Euler(), 2)
    made = diffusion.sample(noise, conditions, Euler(), 2, denoiser=student)
    torch.testing.assert_close(made, teacher_made)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    again = diffusion.sample(noise, conditions, Euler(), 2)
    torch.testing.assert_close(again, teacher_made)
    assert any("student" in name for name in diffusion.state_dict())


def test_cells_may_be_on_another_device_than_the_model():
    """Encoded cells are kept on the CPU, whatever trains."""
    diffusion = _diffusion().to("meta")
    diffusion.fit_standardisation(torch.ones(9, 2), torch.zeros(9, 2), torch.ones(9, 1))
    assert diffusion.scale.device.type == "meta"
