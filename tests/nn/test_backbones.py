import copy

import pytest
import torch
from torch.nn import functional as F

from scldm.nn import (
    BACKBONES,
    CONDITIONINGS,
    MLP,
    CategoryEmbedder,
    ConditionEmbedder,
    DiT,
    UNet,
    drop_all,
)

N_DIMS = 5

every_network = pytest.mark.parametrize(
    ("backbone", "conditioning"), [(b, c) for b in BACKBONES for c in CONDITIONINGS]
)
every_backbone = pytest.mark.parametrize("backbone", BACKBONES)


def build(backbone, embedder, **kwargs):
    torch.manual_seed(0)
    return BACKBONES[backbone](N_DIMS, embedder, **{"depth": 3, **kwargs})


def rows(conditions, index):
    return {name: value[index] for name, value in conditions.items()}


@every_network
def test_it_starts_by_predicting_nothing(backbone, conditioning, embedder, cells, conditions):
    network = build(backbone, embedder, conditioning=conditioning)
    assert network.conditions is embedder
    torch.testing.assert_close(network(*cells, conditions), torch.zeros(4, N_DIMS))


@every_network
def test_a_gradient_reaches_every_parameter(
    backbone, conditioning, embedder, cells, conditions, perturbed
):
    network = perturbed(build(backbone, embedder, conditioning=conditioning))
    network(*cells, conditions).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@every_network
def test_it_works_without_conditions(backbone, conditioning, no_conditions, cells, perturbed):
    network = perturbed(build(backbone, no_conditions, conditioning=conditioning))
    x, t = cells
    out = network(x, t)
    assert out.shape == (4, N_DIMS)
    torch.testing.assert_close(out, network(x, t, {}))
    out.square().sum().backward()
    for name, parameter in network.named_parameters():
        # softmax over one token does not depend on the query
        if ".attend.query." not in name:
            assert parameter.grad.abs().sum() > 0, name


@every_network
def test_cells_do_not_influence_each_other(
    backbone, conditioning, embedder, cells, conditions, perturbed
):
    network = perturbed(build(backbone, embedder, conditioning=conditioning))
    x, t = cells
    out = network(x, t, conditions)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = network(x[order], t[order], rows(conditions, order))
    torch.testing.assert_close(shuffled, out[order], atol=1e-4, rtol=1e-4)
    other = network(x, t, rows(conditions, torch.tensor([1, 1, 2, 3])))
    torch.testing.assert_close(other[1:], out[1:], atol=1e-4, rtol=1e-4)
    assert not torch.isclose(other[0], out[0], atol=1e-2).all()


@every_network
def test_each_condition_and_time_matter(
    backbone, conditioning, embedder, cells, conditions, perturbed
):
    network = perturbed(build(backbone, embedder, conditioning=conditioning))
    x, t = cells
    out = network(x, t, conditions)
    for name in conditions:
        other = network(x, t, drop_all(conditions, [name]))
        same = torch.isclose(other, out, atol=1e-4, rtol=1e-4).all(1)
        assert same.tolist() == [False, False, False, True], name
    assert not torch.isclose(network(x, t + 0.05, conditions), out, atol=1e-4).all(1).any()


