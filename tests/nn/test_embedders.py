import pytest
import torch

from scldm.nn import (
    CategoryEmbedder,
    FourierEmbedder,
    GeneSetEmbedder,
    SetEmbedder,
    VectorEmbedder,
)

NAN = torch.nan


def _embedders():
    torch.manual_seed(0)
    table = torch.randn(4, 5)
    return {
        "category": (CategoryEmbedder(3, 8), torch.tensor([[0.0], [2.0]])),
        "table": (CategoryEmbedder(4, 8, table), torch.tensor([[0.0], [2.0]])),
        "set": (SetEmbedder(4, 8), torch.tensor([[-1.0, -1, 0, 0], [1, 3, 0.5, 2]])),
        "set of table": (SetEmbedder(4, 8, table), torch.tensor([[1.0, 0.0], [3, 2]])),
        "number": (FourierEmbedder(1, 8), torch.tensor([[1.0], [4.0]])),
        "place": (FourierEmbedder(2, 8), torch.tensor([[1.0, 0.0], [4.0, 2.0]])),
        "vector": (VectorEmbedder(3, 8), torch.tensor([[1.0, 0.0, 1], [4.0, 2.0, 1]])),
        "gene sets": (
            GeneSetEmbedder(torch.eye(3), 8),
            torch.tensor([[1.0, NAN, 0.5], [4.0, 2.0, 1]]),
        ),
    }


every_kind = pytest.mark.parametrize("kind", _embedders())


@every_kind
def test_a_dropped_condition_is_unlike_every_value(kind):
    embedder, values = _embedders()[kind]
    given, absent = embedder(values), embedder(torch.full_like(values, NAN))
    assert given.shape == (2, 8)
    torch.testing.assert_close(absent, embedder.absent.expand(2, 8))
    assert not torch.isclose(given, absent).all(1).any()
    assert not torch.isclose(given[0], given[1]).all()


@every_kind
@pytest.mark.parametrize("way", ["vector", "tokens"])
def test_rows_do_not_mix_and_gradients_are_finite(kind, way):
    embedder, values = _embedders()[kind]
    embed = embedder if way == "vector" else embedder.tokens
    mixed = torch.cat([values[:1], torch.full_like(values[1:], NAN)])
    out = embed(mixed)
    torch.testing.assert_close(out[0], embed(values)[0])
    out.square().sum().backward()
    for name, parameter in embedder.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@every_kind
def test_every_cell_has_a_token_and_every_token_a_label(kind):
    embedder, values = _embedders()[kind]
    for value in (values, torch.full_like(values, NAN)):
        tokens, in_use = embedder.tokens(value), embedder.in_use(value)
        assert tokens.shape == (*in_use.shape, 8)
        assert len(embedder.token_labels(value)) == in_use.shape[1]
        assert in_use.any(1).all()
        assert (tokens[~in_use] == 0).all()


@every_kind
def test_dropping_follows_the_rate(kind):
    embedder, values = _embedders()[kind]
    many = values.repeat(5000, 1)
    dropped = embedder.drop(many, 0.3, torch.Generator().manual_seed(0))
    share = dropped.isnan().all(1).float().mean().item()
    # gene sets have a way of their own, see test_gene_sets
    if kind != "gene sets":
        assert share == pytest.approx(0.3, abs=0.02)
        assert torch.equal(dropped.isnan().any(1), dropped.isnan().all(1))
    assert embedder.drop(many, 1.0).isnan().all()
    kept = ~dropped.isnan()
    assert torch.equal(dropped[kept], many[kept])


def test_a_set_knows_no_order_and_zero_is_a_member():
    embedder = SetEmbedder(4, 8)
    one = embedder(torch.tensor([[0.0, 2.0, 1.0, 3.0]]))
    torch.testing.assert_close(one, embedder(torch.tensor([[2.0, 0.0, 3.0, 1.0]])))
    padded = embedder(torch.tensor([[0.0, 2.0, -1.0, 1.0, 3.0, 1.0]]))
    torch.testing.assert_close(one, padded)
    empty = embedder(torch.tensor([[-1.0, -1.0, 1.0, 1.0]]))
    torch.testing.assert_close(empty[0], embedder.empty)
    assert not torch.isclose(embedder(torch.tensor([[0.0, 1.0]])), empty).all()


def test_a_set_is_the_sum_of_its_members():
    embedder = SetEmbedder(4, 8)
    both = torch.tensor([[-1.0, 0, 2, 1, 1, 3]])
    alone = embedder(torch.tensor([[0.0, 1], [2, 3]]))
    torch.testing.assert_close(embedder(both)[0], alone.sum(0))
    torch.testing.assert_close(embedder.tokens(both)[0, 1:], alone)
    assert embedder.in_use(both).tolist() == [[False, True, True]]


def test_a_set_without_a_dose_is_not_given():
    embedder = SetEmbedder(4, 8)
    value = torch.tensor([[1.0, 2, NAN, NAN]])
    torch.testing.assert_close(embedder(value)[0], embedder.absent)
    assert embedder.in_use(value).tolist() == [[True, False]]


def test_a_dose_matters():
    embedder = SetEmbedder(4, 8)
    low, high = embedder(torch.tensor([[1.0, 0.1], [1.0, 2.0]]))
    assert not torch.isclose(low, high).all()


@pytest.mark.parametrize("kind", [CategoryEmbedder, SetEmbedder])
def test_a_table_speaks_for_what_training_never_saw(kind):
    """Learn a linear function of the table from half of its rows and read the others."""
    torch.manual_seed(0)
    table = torch.randn(200, 3) * torch.tensor([1.0, 100, 0.01]) + 5
    truth = (table - table.mean(0)) / table.std(0)
    embedder = kind(200, 3, table)
    codes = torch.arange(200.0).unsqueeze(1)
    values = codes if kind is CategoryEmbedder else torch.cat([codes, 0 * codes], dim=1)
    optimiser = torch.optim.Adam(embedder.parameters(), lr=1e-2)
    for _ in range(400):
        optimiser.zero_grad()
        (embedder(values[:100]) - truth[:100]).square().mean().backward()
        optimiser.step()
    unseen = (embedder(values[100:]) - truth[100:]).square().mean()
    assert unseen < 0.3 * truth[100:].square().mean()
    assert not any(parameter.shape[0] == 200 for parameter in embedder.parameters())


def test_a_table_is_standardised_and_saved():
    table = torch.tensor([[1.0, 7, 100], [2, 7, 300], [3, 7, 200]])
    embedder = CategoryEmbedder(3, 8, table)
    kept = embedder.state_dict()["vectors.table"]
    torch.testing.assert_close(kept.mean(0), torch.zeros(3))
    torch.testing.assert_close(kept.std(0, correction=0), torch.tensor([1.0, 0, 1]))


def test_a_table_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"`table` has shape \(4, 2\).*each of the 3 items"):
        CategoryEmbedder(3, 8, torch.zeros(4, 2))
    with pytest.raises(ValueError, match="`table` has NaN"):
        SetEmbedder(2, 8, torch.tensor([[1.0, NAN], [0, 1]]))
