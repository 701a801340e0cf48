"""DDPM on the latents of an autoencoder of log-normalised expression: the recipe of scDiffusion.

Luo et al. (2024), *scDiffusion: conditional generation of high-quality single-cell data using
diffusion model*, Bioinformatics 40:btae518, and their code (EperLuo/scDiffusion). Taken from there:
expression scaled to 10,000 and logarithmised; an autoencoder with layer norms, a squared error and a
last ReLU; Gaussian diffusion in 1,000 steps with linear betas, noise prediction and ancestral sampling;
one network for all types. Cells come as expression, so counts are made as users make them: expm1, scaled to the
library size of a random training cell of the type, rounded.

Departures: types are conditions of the network, dropped for a tenth of the cells, where theirs come
from a classifier's gradient; 32 latents, as their 128 made worse cells on validation cells (their data
are tens of times larger); for the same reason 120 epochs, since the autoencoder overfits; layers of 512
and a learning rate of 1e-3 with a cosine, in place of wider ones and hundreds of thousands of steps at
1e-4 and less; four AdaLN blocks of scldm's MLP; latents divided by one number to have unit variance, as
in Rombach et al. (2022).
"""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor, nn

from scldm.diffusion import DDPM, NetworkDenoiser, Noise, VariancePreserving
from scldm.nn import MLP

from .base import Generator, Method, Strata
from .training import (
    Codes,
    batches,
    by_steps,
    counts_from_expression,
    counts_of,
    layers,
    log_normalised,
    optimise,
)

__all__ = ["DDPMOnAutoencoder"]

N_LATENT = 32
EPOCHS = 120
WIDTH = 128
STEPS = 4000
DROPOUT = 0.1
TIMESTEPS = 1000


class DDPMOnAutoencoder(Generator):
    """An autoencoder of expression, and DDPM on its latents."""

    def fit(self, train: ad.AnnData, seed: int, reference: float) -> None:
        torch.manual_seed(seed)
        counts = counts_of(train)
        self.library = counts.sum(1, keepdim=True)
        self.strata, self.codes = Strata(train.obs), Codes(train.obs)
        expression = log_normalised(counts)
        self._fit_autoencoder(expression)
        with torch.no_grad():
            z = self.encoder(expression)
        self.scale = z.std()
        self._fit_diffusion(z / self.scale, self.codes(train.obs))

    def _fit_autoencoder(self, expression: Tensor) -> None:
        n_cells, n_genes = expression.shape
        self.encoder = layers([n_genes, 512, N_LATENT], nn.LayerNorm, nn.ReLU)
        self.decoder = layers([N_LATENT, 512, 512, n_genes], nn.LayerNorm, nn.ReLU).append(
            nn.ReLU()
        )

        def loss(rows: Tensor) -> Tensor:
            return (
                (self.decoder(self.encoder(expression[rows])) - expression[rows]).square().mean()
            )

        optimise(
            [*self.encoder.parameters(), *self.decoder.parameters()],
            loss,
            n_cells,
            by_steps(min(STEPS, EPOCHS * n_cells // 128)),
            lr=1e-3,
            weight_decay=4e-7,
            batch_size=128,
        )

    def _fit_diffusion(self, z: Tensor, conditions: dict[str, Tensor]) -> None:
        embedder = self.codes.embedder(WIDTH)
        schedule = VariancePreserving(TIMESTEPS, 1e-4, 0.02)
        self.denoiser = NetworkDenoiser(MLP(N_LATENT, embedder), schedule, Noise(), N_LATENT)

        def loss(rows: Tensor) -> Tensor:
            given = {name: value[rows] for name, value in conditions.items()}
            t = torch.randint(1, TIMESTEPS + 1, (len(rows),)).double() / TIMESTEPS
            dropped = embedder.drop_at_random(given, DROPOUT)
            return self.denoiser.loss(z[rows], t, torch.randn(len(rows), N_LATENT), dropped).mean()

        optimise(
            self.denoiser.parameters(),
            loss,
            len(z),
            by_steps(STEPS),
            lr=1e-3,
            weight_decay=1e-4,
            batch_size=256,
        )

    @torch.no_grad()
    def draw(self, obs: pd.DataFrame, seed: int) -> sparse.csr_matrix:
        """Draw latents in 1,000 steps, decode expression, and make counts of it."""
        torch.manual_seed(seed)
        conditions, parts = self.codes(obs), []
        library = self.library[self.strata.draw(obs, np.random.default_rng(seed))]
        times = torch.linspace(1, 0, TIMESTEPS + 1, dtype=torch.float64)
        for rows in batches(len(obs)):
            given = {name: value[rows] for name, value in conditions.items()}
            noise = torch.randn(len(rows), N_LATENT)
            z = DDPM().sample(self.denoiser, noise, conditions=given, times=times)
            parts.append(counts_from_expression(self.decoder(z * self.scale), library[rows]))
        return sparse.vstack(parts, format="csr")

    methods = {"DDPM on an MSE autoencoder": Method(draw)}