@every_network
def test_it_learns_what_depends_on_condition_and_time(backbone, conditioning):
    """The target's sign is the class and its size falls with time; x is noise."""
    network = build(
        backbone,
        ConditionEmbedder({"c": CategoryEmbedder(2, 16)}, 16),
        conditioning=conditioning,
        depth=2,
    )
    generator = torch.Generator().manual_seed(0)
    pattern = torch.tensor([1.0, -1, 1, 1, -1])

    def batch(n):
        code = torch.randint(0, 2, (n, 1), generator=generator).float()
        t = torch.rand(n, generator=generator)
        target = (2 * code - 1) * (1 - t).unsqueeze(1) * pattern
        return torch.randn(n, N_DIMS, generator=generator), t, {"c": code}, target

    optimiser = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(150):
        *inputs, target = batch(128)
        loss = (network(*inputs) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    *inputs, target = batch(1000)
    with torch.no_grad():
        error = (network(*inputs) - target).square().mean()
    # without the class nothing can be said, without the time a quarter of it remains
    assert error < 0.1 * target.square().mean()


@every_network
def test_checkpointing_changes_no_gradient(
    backbone, conditioning, embedder, cells, conditions, perturbed
):
    network = perturbed(build(backbone, embedder, conditioning=conditioning, dropout_rate=0.2))
    gradients, calls = [], []
    network.blocks[1].register_forward_pre_hook(lambda *_: calls.append(network.checkpointing))
    for checkpointing in (False, True):
        network.checkpointing = checkpointing
        torch.manual_seed(0)
        loss = network(*cells, conditions).square().sum()
        gradients.append(torch.autograd.grad(loss, list(network.parameters())))
    torch.testing.assert_close(*gradients)
    assert calls == [False, True, True]
    network.eval()(*cells, conditions)
    assert len(calls) == 4


@every_network
def test_it_works_in_half_precision(
    backbone, conditioning, embedder, cells, conditions, perturbed
):
    network = perturbed(build(backbone, embedder, conditioning=conditioning))
    exact = network(*cells, conditions)
    with torch.autocast("cpu", torch.bfloat16):
        out = network(*cells, conditions)
    assert torch.corrcoef(torch.stack([out.flatten(), exact.flatten()]))[0, 1] > 0.98


@every_backbone
def test_attention_is_a_share_of_named_tokens(backbone, embedder, cells, conditions, perturbed):
    network = perturbed(
        build(backbone, embedder, conditioning="cross_attention", checkpointing=True)
    )
    before = network(*cells, conditions)
    weights = network.attention(*cells, conditions)
    names = embedder.token_names(conditions)
    assert weights.shape == (4, 3, len(names))
    torch.testing.assert_close(weights.sum(2), torch.ones(4, 3))
    # the second cell has one perturbation, the third none: other places are unused
    second = names.index("perturbation: 2")
    assert (weights[0, :, second] > 0).all()
    assert (weights[1:, :, second] == 0).all()
    assert (weights[:, :, names.index("programme: b")] > 0).all()
    assert not torch.allclose(weights[:, 0], weights[:, 1])
    torch.testing.assert_close(network(*cells, conditions), before)
    assert not any(module._forward_pre_hooks for module in network.modules())
    assert not any(module._forward_pre_hooks for module in network.modules())


@every_network
def test_attention_says_where_there_is_none(
    backbone, conditioning, embedder, no_conditions, cells, conditions
):
    network = build(backbone, no_conditions, conditioning=conditioning)
    with pytest.raises(ValueError, match="`attention` needs a network with conditions"):
        network.attention(*cells)
    if conditioning != "cross_attention":
        network = build(backbone, embedder, conditioning=conditioning)
        with pytest.raises(ValueError, match=f"has `conditioning='{conditioning}'`"):
            network.attention(*cells, conditions)


@every_backbone
def test_unused_places_of_a_set_change_nothing(backbone, embedder, cells, conditions, perturbed):
    network = perturbed(build(backbone, embedder, conditioning="cross_attention"))
    codes, doses = conditions["perturbation"].chunk(2, dim=1)
    unused = torch.full((4, 1), -1.0)
    padded = {**conditions, "perturbation": torch.cat([codes, unused, doses, unused], dim=1)}
    torch.testing.assert_close(
        network(*cells, padded), network(*cells, conditions), atol=1e-4, rtol=1e-4
    )


def test_the_default_network_is_the_adaln_mlp(embedder, cells, conditions, perturbed):
    """The equation of the module, written out."""
    network = perturbed(MLP(N_DIMS, embedder, depth=2))
    x, t = cells
    c = F.silu(network.time(t) + embedder(conditions))
    h = network.enter[0](x)
    for block in network.blocks:
        shift, scale, gate = (block.modulation.weight @ c.T).T.chunk(3, dim=1)
        shift_0, scale_0, gate_0 = block.modulation.bias.chunk(3)
        normal = (h - h.mean(1, keepdim=True)) / (
            h.var(1, keepdim=True, correction=0) + 1e-5
        ) ** 0.5
        inner = normal * (scale_0 + scale) + shift_0 + shift
        first, _, _, second = block.branch
        h = h + (gate_0 + gate) * second(F.silu(first(inner)))
    expected = network.leave[1](network.norm(h))
    torch.testing.assert_close(network(x, t, conditions), expected, atol=1e-4, rtol=1e-4)


def test_an_unknown_conditioning_is_named(embedder):
    with pytest.raises(ValueError, match=r"`conditioning='adain'` is not known. Known: \['adaln'"):
        MLP(N_DIMS, embedder, conditioning="adain")


@pytest.mark.parametrize("token_size", [1, 2, 4])
def test_tokens_are_consecutive_dimensions(token_size, no_conditions, cells):
    """Without blocks nothing passes between tokens; with them all depend on all."""
    x, t = cells
    x.requires_grad_()
    generator = torch.Generator().manual_seed(0)

    def dependence(depth):
        network = DiT(N_DIMS, no_conditions, depth=depth, token_size=token_size)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.2, generator=generator)
        grads = [torch.autograd.grad(o.sum(), x, retain_graph=True)[0] for o in network(x, t).T]
        return torch.stack(grads).abs().amax(1) > 1e-7

    token = torch.arange(N_DIMS) // token_size
    assert torch.equal(dependence(0), token[:, None] == token)
    assert dependence(1).all()


