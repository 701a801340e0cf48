import pytest
import torch

from scldm.diffusion import TIME_DISTRIBUTIONS, LogitNormalTimes, UniformTimes


@pytest.mark.parametrize("name", TIME_DISTRIBUTIONS)
def test_draws_lie_between_data_and_noise(name):
    t = TIME_DISTRIBUTIONS[name]().draw(1000, "cpu", torch.Generator().manual_seed(0))
    assert t.shape == (1000,)
    assert ((t > 0) & (t < 1)).all()


def test_uniform_draws_are_stratified():
    t = UniformTimes().draw(100, "cpu", torch.Generator().manual_seed(0))
    assert torch.equal((t * 100).floor().long(), torch.arange(100))


def test_logit_normal_has_its_moments():
    t = LogitNormalTimes(0.5, 2.0).draw(100_000, "cpu", torch.Generator().manual_seed(0))
    logits = torch.logit(t)
    assert logits.mean().item() == pytest.approx(0.5, abs=1e-3)
    assert logits.std().item() == pytest.approx(2.0, abs=1e-2)
