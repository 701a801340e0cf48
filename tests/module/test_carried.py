"""Counts that keep their quantiles: closed forms and planted faults."""

import numpy as np
import pytest
import torch
from scipy import stats
from scvi.distributions import NegativeBinomial, ZeroInflatedNegativeBinomial
from torch.distributions import Bernoulli, Poisson

from scldm.module import carried_counts, sample_counts

N = 20_000


def negative_binomial(mu, theta):
    return NegativeBinomial(mu=torch.full((N, 1), mu), theta=torch.full((N, 1), theta))


def inflated(mu, theta, logit):
    return ZeroInflatedNegativeBinomial(
        mu=torch.full((N, 1), mu),
        theta=torch.full((N, 1), theta),
        zi_logits=torch.full((N, 1), logit),
    )


def poisson(rate):
    return Poisson(torch.full((N, 1), rate))


PAIRS = [
    (negative_binomial(2.0, 1.0), negative_binomial(6.0, 3.0)),
    (negative_binomial(300.0, 20.0), negative_binomial(0.3, 0.5)),
    (inflated(3.0, 2.0, -1.0), inflated(8.0, 2.0, 0.5)),
    (poisson(4.0), poisson(1.5)),
    (poisson(0.2), negative_binomial(5.0, 1.0)),
]


def random(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_what_is_distributed_as_the_first_comes_out_as_the_second(source, target):
    x = sample_counts(source, random(1))
    found = carried_counts(x, source, target, random(2)).numpy().ravel()
    expected = sample_counts(target, random(3)).numpy().ravel()
    assert (found == found.round()).all() and found.min() >= 0
    largest = int(max(found.max(), expected.max()))
    edges = np.unique(np.quantile(expected, np.linspace(0, 1, 12)))
    edges = np.concatenate([[-0.5], edges[1:-1] + 0.5, [largest + 0.5]])
    table = np.stack([np.histogram(values, edges)[0] for values in (found, expected)])
    table = table[:, table.sum(axis=0) > 0]
    assert stats.chi2_contingency(table).pvalue > 1e-3


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_larger_counts_stay_larger(source, target):
    x = sample_counts(source, random(1))
    found = carried_counts(x, source, target, random(2)).ravel().numpy()
    means = [found[(x == count).ravel().numpy()].mean() for count in x.unique()[:6]]
    assert (np.diff(means) >= 0).all()


def test_the_same_distribution_changes_nothing_even_far_in_the_tail():
    source = negative_binomial(2.0, 5.0)
    x = torch.arange(N).reshape(N, 1).float() % 400
    assert torch.equal(carried_counts(x, source, source, random()), x)


def test_the_tail_is_taken_to_the_tail():
    source, target = negative_binomial(2.0, 50.0), negative_binomial(4.0, 50.0)
    x = torch.full((N, 1), 60.0)
    found = carried_counts(x, source, target, random())
    assert torch.isfinite(found).all() and found.min() > 60


def test_other_distributions_are_refused():
    odd = Bernoulli(torch.full((N, 1), 0.5))
    with pytest.raises(TypeError, match="Bernoulli"):
        carried_counts(torch.zeros(N, 1), odd, odd, random())