def test_dit_needs_two_tokens_and_heads_that_fit(no_conditions):
    with pytest.raises(ValueError, match="`token_size=5` makes one token of 5 dimensions"):
        DiT(5, no_conditions, token_size=5)
    with pytest.raises(ValueError, match="`n_heads=3` does not divide the width, 16"):
        DiT(5, no_conditions, n_heads=3)


@pytest.mark.parametrize(
    ("depth", "expected"),
    [(1, [16]), (2, [16, 16]), (4, [8, 16, 16, 8]), (6, [4, 8, 16, 16, 8, 4]), (7, None)],
)
def test_unet_halves_length_and_doubles_channels(depth, expected, no_conditions, cells):
    network = UNet(N_DIMS, no_conditions, depth=depth)
    shapes = []
    for block in network.blocks:
        block.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape[1:]))
    network(*cells)
    assert [c for _, c in shapes] == (expected or [4, 8, 16, 16, 16, 8, 4])
    assert {length * c for length, c in shapes} == {8 * shapes[0][1]}


def test_unet_joins_what_went_down(no_conditions, cells, perturbed):
    """With nothing coming up from below, the output still depends on what went down."""
    network = perturbed(UNet(N_DIMS, no_conditions, depth=3))
    x, t = cells
    with torch.no_grad():
        join = network.joins[0].mix
        join.weight[:, : join.out_features] = 0
    assert not torch.isclose(network(x, t), network(x + 1, t)).any()
    with torch.no_grad():
        join.weight[:, join.out_features :] = 0
    torch.testing.assert_close(network(x, t), network(x + 1, t))


def test_unet_says_what_cannot_be_halved(no_conditions):
    with pytest.raises(ValueError, match="`length=6` cannot be halved 2 times"):
        UNet(N_DIMS, no_conditions, depth=6, length=6)
    with pytest.raises(ValueError, match="`width=6` cannot be halved 2 times"):
        UNet(N_DIMS, ConditionEmbedder({}, 6), depth=6)


def test_sizes_are_of_the_same_order():
    def size(backbone):
        network = BACKBONES[backbone](17, ConditionEmbedder({}, 128))
        return sum(parameter.numel() for parameter in network.parameters())

    assert 0.7 < size("unet") / size("mlp") < 1.5
    assert size("dit") / size("mlp") < 2.5


@pytest.mark.slow
@every_network
def test_compiled_it_is_the_same(backbone, conditioning, embedder, cells, conditions, perturbed):
    network = perturbed(build(backbone, embedder, conditioning=conditioning))
    compiled = copy.deepcopy(network)
    compiled.compile()
    out, expected = compiled(*cells, conditions), network(*cells, conditions)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    got = torch.autograd.grad(out.square().sum(), list(compiled.parameters()))
    wanted = torch.autograd.grad(expected.square().sum(), list(network.parameters()))
    torch.testing.assert_close(got, wanted, atol=1e-3, rtol=1e-3)
    if conditioning == "cross_attention":
        torch.testing.assert_close(
            compiled.attention(*cells, conditions), network.attention(*cells, conditions)
        )


@pytest.mark.parametrize(
    ("kind", "option"),
    [(DiT, "token_size"), (DiT, "n_heads"), (UNet, "length"), (UNet, "levels")],
)
@pytest.mark.parametrize("value", [0, -1, 2.5, True])
def test_sizes_are_whole_numbers_above_zero(kind, option, value, embedder):
    with pytest.raises(ValueError, match=f"`{option}={value}` must be a whole number of 1 or"):
        kind(N_DIMS, embedder, **{option: value})
