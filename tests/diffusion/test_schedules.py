import pytest
import torch

from scldm.diffusion import SCHEDULES, VariancePreserving

TIMES = torch.linspace(0, 1, 101, dtype=torch.float64)


@pytest.mark.parametrize("name", SCHEDULES)
def test_data_at_zero_and_noise_at_one(name):
    alpha, sigma = SCHEDULES[name]()(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert alpha[0] == pytest.approx(1, abs=1e-12)
    assert sigma[0] == pytest.approx(0, abs=1e-12)
    assert alpha[1] < 0.01
    assert sigma[1] > 0.99


@pytest.mark.parametrize("name", SCHEDULES)
def test_noise_grows_against_data(name):
    alpha, sigma = SCHEDULES[name]()(TIMES)
    assert (alpha.diff() < 0).all()
    assert (sigma.diff() > 0).all()


@pytest.mark.parametrize("name", ["vp_linear", "vp_cosine"])
def test_variance_is_preserved(name):
    alpha, sigma = SCHEDULES[name]()(TIMES)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha))


def test_linear_betas_are_those_of_ddpm():
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    expected = torch.cumprod(1 - betas, 0).sqrt()
    alpha, _ = VariancePreserving()(torch.arange(1, 1001, dtype=torch.float64) / 1000)
    torch.testing.assert_close(alpha, expected, rtol=1e-10, atol=0)


def test_schedule_keeps_its_digits_inside_a_float32_module():
    module = torch.nn.Sequential(VariancePreserving()).float()
    t = torch.tensor([1e-3], dtype=torch.float64)
    _, sigma = module[0](t)
    assert sigma.item() == pytest.approx(1e-2, rel=1e-9)
