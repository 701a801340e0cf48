import pytest
import torch

from scldm.diffusion import SCHEDULES, Adaptive, GaussianMixtureDenoiser, Heun, RectifiedFlow
from scldm.diffusion._ode import solve


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_error_falls_with_the_tolerance(schedule, gaussian, draw_noise):
    schedule, noise = SCHEDULES[schedule](), draw_noise(50)
    exact = gaussian.flow(schedule, noise * schedule(torch.ones((), dtype=torch.float64))[1], 1.0)

    def error(tolerance):
        x = Adaptive(tolerance, tolerance).sample(gaussian.denoiser(schedule), noise)
        return (x - exact).square().mean().sqrt().item()

    errors = [error(tolerance) for tolerance in (1e-2, 1e-4, 1e-6)]
    assert errors[1] < errors[0] / 10
    assert errors[1] < 1e-3
    # what the last jump from the lowest noise level leaves
    assert errors[2] < 1e-5


def test_another_method_finds_the_same(mixture, draw_noise):
    denoiser, noise = mixture.denoiser(RectifiedFlow()), draw_noise(30, 2)
    one, other = (
        Adaptive(1e-7, 1e-7, method).sample(denoiser, noise) for method in ("RK45", "DOP853")
    )
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
    assert not torch.equal(one, other)


def test_number_of_steps_means_nothing(mixture, draw_noise):
    denoiser, noise = mixture.denoiser(RectifiedFlow()), draw_noise(30, 2)
    assert torch.equal(
        Adaptive().sample(denoiser, noise, 2), Adaptive().sample(denoiser, noise, 50)
    )


def test_times_given_count_by_their_ends(mixture, draw_noise):
    denoiser, noise = mixture.denoiser(RectifiedFlow()), draw_noise(30, 2)
    ends = torch.tensor([0.8, 0.3], dtype=torch.float64)
    x = Adaptive(1e-7, 1e-7).sample(denoiser, noise, times=ends)
    fine = torch.linspace(0.8, 0.3, 301, dtype=torch.float64)
    torch.testing.assert_close(x, Heun().sample(denoiser, noise, times=fine), rtol=0, atol=1e-4)


def test_solver_solves():
    """y' = -y and a rotation, whose solutions are known."""
    y = torch.tensor([[1.0, 2.0], [3.0, -1.0]], dtype=torch.float64)
    decayed = solve(lambda c, y: -y, y, 0.0, 2.0, 1e-9, 1e-9)
    torch.testing.assert_close(decayed, y * torch.tensor(-2.0).double().exp())
    turned = solve(
        lambda c, y: torch.stack([-y[:, 1], y[:, 0]], 1), y, torch.pi / 2, 0.0, 1e-9, 1e-9
    )
    torch.testing.assert_close(turned, torch.tensor([[2.0, -1.0], [-1.0, -3.0]]).double())


def test_a_solver_that_gives_up_says_so():
    y = torch.ones(1, 1, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="adaptive solver stopped"):
        # the solution is 1 / (1 - c)
        solve(lambda c, y: y.square(), y, 0.0, 2.0, 1e-6, 1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_broken_denoiser_is_an_error_and_no_endless_loop(schedule, gaussian, draw_noise):
    nothing = torch.full((3,), torch.nan, dtype=torch.float64)
    denoiser = GaussianMixtureDenoiser(SCHEDULES[schedule](), nothing, gaussian.std)
    with pytest.raises(RuntimeError, match="not a number"):
        Adaptive().sample(denoiser, draw_noise(4))
