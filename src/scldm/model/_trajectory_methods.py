"""Ways to take cells through time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.neighbors import KNeighborsRegressor
from torch import Tensor

from scldm.diffusion import Sampler
from scldm.module import SOURCE
from scldm.train import Latents

from ._blocks import BLOCK_SIZE, Stream, blocks, generator
from ._choices import weight
from ._expression import ExpressionSpace
from ._order import Guidance, Order, name_of
from ._request import Request
from ._timeline import Timeline, clock_shares

__all__ = [
    "INTERVAL",
    "TRAJECTORY_METHODS",
    "FlowThroughTime",
    "Growth",
    "Marginal",
    "Rollout",
    "TrajectoryJob",
    "TrajectoryMethod",
]

_NEIGHBOURS = 15

INTERVAL = "interval"
"""Name of the condition that the two times of a step are."""


@dataclass
class TrajectoryJob:
    """Cells, and the times to take them to.

    Parameters
    ----------
    model
        The model.
    cells
        The cells.
    knot, begin
        The knot of time that each counts for, and its own time.
    source
        For each path, the place of its cell.
    times
        Times to report, ``(n_times,)``.
    line
        The knots of time.
    clock
        How well cells keep time.
    conditions
        Encoded conditions of the cells that the way depends on.
    request
        The conditions of what comes out, for each path and time, paths first.
    seed, sampler, steps
        How to sample.
    growth
        Says how much cells grow, or ``None`` where nobody knows.

    Attributes
    ----------
    log_weight
        Log numbers of descendants that a path stands for at each time, ``(n_paths, n_times)``; ways that
        know them fill them in.
    """

    model: Any
    cells: Latents
    knot: np.ndarray
    begin: np.ndarray
    source: np.ndarray
    times: np.ndarray
    line: Timeline
    clock: float
    conditions: Mapping[str, Tensor]
    request: Request
    seed: int
    sampler: Sampler
    steps: int | None
    growth: Growth | None = None
    log_weight: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.log_weight = np.zeros((len(self.source), len(self.times)))

    @property
    def device(self) -> torch.device:
        """Where to compute."""
        return self.model.device

    def stream(self, block: int) -> torch.Generator:
        """Return the source of all that is random on the way of a block of paths."""
        return generator(self.device, self.seed, Stream.LATENT, block)

    def start(self, block: int, rows: np.ndarray) -> Tensor:
        """Return the cells that a block of paths starts from, drawn from their posteriors."""
        cells = self.cells[self.source[rows]]
        mean, log_library = cells.mean.to(self.device), cells.log_library.to(self.device)
        source = generator(self.device, self.seed, Stream.POSTERIOR, block)
        noise = torch.randn(mean.shape, generator=source, device=self.device)
        z = mean + cells.variance.to(self.device).sqrt() * noise
        return self.model.module.trajectory.flow.standardise(z, log_library)

    def given(self, rows: np.ndarray, before: int) -> dict[str, Tensor]:
        """Return what the way over an interval depends on, for a block of paths."""
        at = torch.from_numpy(self.source[rows])
        given = {name: value[at].to(self.device) for name, value in self.conditions.items()}
        ends = self.model._encoded_interval(self.line, np.array([before]))
        given[INTERVAL] = torch.from_numpy(ends).to(self.device).expand(len(rows), -1)
        return given

    def put_together(self, x: Tensor) -> Tensor:
        """Return standardised cells as allowed latents and log library sizes in one array."""
        z, log_library = self.model.module.trajectory.flow.unstandardise(x)
        return torch.cat([self.model.module.autoencoder.allowed(z), log_library], dim=1)


class Growth:
    """Log growth of cells over an interval, from that of the nearest training cells.

    Parameters
    ----------
    model
        The model.
    space
        Where cells are near each other.
    x, knot, log_growth
        Coordinates of training cells, their time points, and log growth over the interval that
        follows, NaN where it is not known.
    """

    def __init__(
        self,
        model: Any,
        space: ExpressionSpace,
        x: np.ndarray,
        knot: np.ndarray,
        log_growth: np.ndarray,
    ) -> None:
        self.model = model
        self.space = space
        self.learned: dict[int, KNeighborsRegressor] = {}
        for before in np.unique(knot):
            known = (knot == before) & np.isfinite(log_growth)
            if known.any():
                nearest = KNeighborsRegressor(min(_NEIGHBOURS, int(known.sum())))
                self.learned[int(before)] = nearest.fit(x[known], log_growth[known])

    def over(self, before: int, z: Tensor) -> np.ndarray:
        """Return log growth of latents over an interval, ``(n,)``."""
        if before not in self.learned:
            return np.zeros(len(z))
        return self.learned[before].predict(self.space.coordinates(self.model, z))


class TrajectoryMethod(ABC):
    """A way through time."""

    stage: ClassVar[str] = "trajectory"
    """The stage of training that it needs."""

    @torch.inference_mode()
    def paths(self, job: TrajectoryJob) -> np.ndarray:
        """Return where cells are, ``(n_paths, n_times, n_latent + 1)``, sizes in the last column.

        Blocks of 256 paths have random streams of their own, so that results depend on nothing but
        the seed.
        """
        n_dims = job.cells.mean.shape[1] + 1
        found = np.empty((len(job.source), len(job.times), n_dims), dtype=np.float32)
        for block, rows, padded in blocks(len(job.source)):
            path = self.block(job, block, padded)
            found[rows] = path[: rows.stop - rows.start].cpu().numpy()
        return found

    @abstractmethod
    def block(self, job: TrajectoryJob, block: int, rows: np.ndarray) -> Tensor:
        """Return the paths of one whole block, ``(256, n_times, n_latent + 1)``."""

    def record(self, job: TrajectoryJob) -> dict[str, Any]:
        """Return what of the job's settings it used, to be kept with the cells."""
        used = {"sampler": name_of(job.sampler)}
        return used if job.steps is None else {**used, "steps": job.steps}


