"""Distributions of counts of modalities, against torch's own and by draws."""

import pytest
import torch
from scvi.distributions import NegativeBinomialMixture
from torch import nn
from torch.distributions import Bernoulli
from torch.distributions import NegativeBinomial as TorchNegativeBinomial

from scldm.module import LIKELIHOODS, moment_dispersion, sample_counts

N, FEATURES = 5, 7
ALL = [(kind, name) for kind, names in LIKELIHOODS.items() for name in names]


def _outputs(likelihood, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(N, FEATURES, generator=generator) for name in likelihood.heads}


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_counts_that_are_drawn_have_the_moments_of_the_distribution(kind, name):
    likelihood = LIKELIHOODS[kind][name]()
    outputs = _outputs(likelihood)
    if "log_theta" in outputs:
        outputs["log_theta"] = outputs["log_theta"].clamp_min(0) + 1
    log_size = torch.full((N, int(likelihood.sized)), 3.0)
    dist = likelihood.distribution(outputs, log_size)
    generator = torch.Generator().manual_seed(1)
    draws = torch.stack([sample_counts(dist, generator) for _ in range(4000)])
    assert (draws == draws.round()).all() and (draws >= 0).all()
    error = 5 * draws.std(0) / 4000**0.5 + 1e-3
    assert ((draws.mean(0) - dist.mean).abs() < error).all()
    squares = (draws - draws.mean(0)) ** 2
    error = 5 * squares.std(0) / 4000**0.5 + 1e-2
    assert ((squares.mean(0) - dist.variance).abs() < error).all()


@pytest.mark.parametrize(("kind", "name"), [a for a in ALL if a[1] not in ("nb_mixture", "zinb")])
def test_sized_means_sum_to_the_size(kind, name):
    likelihood = LIKELIHOODS[kind][name]()
    outputs = _outputs(likelihood)
    log_size = torch.linspace(0, 2, N)[:, None][:, : int(likelihood.sized)]
    dist = likelihood.distribution(outputs, log_size)
    if name == "bernoulli":
        rate = -torch.log1p(-dist.probs)
        torch.testing.assert_close(rate.sum(1), log_size[:, 0].exp(), rtol=1e-4, atol=1e-4)
    elif likelihood.sized:
        torch.testing.assert_close(dist.mean.sum(1), log_size[:, 0].exp())
    else:
        torch.testing.assert_close(dist.mean, outputs["log_rate"].exp())


def test_the_size_of_open_peaks_gives_their_number_back():
    """With all peaks alike, the size is where as many are expected to be open as are."""
    likelihood = LIKELIHOODS["atac"]["bernoulli"]()
    x = (torch.arange(20) < 6).float()[None]
    log_size = likelihood.log_size(x)
    dist = likelihood.distribution({"scale": torch.zeros(1, 20)}, log_size)
    assert float(dist.mean.sum()) == pytest.approx(6, rel=1e-4)
    for extreme in (torch.zeros(1, 20), torch.ones(1, 20)):
        assert likelihood.log_size(extreme).isfinite().all()


def test_protein_probabilities_equal_torch():
    likelihood = LIKELIHOODS["protein"]["nb"]()
    outputs = _outputs(likelihood)
    x = torch.arange(N * FEATURES).reshape(N, FEATURES).float() % 9
    theta, mu = outputs["log_theta"].exp(), outputs["log_rate"].exp()
    expected = TorchNegativeBinomial(theta, logits=(mu / theta).log()).log_prob(x)
    found = likelihood.distribution(outputs, torch.zeros(N, 0)).log_prob(x)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_the_foreground_lies_above_the_background():
    likelihood = LIKELIHOODS["protein"]["nb_mixture"]()
    dist = likelihood.distribution(_outputs(likelihood), torch.zeros(N, 0))
    assert isinstance(dist, NegativeBinomialMixture)
    assert (dist.mu2 > dist.mu1).all()


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_a_decoder_starts_at_the_mean(kind, name):
    likelihood = LIKELIHOODS[kind][name]()
    heads = {head: nn.Linear(3, FEATURES) for head in likelihood.heads}
    mean = torch.linspace(0.5, 20, FEATURES)
    if kind == "atac":
        mean = mean / 40
    likelihood.start(heads, mean, torch.full((FEATURES,), 4.0))
    outputs = {head: layer(torch.zeros(1, 3)) for head, layer in heads.items()}
    log_size = mean.sum().log().reshape(1, 1) if likelihood.sized else torch.zeros(1, 0)
    found = likelihood.distribution(outputs, log_size).mean[0]
    # zeros and the mixture take or add a little, and open peaks are fewer than their rate
    torch.testing.assert_close(found, mean, rtol=0.35, atol=0.01)


def test_moments_at_size_one_are_those_of_the_negative_binomial():
    generator = torch.Generator().manual_seed(0)
    rate = torch._standard_gamma(torch.full((200_000, 1), 3.0), generator=generator) * (10 / 3)
    x = torch.poisson(rate, generator=generator).double()
    n = float(len(x))
    theta = moment_dispersion(x.mean(0), x.square().sum(0), x.sum(0), n, n)
    assert float(theta) == pytest.approx(3, rel=0.05)


def test_a_bernoulli_is_drawn_by_the_generator():
    dist = Bernoulli(torch.full((4, 4), 0.5))
    first, second = (sample_counts(dist, torch.Generator().manual_seed(3)) for _ in range(2))
    assert (first == second).all() and 0 < first.mean() < 1


@pytest.mark.parametrize(
    ("kind", "name"), [a for a in ALL if "log_theta" in LIKELIHOODS[a[0]][a[1]].heads]
)
@pytest.mark.parametrize("log_theta", [-200.0, 200.0])
def test_dispersions_beyond_single_precision_have_a_likelihood(kind, name, log_theta):
    likelihood = LIKELIHOODS[kind][name]()
    outputs = {k: v.requires_grad_() for k, v in _outputs(likelihood).items()}
    outputs["log_theta"] = torch.full((N, FEATURES), log_theta, requires_grad=True)
    dist = likelihood.distribution(outputs, torch.full((N, int(likelihood.sized)), 3.0))
    for x in (0.0, 3.0, 100.0):
        off = -dist.log_prob(torch.full((N, FEATURES), x))
        assert off.isfinite().all()
        off.sum().backward(retain_graph=True)
    assert all(v.grad is None or v.grad.isfinite().all() for v in outputs.values())
