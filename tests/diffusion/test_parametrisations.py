import pytest
import torch

from scldm.diffusion import (
    LOSS_WEIGHTS,
    PARAMETRISATIONS,
    SCHEDULES,
    Data,
    EDMWeight,
    MinSNR,
    Noise,
    PlainWeight,
    Velocity,
)


def _scales(schedule, low=0.1, high=0.95, n=64):
    t = torch.linspace(low, high, n, dtype=torch.float64)
    return tuple(scale.unsqueeze(1) for scale in SCHEDULES[schedule]()(t))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", PARAMETRISATIONS)
def test_a_perfect_prediction_gives_back_the_data(schedule, name, draw_noise):
    alpha, sigma = _scales(schedule, 0.0, 0.99)
    x_0, eps = draw_noise(64, seed=1), draw_noise(64, seed=2)
    rule = PARAMETRISATIONS[name]()
    target = rule.target(x_0, eps, alpha, sigma)
    torch.testing.assert_close(
        rule.clean(target, alpha * x_0 + sigma * eps, alpha, sigma), x_0, rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", PARAMETRISATIONS)
def test_precision_is_the_square_error_of_a_prediction_per_that_of_its_data(
    schedule, name, draw_noise
):
    alpha, sigma = _scales(schedule)
    rule = PARAMETRISATIONS[name]()
    x_t, output, error = (draw_noise(64, seed=seed) for seed in range(3))
    moved = rule.clean(output + error, x_t, alpha, sigma) - rule.clean(output, x_t, alpha, sigma)
    expected = rule.precision(alpha, sigma).expand_as(error)
    torch.testing.assert_close((error / moved) ** 2, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", PARAMETRISATIONS)
def test_estimates_stay_finite_at_both_ends(name, draw_noise):
    alpha, sigma = (
        torch.tensor(ends, dtype=torch.float64).unsqueeze(1) for ends in ([1.0, 0.0], [0.0, 1.0])
    )
    rule = PARAMETRISATIONS[name]()
    output, x_t = draw_noise(2, seed=1), draw_noise(2, seed=2)
    clean = rule.clean(output, x_t, alpha, sigma)
    assert clean.isfinite().all()
    if name != "data":
        # without noise the data are what is seen
        torch.testing.assert_close(clean[0], x_t[0])


@pytest.mark.parametrize("gamma", [1.0, 5.0])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_min_snr_on_data_and_noise(schedule, gamma):
    """Section 3.4 of Hang et al. (2023)."""
    alpha, sigma = _scales(schedule, 0.3)
    snr = (alpha / sigma) ** 2
    cut = torch.minimum(snr, torch.tensor(gamma, dtype=torch.float64))
    weight = MinSNR(gamma)
    torch.testing.assert_close(weight.factor(Data(), alpha, sigma), cut)
    torch.testing.assert_close(weight.factor(Noise(), alpha, sigma), cut / snr)


@pytest.mark.parametrize("schedule", ["vp_linear", "vp_cosine"])
def test_min_snr_on_velocity_of_variance_preserving_schedules(schedule):
    """Section 3.4 of Hang et al. (2023)."""
    alpha, sigma = _scales(schedule)
    snr = (alpha / sigma) ** 2
    factor = MinSNR().factor(Velocity(), alpha, sigma)
    torch.testing.assert_close(factor, snr.clamp(max=5) / (snr + 1))


def test_edm_weight_is_that_of_karras():
    """Table 1 of Karras et al. (2022): (sigma^2 + sigma_data^2) / (sigma sigma_data)^2."""
    alpha, sigma = _scales("ve", 0.3)
    factor = EDMWeight().factor(Data(), alpha, sigma)
    # cut at 100
    expected = ((sigma**2 + 1) / sigma**2).clamp(max=100)
    torch.testing.assert_close(factor, expected)
    assert (expected < 100).any()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_edm_weight_of_velocity_is_plain(schedule):
    alpha, sigma = _scales(schedule)
    factors = [weight.factor(Velocity(), alpha, sigma) for weight in (EDMWeight(), PlainWeight())]
    torch.testing.assert_close(factors[0], torch.ones_like(alpha))
    assert (factors[1] == 1).all()


@pytest.mark.parametrize("weight", LOSS_WEIGHTS)
@pytest.mark.parametrize("name", PARAMETRISATIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_weights_are_finite_at_both_ends(schedule, name, weight):
    for dtype in (torch.float32, torch.float64):
        alpha, sigma = (
            scale.to(dtype)
            for scale in SCHEDULES[schedule]()(torch.tensor([0.0, 1.0], dtype=torch.float64))
        )
        factor = LOSS_WEIGHTS[weight]().factor(PARAMETRISATIONS[name](), alpha, sigma)
        assert factor.isfinite().all()
        assert (factor > 0).all()
