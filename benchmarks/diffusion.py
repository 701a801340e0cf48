"""Every schedule, parametrisation and sampler on a mixture of Gaussians, whose score is known.

    python benchmarks/diffusion.py [--quick]

Two errors are printed for each number of steps. *Flow*: the root-mean-square distance between what
a deterministic rule makes of noise and where the probability flow leads, with the order of
convergence between the last two numbers of steps whose errors are above rounding: on the schedule's
own steps to noise zero, and on steps that are even in log-SNR between noise levels 50 and 0.02, for
which the order of DPM-Solver++ is derived. *W1*: the Wasserstein
distance between the samples' and the true marginals, mean over dimensions, for all rules; the first
row is the floor, true samples against the truth. No network is trained: the exact denoiser is
written as a network of each parametrisation, in single precision.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import norm

from scldm.diffusion import (
    DDIM,
    PARAMETRISATIONS,
    SAMPLERS,
    SCHEDULES,
    Adaptive,
    GaussianMixtureDenoiser,
    NetworkDenoiser,
    Schedule,
)

STEPS = (5, 10, 20, 50, 250)
MEANS = torch.tensor([[-1.2, 0.5, 0.0], [0.9, 0.9, 0.4], [0.6, -1.3, -0.4]]).double()
STDS = torch.tensor([[0.3, 0.5, 0.9], [0.4, 0.2, 0.9], [0.6, 0.4, 0.9]]).double()
WEIGHTS = torch.tensor([0.5, 0.3, 0.2]).double()
ROUNDING = 2e-5


class ExactNetwork(torch.nn.Module):
    """The exact denoiser as a network that predicts what a parametrisation asks for."""

    def __init__(self, schedule: Schedule, parametrisation: str) -> None:
        super().__init__()
        self.exact = GaussianMixtureDenoiser(schedule, MEANS, STDS, WEIGHTS)
        self.parametrisation = PARAMETRISATIONS[parametrisation]()

    def forward(self, x, t, conditions=None):
        alpha, sigma = self.exact.scales(t, x)
        x_t = x * torch.hypot(alpha, sigma)
        x_0 = self.exact(x_t, t)
        eps = (x_t - alpha * x_0) / sigma.clamp_min(1e-6)
        return self.parametrisation.target(x_0, eps, alpha, sigma).to(x)


def draw_truth(n: int) -> torch.Tensor:
    component = torch.multinomial(WEIGHTS, n, replacement=True)
    return MEANS[component] + STDS[component] * torch.randn(n, 3).double()


def w1(x: torch.Tensor) -> float:
    """Return the mean over dimensions of the distance between quantiles and true quantiles."""
    n = len(x)
    grid = np.linspace(-6, 6, 20_001)
    u = (np.arange(n) + 0.5) / n
    distances = []
    for j in range(x.shape[1]):
        cdf = sum(
            w * norm.cdf(grid, m, s)
            for w, m, s in zip(WEIGHTS.tolist(), MEANS[:, j], STDS[:, j], strict=True)
        )
        distances.append(
            np.abs(np.sort(x[:, j].double().numpy()) - np.interp(u, cdf, grid)).mean()
        )
    return float(np.mean(distances))


def flow_rows(samplers: dict, n: int) -> list[dict]:
    """Return the errors of deterministic rules against the exact flow."""
    rows = []
    for schedule_name, schedule_class in SCHEDULES.items():
        schedule = schedule_class()
        noise = torch.randn(n, 3, generator=torch.Generator().manual_seed(0))
        exact = GaussianMixtureDenoiser(schedule, MEANS, STDS, WEIGHTS)
        truth = Adaptive(1e-9, 1e-9, "DOP853").sample(exact, noise.double())
        for parametrisation in PARAMETRISATIONS:
            network = ExactNetwork(schedule, parametrisation)
            denoiser = NetworkDenoiser(network, schedule, PARAMETRISATIONS[parametrisation]())
            for name, sampler in samplers.items():
                if not sampler.deterministic:
                    continue
                errors = {
                    steps: rms(sampler.sample(denoiser, noise, steps) - truth) for steps in STEPS
                }
                rows.append(
                    {
                        "schedule": schedule_name,
                        "parametrisation": parametrisation,
                        "sampler": name,
                        **errors,
                        "order": order(errors),
                        "order, even log-SNR": order(even_errors(sampler, denoiser, noise)),
                    }
                )
    return rows


def rms(difference: torch.Tensor) -> float:
    return float(difference.square().mean().sqrt())


def even_errors(sampler, denoiser, noise: torch.Tensor) -> dict[int, float]:
    """Return the errors on steps even in log-SNR that end before noise zero."""
    if sampler.chooses_steps:
        return {}
    schedule = denoiser.schedule

    def end(steps: int) -> torch.Tensor:
        ratios = torch.logspace(np.log10(50), np.log10(0.02), steps + 1, dtype=torch.float64)
        return sampler.sample(denoiser, noise, times=schedule.time(ratios))

    # the truth is the same rule in many more steps, as it starts from the same noise
    reference = end(4000)
    return {steps: rms(end(steps) - reference) for steps in (20, 50, 100, 200)}


def order(errors: dict[int, float]) -> float:
    """Return the order between the last two numbers of steps whose errors are not rounding."""
    clear = [(steps, error) for steps, error in errors.items() if error > ROUNDING]
    if len(clear) < 2:
        return float("nan")
    (n, e), (m, f) = clear[-2:]
    return float(np.log(e / f) / np.log(m / n))


def marginal_rows(samplers: dict, n: int) -> list[dict]:
    """Return the distances of all rules' samples from the true marginals."""
    rows = [
        {
            "schedule": "(floor)",
            "sampler": "true samples",
            **dict.fromkeys(STEPS, w1(draw_truth(n))),
        }
    ]
    for schedule_name, schedule_class in SCHEDULES.items():
        schedule = schedule_class()
        denoiser = GaussianMixtureDenoiser(schedule, MEANS.float(), STDS.float(), WEIGHTS.float())
        for name, sampler in samplers.items():
            generator = torch.Generator().manual_seed(1)
            noise = torch.randn(n, 3, generator=generator)
            errors = {
                steps: w1(sampler.sample(denoiser, noise, steps, generator=generator))
                for steps in STEPS
            }
            rows.append({"schedule": schedule_name, "sampler": name, **errors})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    args = parser.parse_args()
    torch.manual_seed(0)
    n = 2_000 if args.quick else 50_000
    samplers = {name: rule() for name, rule in SAMPLERS.items()} | {"ddim, eta 1": DDIM(eta=1.0)}
    flow = pd.DataFrame(flow_rows(samplers, 500))
    marginals = pd.DataFrame(marginal_rows(samplers, n))
    args.out.mkdir(parents=True, exist_ok=True)
    flow.to_csv(args.out / "diffusion_flow.csv", index=False)
    marginals.to_csv(args.out / "diffusion_marginals.csv", index=False)
    text = (
        "## Distance to the exact flow, by steps\n\n"
        f"{flow.to_markdown(index=False, floatfmt='.2g')}\n\n"
        f"## W1 to the true marginals, by steps ({n} samples)\n\n"
        f"{marginals.to_markdown(index=False, floatfmt='.3f')}\n"
    )
    print(text)
    (args.out / "diffusion.md").write_text(text)


if __name__ == "__main__":
    main()
