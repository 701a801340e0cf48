import pytest
import torch

from scldm.diffusion import slerp


@pytest.fixture
def ends(draw_noise):
    return draw_noise(50, 8, seed=1), draw_noise(50, 8, seed=2)


def _at(share):
    return torch.tensor(share, dtype=torch.float64)


def test_ends_are_the_inputs(ends):
    torch.testing.assert_close(slerp(*ends, _at(0.0)), ends[0])
    torch.testing.assert_close(slerp(*ends, _at(1.0)), ends[1])


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_on_the_sphere_the_angle_is_shared_out(ends, share):
    start, end = (3 * torch.nn.functional.normalize(x, dim=1) for x in ends)
    between = slerp(start, end, _at(share))
    torch.testing.assert_close(between.norm(dim=1), torch.full((50,), 3.0).double())

    def angle(a, b):
        return torch.cosine_similarity(a, b).acos()

    torch.testing.assert_close(angle(start, between), share * angle(start, end))
    torch.testing.assert_close(angle(between, end), (1 - share) * angle(start, end))


def test_right_angles_have_a_closed_form():
    start, end = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 5.0]])
    root = 0.5**0.5
    torch.testing.assert_close(
        slerp(start, end, torch.tensor(0.5)), torch.tensor([[2 * root, 5 * root]])
    )


def test_between_normal_draws_it_stays_normal(draw_noise):
    between = slerp(draw_noise(5000, 20, seed=1), draw_noise(5000, 20, seed=2), _at(0.5))
    torch.testing.assert_close(
        between.std(0), torch.ones(20).double(), rtol=0, atol=4 / 10_000**0.5
    )


def test_each_cell_has_its_own_share(ends):
    shares = torch.linspace(0, 1, 50, dtype=torch.float64).unsqueeze(1)
    together = slerp(*ends, shares)
    for i in (0, 20, 49):
        one = slerp(ends[0][i : i + 1], ends[1][i : i + 1], shares[i])
        torch.testing.assert_close(together[i : i + 1], one)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("factor", [1.0, 2.5, -1.0])
def test_parallel_draws_lie_on_a_line(draw_noise, dtype, factor):
    start = draw_noise(10, 5).to(dtype)
    between = slerp(start, factor * start, torch.tensor(0.25, dtype=dtype))
    expected = (0.75 + 0.25 * factor) * start
    if factor > 0:
        torch.testing.assert_close(between, expected, rtol=1e-3, atol=1e-3)
    assert between.isfinite().all()
