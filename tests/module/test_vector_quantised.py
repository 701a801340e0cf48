import math

import pytest
import torch

from scldm.module import VectorQuantisedAutoencoder


@pytest.fixture
def module():
    torch.manual_seed(0)
    module = VectorQuantisedAutoencoder(n_input=5, n_batch=1, n_latent=4, n_codes=8, code_dims=2)
    module.train()
    for _ in range(3):
        module(_minibatch())
    return module.eval()


def _minibatch(n=64):
    zeros = torch.zeros(n, 1).long()
    return {"X": torch.poisson(torch.full((n, 5), 3.0)) + 1, "batch": zeros, "labels": zeros}


def test_the_posterior_is_a_point_at_the_codes(module):
    mean, variance, log_library = module.encode(tensors := _minibatch())
    assert torch.equal(mean, module.quantiser(mean))
    assert (variance == 0).all()
    torch.testing.assert_close(log_library.exp(), tensors["X"].sum(1, keepdim=True))


def test_the_decoder_gets_codes_only(module):
    zeros = torch.zeros(20, 1).long()
    z, log_library = torch.randn(20, 4), torch.full((20, 1), 3.0)
    near = module.decode(z, log_library, zeros)
    snapped = module.decode(module.quantiser(z), log_library, zeros)
    assert torch.equal(near.mu, snapped.mu)
    direct = module.generative(z, log_library, zeros)["px"]
    assert not torch.allclose(near.mu, direct.mu)


def test_loss_is_reconstruction_and_commitment(module):
    tensors = _minibatch()
    outputs, generative, _ = module(tensors)
    loss = module.loss(tensors, outputs, generative, kl_weight=0.7)
    encoded = outputs["encoded"]
    gap = (encoded - module.quantiser(encoded)).square().sum(1)
    likelihood = generative["px"].log_prob(tensors["X"]).sum(1)
    torch.testing.assert_close(loss.loss, (0.7 * gap - likelihood).mean())
    torch.testing.assert_close(loss.kl_local_sum, torch.tensor(64 * 2 * math.log(8)))


def test_commitment_pulls_the_encoder_towards_its_codes(module):
    tensors = _minibatch()
    outputs, generative, _ = module(tensors)
    encoded, z = outputs["encoded"], outputs["z"]
    loss = {w: module.loss(tensors, outputs, generative, w).loss for w in (0.0, 1.0)}
    pull = torch.autograd.grad(loss[1.0] - loss[0.0], encoded, retain_graph=True)[0]
    torch.testing.assert_close(pull, 2 * (encoded - z).detach() / 64, rtol=1e-3, atol=1e-5)
    through = torch.autograd.grad(loss[0.0], encoded, retain_graph=True)[0]
    torch.testing.assert_close(through, torch.autograd.grad(loss[0.0], z)[0])


def test_several_samples_are_one_and_the_same(module):
    tensors = _minibatch(7)
    outputs = module.inference(**module._get_inference_input(tensors), n_samples=3)
    assert outputs["z"].shape == (3, 7, 4)
    assert (outputs["z"] == outputs["qz"].loc).all()
    assert module.sample(tensors, n_samples=3).shape == (7, 5, 3)


def test_there_is_no_marginal_likelihood(module):
    with pytest.raises(NotImplementedError, match="no marginal likelihood"):
        module.marginal_ll(_minibatch(), n_mc_samples=2)
