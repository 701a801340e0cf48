"""scVI (Lopez et al. 2018, Nature Methods 15:1053), trained with its defaults, and three ways to draw.

From its prior; from the posteriors of random training cells of the type that is asked for, the
"aggregate posterior", which needs the training cells at hand; and, as a reference that no rival can
be, from the posteriors of the test cells themselves.
"""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import scvi
import torch
from scipy import sparse
from torch import Tensor

from .base import Generator, Method, Strata
from .training import batches

__all__ = ["SCVI"]

BATCH = "batch"
TYPE = "cell_type"


class SCVI(Generator):
    """scVI with its defaults; it is given the batch, where there are several, and no types."""

    def fit(self, train: ad.AnnData, seed: int, reference: float) -> None:
        scvi.settings.seed = seed
        data = train.copy()
        scvi.model.SCVI.setup_anndata(data, batch_key=BATCH if BATCH in data.obs else None)
        self.model = scvi.model.SCVI(data)
        self.model.train(enable_progress_bar=False)
        self.obs = train.obs
        self.library = torch.from_numpy(np.asarray(data.X.sum(axis=1)))

    def prior(self, obs: pd.DataFrame, seed: int) -> sparse.csr_matrix:
        """Decode standard normal latents with library sizes of random training cells."""
        torch.manual_seed(seed)
        strata = Strata(self.obs.drop(columns=TYPE, errors="ignore"))
        rows = strata.draw(obs, np.random.default_rng(seed))
        z = torch.randn(len(obs), self.model.module.n_latent)
        return self._counts(z, self.library[rows], self._codes(obs))

    def aggregate(self, obs: pd.DataFrame, seed: int) -> sparse.csr_matrix:
        """Decode posterior draws of training cells with library sizes of others of their type."""
        torch.manual_seed(seed)
        rng, strata = np.random.default_rng(seed), Strata(self.obs)
        rows, others = strata.draw(obs, rng), strata.draw(obs, rng)
        mean, variance = self.model.get_latent_representation(indices=rows, return_dist=True)
        z = torch.from_numpy(mean + np.sqrt(variance) * rng.standard_normal(mean.shape))
        return self._counts(z.float(), self.library[others], self._codes(obs))

    def posterior(self, cells: ad.AnnData, seed: int) -> sparse.csr_matrix:
        """Draw each cell once from its own posterior predictive."""
        torch.manual_seed(seed)
        drawn = self.model.posterior_predictive_sample(cells.copy(), n_samples=1)
        return sparse.csr_matrix(drawn.to_scipy_sparse())

    def _codes(self, obs: pd.DataFrame) -> Tensor:
        """Return the codes of the batches, ``(n, 1)``."""
        manager = self.model.adata_manager
        known = manager.get_state_registry(scvi.REGISTRY_KEYS.BATCH_KEY).categorical_mapping
        codes = pd.Index(known).get_indexer(obs[BATCH]) if BATCH in obs else np.zeros(len(obs))
        return torch.as_tensor(codes).long().unsqueeze(1)

    @torch.inference_mode()
    def _counts(self, z: Tensor, library: Tensor, batch: Tensor) -> sparse.csr_matrix:
        self.model.module.eval()
        parts = []
        for rows in batches(len(z)):
            outputs = self.model.module.generative(z[rows], library[rows].log(), batch[rows])
            parts.append(sparse.csr_matrix(outputs["px"].sample().numpy()))
        return sparse.vstack(parts, format="csr")

    methods = {
        "scVI, N(0, I)": Method(prior, ignores=(TYPE,)),
        "scVI, aggregate posterior": Method(aggregate),
        "scVI, posterior of test cells": Method(posterior, sees_test=True),
    }
