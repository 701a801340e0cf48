import numpy as np
import pytest
import torch

from scldm.diffusion import (
    LOSS_WEIGHTS,
    PARAMETRISATIONS,
    SCHEDULES,
    Data,
    EDMWeight,
    GaussianMixtureDenoiser,
    NetworkDenoiser,
    RectifiedFlow,
    VarianceExploding,
    Velocity,
)

INSIDE = torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=torch.float64)


class Smooth(torch.nn.Module):
    """A fixed, smooth function of everything, which keeps what it was given."""

    def forward(self, x, t, conditions):
        self.seen = x, t, conditions
        shift = 0.0 if conditions is None else conditions["c"]
        return torch.sin(x.flip(1) + 2 * t.unsqueeze(1)) + 0.3 * x + shift


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
def test_network_sees_data_of_unit_variance_and_its_own_times(
    schedule, parametrisation, draw_noise
):
    denoiser = NetworkDenoiser(
        Smooth(), SCHEDULES[schedule](), PARAMETRISATIONS[parametrisation]()
    )
    x_0, eps = draw_noise(20_000, 2, seed=1), draw_noise(20_000, 2, seed=2)
    t = torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    c = torch.ones(20_000, 1).double()
    denoiser.loss(x_0, t, eps, {"c": c})
    x, seen_t, conditions = denoiser.network.seen
    torch.testing.assert_close(x.var(0), torch.ones(2).double(), rtol=0.03, atol=0)
    assert torch.equal(seen_t, t)
    assert conditions["c"] is c


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
@pytest.mark.parametrize("weight", LOSS_WEIGHTS)
def test_loss_is_the_weighted_error_of_the_clean_data(
    schedule, parametrisation, weight, draw_noise
):
    """Weights are defined on clean data; the loss is on the network's output. Both agree."""
    rule, schedule = PARAMETRISATIONS[parametrisation](), SCHEDULES[schedule]()
    denoiser = NetworkDenoiser(Smooth(), schedule, rule, weight=LOSS_WEIGHTS[weight]())
    x_0, eps = draw_noise(5, seed=1), draw_noise(5, seed=2)
    t = torch.tensor([0.35, 0.5, 0.6, 0.7, 0.9], dtype=torch.float64)
    c = draw_noise(5, 1, seed=3)
    loss = denoiser.loss(x_0, t, eps, {"c": c})
    assert loss.shape == (5,)
    for i in range(5):
        alpha, sigma = (scale.item() for scale in schedule(t[i]))
        x_t = alpha * x_0[i] + sigma * eps[i]
        output = Smooth()(
            (x_t / (alpha**2 + sigma**2) ** 0.5).unsqueeze(0), t[i : i + 1], {"c": c[i : i + 1]}
        )[0]
        scales = torch.tensor([alpha, sigma], dtype=torch.float64)
        if weight == "plain":
            expected = (output - rule.target(x_0[i], eps[i], *scales)).square().mean()
        else:
            snr = (alpha / sigma) ** 2
            factor = {"min_snr": min(snr, 5), "edm": 1 + snr}[weight]
            error = rule.clean(output, x_t, *scales) - x_0[i]
            # on the network's own error it is cut at 100
            precision = rule.precision(*scales)
            expected = min(factor, 100 * precision) * error.square().mean()
        torch.testing.assert_close(loss[i], expected, rtol=1e-6, atol=0)


def test_loss_of_a_perfect_network_is_zero(gaussian, draw_noise):
    x_0, eps = draw_noise(4, seed=1), draw_noise(4, seed=2)

    class Oracle(torch.nn.Module):
        def forward(self, x, t, conditions):
            return eps - x_0

    denoiser = NetworkDenoiser(Oracle(), RectifiedFlow(), PARAMETRISATIONS["flow"]())
    assert (denoiser.loss(x_0, INSIDE, eps) == 0).all()
    torch.testing.assert_close(
        denoiser((1 - INSIDE[1]) * x_0 + INSIDE[1] * eps, INSIDE[1]), x_0, rtol=0, atol=1e-12
    )


def test_loss_has_a_gradient_for_every_parameter(draw_noise):
    network = torch.nn.Linear(3, 3)
    module = torch.nn.Module()
    module.linear = network
    module.forward = lambda x, t, conditions: network(x)
    denoiser = NetworkDenoiser(
        module, VarianceExploding(), Velocity(), n_dims=3, weight=EDMWeight()
    )
    denoiser.loss(draw_noise(4).float(), INSIDE, draw_noise(4, seed=1).float()).mean().backward()
    for name, parameter in denoiser.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_velocity_on_the_exploding_schedule_is_edms_preconditioning(draw_noise):
    """Equation 7 and table 1 of Karras et al. (2022), for data of standard deviation 1.

    The sign of the network's output is the other one.
    """
    denoiser = NetworkDenoiser(Smooth(), VarianceExploding(), Velocity())
    x = draw_noise(4) * 3
    sigma = VarianceExploding()(INSIDE)[1].unsqueeze(1)
    c_skip, c_out, c_in = 1 / (sigma**2 + 1), sigma / (1 + sigma**2) ** 0.5, (1 + sigma**2) ** -0.5
    expected = c_skip * x - c_out * Smooth()(c_in * x, INSIDE, None)
    torch.testing.assert_close(denoiser(x, INSIDE), expected)


