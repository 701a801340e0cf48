import numpy as np
import pytest
import torch
from scipy import stats
from scvi.distributions import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial

from scldm.module import sample_counts

MU = torch.tensor([0.1, 1.0, 30.0])
THETA = torch.tensor([0.5, 2.0, 10.0])
N = 200_000


def _distributions():
    mu, theta = MU.expand(N, 3), THETA.expand(N, 3)
    logits = torch.tensor([-1.0, 0.0, -2.0]).expand(N, 3)
    return {
        "nb": NegativeBinomial(mu=mu, theta=theta),
        "zinb": ZeroInflatedNegativeBinomial(mu=mu, theta=theta, zi_logits=logits),
        "poisson": Poisson(mu),
    }


@pytest.mark.parametrize("name", ["nb", "zinb", "poisson"])
def test_draws_have_the_distribution_s_moments(name):
    distribution = _distributions()[name]
    x = sample_counts(distribution, torch.Generator().manual_seed(0))
    mean, variance = MU, MU if name == "poisson" else MU + MU**2 / THETA
    if name == "zinb":
        keep = 1 - torch.sigmoid(torch.tensor([-1.0, 0.0, -2.0]))
        mean, variance = keep * mean, keep * (variance + MU**2) - (keep * MU) ** 2
    torch.testing.assert_close(x.mean(0), mean, rtol=0.03, atol=0)
    torch.testing.assert_close(x.var(0), variance, rtol=0.05, atol=0)
    zeros = distribution.log_prob(torch.zeros(N, 3))[0].exp()
    torch.testing.assert_close((x == 0).float().mean(0), zeros, rtol=0.03, atol=1e-3)
    assert torch.equal(x, x.round())


@pytest.mark.parametrize("name", ["nb", "zinb", "poisson"])
def test_only_the_generator_is_drawn_from(name):
    before = torch.random.get_rng_state()
    one, two = (
        sample_counts(_distributions()[name], torch.Generator().manual_seed(4)) for _ in range(2)
    )
    assert torch.equal(one, two)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", ["nb", "zinb", "poisson"])
def test_a_row_does_not_depend_on_rows_that_follow(name):
    one = _distributions()[name]
    other = _distributions()[name]
    if name == "poisson":
        other = Poisson(torch.cat([other.rate[:100], other.rate[100:] * 3]))
    else:
        other.mu = torch.cat([other.mu[:100], other.mu[100:] * 3])
        other.theta = torch.cat([other.theta[:100], other.theta[100:] * 3])
    x, y = (sample_counts(d, torch.Generator().manual_seed(0)) for d in (one, other))
    assert torch.equal(x[:100], y[:100])
    assert not torch.equal(x[100:], y[100:])


def test_rates_that_are_not_finite_are_told():
    broken = Poisson(torch.tensor([1.0, torch.inf]), validate_args=False)
    with pytest.raises(ValueError, match="rates that are not finite"):
        sample_counts(broken, torch.Generator())


def test_other_distributions_are_refused():
    with pytest.raises(TypeError, match="Normal, not one of counts"):
        sample_counts(torch.distributions.Normal(0.0, 1.0), torch.Generator())


@pytest.mark.parametrize("theta", [0.01, 0.3, 4.0, 500.0])
@pytest.mark.parametrize("mu", [0.003, 0.2, 3.0, 60.0])
def test_draws_follow_the_negative_binomial_to_its_tail(mu, theta):
    n = 300_000
    distribution = NegativeBinomial(mu=torch.full((n,), mu), theta=torch.full((n,), theta))
    x = sample_counts(distribution, torch.Generator().manual_seed(1)).numpy()
    law = stats.nbinom(theta, theta / (theta + mu))
    # bins of like shares of the counts above zero, and one of zeros
    edges = np.unique(law.isf(law.sf(0) * np.linspace(1, 0, 12)[1:-1]))
    edges = np.concatenate([[-1, 0], edges[edges > 0], [np.inf]])
    expected = n * -np.diff(law.sf(edges))
    seen = np.histogram(x, edges + 0.5)[0]
    kept = expected >= 5
    score = np.sum(np.square(seen - expected)[kept] / expected[kept])
    assert score < stats.chi2(kept.sum() - 1).isf(1e-4)
    assert x.max() < law.isf(1e-9)


def test_what_is_hardly_ever_there_is_as_rare_as_it_should_be():
    # below the grain of float32's uniform numbers, 6e-8: as it stands these would be twenty times as many
    n, rate, seeds = 2**24, 3e-9, range(8)
    distribution = NegativeBinomial(mu=torch.full((n,), rate), theta=torch.ones(n))
    x = sum(
        int(sample_counts(distribution, torch.Generator().manual_seed(s)).sum()) for s in seeds
    )
    assert x <= stats.poisson(len(seeds) * n * rate).isf(1e-4)
