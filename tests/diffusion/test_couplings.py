import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from scldm.diffusion import COUPLINGS, Independent, OptimalTransport


def _pairs(n, d=3, seed=0):
    return torch.randn(2, n, d, generator=torch.Generator().manual_seed(seed))


def _origin(paired, noise):
    """Return which row of the noise each row of the pairing is."""
    match = (paired.unsqueeze(1) == noise.unsqueeze(0)).all(-1)
    assert (match.sum(1) == 1).all()
    return match.int().argmax(1)


def _assigned(x_0, noise):
    """Return the optimal assignment by an independent solver."""
    cost = (x_0.double().unsqueeze(1) - noise.double().unsqueeze(0)).square().sum(-1)
    return torch.from_numpy(linear_sum_assignment(cost.numpy())[1])


def test_independent_noise_stays_where_it_is():
    x_0, noise = _pairs(10)
    conditions = {"c": torch.tensor([0.0, 1.0] * 5).unsqueeze(1)}
    assert torch.equal(Independent().pair(x_0, noise, conditions), noise)


@pytest.mark.parametrize("n", [1, 2, 7, 256])
def test_transport_is_the_optimal_assignment(n):
    x_0, noise = _pairs(n)
    paired = OptimalTransport().pair(x_0, noise, {})
    assert torch.equal(_origin(paired, noise), _assigned(x_0, noise))


def test_transport_is_optimal_within_each_condition_and_never_crosses():
    x_0, noise = _pairs(120)
    kind = torch.randint(0, 3, (120,), generator=torch.Generator().manual_seed(1))
    # two columns of one condition and one of another
    conditions = {
        "kind": torch.nn.functional.one_hot(kind, 3)[:, :2].float(),
        "side": (torch.arange(120) % 2).float().unsqueeze(1),
    }
    origin = _origin(OptimalTransport().pair(x_0, noise, conditions), noise)
    for k in range(3):
        for side in range(2):
            rows = torch.where((kind == k) & (torch.arange(120) % 2 == side))[0]
            assert len(rows) > 5
            assert torch.equal(origin[rows], rows[_assigned(x_0[rows], noise[rows])])


def test_dropped_conditions_are_one_group_of_their_own():
    x_0, noise = _pairs(60)
    value = torch.arange(60).remainder(3).float()
    value[value == 2] = torch.nan
    origin = _origin(OptimalTransport().pair(x_0, noise, {"c": value.unsqueeze(1)}), noise)
    for rows in (
        torch.where(value == 0)[0],
        torch.where(value == 1)[0],
        value.isnan().nonzero()[:, 0],
    ):
        assert torch.equal(origin[rows], rows[_assigned(x_0[rows], noise[rows])])


def test_values_of_its_own_for_each_cell_leave_noise_where_it_is():
    x_0, noise = _pairs(30)
    conditions = {"c": torch.arange(30.0).unsqueeze(1)}
    assert torch.equal(OptimalTransport().pair(x_0, noise, conditions), noise)


@pytest.mark.parametrize("name", COUPLINGS)
def test_noise_is_exchanged_and_not_changed(name):
    x_0, noise = _pairs(50)
    paired = COUPLINGS[name]().pair(x_0, noise, {})
    assert paired.dtype == noise.dtype
    assert sorted(_origin(paired, noise).tolist()) == list(range(50))


def test_transport_shortens_the_paths():
    x_0, noise = _pairs(200)
    before, after = (
        (pairing.pair(x_0, noise, {}) - x_0).square().sum(1).mean()
        for pairing in (Independent(), OptimalTransport())
    )
    assert after < 0.3 * before


def test_order_of_the_cells_does_not_matter():
    x_0, noise = _pairs(40)
    order = torch.from_numpy(np.random.default_rng(0).permutation(40))
    paired = OptimalTransport().pair(x_0, noise, {})
    assert torch.equal(OptimalTransport().pair(x_0[order], noise, {}), paired[order])
