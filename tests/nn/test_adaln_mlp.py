import pytest
import torch

from scldm.nn import AdaLNMLP, CategoryEmbedder, ConditionEmbedder, FourierEmbedder, SetEmbedder


def _network():
    torch.manual_seed(0)
    embedders = {
        "cell_type": CategoryEmbedder(3, 16),
        "perturbation": SetEmbedder(4, 16),
        "time": FourierEmbedder(1, 16),
    }
    return AdaLNMLP(5, ConditionEmbedder(embedders, 16), depth=2)


def _inputs():
    generator = torch.Generator().manual_seed(0)
    conditions = {
        "cell_type": torch.tensor([[0.0], [1], [2], [torch.nan]]),
        "perturbation": torch.tensor([[0.0, 1], [3, 1], [-1, 1], [torch.nan, torch.nan]]),
        "time": torch.tensor([[0.3], [1.0], [-2.0], [torch.nan]]),
    }
    x = torch.randn(4, 5, generator=generator)
    return x, torch.linspace(0.1, 0.9, 4), conditions


def _steered_network():
    """Gates and the last layer start at zero; here they speak."""
    network = _network()
    with torch.no_grad():
        network.leave.weight.normal_()
        for block in network.blocks:
            block.modulation[1].weight.normal_()
    return network


def test_a_gradient_reaches_every_parameter():
    network = _network()
    with torch.no_grad():
        # gates and the last layer start at zero, where they stop gradients by design
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    network(*_inputs()).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_it_starts_by_predicting_nothing():
    torch.testing.assert_close(_network()(*_inputs()), torch.zeros(4, 5))


def test_cells_do_not_influence_each_other():
    network = _steered_network()
    x, t, conditions = _inputs()
    order = torch.tensor([2, 0, 3, 1])
    shuffled = network(x[order], t[order], {k: v[order] for k, v in conditions.items()})
    torch.testing.assert_close(shuffled, network(x, t, conditions)[order])


@pytest.mark.parametrize("changed", ["cell_type", "perturbation", "time"])
def test_each_condition_matters(changed):
    network = _steered_network()
    x, t, conditions = _inputs()
    other = {**conditions, changed: torch.full_like(conditions[changed], torch.nan)}
    same = torch.isclose(network(x, t, other), network(x, t, conditions)).all(1)
    assert same.tolist() == [False, False, False, True]
