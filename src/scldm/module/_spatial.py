"""Cells at places, given what lies around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from scldm.diffusion import Flow, RectifiedFlow, UniformTimes
from scldm.nn import MLP, ConditionEmbedder, FourierEmbedder, NeighbourhoodEmbedder

from ._latent_diffusion import LatentDiffusion

__all__ = ["NEIGHBOURS", "PLACE", "spatial_diffusion"]

PLACE = "coordinates"
"""Name of the condition that standardised coordinates are."""

NEIGHBOURS = "neighbours"
"""Name of the condition that the cells around a place are."""


def spatial_diffusion(
    embedders: Mapping[str, Callable[[int], nn.Module]],
    n_latent: int,
    n_dims: int,
    n_neighbors: int,
    *,
    n_octaves: int = 2,
    width: int = 64,
    depth: int = 2,
    dropout_rate: float = 0.1,
    ema_decay: float = 0.995,
) -> LatentDiffusion:
    """Return a diffusion of latents given a place and the cells around it.

    Coordinates tell where in the tissue a place is, by a few long waves; what changes within shorter
    distances the neighbours tell. Short waves let a network learn the cells of every place by heart,
    and fill a missing region with what happens to lie between.

    Parameters
    ----------
    embedders
        By further condition, what makes the module that embeds it, given a width.
    n_latent
        Number of latent dimensions, without the library size.
    n_dims
        Number of coordinates.
    n_neighbors
        Number of neighbours.
    n_octaves
        Number of frequencies for each coordinate; the longest wave has eight standard deviations of
        the coordinates, each further one half of the last.
    width, depth, dropout_rate
        Of the network.
    ema_decay
        Decay of the average of its weights.
    """
    own = {name: embedder(width) for name, embedder in embedders.items()}
    own[PLACE] = FourierEmbedder(n_dims, width, n_octaves, dropout_rate)
    own[NEIGHBOURS] = NeighbourhoodEmbedder(
        n_dims, n_latent + 1, n_neighbors, width, dropout_rate=dropout_rate
    )
    network = MLP(n_latent + 1, ConditionEmbedder(own, width), depth, dropout_rate=dropout_rate)
    return LatentDiffusion(
        network, n_latent, RectifiedFlow(), Flow(), UniformTimes(), ema_decay=ema_decay
    )
