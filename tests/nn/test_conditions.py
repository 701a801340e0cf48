import pytest
import torch

from scldm.nn import CategoryEmbedder, ConditionEmbedder, drop_all


def test_the_vector_is_the_sum_and_the_tokens_stand_side_by_side(embedder, conditions):
    parts = zip(embedder.names, embedder.embedders, strict=True)
    each = {name: part(conditions[name]) for name, part in parts}
    torch.testing.assert_close(embedder(conditions), sum(each.values()))
    tokens, names = embedder.tokens(conditions), embedder.token_names(conditions)
    assert tokens.shape == (4, len(names), 16)
    assert embedder.in_use(conditions).shape == (4, len(names))
    for name in ("cell_type", "drug", "time", "spatial", "source"):
        torch.testing.assert_close(tokens[:, names.index(name)], each[name])
    assert names == [
        "cell_type",
        "drug",
        "perturbation: 1",
        "perturbation: 2",
        "genes: 1",
        "time",
        "spatial",
        "source",
        "programme: a",
        "programme: b",
        "programme: c",
    ]


def test_without_conditions_the_sum_is_zero(no_conditions):
    assert no_conditions(None) == no_conditions({}) == 0.0
    assert no_conditions.token_names({}) == []
    assert no_conditions.drop_at_random({}, 0.5) == {}


def test_it_names_what_is_wrong():
    embedder = ConditionEmbedder({"cell_type": CategoryEmbedder(3, 8)}, 8)
    for use in (embedder, embedder.tokens, embedder.in_use, embedder.token_names):
        with pytest.raises(ValueError, match=r"has \['batch'\].*built for \['cell_type'\]"):
            use({"batch": torch.zeros(2, 1)})
    with pytest.raises(ValueError, match=r"has \[\]"):
        embedder(None)


@pytest.mark.parametrize("name", ["type", "n.genes", "keys", "forward"])
def test_any_column_name_is_a_name(name):
    embedder = ConditionEmbedder({name: CategoryEmbedder(3, 8)}, 8)
    assert embedder({name: torch.zeros(2, 1)}).shape == (2, 8)


def test_dropout_of_conditions_is_independent_and_sometimes_total():
    n, rate = 200_000, 0.1
    embedder = ConditionEmbedder({name: CategoryEmbedder(3, 2) for name in "ab"}, 2)
    conditions = {"a": torch.zeros(n, 1), "b": torch.zeros(n, 2)}
    dropped = embedder.drop_at_random(conditions, rate, torch.Generator().manual_seed(0))
    a, b = (dropped[name].isnan().all(1) for name in ("a", "b"))
    assert torch.equal(b, dropped["b"].isnan().any(1))
    alone = rate * (1 - rate) * (1 - rate)
    assert (a & ~b).float().mean().item() == pytest.approx(alone, rel=0.03)
    both = rate + (1 - rate) * rate**2
    assert (a & b).float().mean().item() == pytest.approx(both, rel=0.03)
    assert not conditions["a"].isnan().any()


def test_the_same_seed_drops_the_same(embedder, conditions):
    first, second = (
        embedder.drop_at_random(conditions, 0.5, torch.Generator().manual_seed(3))
        for _ in range(2)
    )
    torch.testing.assert_close(first, second, equal_nan=True)


def test_drop_all_drops_what_is_named():
    conditions = {"a": torch.zeros(3, 2), "b": torch.ones(3, 1)}
    dropped = drop_all(conditions)
    assert all(dropped[name].isnan().all() for name in "ab")
    assert dropped["a"].shape == (3, 2)
    some = drop_all(conditions, names=["b"])
    assert some["b"].isnan().all()
    assert some["a"] is conditions["a"]
    assert not conditions["b"].isnan().any()
    with pytest.raises(ValueError, match=r"`names` has \['c'\].*among \['a', 'b'\]"):
        drop_all(conditions, names=["c"])
