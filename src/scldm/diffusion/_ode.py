r"""The probability-flow equation for solvers of a library.

In the coordinates of the straight path, :math:`y = x / (\alpha + \sigma)` and
:math:`c = \sigma / (\alpha + \sigma)`, it is :math:`dy/dc = \hat\epsilon - \hat x_0` for every
schedule, on a clock from 0 (data) to 1 (noise).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from ._denoisers import Denoiser
from ._samplers import SMALLEST_RATIO, Sampler, noise_estimate

__all__ = ["Adaptive", "clock", "flow_slope", "solve"]


def clock(denoiser: Denoiser, t: Tensor) -> float:
    """Return the share of noise, sigma / (alpha + sigma), at a time."""
    alpha, sigma = denoiser.schedule(t.double())
    return float(sigma / (alpha + sigma))


def flow_slope(
    denoiser: Denoiser, y: Tensor, c: float, conditions: Mapping[str, Any] | None
) -> Tensor:
    """Return dy/dc, ``(n, d)``, at a share of noise above 0."""
    share = torch.tensor(c, dtype=torch.float64, device=y.device)
    t = denoiser.schedule.time(share / (1 - share))
    alpha, sigma = denoiser.scales(t, y)
    x_t = (alpha + sigma) * y
    x_0 = denoiser(x_t, t, conditions)
    return noise_estimate(x_t, x_0, alpha, sigma) - x_0


def solve(
    slope: Callable[[float, Tensor], Tensor],
    y: Tensor,
    start: float,
    end: float,
    rtol: float,
    atol: float,
    method: str = "RK45",
) -> Tensor:
    """Integrate with scipy's adaptive solver; one step size for the whole batch.

    Parameters
    ----------
    slope
        Takes the clock and the state, returns the state's derivative.
    y
        State at the start, any shape.
    start, end
        Clock at both ends.
    rtol, atol
        Tolerances of a step's root-mean-square error.
    method
        Of :func:`scipy.integrate.solve_ivp`.

    Raises
    ------
    RuntimeError
        If the solver gives up, or a slope is not a number.
    """

    def flat(c: float, state: np.ndarray) -> np.ndarray:
        value = slope(c, torch.from_numpy(state).to(y).reshape(y.shape))
        if value.isnan().any():
            # scipy would shorten its step for ever
            raise RuntimeError(
                f"The denoiser's estimate is not a number at a share of noise of {c:.3g}."
            )
        return value.flatten().double().cpu().numpy()

    solution = solve_ivp(
        flat,
        (start, end),
        y.flatten().double().cpu().numpy(),
        method=method,
        t_eval=[end],
        rtol=rtol,
        atol=atol,
    )
    if not solution.success:
        raise RuntimeError(f"The adaptive solver stopped: {solution.message}")
    return torch.from_numpy(solution.y[:, -1]).to(y).reshape(y.shape)


class Adaptive(Sampler):
    """An adaptive Runge-Kutta solver, which chooses its steps by the errors it estimates.

    Dormand and Prince's pair of orders 5 and 4 by default. Times given to it count by their ends
    only, and a number of steps not at all.

    Parameters
    ----------
    rtol, atol
        Relative and absolute tolerance.
    method
        Of :func:`scipy.integrate.solve_ivp`.
    """

    chooses_steps = True

    def __init__(self, rtol: float = 1e-5, atol: float = 1e-5, method: str = "RK45") -> None:
        self.rtol = rtol
        self.atol = atol
        self.method = method

    def integrate(self, denoiser, x, times, conditions=None, generator=None):
        lowest = denoiser.schedule.time(times.new_tensor(SMALLEST_RATIO))
        first, last = times[0].clamp_min(lowest), times[-1].clamp_min(lowest)
        alpha, sigma = denoiser.scales(first, x)
        y = solve(
            lambda c, y: flow_slope(denoiser, y, c, conditions),
            x / (alpha + sigma),
            clock(denoiser, first),
            clock(denoiser, last),
            self.rtol,
            self.atol,
            self.method,
        )
        alpha, sigma = denoiser.scales(last, x)
        x = (alpha + sigma) * y
        # what noise is left at the lowest level is taken off in one go
        return x if times[-1] > 0 else denoiser(x, last, conditions)
