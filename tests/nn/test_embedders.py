import pytest
import torch

from scldm.nn import (
    CategoryEmbedder,
    ConditionEmbedder,
    FourierEmbedder,
    SetEmbedder,
    drop_all,
    drop_at_random,
)

NAN = torch.nan


def _embedders():
    return {
        "cell_type": (CategoryEmbedder(3, 8), torch.tensor([[0.0], [2.0]])),
        "perturbation": (SetEmbedder(4, 8), torch.tensor([[-1.0, -1, 0, 0], [1, 3, 0.5, 2]])),
        "time": (
            FourierEmbedder(1, 8),
            torch.tensor([[1.0], [4.0]]),
        ),
        "spatial": (
            FourierEmbedder(2, 8),
            torch.tensor([[1.0, 0.0], [4.0, 2.0]]),
        ),
    }


@pytest.mark.parametrize("kind", _embedders())
def test_a_dropped_condition_is_unlike_every_value(kind):
    embedder, values = _embedders()[kind]
    given, absent = embedder(values), embedder(torch.full_like(values, NAN))
    assert given.shape == (2, 8)
    torch.testing.assert_close(absent, embedder.absent.expand(2, 8))
    assert not torch.isclose(given, absent).all(1).any()
    assert not torch.isclose(given[0], given[1]).all()


@pytest.mark.parametrize("kind", _embedders())
def test_rows_do_not_mix_and_gradients_are_finite(kind):
    embedder, values = _embedders()[kind]
    mixed = torch.cat([values[:1], torch.full_like(values[1:], NAN)])
    out = embedder(mixed)
    torch.testing.assert_close(out[0], embedder(values)[0])
    out.square().sum().backward()
    for name, parameter in embedder.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


def test_a_set_knows_no_order_and_zero_is_a_member():
    embedder = SetEmbedder(4, 8)
    one = embedder(torch.tensor([[0.0, 2.0, 1.0, 3.0]]))
    torch.testing.assert_close(one, embedder(torch.tensor([[2.0, 0.0, 3.0, 1.0]])))
    padded = embedder(torch.tensor([[0.0, 2.0, -1.0, 1.0, 3.0, 1.0]]))
    torch.testing.assert_close(one, padded)
    empty = embedder(torch.tensor([[-1.0, -1.0, 1.0, 1.0]]))
    torch.testing.assert_close(empty[0], embedder.empty)
    assert not torch.isclose(embedder(torch.tensor([[0.0, 1.0]])), empty).all()


def test_a_dose_matters():
    embedder = SetEmbedder(4, 8)
    low, high = embedder(torch.tensor([[1.0, 0.1], [1.0, 2.0]]))
    assert not torch.isclose(low, high).all()


def test_embedder_of_all_conditions_names_what_is_wrong():
    embedder = ConditionEmbedder({"cell_type": CategoryEmbedder(3, 8)}, 8)
    with pytest.raises(ValueError, match=r"has \['batch'\].*built for \['cell_type'\]"):
        embedder({"batch": torch.zeros(2, 1)})


@pytest.mark.parametrize("name", ["type", "n.genes", "keys", "forward"])
def test_any_column_name_is_a_name(name):
    embedder = ConditionEmbedder({name: CategoryEmbedder(3, 8)}, 8)
    assert embedder({name: torch.zeros(2, 1)}).shape == (2, 8)


def test_dropout_of_conditions_is_independent_and_sometimes_total():
    n, rate = 200_000, 0.1
    conditions = {"a": torch.zeros(n, 1), "b": torch.zeros(n, 2)}
    dropped = drop_at_random(conditions, rate, torch.Generator().manual_seed(0))
    a, b = (dropped[name].isnan().all(1) for name in ("a", "b"))
    assert torch.equal(b, dropped["b"].isnan().any(1))
    alone = rate * (1 - rate) * (1 - rate)
    assert (a & ~b).float().mean().item() == pytest.approx(alone, rel=0.03)
    both = rate + (1 - rate) * rate**2
    assert (a & b).float().mean().item() == pytest.approx(both, rel=0.03)
    assert not conditions["a"].isnan().any()


def test_drop_all():
    dropped = drop_all({"a": torch.zeros(3, 2)})
    assert dropped["a"].isnan().all()
    assert dropped["a"].shape == (3, 2)