class _Stepwise(TrajectoryMethod):
    """From knot to knot, and on the straight line in between; see :class:`Rollout`."""

    def __init__(self, clock: float | None = None, noise: float = 0.0) -> None:
        if clock is not None and not (isinstance(clock, Real) and clock > 0):
            raise ValueError(f"`clock={clock!r}` must be a number above 0, or None.")
        self.clock = clock
        self.noise = weight("noise", noise)

    def block(self, job: TrajectoryJob, block: int, rows: np.ndarray) -> Tensor:
        stream = job.stream(block)
        x = job.start(block, rows)
        first, begin = job.knot[job.source[rows]], job.begin[job.source[rows]]
        knots, last = job.line.knots, len(job.line.knots) - 2
        passed = np.searchsorted(knots, job.times, side="right") - 1
        interval = np.clip(np.maximum(passed, first[:, None]), 0, last)
        path = x.unsqueeze(1).repeat(1, len(job.times), 1)
        grown, total = np.zeros(interval.shape), np.zeros(len(rows))
        for before in range(interval.max() + 1):
            drawn, bridge = (
                torch.randn(BLOCK_SIZE, x.shape[1], generator=stream, device=x.device)
                for _ in range(2)
            )
            quantile = torch.rand(BLOCK_SIZE, 1, generator=stream, device=x.device)
            going = first <= before
            if not going.any():
                continue
            after = self.step(job, x, drawn, job.given(rows, before), stream)
            # a cell of a time between knots has less of its first interval before it
            start = np.where(first == before, begin, knots[before])
            length = knots[before + 1] - start
            growth = self.growth(job, before, x) * length / (knots[before + 1] - knots[before])
            for i, time in enumerate(job.times):
                here = going & (interval[:, i] == before)
                if here.any():
                    share = np.clip((time - start) / length, 0, 1)[:, None]
                    between = self.between(job, x, after, share, quantile, bridge)
                    path[here, i] = between[here]
                    grown[here, i] = (total + share[:, 0] * growth)[here]
            total += going * growth
            x = torch.where(torch.from_numpy(going).to(x.device).unsqueeze(1), after, x)
        # the block is filled up with copies of its last path
        own = slice(rows[0], rows[-1] + 1)
        job.log_weight[own] = grown[: own.stop - own.start]
        return job.put_together(path.flatten(0, 1)).unflatten(0, path.shape[:2])

    def growth(self, job: TrajectoryJob, before: int, x: Tensor) -> np.ndarray:
        """Return log growth over an interval, ``(n,)``, zero where it is not known."""
        if job.growth is None:
            return np.zeros(len(x))
        return job.growth.over(before, job.model.module.trajectory.flow.unstandardise(x)[0])

    @abstractmethod
    def step(
        self,
        job: TrajectoryJob,
        x: Tensor,
        noise: Tensor,
        given: Mapping[str, Tensor],
        stream: torch.Generator,
    ) -> Tensor:
        """Return cells one knot later."""

    def between(
        self,
        job: TrajectoryJob,
        x: Tensor,
        after: Tensor,
        share: np.ndarray,
        quantile: Tensor,
        bridge: Tensor,
    ) -> Tensor:
        """Return cells at shares of the way, ``(n, 1)`` each; at its ends they are there."""
        clock = job.clock if self.clock is None else self.clock
        gone = clock_shares(share, clock, quantile.cpu().double().numpy())
        way = torch.from_numpy(gone).to(x)
        spread = torch.from_numpy(self.noise * np.sqrt(share * (1 - share))).to(x)
        return x + way * (after - x) + spread * bridge


