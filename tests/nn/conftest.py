"""One condition of every kind, with cells for which each is given, missing, or empty."""

import pytest
import torch

from scldm.nn import (
    CategoryEmbedder,
    ConditionEmbedder,
    FourierEmbedder,
    GeneSetEmbedder,
    SetEmbedder,
    VectorEmbedder,
)

NAN = torch.nan
WIDTH = 16
N_DIMS = 5


def _embedders(width):
    membership = torch.tensor([[1.0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 1, 1]])
    table = torch.randn(4, 6)
    return {
        "cell_type": CategoryEmbedder(3, width),
        "drug": CategoryEmbedder(4, width, table),
        "perturbation": SetEmbedder(4, width),
        "genes": SetEmbedder(4, width, table),
        "time": FourierEmbedder(1, width),
        "spatial": FourierEmbedder(2, width, n_octaves=7),
        "source": VectorEmbedder(3, width),
        "programme": GeneSetEmbedder(membership, width, labels=["a", "b", "c"]),
    }


@pytest.fixture
def embedder():
    """All kinds of conditions."""
    torch.manual_seed(0)
    return ConditionEmbedder(_embedders(WIDTH), WIDTH)


@pytest.fixture
def no_conditions():
    return ConditionEmbedder({}, WIDTH)


@pytest.fixture
def conditions():
    """Values for four cells; the last has none."""
    return {
        "cell_type": torch.tensor([[0.0], [1], [2], [NAN]]),
        "drug": torch.tensor([[3.0], [1], [0], [NAN]]),
        "perturbation": torch.tensor(
            [[0.0, 2, 1, 1], [3, -1, 1, 1], [-1, -1, 0, 0], [NAN, NAN, NAN, NAN]]
        ),
        "genes": torch.tensor([[2.0, 0.5], [1, 1], [-1, 0], [NAN, NAN]]),
        "time": torch.tensor([[0.3], [1.0], [-2.0], [NAN]]),
        "spatial": torch.tensor([[0.3, 1], [1.0, -1], [-2.0, 0], [NAN, NAN]]),
        "source": torch.tensor([[0.3, 1, 2], [1.0, -1, 0], [-2.0, 0, 1], [NAN, NAN, NAN]]),
        "programme": torch.tensor([[0.3, 1, -2], [NAN, -1, NAN], [-2.0, 0, NAN], [NAN] * 3]),
    }


@pytest.fixture
def cells():
    """Noisy vectors and times of the four cells."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, N_DIMS, generator=generator), torch.linspace(0.1, 0.9, 4)


@pytest.fixture
def perturbed():
    """Moves every parameter, so that layers that start at zero speak."""

    @torch.no_grad()
    def move(network):
        generator = torch.Generator().manual_seed(1)
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        return network

    return move
