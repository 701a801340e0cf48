"""The same diffusion without an autoencoder: on the expression of all genes.

What a latent space saves. As in scldm: rectified flow, AdaLN blocks, averaged weights, dropped
conditions, the log library size as one more dimension, samples by Heun's rule. Three things are not,
each because it made better cells on validation cells. The network is wider, 512. It predicts the clean
data, in the EDM weighting, and not the velocity: noise of 2,000 dimensions does not pass through 512
units, cells do (Li and He 2025, *Back to basics: let denoising generative models denoise*). And genes
are centred each and scaled together, as dividing rare genes by their small standard deviations blows
up errors. Counts are made of expression as in :mod:`.ddpm`.

It trains for as long as scldm does in both stages, or ten times as long, and is sampled in scldm's
default number of steps and in ten times as many.
"""

from __future__ import annotations

import anndata as ad
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor

from scldm.diffusion import Data, EDMWeight, Heun, RectifiedFlow, UniformTimes
from scldm.module import LatentDiffusion
from scldm.nn import MLP

from .base import Generator, Method
from .training import (
    Codes,
    batches,
    by_seconds,
    counts_from_expression,
    counts_of,
    log_normalised,
    optimise,
)

__all__ = ["GeneSpaceDiffusion"]

WIDTH = 512
MANY_STEPS = 50
FEW_STEPS = 5
"""As many as scldm took when the table was made."""


class GeneSpaceDiffusion(Generator):
    """Rectified flow on log-normalised genes and the log library size.

    Parameters
    ----------
    trains_for
        Training time as a multiple of scldm's.
    suffix
        What the names of the rows end in.
    """

    def __init__(self, trains_for: float = 1.0, suffix: str = "") -> None:
        self.trains_for = trains_for
        name = f"diffusion in gene space{suffix}"
        self.methods = {
            name: Method(lambda self, obs, seed: self.draw(obs, seed, MANY_STEPS)),
            f"{name}, {FEW_STEPS} steps": Method(
                lambda self, obs, seed: self.draw(obs, seed, FEW_STEPS)
            ),
        }

    def fit(self, train: ad.AnnData, seed: int, reference: float) -> None:
        torch.manual_seed(seed)
        counts = counts_of(train)
        expression, log_library = log_normalised(counts), counts.sum(1, keepdim=True).log()
        self.codes = Codes(train.obs)
        conditions = self.codes(train.obs)
        network = MLP(train.n_vars + 1, self.codes.embedder(WIDTH))
        self.diffusion = LatentDiffusion(
            network, train.n_vars, RectifiedFlow(), Data(), UniformTimes(), EDMWeight()
        )
        self._fit_scales(expression, log_library)
        x = self.diffusion.standardise(expression, log_library)

        def loss(rows: Tensor) -> Tensor:
            given = {name: value[rows] for name, value in conditions.items()}
            return self.diffusion.loss(x[rows], given).mean()

        self.steps = optimise(
            network.parameters(),
            loss,
            train.n_obs,
            by_seconds(self.trains_for * reference),
            lr=1e-3,
            weight_decay=1e-2,
            batch_size=256,
            after_step=self.diffusion.update_average,
        )

    def _fit_scales(self, expression: Tensor, log_library: Tensor) -> None:
        """Centre every dimension; give genes the scale that makes their mean variance one."""
        diffusion, genes = self.diffusion, slice(None, expression.shape[1])
        # the module's latents are the genes, which are known without variance
        diffusion.fit_standardisation(expression, torch.zeros_like(expression), log_library)
        own = diffusion.scale[genes].clone()
        common = expression.var(0).mean().sqrt()
        diffusion.scale[genes] = common
        for denoiser in (diffusion.trained, diffusion.averaged):
            low, high = denoiser.bounds[:, genes] * own / common
            denoiser.bounds[:, genes] = torch.stack([low.clamp_max(-4.0), high.clamp_min(4.0)])

    @torch.no_grad()
    def draw(self, obs: pd.DataFrame, seed: int, steps: int) -> sparse.csr_matrix:
        """Draw expression and library size, and make counts of them."""
        generator = torch.Generator().manual_seed(seed)
        conditions, parts = self.codes(obs), []
        for rows in batches(len(obs)):
            given = {name: value[rows] for name, value in conditions.items()}
            noise = torch.randn(len(rows), self.diffusion.n_latent + 1, generator=generator)
            expression, log_library = self.diffusion.sample(noise, given, Heun(), steps)
            parts.append(counts_from_expression(expression, log_library.exp()))
        return sparse.vstack(parts, format="csr")

    def measure(self, obs: pd.DataFrame, seed: int) -> dict[str, float]:
        return {"train_steps": self.steps}
