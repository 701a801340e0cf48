import pytest
import torch

from scldm.diffusion import (
    SCHEDULES,
    DPMSolver,
    Euler,
    RectifiedFlow,
    VarianceExploding,
    VariancePreserving,
)


def _even_times(schedule, high, low, steps):
    """Return times that are even in the logarithm of the signal-to-noise ratio."""
    ends = torch.tensor([high, low], dtype=torch.float64).log()
    return schedule.time(torch.linspace(*ends.tolist(), steps + 1, dtype=torch.float64).exp())


@pytest.mark.parametrize(
    "schedule",
    [*(SCHEDULES[name]() for name in SCHEDULES if name != "ve"), VarianceExploding(sigma_max=120)],
)
def test_second_order_between_finite_noise_levels(schedule, gaussian, draw_noise, order_of):
    """Where log-SNR is finite and steps in it are even, as its analysis supposes."""
    denoiser, noise = gaussian.denoiser(schedule), draw_noise(200)

    def error(steps):
        times = _even_times(schedule, 100.0, 0.01, steps)
        start = noise * schedule(times[0])[1]
        exact = gaussian.flow(schedule, start, times[0], times[-1])
        x = DPMSolver().sample(denoiser, noise, times=times)
        return (x - exact).square().mean().sqrt().item()

    assert order_of(error, 128) == pytest.approx(2, abs=0.15)


def test_one_call_a_step_beats_the_first_order(mixture, draw_noise):
    schedule, noise = VariancePreserving(), draw_noise(200, 2)
    denoiser = mixture.denoiser(schedule)
    exact = DPMSolver().sample(denoiser, noise, 2000)
    errors = [
        (sampler.sample(denoiser, noise, 20) - exact).square().mean()
        for sampler in (Euler(), DPMSolver())
    ]
    assert errors[1] < errors[0] / 9


def test_steps_are_algorithm_2(mixture, draw_noise):
    """Algorithm 2 of Lu et al. (2022), written with logarithms and exponentials."""
    schedule = VariancePreserving()
    denoiser = mixture.denoiser(schedule)
    times = torch.tensor([1.0, 0.8, 0.5, 0.4, 0.1], dtype=torch.float64)
    alpha, sigma = schedule(times)
    level = (alpha / sigma).log()
    x = draw_noise(20, 2) * sigma[0]
    estimates = []
    for i in range(1, 5):
        h = level[i] - level[i - 1]
        estimates.append(denoiser(x, times[i - 1]))
        d = estimates[-1]
        if i > 1:
            r = (level[i - 1] - level[i - 2]) / h
            d = (1 + 1 / (2 * r)) * estimates[-1] - 1 / (2 * r) * estimates[-2]
        x = sigma[i] / sigma[i - 1] * x - alpha[i] * torch.expm1(-h) * d
    torch.testing.assert_close(DPMSolver().sample(denoiser, draw_noise(20, 2), times=times), x)


def test_first_step_and_step_to_zero_noise_are_eulers(mixture, draw_noise):
    denoiser, noise = mixture.denoiser(RectifiedFlow()), draw_noise(20, 2)
    times = torch.tensor([1.0, 0.4], dtype=torch.float64)
    torch.testing.assert_close(
        DPMSolver().sample(denoiser, noise, times=times),
        Euler().sample(denoiser, noise, times=times),
    )
    torch.testing.assert_close(
        DPMSolver().sample(denoiser, noise, 2), Euler().sample(denoiser, noise, 2)
    )


def test_second_step_from_pure_noise_extrapolates_in_the_ratio_of_signal_to_noise(
    mixture, draw_noise
):
    denoiser, noise = mixture.denoiser(RectifiedFlow()), draw_noise(20, 2)
    times = torch.tensor([1.0, 0.75, 0.5], dtype=torch.float64)
    first = denoiser(noise, times[0])
    x = 0.75 * noise + 0.25 * first
    second = denoiser(x, times[1])
    # alpha / sigma goes from 0 to 1/3 to 1
    d = second + (second - first) / (2 * (1 / 3) / (2 / 3))
    expected = 0.5 / 0.75 * x + (0.5 - 0.25 * 0.5 / 0.75) * d
    torch.testing.assert_close(DPMSolver().sample(denoiser, noise, times=times), expected)