class Rollout(_Stepwise):
    """Diffusion of the next state given the present one, knot by knot.

    Parameters
    ----------
    clock
        How well cells keep time between knots: the way that one has gone at a share s of the interval is
        drawn from Beta(clock s, clock (1 - s)). ``None`` takes what fits the data, infinity has all on
        time.
    noise
        Noise on that way, in standard deviations of the latents: a Brownian bridge whose spread at a
        share s is ``noise * sqrt(s * (1 - s))``.

    Raises
    ------
    ValueError
        If the clock is not above 0 or the noise is below 0.
    """

    def step(self, job, x, noise, given, stream):
        model = job.model.module.trajectory.conditional
        return job.sampler.sample(model.averaged, noise, job.steps, {**given, SOURCE: x}, stream)


class FlowThroughTime(_Stepwise):
    """A flow from knot to knot: what a cell becomes is decided by where it is.

    Parameters
    ----------
    clock
        As for rollouts, but all cells keep time by default.
    noise
        As for rollouts.
    """

    def __init__(self, clock: float | None = None, noise: float = 0.0) -> None:
        super().__init__(np.inf if clock is None else clock, noise)

    def step(self, job, x, noise, given, stream):
        model = job.model.module.trajectory.flow
        return job.sampler.sample(model.averaged, x, job.steps, given, stream)


class Marginal(TrajectoryMethod):
    """New cells of each time, from noise, with the other conditions of the cell; not its future."""

    stage = "diffusion"

    def block(self, job: TrajectoryJob, block: int, rows: np.ndarray) -> Tensor:
        order = Order(job.request, job.seed, job.sampler, job.steps, Guidance())
        parts = []
        # streams go by the order of times, not by the order in which they were asked for
        for i, rank in enumerate(np.argsort(np.argsort(job.times, kind="stable"))):
            at = rows * len(job.times) + i
            stream = block * len(job.times) + int(rank)
            z, log_library = job.model._sample_block(order, stream, at)
            parts.append(torch.cat([z, log_library], dim=1))
        return torch.stack(parts, dim=1)


TRAJECTORY_METHODS: dict[str, TrajectoryMethod] = {
    "rollout": Rollout(),
    "flow": FlowThroughTime(),
    "marginal": Marginal(),
}
"""Methods by name."""
