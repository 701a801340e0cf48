"""Samplers against data for which denoiser, flow and marginals are known."""

import pytest
import torch

from scldm.diffusion import (
    DDIM,
    DDPM,
    SAMPLERS,
    SCHEDULES,
    Adaptive,
    Churn,
    Denoiser,
    DPMSolver,
    Euler,
    GaussianMixtureDenoiser,
    Heun,
    RectifiedFlow,
    Resample,
    StepSampler,
    VarianceExploding,
    VariancePreserving,
    VariancePreservingCosine,
)

DETERMINISTIC = [name for name, rule in SAMPLERS.items() if rule().deterministic]
IN_STEPS = [name for name in SAMPLERS if name != "adaptive"]


class Recorded(Denoiser):
    """A denoiser that keeps the times and conditions that it is asked at."""

    def __init__(self, denoiser):
        super().__init__(denoiser.schedule)
        self.denoiser = denoiser
        self.times, self.conditions = [], []

    def forward(self, x_t, t, conditions=None):
        self.times.append(float(t))
        self.conditions.append(conditions)
        return self.denoiser(x_t, t, conditions)


def _generator(seed=3):
    return torch.Generator().manual_seed(seed)


def _end(schedule):
    return schedule(torch.ones((), dtype=torch.float64))


def _start(schedule, noise):
    return noise * _end(schedule)[1]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("sampler", DETERMINISTIC)
def test_deterministic_rules_follow_the_flow(schedule, sampler, gaussian, draw_noise):
    schedule, noise = SCHEDULES[schedule](), draw_noise(200)
    x = SAMPLERS[sampler]().sample(gaussian.denoiser(schedule), noise, 1000)
    exact = gaussian.flow(schedule, _start(schedule, noise), 1.0)
    assert (x - exact).square().mean().sqrt() < (1e-2 if sampler in ("euler", "ddim") else 5e-4)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("sampler", [DDPM(), DDIM(eta=0.5), Churn(churn=40.0), Churn(5.0)])
def test_stochastic_rules_land_on_the_gaussian(schedule, sampler, gaussian, draw_noise):
    n = 8000
    denoiser = gaussian.denoiser(SCHEDULES[schedule]())
    x = sampler.sample(denoiser, draw_noise(n), 250, generator=_generator())
    # four standard errors, and the bias of the steps
    assert ((x.mean(0) - gaussian.mean).abs() < 4 * gaussian.std / n**0.5 + 0.01).all()
    torch.testing.assert_close(x.std(0), gaussian.std, rtol=4 / (2 * n) ** 0.5 + 0.01, atol=0)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("sampler", "order"), [(Euler(), 1), (DDIM(), 1), (Heun(), 2)])
def test_order_of_convergence(schedule, sampler, order, gaussian, draw_noise, order_of):
    schedule, noise = SCHEDULES[schedule](), draw_noise(200)
    denoiser = gaussian.denoiser(schedule)
    exact = gaussian.flow(schedule, _start(schedule, noise), 1.0)

    def error(steps):
        return (sampler.sample(denoiser, noise, steps) - exact).square().mean().sqrt().item()

    assert order_of(error, 128) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("sampler", [Euler(), Heun(), DPMSolver(), DDPM(), Resample(), Churn()])
