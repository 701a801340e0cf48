"""Gradients of draws against closed forms and finite differences of expectations."""

import pytest
import torch
from scvi.distributions import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial

from scldm.module import Discriminator, log_normalised, sampled_expression

N = 100_000


def _parameters():
    values = {"mu": [0.3, 2.0, 30.0], "theta": [0.5, 2.0, 10.0], "logits": [-1.0, 0.0, -2.0]}
    return {name: torch.tensor(value, requires_grad=True) for name, value in values.items()}


def _distribution(kind, p):
    mu, theta = p["mu"].expand(N, 3), p["theta"].expand(N, 3)
    if kind == "poisson":
        return Poisson(mu)
    if kind == "nb":
        return NegativeBinomial(mu=mu, theta=theta)
    return ZeroInflatedNegativeBinomial(mu=mu, theta=theta, zi_logits=p["logits"].expand(N, 3))


@pytest.fixture
def fixed_total(monkeypatch):
    """Scale every cell by one total, so that expectations have closed forms."""
    monkeypatch.setattr(
        "scldm.module._adversary.log_normalised", lambda x, total: torch.log1p(500 * x)
    )


def _mean_expression(kind, p):
    """E[log(1 + 500 x)] by summing over the counts' probabilities."""
    counts = torch.arange(400.0).unsqueeze(1)
    rows = {name: value.unsqueeze(0) for name, value in p.items()}
    if kind == "poisson":
        dist = Poisson(rows["mu"])
    elif kind == "nb":
        dist = NegativeBinomial(mu=rows["mu"], theta=rows["theta"])
    else:
        dist = ZeroInflatedNegativeBinomial(
            mu=rows["mu"], theta=rows["theta"], zi_logits=rows["logits"]
        )
    return (dist.log_prob(counts).exp() * torch.log1p(500 * counts)).sum(0)


@pytest.mark.parametrize("kind", ["poisson", "nb", "zinb"])
def test_gradients_are_those_of_the_expectation(kind, fixed_total):
    torch.manual_seed(0)
    parameters = _parameters()
    names = {"poisson": ["mu"], "nb": ["mu", "theta"], "zinb": ["mu", "theta", "logits"]}[kind]
    drawn = sampled_expression(_distribution(kind, parameters)).mean(0)
    true = _mean_expression(kind, parameters)
    torch.testing.assert_close(drawn, true, rtol=0.02, atol=0)
    inputs = [parameters[name] for name in names]
    have = torch.autograd.grad(drawn.sum(), inputs)
    want = torch.autograd.grad(true.sum(), inputs)
    for name, one, other in zip(names, have, want, strict=True):
        torch.testing.assert_close(one, other, rtol=0.05, atol=2e-3, msg=lambda m, n=name: n + m)


def test_values_are_log_normalised_counts():
    torch.manual_seed(0)
    y = sampled_expression(_distribution("zinb", _parameters())).detach()
    share = torch.expm1(y) / 1e4
    total = share.sum(1)
    torch.testing.assert_close(total[total > 0], torch.ones(int((total > 0).sum())))
    counts = torch.tensor([[1.0, 3.0], [0.0, 0.0]])
    want = torch.log1p(torch.tensor([[2500.0, 7500.0], [0.0, 0.0]]))
    torch.testing.assert_close(log_normalised(counts), want)


def test_the_decoder_gets_the_reversed_sign():
    torch.manual_seed(0)
    discriminator = Discriminator(3).eval()
    log_library, mu = torch.full((8, 1), 1.0), torch.full((8, 3), 2.0, requires_grad=True)
    torch.manual_seed(1)
    sampled = sampled_expression(NegativeBinomial(mu=mu, theta=torch.ones(8, 3)))
    logit = discriminator(sampled, log_library)
    own = torch.autograd.grad(torch.nn.functional.softplus(logit).sum(), mu, retain_graph=True)[0]
    against = torch.autograd.grad(8 * discriminator.deception(sampled, log_library), mu)[0]
    assert own.abs().sum() > 0
    # the logistic loss of the other label: -sigmoid(-D) in place of sigmoid(D)
    torch.testing.assert_close(against, -own * (-logit.detach()).exp().unsqueeze(1))


def test_each_loss_reaches_its_own_side_only():
    torch.manual_seed(0)
    discriminator = Discriminator(3)
    real, log_library = torch.rand(8, 3), torch.ones(8, 1)
    sampled = torch.rand(8, 3, requires_grad=True)
    discriminator.deception(sampled, log_library).backward()
    assert sampled.grad.abs().sum() > 0
    assert all(p.grad is None for p in discriminator.parameters())
    sampled.grad = None
    discriminator.loss(real, sampled, log_library).backward()
    assert sampled.grad is None
    assert all(p.grad.abs().sum() > 0 for p in discriminator.parameters())


def test_a_discriminator_learns_to_tell_cells_apart():
    torch.manual_seed(0)
    discriminator = Discriminator(4, n_hidden=16)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-2)
    p = torch.tensor([0.4, 0.3, 0.2, 0.1])
    for _ in range(200):
        real, sampled = (
            log_normalised(torch.poisson(100 * q.expand(256, 4))) for q in (p, p.flip(0))
        )
        loss = discriminator.loss(real, sampled, torch.full((256, 1), 4.6))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # at chance it is 2 log 2
    assert loss < 0.5
