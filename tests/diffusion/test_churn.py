import math

import pytest
import torch

from scldm.diffusion import SCHEDULES, Churn, Euler, Heun, RectifiedFlow, VarianceExploding


def _generator():
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("rule", [Heun(), Euler()])
def test_no_churn_is_the_rule(schedule, rule, mixture, draw_noise):
    denoiser, noise = mixture.denoiser(SCHEDULES[schedule]()), draw_noise(30, 2)
    x = Churn(0.0, rule=rule).sample(denoiser, noise, 8, generator=_generator())
    torch.testing.assert_close(x, rule.sample(denoiser, noise, 8), rtol=0, atol=1e-6)


@pytest.mark.parametrize("outside", [{"low": 1e6}, {"high": 0.0}])
def test_no_noise_is_added_outside_the_levels(outside, mixture, draw_noise):
    denoiser, noise = mixture.denoiser(RectifiedFlow()), draw_noise(30, 2)
    generator = _generator()
    x = Churn(20.0, **outside).sample(denoiser, noise, 8, generator=generator)
    assert torch.equal(x, Heun().sample(denoiser, noise, 8))
    assert torch.equal(generator.get_state(), _generator().get_state())


@pytest.mark.parametrize(
    "options",
    [
        {"churn": 3.0, "low": 0.0, "high": math.inf, "inflation": 1.0},
        {"churn": 80.0, "low": 0.05, "high": 50.0, "inflation": 1.007},
    ],
)
def test_steps_are_algorithm_2(options, mixture, draw_noise):
    """Algorithm 2 of Karras et al. (2022), line by line, from a noise level of 80."""
    # a schedule that goes on above, so that the first step can be raised as well
    schedule = VarianceExploding(sigma_max=200.0)
    denoiser = mixture.denoiser(schedule)
    edm = VarianceExploding()
    sigmas = edm(edm.times(10))[1]

    def slope(x, sigma):
        return (x - denoiser(x, schedule.time(sigma))) / sigma

    generator = _generator()
    x = draw_noise(30, 2) * sigmas[0]
    for now, after in zip(sigmas[:-1], sigmas[1:], strict=True):
        inside = options["low"] <= now <= options["high"]
        gamma = min(options["churn"] / 10, math.sqrt(2) - 1) if inside else 0.0
        raised = now + gamma * now
        if gamma > 0:
            eps = torch.randn(30, 2, dtype=torch.float64, generator=generator)
            x = x + (raised**2 - now**2).sqrt() * options["inflation"] * eps
        d = slope(x, raised)
        guess = x + (after - raised) * d
        if after != 0:
            d = (d + slope(guess, after)) / 2
        x = x + (after - raised) * d

    churned = Churn(**options, rule=Heun(straight=False)).sample(
        denoiser, draw_noise(30, 2), times=schedule.time(sigmas), generator=_generator()
    )
    torch.testing.assert_close(churned, x)


def test_nothing_is_raised_above_the_end_of_the_schedule(gaussian, draw_noise):
    """The level that is too high becomes the last one, and the noise fits it."""
    schedule, n = VarianceExploding(), 20_000
    denoiser = gaussian.denoiser(schedule)
    times = schedule.time(torch.tensor([79.0, 78.0], dtype=torch.float64))
    x = gaussian.mean + torch.hypot(gaussian.std, torch.tensor(79.0).double()) * draw_noise(n)
    x = Churn(10.0).integrate(denoiser, x, times, generator=_generator())
    expected = torch.hypot(gaussian.std, torch.tensor(78.0).double())
    torch.testing.assert_close(x.std(0), expected, rtol=0.02, atol=0)
