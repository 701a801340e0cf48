import pytest
import torch

from scldm.diffusion import SCHEDULES, RectifiedFlow, VarianceExploding, VariancePreserving

TIMES = torch.linspace(0, 1, 101, dtype=torch.float64)
EVEN = [name for name in SCHEDULES if name != "ve"]


@pytest.mark.parametrize("name", SCHEDULES)
def test_data_at_zero_and_noise_at_one(name):
    alpha, sigma = SCHEDULES[name]()(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert alpha[0] == pytest.approx(1, abs=1e-12)
    assert sigma[0] == pytest.approx(0, abs=1e-12)
    assert sigma[1] / alpha[1] > 79
    assert sigma[1] > 0.99


@pytest.mark.parametrize("name", SCHEDULES)
def test_noise_grows_against_data(name):
    alpha, sigma = SCHEDULES[name]()(TIMES)
    assert (alpha.diff() <= 0).all()
    assert (sigma.diff() > 0).all()


@pytest.mark.parametrize("name", ["vp_linear", "vp_cosine"])
def test_variance_is_preserved(name):
    alpha, sigma = SCHEDULES[name]()(TIMES)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha))


def test_linear_betas_are_those_of_ddpm():
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    expected = torch.cumprod(1 - betas, 0).sqrt()
    alpha, sigma = VariancePreserving()(torch.arange(1, 1001, dtype=torch.float64) / 1000)
    torch.testing.assert_close(alpha, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(sigma, (1 - expected**2).sqrt(), rtol=1e-9, atol=0)


def test_between_discrete_times_the_logarithm_of_alpha_is_linear():
    schedule = VariancePreserving(n_timesteps=10, beta_start=0.05, beta_end=0.4)
    alpha = schedule(torch.tensor([0.3, 0.375, 0.4], dtype=torch.float64))[0].log()
    assert alpha[1].item() == pytest.approx(0.25 * alpha[0].item() + 0.75 * alpha[2].item())


def test_schedule_keeps_its_digits_inside_a_float32_module():
    module = torch.nn.Sequential(VariancePreserving()).float()
    t = torch.tensor([1e-3], dtype=torch.float64)
    _, sigma = module[0](t)
    assert sigma.item() == pytest.approx(1e-2, rel=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
def test_time_is_the_inverse_of_the_noise_level(name):
    schedule = SCHEDULES[name]()
    alpha, sigma = schedule(TIMES)
    torch.testing.assert_close(schedule.time(sigma / alpha), TIMES, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
def test_noise_level_is_the_inverse_of_time(name):
    schedule = SCHEDULES[name]()
    ratio = torch.logspace(-4, 1.8, 60, dtype=torch.float64).reshape(3, 20)
    alpha, sigma = schedule(schedule.time(ratio))
    torch.testing.assert_close(sigma / alpha, ratio, rtol=1e-8, atol=0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_noise_and_nothing_but_noise_are_at_the_ends(name):
    ratio = torch.tensor([0.0, torch.inf], dtype=torch.float64)
    assert SCHEDULES[name]().time(ratio).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("name", ["vp_linear", "ve"])
def test_levels_above_the_end_are_at_the_end(name):
    assert SCHEDULES[name]().time(torch.tensor(1e4, dtype=torch.float64)) == 1


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
@pytest.mark.parametrize("name", SCHEDULES)
def test_times_go_from_noise_to_data(name, steps):
    times = SCHEDULES[name]().times(steps)
    assert times.shape == (steps + 1,)
    assert times.dtype == torch.float64
    assert (times[0], times[-1]) == (1, 0)
    assert (times.diff() < 0).all()


@pytest.mark.parametrize("name", EVEN)
def test_times_are_even_in_the_share_of_noise(name):
    schedule = SCHEDULES[name]()
    alpha, sigma = schedule(schedule.times(50))
    share = sigma / (alpha + sigma)
    torch.testing.assert_close(share.diff(), -share[0].expand(50) / 50, rtol=1e-7, atol=0)


def test_times_of_the_straight_path_are_even():
    torch.testing.assert_close(
        RectifiedFlow().times(8), torch.linspace(1, 0, 9, dtype=torch.float64)
    )


@pytest.mark.parametrize("options", [{}, {"sigma_min": 0.01, "sigma_max": 20.0, "rho": 3.0}])
def test_noise_levels_of_steps_are_those_of_edm(options):
    """Equation 5 of Karras et al. (2022)."""
    low, high, rho = ({"sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0} | options).values()
    n = 18
    expected = [
        (high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
        for i in range(n)
    ]
    schedule = VarianceExploding(**options)
    alpha, sigma = schedule(schedule.times(n))
    torch.testing.assert_close(sigma, torch.tensor([*expected, 0.0], dtype=torch.float64))
    assert (alpha == 1).all()
