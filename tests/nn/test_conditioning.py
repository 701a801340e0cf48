"""Each way of steering against its equation, on its own."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from scldm.nn import CONDITIONINGS, AdaLN, Concatenation, CrossAttention, FiLM, Signal

WIDTH, SIGNAL = 8, 6
branch = nn.Linear(WIDTH, WIDTH)


def steered(kind):
    torch.manual_seed(0)
    module = kind(branch, WIDTH, SIGNAL)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return module


@pytest.fixture
def h():
    return torch.randn(3, 5, WIDTH, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def c():
    return torch.randn(3, 1, SIGNAL, generator=torch.Generator().manual_seed(1))


def test_film(h, c):
    module = steered(FiLM)
    beta, gamma = module.modulation(c).expand(3, 5, -1).chunk(2, dim=2)
    expected = h + gamma * branch(F.layer_norm(h, (WIDTH,))) + beta
    torch.testing.assert_close(module(h, Signal(c)), expected)


def test_concatenation_is_one_linear_map_of_all(h):
    module = steered(Concatenation)
    c = torch.randn(3, 1, 2 * SIGNAL)
    joined = torch.cat([F.layer_norm(h, (WIDTH,)), c.expand(3, 5, -1)], dim=2)
    weight = torch.cat([module.own.weight, module.given.weight], dim=1)
    expected = h + branch(F.linear(joined, weight, module.own.bias))
    torch.testing.assert_close(module(h, Signal(c)), expected)


def test_concatenation_keeps_time_and_conditions_apart(embedder, conditions):
    time = torch.randn(4, embedder.width)
    vector = Concatenation.signal(time, embedder, conditions).vector.squeeze(1)
    torch.testing.assert_close(vector, torch.cat([time, embedder(conditions)], dim=1))


def test_cross_attention_is_that_of_torch(h, c):
    module = steered(CrossAttention)
    tokens = torch.randn(3, 4, SIGNAL)
    in_use = torch.tensor([[True] * 4, [True, False, True, False], [False, True, False, False]])
    layer, peer = (
        module.attend,
        nn.MultiheadAttention(WIDTH, 4, kdim=SIGNAL, vdim=SIGNAL, batch_first=True),
    )
    key, value = layer.key_value.weight.chunk(2)
    bias = torch.cat([layer.query.bias, torch.zeros(2 * WIDTH)])
    peer.load_state_dict(
        {
            "q_proj_weight": layer.query.weight,
            "k_proj_weight": key,
            "v_proj_weight": value,
            "in_proj_bias": bias,
            "out_proj.weight": layer.out.weight,
            "out_proj.bias": layer.out.bias,
        }
    )
    expected, weights = peer(h, tokens, tokens, key_padding_mask=~in_use)
    torch.testing.assert_close(layer(h, tokens, in_use), expected)
    torch.testing.assert_close(layer.weights(h, tokens, in_use), weights.mean(1))
    by_time = AdaLN.forward(module, h, Signal(c))
    out = module(h, Signal(c, tokens, in_use))
    torch.testing.assert_close(
        out, by_time + layer(F.layer_norm(by_time, (WIDTH,)), tokens, in_use)
    )


@pytest.mark.parametrize("kind", [AdaLN, CrossAttention])
def test_blocks_with_a_gate_start_as_the_identity(kind, h, c):
    signal = Signal(c, torch.randn(3, 4, SIGNAL), torch.ones(3, 4, dtype=torch.bool))
    torch.testing.assert_close(kind(branch, WIDTH, SIGNAL)(h, signal), h)


def test_film_starts_as_a_plain_residual(h, c):
    plain = h + branch(F.layer_norm(h, (WIDTH,)))
    torch.testing.assert_close(FiLM(branch, WIDTH, SIGNAL)(h, Signal(c)), plain)


@pytest.mark.parametrize("name", CONDITIONINGS)
def test_a_block_attends_once(name):
    further = CONDITIONINGS[name].further(branch, WIDTH, SIGNAL)
    assert type(further) is (AdaLN if name == "cross_attention" else CONDITIONINGS[name])
