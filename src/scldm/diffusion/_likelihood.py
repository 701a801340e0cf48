r"""Log-density of data under a denoiser, through the probability-flow equation.

.. math:: \log p_0(y_0) = \log p_1(y_1) + \int_0^{c_1} \nabla \cdot \frac{dy}{dc} \, dc

(Chen et al. 2018, *Neural ordinary differential equations*, equation 8; Song et al. 2021,
*Score-based generative modeling through stochastic differential equations*, section 4.3). The
divergence is a trace: exact by one backward pass for each dimension, or estimated by random probes
(Grathwohl et al. 2019, *FFJORD*, equation 7).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ._denoisers import Denoiser
from ._ode import clock, flow_slope, solve
from ._samplers import SMALLEST_RATIO

__all__ = ["log_prob"]


def log_prob(
    denoiser: Denoiser,
    x_0: Tensor,
    conditions: Mapping[str, Any] | None = None,
    n_probes: int | None = None,
    rtol: float = 1e-4,
    atol: float = 1e-4,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the log-density of data, in nats, ``(n,)``.

    Parameters
    ----------
    denoiser
        The denoiser.
    x_0
        Data, ``(n, d)``.
    conditions
        Those of the data.
    n_probes
        Random probes of the trace, the same along the whole way. ``None`` computes it exactly with
        d backward passes instead.
    rtol, atol
        Tolerances of the adaptive solver.
    generator
        Source of the probes.
    """
    n, d = x_0.shape
    probes = _probes(x_0, n_probes, generator)
    # a trace is the sum over a basis, or the mean over random probes
    divisor = 1 if n_probes is None else n_probes

    def slope(c: float, state: Tensor) -> Tensor:
        with torch.enable_grad():
            y = state[:, :d].detach().requires_grad_()
            value = flow_slope(denoiser, y, c, conditions)
            trace = sum(
                (torch.autograd.grad(value, y, probe, retain_graph=True)[0] * probe).sum(1)
                for probe in probes
            )
        return torch.cat([value.detach(), trace.unsqueeze(1) / divisor], dim=1)

    schedule = denoiser.schedule
    start = clock(denoiser, schedule.time(torch.tensor(SMALLEST_RATIO, dtype=torch.float64)))
    end = clock(denoiser, torch.ones((), dtype=torch.float64))
    # data at the lowest noise level are, but for that noise, the data scaled by 1 - start
    state = torch.cat([(1 - start) * x_0, x_0.new_zeros(n, 1)], dim=1)
    final = solve(slope, state, start, end, rtol, atol)
    y_1, trace = final[:, :d], final[:, d]
    normal = -0.5 * (y_1 / end).square().sum(1) - d * (0.5 * math.log(2 * math.pi) + math.log(end))
    return normal + trace + d * math.log1p(-start)


def _probes(x: Tensor, n_probes: int | None, generator: torch.Generator | None) -> Tensor:
    n, d = x.shape
    if n_probes is None:
        return torch.eye(d, dtype=x.dtype, device=x.device).unsqueeze(1).expand(d, n, d)
    coins = torch.randint(0, 2, (n_probes, n, d), device=x.device, generator=generator)
    return coins.to(x) * 2 - 1
