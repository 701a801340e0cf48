"""Autoencoders of several modalities on minibatches of which cells lack some."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from scldm.module import (
    LIKELIHOODS,
    PRESENT,
    ModalityAutoencoder,
    MultimodalAutoencoder,
    counts_key,
)

SIZES = {"rna": 12, "protein": 5}


def _autoencoder(alignment_weight=0.0):
    torch.manual_seed(0)
    parts = {
        name: ModalityAutoencoder(
            n, LIKELIHOODS[name]["nb"](), 3, n_categories=[2], n_hidden=16, dropout_rate=0.0
        )
        for name, n in SIZES.items()
    }
    return MultimodalAutoencoder(parts, alignment_weight)


def _minibatch(present, seed=0):
    generator = torch.Generator().manual_seed(seed)
    n = len(present)
    counts = {
        counts_key(name): torch.poisson(torch.full((n, size), 4.0), generator=generator)
        for name, size in SIZES.items()
    }
    return {PRESENT: present, "batch": torch.zeros(n, 1, dtype=torch.long), **counts}


ALL = torch.ones(8, 2)
SOME = torch.tensor([[1, 1]] * 4 + [[1, 0]] * 3 + [[0, 1]]).float()


def test_what_a_cell_lacks_is_not_read():
    model = _autoencoder().eval()
    first, other = _minibatch(SOME), _minibatch(SOME)
    other[counts_key("protein")][4:7] = 999.0
    other[counts_key("rna")][7] = 999.0
    for a, b in zip(model.encode(first), model.encode(other), strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)
    mean, variance, log_size = model.encode(first)
    assert mean.shape == (8, 6) and log_size.shape == (8, 1)
    lacks = torch.cat([SOME[:, :1].expand(8, 3), SOME[:, 1:].expand(8, 3)], dim=1) == 0
    assert (mean.isnan() == lacks).all() and (variance.isnan() == lacks).all()
    assert (log_size.isnan()[:, 0] == (SOME[:, 0] == 0)).all()


def test_the_loss_is_the_sum_over_modalities_of_means_over_their_cells():
    model = _autoencoder().eval()
    batch = _minibatch(SOME)
    torch.manual_seed(1)
    found = model(batch, loss_kwargs={"kl_weight": 0.5})[2]
    torch.manual_seed(1)
    posteriors = {}
    for m, (name, autoencoder) in enumerate(model.items()):
        rows = SOME[:, m].nonzero()[:, 0]
        x = batch[counts_key(name)][rows]
        posteriors[name] = (*autoencoder.encode(x), x)
    # drawn in the order of the module: encoders first
    z = {name: posterior.rsample() for name, (posterior, _, _) in posteriors.items()}
    expected = 0.0
    for name, (posterior, log_size, x) in posteriors.items():
        dist = model[name].decode(z[name], log_size, [torch.zeros(len(x), 1, dtype=torch.long)])
        prior = Normal(torch.zeros_like(posterior.loc), 1.0)
        kl = kl_divergence(posterior, prior).sum(1)
        expected = expected + (-dist.log_prob(x).sum(1) + 0.5 * kl).mean()
    torch.testing.assert_close(found.loss, expected)


@pytest.mark.parametrize("present", [ALL, SOME, SOME[4:7], SOME[:1]])
@pytest.mark.parametrize("alignment", [0.0, 1.0])
def test_a_training_step_is_finite_whatever_cells_lack(present, alignment):
    model = _autoencoder(alignment).train()
    loss = model(_minibatch(present), loss_kwargs={"kl_weight": 1.0})[2].loss
    assert loss.isfinite()


def test_every_parameter_gets_a_gradient():
    model = _autoencoder(1.0).train()
    model(_minibatch(ALL), loss_kwargs={"kl_weight": 1.0})[2].loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert not without


def test_alignment_draws_the_means_together():
    generator = torch.Generator().manual_seed(0)
    batch = _minibatch(torch.ones(512, 2))
    state = torch.randn(512, 1, generator=generator)
    for name, size in SIZES.items():
        slope = torch.randn(1, size, generator=generator)
        batch[counts_key(name)] = torch.poisson((3 + state * slope).exp(), generator=generator)
    shared = {}
    for weight in (0.0, 5.0):
        model = _autoencoder(weight).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(300):
            optimizer.zero_grad()
            model(batch, loss_kwargs={"kl_weight": 1.0})[2].loss.backward()
            optimizer.step()
        mean = model.eval().encode(batch)[0].detach()
        gap = (mean[:, :3] - mean[:, 3:]).square().sum()
        shared[weight] = float(1 - gap / (mean - mean.mean(0)).square().sum())
    # a gap of independent latents is as large as the latents
    assert shared[5.0] > 0.8
    assert shared[0.0] < 0.5


def test_aligned_latents_have_one_size():
    parts = {
        name: ModalityAutoencoder(n, LIKELIHOODS[name]["nb"](), 2 + n % 2, n_hidden=4)
        for name, n in SIZES.items()
    }
    with pytest.raises(ValueError, match="same number of dimensions"):
        MultimodalAutoencoder(parts, 1.0)
