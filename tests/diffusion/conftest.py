"""Worlds in which the truth is known, for all tests of diffusion."""

import math

import pytest
import torch

from scldm.diffusion import GaussianMixtureDenoiser


class Gaussian:
    """Data with independent normal dimensions, whose flow is known."""

    mean = torch.tensor([1.5, -0.5, 0.0], dtype=torch.float64)
    std = torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64)

    def denoiser(self, schedule):
        return GaussianMixtureDenoiser(schedule, self.mean, self.std)

    def flow(self, schedule, x_t, t, s=0.0):
        """Take samples along the exact flow, which keeps the standard score of each dimension."""
        (mean_t, std_t), (mean_s, std_s) = self._marginal(schedule, t), self._marginal(schedule, s)
        return mean_s + std_s * (x_t - mean_t) / std_t

    def _marginal(self, schedule, t):
        alpha, sigma = schedule(torch.as_tensor(t, dtype=torch.float64))
        return alpha * self.mean, torch.hypot(alpha * self.std, sigma)


class Mixture:
    """Data of three unequal, overlapping groups in two dimensions."""

    means = torch.tensor([[-1.2, 0.5], [0.9, 0.9], [0.6, -1.3]], dtype=torch.float64)
    stds = torch.tensor([[0.3, 0.5], [0.4, 0.6], [0.6, 0.4]], dtype=torch.float64)
    weights = torch.tensor([5.0, 3.0, 2.0], dtype=torch.float64)

    def denoiser(self, schedule):
        return GaussianMixtureDenoiser(schedule, self.means, self.stds, self.weights)

    def distribution(self, alpha=1.0, sigma=0.0):
        """Return the marginal at the scales of a time, by default the data's."""
        stds = torch.hypot(alpha * self.stds, torch.as_tensor(sigma, dtype=torch.float64))
        return torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(probs=self.weights),
            torch.distributions.Independent(
                torch.distributions.Normal(alpha * self.means, stds), 1
            ),
        )

    def draw(self, n, seed=0):
        generator = torch.Generator().manual_seed(seed)
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        eps = torch.randn(n, 2, dtype=torch.float64, generator=generator)
        return self.means[k] + self.stds[k] * eps


@pytest.fixture
def gaussian():
    return Gaussian()


@pytest.fixture
def mixture():
    return Mixture()


@pytest.fixture
def draw_noise():
    """Return a function that draws ``(n, d)`` float64 noise, the same each time."""

    def draw(n, d=3, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(n, d, dtype=torch.float64, generator=generator)

    return draw


@pytest.fixture
def order_of():
    """Return a function that measures an order of convergence between two numbers of steps."""

    def order(error, steps):
        return math.log2(error(steps) / error(2 * steps))

    return order
