"""Genes drawn one by one: what a generator without any dependence between genes reaches.

Within each type (and batch, where the data have several), every gene is negative binomial with its
mean and its dispersion estimated by moments, given the library size. Library sizes are those of
random training cells, so that genes depend on each other through depth alone.
"""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import torch
from scipy import sparse

from scldm.module import moment_dispersion

from .base import Generator, Method, Strata

__all__ = ["IndependentGenes"]


class IndependentGenes(Generator):
    """A negative binomial for each gene within each type."""

    def fit(self, train: ad.AnnData, seed: int, reference: float) -> None:
        self.strata = Strata(train.obs)
        self.counts = train.X.astype(np.float64)

    def draw(self, obs: pd.DataFrame, seed: int) -> sparse.csr_matrix:
        """Draw counts for conditions."""
        rng = np.random.default_rng(seed)
        drawn = np.empty((len(obs), self.counts.shape[1]), dtype=np.float32)
        for positions, rows in self.strata.groups(obs):
            share, theta, library = moments(self.counts[rows])
            mu = rng.choice(library, len(positions))[:, None] * share
            drawn[positions] = rng.poisson(rng.gamma(theta, mu / theta))
        return sparse.csr_matrix(drawn)

    methods = {"independent NB per gene and type": Method(draw)}


def moments(counts: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each gene's share of the library and dispersion, and each cell's library size."""
    x = counts.toarray()
    library = x.sum(axis=1)
    share = x.sum(axis=0) / library.sum()
    of_genes = (torch.from_numpy(a) for a in (share, np.square(x).sum(axis=0), library @ x))
    theta = moment_dispersion(*of_genes, library.sum(), np.square(library).sum())
    return share, theta.numpy(), library
