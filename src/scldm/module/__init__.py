"""Torch modules: the count autoencoder, the latent diffusion, and the two together."""

from ._autoencoder import CountAutoencoder, moment_dispersion
from ._counts import sample_counts
from ._latent_diffusion import LatentDiffusion
from ._scldm import SCLDMModule

__all__ = [
    "CountAutoencoder",
    "LatentDiffusion",
    "SCLDMModule",
    "moment_dispersion",
    "sample_counts",
]
