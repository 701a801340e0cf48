"""What cells share is computed once, and changes nothing."""

import pytest
import torch

from scldm.nn import BACKBONES, CategoryEmbedder, ConditionEmbedder, SetEmbedder
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
