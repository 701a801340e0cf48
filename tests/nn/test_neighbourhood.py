"""What lies around a place: order, gaps and gradients."""

import pytest
import torch

from scldm.nn import (
    BACKBONES,
    CONDITIONINGS,
    CategoryEmbedder,
    ConditionEmbedder,
    FourierEmbedder,
    NeighbourhoodEmbedder,
)

NAN = torch.nan
N_DIMS, N_FEATURES, N_NEIGHBORS, WIDTH = 2, 3, 6, 16


def build(drop_rate=0.4, **kwargs):
    torch.manual_seed(0)
    kwargs = {"dropout_rate": 0.0, **kwargs}
    return NeighbourhoodEmbedder(
        N_DIMS, N_FEATURES, N_NEIGHBORS, WIDTH, drop_rate=drop_rate, **kwargs
    )


def draw(n=5, seed=1):
    """Neighbourhoods, ``(n, n_neighbors, n_dims + n_features)``."""
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(n, N_NEIGHBORS, N_DIMS + N_FEATURES, generator=generator)


def test_the_order_of_neighbours_does_not_matter():
    embedder, around = build(), draw()
    out = embedder(around.flatten(1))
    assert out.shape == (5, WIDTH)
    around[3, 1] = around[3, 4] = NAN
    gaps = embedder(around.flatten(1))
    for seed in range(3):
        order = torch.randperm(N_NEIGHBORS, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(embedder(around[:, order].flatten(1)), gaps)
    # but which features stand at which place does
    swapped = draw()
    swapped[:, :, N_DIMS:] = swapped[:, :, N_DIMS:].flip(1)
    assert not torch.isclose(embedder(swapped.flatten(1)), out, atol=1e-4).all(1).any()


def test_neighbours_that_are_not_there_have_no_influence():
    """An embedder of fewer neighbours, with the same weights, says the same."""
    embedder, around = build(), draw()
    few = NeighbourhoodEmbedder(N_DIMS, N_FEATURES, 2, WIDTH, dropout_rate=0.0)
    few.load_state_dict(embedder.state_dict())
    gaps = around.clone()
    gaps[:, [0, 2, 3, 5]] = NAN
    torch.testing.assert_close(embedder(gaps.flatten(1)), few(around[:, [1, 4]].flatten(1)))
    # one value that is missing makes the neighbour missing
    odd = around.clone()
    odd[:, [0, 2], 0] = NAN
    odd[:, [3, 5], N_DIMS + 1] = NAN
    torch.testing.assert_close(embedder(odd.flatten(1)), embedder(gaps.flatten(1)))


def test_a_row_without_neighbours_is_absent():
    embedder, around = build(), draw()
    around[1] = NAN
    out = embedder(around.flatten(1))
    torch.testing.assert_close(out[1], embedder.absent)
    assert not torch.isclose(out[[0, 2, 3, 4]], embedder.absent, atol=1e-3).all(1).any()
    torch.testing.assert_close(
        embedder(torch.full_like(around, NAN).flatten(1)), embedder.absent.expand(5, -1)
    )


def test_each_row_stands_alone():
    embedder, around = build(), draw()
    torch.testing.assert_close(embedder(around.flatten(1))[2:3], embedder(around[2:3].flatten(1)))


@pytest.mark.parametrize("gaps", ["none", "some", "whole rows", "all"])
def test_gradients_are_finite_with_gaps(gaps):
    embedder, around = build(), draw()
    if gaps == "some":
        around[:, 2:4] = NAN
    elif gaps == "whole rows":
        around[1:3] = NAN
    elif gaps == "all":
        around[:] = NAN
    # a cell that stands just at the place has no direction
    around[0, 0, :N_DIMS] *= 0
    value = around.flatten(1).requires_grad_()
    embedder(value).square().sum().backward()
    for name, parameter in embedder.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert value.grad.isfinite().all()
    missing = around.isnan()
    assert (value.grad.reshape(around.shape)[missing] == 0).all()


def test_a_gradient_reaches_every_parameter():
    embedder, around = build(), draw()
    around[1] = NAN
    embedder(around.flatten(1)).square().sum().backward()
    without = [name for name, p in embedder.named_parameters() if not p.grad.abs().sum() > 0]
    assert not without


def test_the_means_of_features_are_at_hand():
    """Without logits all neighbours weigh the same, so the features' means come through."""
    embedder, around = build(), draw()
    seen = []
    embedder.leave.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        embedder.queries.weight.zero_()
        embedder.queries.bias.zero_()
    around[:, 4:] = NAN
    embedder(around.flatten(1))
    means = seen[0][:, WIDTH:].unflatten(1, (4, N_FEATURES))
    expected = around[:, :4, N_DIMS:].mean(1)
    torch.testing.assert_close(means, expected.unsqueeze(1).expand(-1, 4, -1))


def test_heads_are_those_asked_for():
    around = draw().flatten(1)
    assert build(n_heads=8)(around).shape == (5, WIDTH)
    with pytest.raises(RuntimeError):
        build(n_heads=3)(around)


@pytest.mark.parametrize(("rate", "expected"), [(0.1, 0.4), (0.7, 0.7), (1.0, 1.0)])
def test_neighbours_are_dropped_together_and_at_least_at_the_drop_rate(rate, expected):
    embedder, value = build(drop_rate=0.4), draw(4000).flatten(1)
    dropped = embedder.drop(value, rate, torch.Generator().manual_seed(0))
    missing = dropped.isnan()
    assert torch.equal(missing.any(1), missing.all(1))
    assert missing.all(1).float().mean().item() == pytest.approx(expected, abs=0.025)
    assert torch.equal(dropped[~missing], value[~missing])
    again = embedder.drop(value, rate, torch.Generator().manual_seed(0))
    torch.testing.assert_close(again, dropped, equal_nan=True)


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_network_takes_it(backbone, conditioning, perturbed):
    embedders = ConditionEmbedder(
        {
            "neighbours": build(),
            "place": FourierEmbedder(N_DIMS, WIDTH),
            "section": CategoryEmbedder(2, WIDTH),
        },
        WIDTH,
    )
    network = perturbed(BACKBONES[backbone](5, embedders, conditioning=conditioning, depth=3))
    around = draw(4)
    around[2, 1:3] = NAN
    around[3] = NAN
    given = {
        "neighbours": around.flatten(1),
        "place": torch.tensor([[0.3, 1], [NAN, NAN], [-2.0, 0], [0.5, 2]]),
        "section": torch.tensor([[0.0], [1], [NAN], [1]]),
    }
    noisy = torch.randn(4, 5, generator=torch.Generator().manual_seed(2))
    cells = noisy, torch.full((4,), 0.5)
    out = network(*cells, given)
    assert out.shape == (4, 5) and out.isfinite().all()
    alone = network(*cells, {**given, "neighbours": torch.full_like(given["neighbours"], NAN)})
    same = torch.isclose(alone, out, atol=1e-4).all(1)
    assert same.tolist() == [False, False, False, True]
    out.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name
