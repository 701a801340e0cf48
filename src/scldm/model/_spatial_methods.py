"""Ways to cells at places."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scldm.diffusion import Sampler
from scldm.module import NEIGHBOURS, PLACE

from ._blocks import BLOCK_SIZE, Stream, blocks, generator
from ._order import name_of
from ._spatial_training import Surroundings
from ._tissue import Places

__all__ = ["SPATIAL_METHODS", "FromPlaces", "InverseDistance", "SpatialJob", "SpatialMethod"]


@dataclass
class SpatialJob:
    """Places, what lies around them, and how to sample.

    Parameters
    ----------
    model
        The model.
    known
        The observed cells.
    latents
        Their latents and log library sizes, ``(n, n_latent + 1)``.
    asked
        The places.
    given
        Further conditions of the places, encoded.
    rows
        For each cell to draw, the number of its place.
    seed, sampler, steps, guidance_scale
        How to sample.
    """

    model: Any
    known: Surroundings
    latents: np.ndarray
    asked: Places
    given: dict[str, Tensor]
    rows: np.ndarray
    seed: int
    sampler: Sampler
    steps: int | None
    guidance_scale: float = 1.0


class SpatialMethod(ABC):
    """Finds latents of cells at places.

    Attributes
    ----------
    samples
        Whether it uses a sampler; if not, its settings have no meaning.
    """

    samples = True

    @abstractmethod
    def latents(self, job: SpatialJob) -> np.ndarray:
        """Return latents and log library sizes of the cells, ``(n_cells, n_latent + 1)``."""

    def record(self, job: SpatialJob) -> dict[str, Any]:
        """Return what to write beside the cells."""
        return {}


class FromPlaces(SpatialMethod):
    """Diffusion given the place and the cells around it.

    Parameters
    ----------
    neighbours
        Whether cells around are looked at.
    coordinates
        Whether the place itself is.
    """

    def __init__(self, neighbours: bool = True, coordinates: bool = True) -> None:
        self.neighbours = neighbours
        self.coordinates = coordinates

    def latents(self, job: SpatialJob) -> np.ndarray:
        around = job.known.finder.around(job.asked)
        if not self.neighbours:
            around = np.full_like(around, -1)
        diffusion = job.model.module.spatial
        denoiser = diffusion.denoiser(scale=job.guidance_scale)
        parts = []
        for block, rows, padded in blocks(len(job.rows)):
            at = job.rows[padded]
            source = generator(job.model.device, job.seed, Stream.LATENT, block)
            noise = torch.randn(
                (BLOCK_SIZE, diffusion.n_dims), generator=source, device=job.model.device
            )
            given = {
                k: v.to(job.model.device) for k, v in self._conditions(job, at, around).items()
            }
            z, log_library = diffusion.sample(
                noise, given, job.sampler, job.steps, source, denoiser
            )
            z = job.model.module.autoencoder.allowed(z)
            parts.append(torch.cat([z, log_library], dim=1)[: rows.stop - rows.start].cpu())
        return torch.cat(parts).numpy()

    def _conditions(
        self, job: SpatialJob, at: np.ndarray, around: np.ndarray
    ) -> Mapping[str, Tensor]:
        asked = job.asked.at(at)
        place = torch.from_numpy(job.known.tissue.standardised(asked))
        if not self.coordinates:
            place = torch.full_like(place, torch.nan)
        given = {name: values[torch.from_numpy(at)] for name, values in job.given.items()}
        return {**given, PLACE: place, NEIGHBOURS: job.known.encode(asked.coordinates, around[at])}

    def record(self, job: SpatialJob) -> dict[str, Any]:
        record: dict[str, Any] = {
            "sampler": name_of(job.sampler),
            "guidance_scale": job.guidance_scale,
        }
        return record if job.steps is None else record | {"steps": job.steps}


class InverseDistance(SpatialMethod):
    """The mean of the latents of the nearest cells, weighted by inverse distance.

    The rule of textbooks. All draws at a place have one latent and differ by the noise of counting
    only, so that what cells at a place differ in is lost.

    Parameters
    ----------
    n_neighbors
        How many cells.

    References
    ----------
    Shepard (1968), *A two-dimensional interpolation function for irregularly-spaced data*.
    """

    samples = False

    def __init__(self, n_neighbors: int = 3) -> None:
        self.n_neighbors = n_neighbors

    def latents(self, job: SpatialJob) -> np.ndarray:
        distance, nearest = job.known.finder.nearest(job.asked, self.n_neighbors)
        weight = np.where(nearest >= 0, 1 / np.maximum(distance, 1e-9), 0.0)
        weight /= weight.sum(axis=1, keepdims=True)
        z = np.einsum("nk,nkd->nd", weight, job.latents[nearest])
        return z.astype(np.float32)[job.rows]


SPATIAL_METHODS: dict[str, SpatialMethod] = {
    "context": FromPlaces(),
    "coordinates": FromPlaces(neighbours=False),
    "neighbours": FromPlaces(coordinates=False),
    "inverse_distance": InverseDistance(),
}
"""Ways to cells at places by name."""
