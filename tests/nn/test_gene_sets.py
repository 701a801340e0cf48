import pytest
import torch

from scldm.nn import GeneSetEmbedder

NAN = torch.nan
N_SETS = 50


@pytest.fixture
def embedder():
    torch.manual_seed(0)
    membership = (torch.rand(300, N_SETS) < 0.1).float()
    membership[:, 1] = membership[:, 0]
    return GeneSetEmbedder(membership, 64)


def only(j, score):
    value = torch.full((1, N_SETS), NAN)
    value[0, j] = score
    return value


def test_the_vector_is_the_scaled_sum_of_tokens_of_given_sets(embedder):
    value = torch.randn(6, N_SETS).masked_fill(torch.rand(6, N_SETS) < 0.5, NAN)
    given = ~value.isnan()
    total = (embedder.tokens(value) * given.unsqueeze(-1)).sum(1)
    expected = total / given.sum(1, keepdim=True).sqrt()
    torch.testing.assert_close(embedder(value), expected, atol=1e-4, rtol=1e-4)


def test_its_size_does_not_grow_with_the_number_of_sets(embedder):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(200, N_SETS, generator=generator)
    all_sets = embedder(scores).norm(dim=1).mean()
    alone = torch.cat([embedder(only(j, scores[0, j])) for j in range(N_SETS)])
    assert 0.5 < all_sets / alone.norm(dim=1).mean() < 2


def test_one_set_of_fifty_says_a_lot(embedder):
    low, high, other = (embedder(only(j, s)) for j, s in ((3, -1.0), (3, 1.0), (4, 1.0)))
    size = high.norm()
    assert (high - low).norm() > 0.5 * size
    assert (high - other).norm() > 0.5 * size


def test_sets_are_known_by_their_genes(embedder):
    one, same, other = (embedder(only(j, 0.7)) for j in (0, 1, 2))
    torch.testing.assert_close(one, same)
    assert not torch.isclose(one, other).all()
    absent = embedder.tokens(torch.full((1, N_SETS), NAN))[0]
    torch.testing.assert_close(absent[0], absent[1])
    assert not torch.isclose(absent[0], absent[2]).all()


def test_the_number_of_genes_in_a_set_does_not_matter():
    membership = torch.tensor([[1.0, 5.0], [0, 0]])
    one, five = GeneSetEmbedder(membership, 8).tokens(torch.ones(1, 2))[0]
    torch.testing.assert_close(one, five)


def test_scores_go_on_growing_beyond_the_waves(embedder):
    """The waves repeat every 8 units; what is left is a straight line."""
    at = [embedder(only(3, score)) for score in (1.0, 9.0, 17.0)]
    torch.testing.assert_close(at[2] - at[1], at[1] - at[0], atol=1e-3, rtol=1e-3)
    assert (at[1] - at[0]).norm() > at[0].norm()


def test_training_sees_any_number_of_sets(embedder):
    """Given that a cell keeps its sets, how many it keeps is uniform from none to all."""
    n, sets, rate = 100_000, 4, 0.2
    dropped = embedder.drop(torch.zeros(n, sets), rate, torch.Generator().manual_seed(0))
    count = (~dropped.isnan()).sum(1)
    share = torch.bincount(count, minlength=sets + 1) / n
    some = (1 - rate) * 0.5 / (sets + 1)
    expected = torch.tensor([1 - sets * some] + [some] * sets)
    torch.testing.assert_close(share, expected, atol=0.005, rtol=0.0)
    one = ~dropped[count == 1].isnan()
    torch.testing.assert_close(one.float().mean(0), torch.full((sets,), 0.25), atol=0.02, rtol=0)


def test_sets_that_are_not_given_stay_so(embedder):
    value = torch.zeros(1000, 2)
    value[:, 0] = NAN
    assert embedder.drop(value, 0.1)[:, 0].isnan().all()


def test_a_set_without_genes_is_refused():
    with pytest.raises(ValueError, match=r"sets without genes, at columns \[1\]"):
        GeneSetEmbedder(torch.tensor([[1.0, 0], [1, 0]]), 8)