def test_schedules_differ_by_a_change_of_scale_alone(sampler, mixture, draw_noise):
    """Steps at the same noise levels are the same steps, whatever the schedule."""
    straight, cosine = (
        sampler.sample(mixture.denoiser(schedule), draw_noise(50, 2), 12, generator=_generator())
        for schedule in (RectifiedFlow(), VariancePreservingCosine())
    )
    torch.testing.assert_close(straight, cosine, rtol=0, atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_euler_is_ddim_without_noise(schedule, mixture, draw_noise):
    denoiser, noise = mixture.denoiser(SCHEDULES[schedule]()), draw_noise(50, 2)
    torch.testing.assert_close(
        Euler().sample(denoiser, noise, 7), DDIM().sample(denoiser, noise, 7), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ddpm_is_ddim_with_all_the_noise(schedule, mixture, draw_noise):
    denoiser = mixture.denoiser(SCHEDULES[schedule]())
    one, other = (
        sampler.sample(denoiser, draw_noise(50, 2), 9, generator=_generator())
        for sampler in (DDPM(), DDIM(eta=1.0))
    )
    torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_ddpm_step_is_the_textbook_posterior(gaussian, draw_noise):
    """Equations 6 and 7 of Ho et al. (2020), written with betas."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alphas_bar = torch.cumprod(1 - betas, 0)
    k = 500
    beta, bar, before = betas[k], alphas_bar[k], alphas_bar[k - 1]
    denoiser = gaussian.denoiser(VariancePreserving())
    x_t = draw_noise(100)
    t, s = (torch.tensor(i / 1000, dtype=torch.float64) for i in (k + 1, k))
    x_0 = denoiser(x_t, t)
    mean = (before.sqrt() * beta * x_0 + (1 - beta).sqrt() * (1 - before) * x_t) / (1 - bar)
    variance = (1 - before) / (1 - bar) * beta
    noise = torch.randn(x_t.shape, dtype=x_t.dtype, generator=_generator())
    step = DDPM().step(denoiser, x_t, t, s, None, _generator())
    torch.testing.assert_close(step, mean + variance.sqrt() * noise)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_step_is_equation_12(eta, gaussian, draw_noise):
    """Equations 12 and 16 of Song et al. (2021), whose alpha is the square of ours."""
    schedule = VariancePreservingCosine()
    denoiser, x_t = gaussian.denoiser(schedule), draw_noise(100)
    t, s = torch.tensor([0.7, 0.4], dtype=torch.float64)
    a_t, a_s = (schedule(time)[0] ** 2 for time in (t, s))
    x_0 = denoiser(x_t, t)
    eps = (x_t - a_t**0.5 * x_0) / (1 - a_t) ** 0.5
    std = eta * ((1 - a_s) / (1 - a_t)) ** 0.5 * (1 - a_t / a_s) ** 0.5
    noise = torch.randn(x_t.shape, dtype=x_t.dtype, generator=_generator())
    expected = a_s**0.5 * x_0 + (1 - a_s - std**2) ** 0.5 * eps + std * noise
    step = DDIM(eta).step(denoiser, x_t, t, s, None, _generator())
    torch.testing.assert_close(step, expected)


def _velocity(denoiser, x, t):
    return (x - denoiser(x, t)) / t


def test_euler_on_the_straight_path_is_eulers_rule(mixture, draw_noise):
    denoiser, x = mixture.denoiser(RectifiedFlow()), draw_noise(20, 2)
    expected, times = x, torch.linspace(1, 0, 6, dtype=torch.float64)
    for t, s in zip(times[:-1], times[1:], strict=True):
        expected = expected + (s - t) * _velocity(denoiser, expected, t)
    torch.testing.assert_close(Euler().sample(denoiser, x, 5), expected)


def test_heun_on_the_straight_path_is_heuns_rule(mixture, draw_noise):
    denoiser, x = mixture.denoiser(RectifiedFlow()), draw_noise(20, 2)
    expected, times = x, torch.linspace(1, 0, 6, dtype=torch.float64)
    for t, s in zip(times[:-1], times[1:], strict=True):
        slope = _velocity(denoiser, expected, t)
        guess = expected + (s - t) * slope
        if s > 0:
            slope = (slope + _velocity(denoiser, guess, s)) / 2
        expected = expected + (s - t) * slope
    torch.testing.assert_close(Heun().sample(denoiser, x, times=times), expected)


def test_a_sampler_has_its_spacing(mixture, draw_noise):
    denoiser, x = mixture.denoiser(RectifiedFlow()), draw_noise(20, 2)
    times = torch.linspace(1, 0, 6, dtype=torch.float64) ** 1.5
    torch.testing.assert_close(
        Heun().sample(denoiser, x, 5), Heun().sample(denoiser, x, times=times)
    )


def test_heun_in_edms_coordinates_is_algorithm_1(mixture, draw_noise):
    """Algorithm 1 of Karras et al. (2022) with s(t) = 1 and sigma(t) = t."""
    schedule = VarianceExploding()
    denoiser = mixture.denoiser(schedule)
    sigmas = schedule(schedule.times(8))[1]
    x = draw_noise(20, 2) * sigmas[0]

    def slope(x, sigma):
        return (x - denoiser(x, schedule.time(sigma))) / sigma

    for now, after in zip(sigmas[:-1], sigmas[1:], strict=True):
        d = slope(x, now)
        guess = x + (after - now) * d
        if after == 0:
            x = guess
        else:
            x = x + (after - now) * (d + slope(guess, after)) / 2
    torch.testing.assert_close(Heun(straight=False).sample(denoiser, draw_noise(20, 2), 8), x)


def test_resample_is_estimate_and_noise_in_turn(mixture, draw_noise):
    schedule = VariancePreservingCosine()
    denoiser, x, generator = mixture.denoiser(schedule), draw_noise(20, 2), _generator()
    times = schedule.times(6)
    for t, s in zip(times[:-1], times[1:], strict=True):
        alpha, sigma = schedule(s)
        fresh = torch.randn(20, 2, dtype=torch.float64, generator=generator)
        x = alpha * denoiser(x, t) + sigma * fresh
    resampled = Resample().sample(denoiser, draw_noise(20, 2), 6, generator=_generator())
    torch.testing.assert_close(resampled, x)


def test_resample_loses_variance(gaussian, draw_noise):
    """For Gaussian data the variance after every step has a closed form."""
    schedule, n = RectifiedFlow(), 20_000
    times = schedule.times(30).tolist()
    variance = torch.ones(3, dtype=torch.float64)
    for t, s in zip(times[:-1], times[1:], strict=True):
        gain = (1 - t) * gaussian.std**2 / ((1 - t) ** 2 * gaussian.std**2 + t**2)
        variance = ((1 - s) * gain) ** 2 * variance + s**2
    x = Resample().sample(gaussian.denoiser(schedule), draw_noise(n), 30, generator=_generator())
    torch.testing.assert_close(x.var(0), variance, rtol=0.05, atol=0)
    assert (x.std(0) < 0.97 * gaussian.std).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("sampler", IN_STEPS)
def test_one_step_is_the_first_estimate(schedule, sampler, mixture, draw_noise):
    schedule, noise = SCHEDULES[schedule](), draw_noise(4, 2)
    denoiser = mixture.denoiser(schedule)
    x = SAMPLERS[sampler]().sample(denoiser, noise, 1, generator=_generator())
    one = torch.ones((), dtype=torch.float64)
    torch.testing.assert_close(x, denoiser(_start(schedule, noise), one), rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_any_number_of_steps_gives_data(schedule, sampler, dtype, mixture, draw_noise):
    schedule = SCHEDULES[schedule]()
    denoiser = GaussianMixtureDenoiser(schedule, mixture.means.to(dtype), mixture.stds.to(dtype))
    for steps in (1, 2, 3, 30):
        x = SAMPLERS[sampler]().sample(
            denoiser, draw_noise(40, 2).to(dtype), steps, generator=_generator()
        )
        assert x.dtype == dtype
        assert x.isfinite().all()
        # six standard deviations of the widest group around the outermost mean
        assert x.abs().max() < 1.3 + 6 * 0.6


@pytest.mark.parametrize("sampler", DETERMINISTIC)
def test_single_precision_is_enough(sampler, mixture, draw_noise):
    for schedule in SCHEDULES.values():
        double, single = (
            SAMPLERS[sampler]().sample(
                GaussianMixtureDenoiser(
                    schedule(), *(v.to(dtype) for v in (mixture.means, mixture.stds))
                ),
                draw_noise(100, 2).to(dtype),
                20,
            )
            for dtype in (torch.float64, torch.float32)
        )
        torch.testing.assert_close(single.double(), double, rtol=0, atol=2e-3)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("sampler", [Euler(), Heun(), Heun(straight=False), DDIM(), DPMSolver()])
def test_cells_do_not_depend_on_those_beside_them(schedule, sampler, mixture, draw_noise):
    schedule = SCHEDULES[schedule]()
    denoiser, noise = mixture.denoiser(schedule), draw_noise(10, 2)
    times = schedule.times(6)
    if not getattr(sampler, "straight", True):
        # which cannot start where no data are left
        times[0] = schedule.time(torch.tensor(70.0, dtype=torch.float64))
    together = sampler.sample(denoiser, noise, times=times)
    alone = torch.cat([sampler.sample(denoiser, row, times=times) for row in noise.split(1)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_generator_alone_decides(sampler, mixture, draw_noise):
    denoiser, rule = mixture.denoiser(VariancePreservingCosine()), SAMPLERS[sampler]()
    before = torch.random.get_rng_state()

    def sample(seed):
        return rule.sample(denoiser, draw_noise(4, 2), 5, generator=_generator(seed))

    first = sample(0)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(sample(0), first)
    assert torch.equal(sample(1), first) == rule.deterministic


@pytest.mark.parametrize("eta", [0.0, 0.2])
def test_ddim_is_deterministic_without_noise_only(eta, mixture, draw_noise):
    denoiser, rule = mixture.denoiser(RectifiedFlow()), DDIM(eta)
    one, other = (
        rule.sample(denoiser, draw_noise(4, 2), 5, generator=_generator(seed)) for seed in (0, 1)
    )
    assert torch.equal(one, other) == rule.deterministic == (eta == 0)


@pytest.mark.parametrize("steps", [1, 6])
@pytest.mark.parametrize("sampler", IN_STEPS)
def test_denoiser_calls(sampler, steps, mixture, draw_noise):
    denoiser = Recorded(mixture.denoiser(RectifiedFlow()))
    conditions = {"c": torch.ones(4, 1)}
    SAMPLERS[sampler]().sample(denoiser, draw_noise(4, 2), steps, conditions, _generator())
    expected = 2 * steps - 1 if sampler in ("heun", "churn") else steps
    assert len(denoiser.times) == expected
    assert all(given is conditions for given in denoiser.conditions)
    assert denoiser.times[0] == 1
    assert min(denoiser.times) > 0


@pytest.mark.parametrize("sampler", IN_STEPS)
def test_steps_are_those_of_the_schedule_unless_times_are_given(sampler, mixture, draw_noise):
    schedule, rule = VarianceExploding(), SAMPLERS[sampler]()
    denoiser, noise = mixture.denoiser(schedule), draw_noise(4, 2)
    by_steps, by_times, other, by_default, explicit = (
        rule.sample(denoiser, noise, generator=_generator(), **given)
        for given in (
            {"steps": 4},
            {"times": schedule.times(4)},
            {"times": torch.tensor([1.0, 0.6, 0.0], dtype=torch.float64)},
            {},
            {"steps": rule.default_steps},
        )
    )
    assert torch.equal(by_steps, by_times)
    assert not torch.allclose(by_steps, other)
    assert torch.equal(by_default, explicit)


def test_a_start_in_the_middle_has_the_noise_of_its_time(draw_noise, mixture):
    schedule = RectifiedFlow()
    half = torch.tensor([0.5, 0.0], dtype=torch.float64)
    denoiser, noise = mixture.denoiser(schedule), draw_noise(4, 2)
    x = Euler().sample(denoiser, noise, times=half)
    torch.testing.assert_close(x, denoiser(0.5 * noise, half[0]))


def test_samples_need_no_gradient(mixture, draw_noise):
    means = mixture.means.clone().requires_grad_()
    denoiser = GaussianMixtureDenoiser(RectifiedFlow(), means, mixture.stds)
    for rule in (Euler(), DPMSolver()):
        assert not rule.sample(denoiser, draw_noise(4, 2), 3).requires_grad
        assert not rule.invert(denoiser, draw_noise(4, 2), 3).requires_grad


def test_a_step_sampler_needs_a_step_only(mixture, draw_noise):
    class Jump(StepSampler):
        def step(self, denoiser, x_t, t, s, conditions=None, generator=None):
            return denoiser(x_t, t, conditions)

    denoiser, noise = mixture.denoiser(RectifiedFlow()), draw_noise(4, 2)
    one, half = torch.tensor([1.0, 0.5], dtype=torch.float64)
    expected = denoiser(denoiser(noise, one), half)
    torch.testing.assert_close(Jump().sample(denoiser, noise, 2), expected)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("sampler", "steps"), [(Heun(), 250), (DPMSolver(), 400), (Adaptive(1e-6, 1e-6), None)]
)
def test_what_is_inverted_comes_back(schedule, sampler, steps, mixture):
    denoiser, x_0 = mixture.denoiser(SCHEDULES[schedule]()), mixture.draw(100)
    noise = sampler.invert(denoiser, x_0, steps)
    back = sampler.sample(denoiser, noise, steps)
    assert (back - x_0).square().mean().sqrt() < 1e-3


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("sampler", DETERMINISTIC)
def test_inversion_is_the_flow_backwards(schedule, sampler, gaussian, draw_noise):
    schedule = SCHEDULES[schedule]()
    x_0 = gaussian.mean + gaussian.std * draw_noise(100)
    noise = SAMPLERS[sampler]().invert(gaussian.denoiser(schedule), x_0, 1000)
    exact = gaussian.flow(schedule, x_0, 0.0, 1.0) / _end(schedule)[1]
    assert (noise - exact).square().mean().sqrt() < (
        2e-2 if sampler in ("euler", "ddim") else 1e-3
    )


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("sampler", DETERMINISTIC)
def test_inversion_is_finite_in_few_steps(schedule, sampler, mixture):
    denoiser = mixture.denoiser(SCHEDULES[schedule]())
    for steps in (1, 2, 3, 5, 1001):
        noise = SAMPLERS[sampler]().invert(denoiser, mixture.draw(50), steps)
        assert noise.isfinite().all()
    assert noise.abs().max() < 8


@pytest.mark.parametrize("sampler", [DDPM(), DDIM(eta=0.5), Churn(), Resample()])
def test_rules_that_add_noise_have_no_way_back(sampler, mixture):
    with pytest.raises(ValueError, match=f"{type(sampler).__name__} adds noise"):
        sampler.invert(mixture.denoiser(RectifiedFlow()), mixture.draw(4))