@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
def test_one_time_for_all_is_the_same_time_for_each(parametrisation, draw_noise):
    denoiser = NetworkDenoiser(
        Smooth(), SCHEDULES["vp_cosine"](), PARAMETRISATIONS[parametrisation]()
    )
    x, t = draw_noise(4), torch.tensor(0.4, dtype=torch.float64)
    torch.testing.assert_close(denoiser(x, t), denoiser(x, t.expand(4)))


def test_estimates_stay_within_the_bounds(draw_noise):
    denoiser = NetworkDenoiser(Smooth(), RectifiedFlow(), Data(), n_dims=3)
    x, t = draw_noise(50) * 3, torch.tensor(0.5, dtype=torch.float64)
    free = denoiser(x, t)
    low, high = torch.tensor([-0.2, -torch.inf, -0.9]), torch.tensor([0.5, 0.1, torch.inf])
    denoiser.bounds.copy_(torch.stack([low, high]))
    expected = torch.minimum(torch.maximum(free, low.double()), high.double())
    torch.testing.assert_close(denoiser(x, t), expected, rtol=0, atol=1e-7)
    assert not torch.equal(denoiser(x, t), free)


def test_bounds_are_saved():
    one, other = (NetworkDenoiser(Smooth(), RectifiedFlow(), Data(), n_dims=2) for _ in range(2))
    assert one.bounds.isinf().all() and (one.bounds[0] < one.bounds[1]).all()
    one.bounds.copy_(torch.tensor([[-3.0, -1.0], [2.0, 4.0]]))
    other.load_state_dict(one.state_dict())
    assert other.bounds.tolist() == [[-3.0, -1.0], [2.0, 4.0]]


def test_scales_fit_the_data(gaussian):
    denoiser = gaussian.denoiser(VarianceExploding())
    alpha, sigma = denoiser.scales(INSIDE.float(), torch.zeros(4, 2, 5))
    assert alpha.shape == sigma.shape == (4, 1, 1)
    assert alpha.dtype == sigma.dtype == torch.float32
    alpha, sigma = denoiser.scales(INSIDE[0], torch.zeros(4, 2).double())
    assert alpha.shape == sigma.shape == (1, 1)
    torch.testing.assert_close(sigma.squeeze(), VarianceExploding()(INSIDE[0])[1])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_mixture_estimate_is_tweedies(schedule, mixture, draw_noise):
    """E[x_0 | x_t] = (x_t + sigma^2 grad log p_t(x_t)) / alpha (Efron 2011)."""
    schedule = SCHEDULES[schedule]()
    denoiser = mixture.denoiser(schedule)
    for t in INSIDE:
        alpha, sigma = schedule(t)
        x_t = (draw_noise(30, 2) * torch.hypot(alpha, sigma) * 1.5).requires_grad_()
        density = mixture.distribution(alpha, sigma).log_prob(x_t).sum()
        (score,) = torch.autograd.grad(density, x_t)
        expected = (x_t + sigma**2 * score) / alpha
        torch.testing.assert_close(denoiser(x_t, t), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_mixture_estimate_is_the_integral_of_bayes(schedule):
    schedule = SCHEDULES[schedule]()
    means, stds, weights = torch.tensor([[-1.0, 0.7], [0.4, 0.8], [1.0, 3.0]], dtype=torch.float64)
    denoiser = GaussianMixtureDenoiser(schedule, means.unsqueeze(1), stds.unsqueeze(1), weights)
    x_0 = np.linspace(-9, 9, 20_001)
    prior = sum(
        w / s * np.exp(-0.5 * ((x_0 - m) / s) ** 2) for w, m, s in [(1, -1, 0.4), (3, 0.7, 0.8)]
    )
    t = torch.tensor(0.6, dtype=torch.float64)
    alpha, sigma = (scale.item() for scale in schedule(t))
    x_t = np.array([-2.0, 0.1, 1.3]) * np.hypot(alpha, sigma)
    posterior = prior * np.exp(-0.5 * ((x_t[:, None] - alpha * x_0) / sigma) ** 2)
    expected = (posterior @ x_0) / posterior.sum(1)
    estimate = denoiser(torch.from_numpy(x_t).unsqueeze(1), t).squeeze(1).numpy()
    np.testing.assert_allclose(estimate, expected, rtol=1e-9, atol=1e-10)


def test_mixture_estimate_at_the_ends(mixture, draw_noise):
    denoiser, x = mixture.denoiser(RectifiedFlow()), draw_noise(5, 2)
    zero, one = torch.tensor([0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(denoiser(x, zero), x)
    mean = (mixture.weights.unsqueeze(1) * mixture.means).sum(0) / mixture.weights.sum()
    torch.testing.assert_close(denoiser(x, one), mean.expand(5, 2))


def test_mixture_takes_a_time_for_each_cell_and_equal_weights(mixture, draw_noise):
    denoiser = GaussianMixtureDenoiser(RectifiedFlow(), mixture.means, mixture.stds)
    weighted = GaussianMixtureDenoiser(
        RectifiedFlow(), mixture.means, mixture.stds, torch.full((3,), 7.0).double()
    )
    x = draw_noise(4, 2)
    estimate = denoiser(x, INSIDE)
    torch.testing.assert_close(estimate, weighted(x, INSIDE))
    for i in range(4):
        torch.testing.assert_close(estimate[i : i + 1], denoiser(x[i : i + 1], INSIDE[i]))
