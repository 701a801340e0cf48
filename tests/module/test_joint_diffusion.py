"""Diffusion of several modalities: what is asked, what is given, what is missing."""

import numpy as np
import pytest
import torch

from scldm.diffusion import Flow, Heun, RectifiedFlow, UniformTimes
from scldm.module import ASKED, JointDiffusion, JointNetwork, given_key
from scldm.nn import MLP, ConditionEmbedder, VectorEmbedder

NAMES = ["a", "b", "c"]
OWNER = [0, 0, 1, 2, 0]
"""Two latents of a, one of b and of c; the size of a comes last."""


def _diffusion(width=32):
    torch.manual_seed(0)
    embedders = {
        given_key(name): VectorEmbedder(OWNER.count(m), width) for m, name in enumerate(NAMES)
    }
    backbone = MLP(len(OWNER) + 3, ConditionEmbedder(embedders, width), depth=2)
    return JointDiffusion(
        JointNetwork(backbone, OWNER),
        4,
        NAMES,
        schedule=RectifiedFlow(),
        parametrisation=Flow(),
        times=UniformTimes(),
        ema_decay=0.99,
    )


def _conditions(diffusion, n, asked, **given):
    known = {
        given_key(name): given.get(name, torch.full((n, OWNER.count(m)), torch.nan))
        for m, name in enumerate(NAMES)
    }
    return {ASKED: torch.tensor(asked).float().expand(n, -1), **known}


def test_missing_cells_do_not_enter_the_standardisation():
    diffusion = _diffusion()
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(500, 4, generator=generator) * 3 + 1
    size = torch.randn(500, 1, generator=generator)
    variance = torch.zeros(500, 4)
    holes, hole_variance = mean.clone(), variance.clone()
    holes[250:, 2], hole_variance[250:, 2] = torch.nan, torch.nan
    diffusion.fit_standardisation(holes, hole_variance, size)
    torch.testing.assert_close(diffusion.shift[2], mean[:250, 2].mean())
    torch.testing.assert_close(diffusion.scale[2], mean[:250, 2].std(correction=0))
    torch.testing.assert_close(diffusion.shift[0], mean[:, 0].mean())
    assert diffusion.trained.bounds.isfinite().all()
    given = diffusion.given(holes, size)
    assert given[given_key("a")].shape == (500, 3)
    assert given[given_key("b")].isnan()[250:].all()
    assert not given[given_key("b")].isnan()[:250].any()


def test_what_is_drawn_as_given_leaves_something_to_ask():
    diffusion = _diffusion()
    generator = torch.Generator().manual_seed(0)
    present = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 0, 1]]).bool().repeat(2000, 1)
    given = diffusion._draw_given(present, generator)
    assert not (given & ~present).any()
    assert ((present & ~given).sum(1) >= 1).all()
    full, two, one = (given[i::3] for i in range(3))
    assert not one.any()
    # a third of cells without anything given; of three, one and two are given equally often
    for part in (full, two):
        assert float((part.sum(1) == 0).float().mean()) == pytest.approx(1 / 3, abs=0.04)
    assert float((full.sum(1) == 2).float().mean()) == pytest.approx(1 / 3, abs=0.04)
    assert full.float().mean(0) == pytest.approx(np.full(3, 1 / 3), abs=0.04)


def test_the_network_answers_for_what_is_asked_only():
    diffusion = _diffusion()
    network = diffusion.trained.network
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x = torch.randn(6, 5)
    known = _conditions(diffusion, 6, [0, 1, 0])
    other = x.clone()
    other[:, [0, 1, 3, 4]] = 7.0
    t = torch.full((6,), 0.5)
    found = network(x, t, known)
    torch.testing.assert_close(found, network(other, t, known))
    assert (found[:, [0, 1, 3, 4]] == 0).all() and (found[:, 2] != 0).all()


def test_a_missing_modality_does_not_change_the_loss():
    """What stands in its place, NaN or any number, is not looked at."""
    diffusion = _diffusion()
    x = torch.randn(64, 5)
    x[:, 3] = torch.nan
    known = {key: v for key, v in _conditions(diffusion, 64, [1, 1, 0]).items() if key != ASKED}
    losses = [diffusion.loss(x, known, torch.Generator().manual_seed(5)) for _ in range(2)]
    assert losses[0].isfinite().all()
    torch.testing.assert_close(*losses)


def test_guidance_keeps_what_is_asked():
    diffusion = _diffusion()
    known = _conditions(diffusion, 4, [0, 1, 0], a=torch.randn(4, 3))
    noise = torch.randn(4, 5)
    guided = diffusion.denoiser(scale=3.0)
    found = diffusion.sample(noise, known, Heun(), 3, denoiser=guided)
    assert all(part.isfinite().all() for part in found)


def test_it_learns_every_conditional_of_a_gaussian():
    """Marginals, conditionals and what cells without b say of a and c, against the closed form."""
    generator = torch.Generator().manual_seed(0)
    n = 4000
    factor = torch.randn(n, 1, generator=generator)
    noise = torch.randn(n, 5, generator=generator)
    x = 0.8 * factor + 0.6 * noise
    x[: n // 4, 2] = torch.nan
    diffusion = _diffusion(64)
    zeros = torch.zeros(n, 4)
    diffusion.fit_standardisation(x[:, :4], zeros, x[:, 4:])
    known = diffusion.given(x[:, :4], x[:, 4:])
    x_0 = diffusion.standardise(x[:, :4], x[:, 4:])
    optimizer = torch.optim.Adam(diffusion.trained.parameters(), lr=2e-3)
    for step in range(1500):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - step / 1500)
        rows = torch.randint(n, (256,), generator=generator)
        cut = {key: value[rows] for key, value in known.items()}
        loss = diffusion.loss(x_0[rows], cut, generator).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        diffusion.update_average()
    diffusion.eval()
    m = 3000
    a = torch.tensor([1.0, 1.0, 1.0]).expand(m, 3)
    start = torch.randn(m, 5, generator=generator)
    # b given a = 1 in all three of its dimensions: mean k 3 / (3 k + 1), k = (0.8 / 0.6)^2, times 0.8 / 0.8
    gain = 0.64 / (0.36 + 3 * 0.64)
    expected, spread = gain * 3, (1 - 3 * gain * 0.64) ** 0.5
    z, _ = diffusion.sample(start, _conditions(diffusion, m, [0, 1, 0], a=a), Heun(), 12)
    assert float(z[:, 2].mean()) == pytest.approx(expected, abs=0.12)
    assert float(z[:, 2].std()) == pytest.approx(spread, abs=0.1)
    z, size = diffusion.sample(start, _conditions(diffusion, m, [1, 1, 1]), Heun(), 12)
    cells = torch.cat([z, size], dim=1)
    assert cells.mean(0).abs().max() < 0.12
    expected = 0.64 * torch.ones(5, 5) + 0.36 * torch.eye(5)
    torch.testing.assert_close(torch.cov(cells.T), expected, atol=0.15, rtol=0)
