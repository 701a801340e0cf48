import pytest
import torch

from scldm.diffusion import (
    SCHEDULES,
    Denoiser,
    GaussianMixtureDenoiser,
    RectifiedFlow,
    VariancePreserving,
    log_prob,
)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_density_of_a_gaussian(schedule, gaussian, draw_noise):
    x = gaussian.mean + gaussian.std * draw_noise(40) * 1.5
    expected = torch.distributions.Normal(gaussian.mean, gaussian.std).log_prob(x).sum(1)
    density = log_prob(gaussian.denoiser(SCHEDULES[schedule]()), x)
    torch.testing.assert_close(density, expected, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_density_of_a_mixture(schedule, mixture):
    x = mixture.draw(40)
    density = log_prob(mixture.denoiser(SCHEDULES[schedule]()), x)
    torch.testing.assert_close(density, mixture.distribution().log_prob(x), rtol=0.01, atol=0.01)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_density_is_that_of_what_is_sampled(schedule, gaussian, draw_noise):
    """To the solver's tolerance, with the trace of data that the start of sampling leaves out.

    Nor must the small noise level show at which the way begins.
    """
    schedule = SCHEDULES[schedule]()
    sigma = schedule(torch.ones((), dtype=torch.float64))[1]
    mean, above = (gaussian.flow(schedule, start, 1.0) for start in (0.0, sigma))
    x = gaussian.mean + gaussian.std * draw_noise(10)
    expected = torch.distributions.Normal(mean, above - mean).log_prob(x).sum(1)
    density = log_prob(gaussian.denoiser(schedule), x, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(density, expected, rtol=0, atol=5e-4)


def test_density_integrates_to_one(mixture):
    axis = torch.linspace(-4, 4, 33, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    density = log_prob(mixture.denoiser(RectifiedFlow()), grid, rtol=1e-3, atol=1e-3)
    assert (density.exp().sum() * 0.25**2).item() == pytest.approx(1, abs=0.01)


def test_probes_of_a_diagonal_jacobian_are_exact(gaussian, draw_noise):
    """The square of a random sign is 1, so independent dimensions leave no variance."""
    denoiser, x = gaussian.denoiser(VariancePreserving()), draw_noise(20)
    estimate = log_prob(denoiser, x, n_probes=1, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(estimate, log_prob(denoiser, x), rtol=0, atol=1e-3)


def test_probes_are_right_on_average(mixture):
    denoiser, x = mixture.denoiser(RectifiedFlow()), mixture.draw(6)
    exact = log_prob(denoiser, x)

    def estimate(n_probes, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return log_prob(denoiser, x, n_probes=n_probes, generator=generator)

    error_of_one = (estimate(1) - exact).abs().mean()
    error_of_many = (estimate(200) - exact).abs().mean()
    assert error_of_many < 0.05
    assert error_of_many < error_of_one / 4
    assert torch.equal(estimate(2), estimate(2))
    assert not torch.equal(estimate(2), estimate(2, seed=1))


def test_density_given_conditions(draw_noise):
    class Shifted(Denoiser):
        """Normal data whose mean is the condition."""

        def forward(self, x_t, t, conditions=None):
            alpha, sigma = self.scales(t, x_t)
            c = conditions["c"]
            return c + alpha / (alpha**2 + sigma**2) * (x_t - alpha * c)

    x, c = draw_noise(20), draw_noise(20, 1, seed=1)
    density = log_prob(Shifted(RectifiedFlow()), x, {"c": c})
    expected = torch.distributions.Normal(c, 1.0).log_prob(x).sum(1)
    torch.testing.assert_close(density, expected, rtol=0.01, atol=0.01)


def test_density_in_single_precision_and_without_gradients(mixture):
    denoiser = GaussianMixtureDenoiser(
        RectifiedFlow(), mixture.means.float(), mixture.stds.float(), mixture.weights.float()
    )
    x = mixture.draw(20)
    with torch.no_grad():
        density = log_prob(denoiser, x.float())
    assert density.dtype == torch.float32
    assert not density.requires_grad
    expected = mixture.distribution().log_prob(x)
    torch.testing.assert_close(density.double(), expected, rtol=0.01, atol=0.01)
