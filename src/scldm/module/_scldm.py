"""Autoencoder and latent diffusion as one scvi-tools module."""

from __future__ import annotations

import torch
from scvi.module.base import BaseModuleClass, LossOutput

from ._autoencoder import CountAutoencoder
from ._latent_diffusion import LatentDiffusion
from ._transition import TransitionDiffusion

__all__ = ["SCLDMModule"]


class SCLDMModule(BaseModuleClass):
    """Holds the stages; to scvi-tools' methods it behaves as its autoencoder.

    Parameters
    ----------
    autoencoder
        Stage 1.
    diffusion
        Stage 2, on the latents of stage 1.
    perturbation
        From control cells to perturbed ones, where cells have perturbations.
    trajectory
        From cells of one time to those of the next, where cells have times.
    spatial
        Cells at places, where cells have coordinates.
    """

    def __init__(
        self,
        autoencoder: CountAutoencoder,
        diffusion: LatentDiffusion,
        perturbation: TransitionDiffusion | None = None,
        trajectory: TransitionDiffusion | None = None,
        spatial: LatentDiffusion | None = None,
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.diffusion = diffusion
        self.perturbation = perturbation
        self.trajectory = trajectory
        self.spatial = spatial

    @property
    def device(self) -> torch.device:
        """Where the weights are, without the look at each of them that scvi-tools takes."""
        return self.diffusion.shift.device

    @property
    def gene_likelihood(self) -> str:
        return self.autoencoder.gene_likelihood

    @property
    def latent_distribution(self) -> str:
        return self.autoencoder.latent_distribution

    def _get_inference_input(self, tensors, **kwargs):
        return self.autoencoder._get_inference_input(tensors, **kwargs)

    def _get_generative_input(self, tensors, inference_outputs, **kwargs):
        return self.autoencoder._get_generative_input(tensors, inference_outputs, **kwargs)

    def inference(self, *args, **kwargs):
        """Run the encoder, see :meth:`scvi.module.VAE.inference`."""
        return self.autoencoder.inference(*args, **kwargs)

    # `transform_batch` is named because scvi-tools looks for it in the signature
    def generative(self, *args, transform_batch=None, **kwargs):
        """Run the decoder, see :meth:`scvi.module.VAE.generative`."""
        return self.autoencoder.generative(*args, transform_batch=transform_batch, **kwargs)

    def loss(self, *args, **kwargs) -> LossOutput:
        """Return the autoencoder's loss, see :meth:`scvi.module.VAE.loss`."""
        return self.autoencoder.loss(*args, **kwargs)

    def sample(self, *args, **kwargs):
        """Draw from the posterior predictive, see :meth:`scvi.module.VAE.sample`."""
        return self.autoencoder.sample(*args, **kwargs)

    def marginal_ll(self, *args, **kwargs):
        """Estimate the marginal log-likelihood, see :meth:`scvi.module.VAE.marginal_ll`."""
        return self.autoencoder.marginal_ll(*args, **kwargs)
