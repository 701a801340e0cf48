import pytest
import torch

from scldm.module import CountAutoencoder
from scldm.train import AdversarialPlan
from scldm.train._adversarial import ramp


def _plan(weight):
    torch.manual_seed(0)
    module = CountAutoencoder(n_input=6, n_batch=1, n_latent=2, gene_likelihood="nb")
    plan = AdversarialPlan(module, adversarial_weight=weight)
    # outside of a run there are no steps to count
    plan._weight = lambda: weight
    return plan


def _minibatch(n=32):
    generator = torch.Generator().manual_seed(0)
    zeros = torch.zeros(n, 1).long()
    x = torch.poisson(torch.full((n, 6), 5.0), generator=generator) + 1
    return {"X": x, "batch": zeros, "labels": zeros}


def _gradients(weight):
    plan = _plan(weight)
    torch.manual_seed(1)
    _, _, loss = plan(_minibatch())
    loss.loss.backward()
    return [
        torch.cat([p.grad.flatten() for p in part.parameters() if p.grad is not None])
        for part in (plan.module.decoder, plan.discriminator)
    ]


def test_the_weight_scales_the_decoder_s_part_and_not_the_discriminator_s():
    (none, own), (one, own_1), (two, own_2) = (_gradients(w) for w in (0.0, 1.0, 2.0))
    assert (one - none).abs().sum() > 0
    torch.testing.assert_close(two - none, 2 * (one - none), rtol=1e-2, atol=1e-4)
    torch.testing.assert_close(own, own_1)
    torch.testing.assert_close(own, own_2)


def test_the_decoder_learns_what_the_discriminator_minds():
    plan, tensors = _plan(1.0), _minibatch(128)
    tensors["X"][:, 0] *= 5
    judge = torch.optim.Adam(plan.discriminator.parameters(), lr=3e-3)
    decoder = torch.optim.Adam(plan.module.decoder.parameters(), lr=3e-3)

    def share(steps):
        """Take adversarial steps of both sides and return the first gene's share of a cell."""
        for _ in range(steps):
            _, generative, loss = plan(tensors)
            plan.zero_grad()
            (loss.loss - (loss.reconstruction_loss_sum + loss.kl_local_sum) / 128).backward()
            judge.step()
            decoder.step()
        return (generative["px"].mean[:, 0] / tensors["X"].sum(1)).mean().item()

    true = (tensors["X"][:, 0].sum() / tensors["X"].sum()).item()
    assert abs(share(1) - true) > 0.2
    assert abs(share(450) - true) < 0.1


def test_the_weight_grows_from_nothing():
    assert ramp(0.0) == 0
    assert ramp(0.1) == pytest.approx(0.4621, abs=1e-4)
    assert ramp(1.0) == pytest.approx(1.0, abs=1e-3)


def test_validation_has_no_adversarial_term_and_the_optimiser_knows_all():
    plan = _plan(1.0)
    groups = plan.parameter_groups()
    known = {id(p) for group in groups for p in group["params"]}
    assert known == {id(p) for p in plan.parameters()}
    assert "discriminator_loss" not in plan.eval()(_minibatch())[2].extra_metrics
