import pytest
import torch

from scldm.diffusion import (
    PARAMETRISATIONS,
    SCHEDULES,
    GuidedDenoiser,
    NetworkDenoiser,
    RectifiedFlow,
)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
def test_a_perfect_prediction_gives_back_the_data(schedule, parametrisation):
    generator = torch.Generator().manual_seed(0)
    x_0, eps = torch.randn(2, 64, 5, dtype=torch.float64, generator=generator)
    t = torch.linspace(0.01, 0.98, 64, dtype=torch.float64)
    alpha, sigma = (scale.unsqueeze(1) for scale in SCHEDULES[schedule]()(t))
    rule = PARAMETRISATIONS[parametrisation]()
    target = rule.target(x_0, eps, alpha, sigma)
    clean = rule.clean(target, alpha * x_0 + sigma * eps, alpha, sigma)
    torch.testing.assert_close(clean, x_0)


@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
def test_loss_is_zero_for_a_perfect_network_and_not_for_another(parametrisation):
    generator = torch.Generator().manual_seed(0)
    x_0, eps = torch.randn(2, 32, 3, generator=generator)
    t = torch.rand(32, generator=generator, dtype=torch.float64)
    schedule, rule = RectifiedFlow(), PARAMETRISATIONS[parametrisation]()
    alpha, sigma = (scale.float().unsqueeze(1) for scale in schedule(t))
    target = rule.target(x_0, eps, alpha, sigma)

    class Oracle(torch.nn.Module):
        def forward(self, x, t, conditions):
            torch.testing.assert_close(x, alpha * x_0 + sigma * eps)
            return target

    denoiser = NetworkDenoiser(Oracle(), schedule, rule)
    assert denoiser.loss(x_0, t, eps).max() < 1e-10
    assert denoiser.loss(x_0, t, eps).shape == (32,)
    target = target + 1
    torch.testing.assert_close(denoiser.loss(x_0, t, eps), torch.ones(32))


class _Constant(torch.nn.Module):
    """Predicts the condition as data, or -1 where it is dropped."""

    calls = 0

    def forward(self, x, t, conditions):
        self.calls += 1
        return conditions["c"].nan_to_num(-1.0).expand_as(x)


def _dropped(conditions):
    return {name: torch.full_like(value, torch.nan) for name, value in conditions.items()}


@pytest.mark.parametrize(("scale", "expected"), [(0.0, -1.0), (1.0, 2.0), (3.0, 8.0)])
def test_guidance_extrapolates_from_the_unconditional_estimate(scale, expected):
    network = _Constant()
    denoiser = NetworkDenoiser(network, RectifiedFlow(), PARAMETRISATIONS["data"]())
    guided = GuidedDenoiser(denoiser, scale, _dropped)
    estimate = guided(torch.zeros(4, 3), torch.tensor(0.5), {"c": torch.full((4, 1), 2.0)})
    torch.testing.assert_close(estimate, torch.full((4, 3), expected))
    assert network.calls == 1, "both estimates come from one pass"


def test_guidance_without_conditions_is_the_denoiser():
    denoiser = NetworkDenoiser(torch.nn.Identity(), RectifiedFlow(), PARAMETRISATIONS["data"]())
    denoiser.network.forward = lambda x, t, conditions: x * 0.5
    guided = GuidedDenoiser(denoiser, 4.0, _dropped)
    x = torch.randn(5, 2)
    torch.testing.assert_close(guided(x, torch.tensor(0.3), {}), x * 0.5)
