"""Ways to take control cells to what they would be under a perturbation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from scldm.diffusion import Euler, Sampler
from scldm.module import SOURCE
from scldm.train import Latents

from ._blocks import BLOCK_SIZE, Stream, generator
from ._editing import deterministic
from ._order import Guidance, Order, name_of
from ._request import Request

__all__ = ["PERTURBATION_METHODS", "PerturbationJob", "PerturbationMethod"]

LatentsOf = Callable[[int, np.ndarray], tuple[Tensor, Tensor]]


@dataclass
class PerturbationJob:
    """Control cells and what is to be done to them.

    Parameters
    ----------
    model
        The model.
    cells
        The control cells.
    source
        For each cell to make, the place of its control cell.
    request
        The conditions of the cells to make.
    seed, sampler, steps
        How to sample; the method's own number of steps where it is ``None``.

    Attributes
    ----------
    start
        Latents that the cells to make start from, ``(n, n_latent)``: means of the posteriors, and
        draws once :meth:`control` has drawn them.
    """

    model: Any
    cells: Latents
    source: np.ndarray
    request: Request
    seed: int
    sampler: Sampler
    steps: int | None
    start: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.start = self.cells.mean.numpy()[self.source].copy()

    @cached_property
    def shift(self) -> np.ndarray:
        """Mean change of each, in latents and log library size, ``(n, n_latent + 1)``."""
        return self.model._changes(self.request.frame)

    def control(self, block: int, rows: np.ndarray) -> Tensor:
        """Return control cells of one whole block, drawn from their posteriors."""
        device = self.model.device
        cells = self.cells[self.source[rows]]
        mean = cells.mean.to(device)
        source = generator(device, self.seed, Stream.POSTERIOR, block)
        noise = torch.randn(mean.shape, generator=source, device=device)
        z = mean + cells.variance.to(device).sqrt() * noise
        # the block is filled up with copies of its last cell
        own = slice(rows[0], rows[-1] + 1)
        self.start[own] = z[: own.stop - own.start].cpu().numpy()
        return torch.cat([z, cells.log_library.to(device)], dim=1)

    def moved(self, control: Tensor, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return latents and log library sizes of cells moved by the mean change."""
        moved = control + torch.from_numpy(self.shift[rows]).to(control)
        return moved[:, :-1], moved[:, -1:]

    def perturbation(self, rows: np.ndarray) -> dict[str, Tensor]:
        """Return the encoded perturbation of some cells."""
        encoded = {"perturbation": self.request.encoded["perturbation"]}
        return self.model._on_device(encoded, rows)


class PerturbationMethod(ABC):
    """A way to perturbed cells."""

    stage: ClassVar[str] = "perturbation"
    """The stage of training that it needs."""

    @abstractmethod
    def prepare(self, job: PerturbationJob) -> LatentsOf:
        """Return what makes latents and log library sizes of a block, given its number and rows.

        Blocks have 256 cells; the last is filled up with copies of its last cell.
        """

    def record(self, job: PerturbationJob) -> dict[str, Any]:
        """Return what of the job's settings it used, to be kept with the cells."""
        used = {"sampler": name_of(job.sampler)}
        return used if job.steps is None else {**used, "steps": job.steps}


class Arithmetic(PerturbationMethod):
    """Control cells, drawn from their posteriors and moved by the mean change."""

    def prepare(self, job: PerturbationJob) -> LatentsOf:
        return lambda block, rows: job.moved(job.control(block, rows), rows)

    def record(self, job: PerturbationJob) -> dict[str, Any]:
        return {}


class FlowFromControl(PerturbationMethod):
    """The flow, from moved control cells."""

    def prepare(self, job: PerturbationJob) -> LatentsOf:
        flow = job.model.module.perturbation.flow

        def latents_of(block: int, rows: np.ndarray) -> tuple[Tensor, Tensor]:
            start = flow.standardise(*job.moved(job.control(block, rows), rows))
            return flow.sample(start, job.perturbation(rows), job.sampler, job.steps)

        return latents_of


class Delta(FlowFromControl):
    """A latent and the perturbation determine its change: the flow in one step.

    Where the flow begins it knows the mean of all that a cell may become, so its first step is the
    regression of the change on the latent.
    """

    def prepare(self, job: PerturbationJob) -> LatentsOf:
        job.sampler, job.steps = Euler(), 1
        return super().prepare(job)


class FromNoise(PerturbationMethod):
    """Diffusion from noise, given the control cell's latent and the perturbation."""

    def prepare(self, job: PerturbationJob) -> LatentsOf:
        model = job.model.module.perturbation.conditional

        def latents_of(block: int, rows: np.ndarray) -> tuple[Tensor, Tensor]:
            control = job.control(block, rows)
            source = generator(control.device, job.seed, Stream.LATENT, block)
            shape = (BLOCK_SIZE, control.shape[1])
            noise = torch.randn(shape, generator=source, device=control.device)
            given = job.perturbation(rows)
            given[SOURCE] = model.standardise(control[:, :-1], control[:, -1:])
            return model.sample(noise, given, job.sampler, job.steps, source)

        return latents_of


class Inversion(PerturbationMethod):
    """To noise under a cell's own conditions and back under the changed ones, by stage 2."""

    stage = "diffusion"

    def prepare(self, job: PerturbationJob) -> LatentsOf:
        model = job.model
        job.sampler, job.steps = deterministic(job.sampler, job.steps)
        noise = model._noise_of(job.cells, job.cells.conditions, job.sampler, job.steps)
        noise = noise.to(model.device)[job.source]
        order = Order(job.request, job.seed, job.sampler, job.steps, Guidance())
        return lambda block, rows: model._sample_block(order, block, rows, noise[rows])


PERTURBATION_METHODS: dict[str, PerturbationMethod] = {
    "flow": FlowFromControl(),
    "conditional": FromNoise(),
    "inversion": Inversion(),
    "delta": Delta(),
    "arithmetic": Arithmetic(),
}
"""Methods by name."""
