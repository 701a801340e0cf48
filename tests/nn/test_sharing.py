"""What cells share is computed once, and changes nothing."""

import pytest
import torch

from scldm.nn import BACKBONES, CategoryEmbedder, ConditionEmbedder, SetEmbedder, keeping_signals
from scldm.nn._sharing import shared_rows

N = 64


@pytest.fixture
def conditions():
    generator = torch.Generator().manual_seed(0)
    kind = torch.randint(0, 3, (N, 1), generator=generator).float()
    kind[::7] = torch.nan
    members = torch.tensor([[0.0, -1.0, 1.0, 0.0], [0.0, 1.0, 2.0, 2.0]])[
        kind[:, 0].isnan().long()
    ]
    return {"kind": kind, "members": members}


def network(name, conditioning, width=16):
    torch.manual_seed(0)
    embedders = {"kind": CategoryEmbedder(3, width), "members": SetEmbedder(2, width)}
    net = BACKBONES[name](6, ConditionEmbedder(embedders, width), 2, conditioning)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.3)
    return net.eval()


def one_time():
    return torch.tensor(0.4).expand(N)


@pytest.mark.parametrize("name", sorted(BACKBONES))
@pytest.mark.parametrize("conditioning", ["adaln", "film", "concat", "cross_attention"])
def test_the_output_is_that_of_cells_one_by_one(name, conditioning, conditions):
    net, x = network(name, conditioning), torch.randn(N, 6)
    with torch.no_grad():
        together = net(x, one_time(), conditions)
        apart = net(x, one_time().contiguous(), conditions)
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-5)
    assert together.std() > 0.1


def test_each_kind_is_embedded_once(conditions):
    net, seen = network("mlp", "adaln"), []
    net.time.register_forward_hook(lambda module, given, out: seen.append(len(out)))
    with torch.no_grad():
        net(torch.randn(N, 6), one_time(), conditions)
        net(torch.randn(N, 6), one_time().contiguous(), conditions)
    assert seen == [16, N]


def test_rows_lead_back_to_the_cells(conditions):
    with torch.no_grad():
        kinds, rows = shared_rows(one_time(), conditions)
    for value in conditions.values():
        torch.testing.assert_close(value[kinds][rows], value, equal_nan=True)


def test_nothing_is_shared_where_cells_differ_or_gradients_are_wanted(conditions):
    assert shared_rows(one_time(), conditions) is None
    with torch.no_grad():
        assert shared_rows(torch.rand(N), conditions) is None
        each = {"place": torch.randn(N, 2)}
        assert shared_rows(one_time(), each) is None
        assert shared_rows(one_time(), conditions) is not None


def test_cells_without_conditions_are_of_one_kind():
    with torch.no_grad():
        kinds, rows = shared_rows(one_time(), None)
    assert set(kinds.tolist()) == {0} and set(rows.tolist()) == {0}


@pytest.mark.parametrize("conditioning", ["adaln", "film", "concat", "cross_attention"])
def test_signals_are_kept_for_the_same_time_and_kinds_only(conditioning, conditions):
    net, x, seen = network("mlp", conditioning), torch.randn(N, 6), []
    other = {name: value.roll(1, 0) for name, value in conditions.items()}
    fewer = {name: value[conditions["kind"][:, 0] == 1] for name, value in conditions.items()}
    cases = [(0.4, conditions), (0.4, other), (0.5, conditions), (0.4, fewer), (0.4, conditions)]

    def outputs():
        return [
            net(x[: len(c["kind"])], torch.tensor(t).expand(len(c["kind"])), c) for t, c in cases
        ]

    with torch.no_grad():
        alone = outputs()
        net.time.register_forward_hook(lambda module, given, out: seen.append(len(out)))
        with keeping_signals({}):
            kept = outputs()
    assert len(seen) == 3
    assert all(torch.equal(a, b) for a, b in zip(alone, kept, strict=True))


def test_signals_are_not_kept_beyond_their_scope(conditions):
    net, x = network("mlp", "adaln"), torch.randn(N, 6)
    with torch.no_grad():
        with keeping_signals({}):
            before = net(x, one_time(), conditions)
        for parameter in net.parameters():
            parameter.mul_(2)
        with keeping_signals({}):
            after = net(x, one_time(), conditions)
        torch.testing.assert_close(after, net(x, one_time(), conditions))
    assert not torch.allclose(before, after)


def test_few_signals_are_kept(conditions):
    net, x, kept = network("mlp", "adaln"), torch.randn(N, 6), {}
    with torch.no_grad(), keeping_signals(kept):
        for time in torch.linspace(0.1, 0.9, 100):
            net(x, time.expand(N), conditions)
        last = {key[1] for key in kept}
    assert 0 < len(kept) <= 32
    assert max(last) == pytest.approx(0.9)
