r"""How likely cells are under the model.

The log-density of :math:`[z, \log l]` given a cell's conditions c comes from the diffusion's
probability-flow equation (Song et al. 2021, *Score-based generative modeling through stochastic
differential equations*, section 4.3). The likelihood of the counts integrates over both,

.. math:: p(x | c) = \int p(x | z, l, c) \, p(z, \log l | c) \, dz \, d \log l,

and is bounded from below by importance weights (Burda et al. 2016, *Importance weighted
autoencoders*, equation 8),

.. math:: \log p(x | c) \ge E \log \frac{1}{K} \sum_{k=1}^K
          \frac{p(x | z_k, l_k, c) \, p(z_k, \log l_k | c)}{q(z_k | x) \, q(\log l_k | x)},

with :math:`q(z | x)` the encoder's posterior and :math:`q(\log l | x)` a normal around the log of
the observed library size whose variance is the decoder's for the cell's total count, in units of
its mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.distributions import NegativeBinomial
from torch import Tensor
from torch.distributions import Distribution, Normal

from scldm.module import LatentDiffusion
from scldm.train import Latents

from ._blocks import BLOCK_SIZE, Stream, generator, resolved_seed
from ._cells import encoded, kept_randomness, selected, without_scores
from ._choices import positive

__all__ = ["LikelihoodMixin"]


class LikelihoodMixin:
    """``get_latent_log_density`` and ``get_log_likelihood``."""

    def get_latent_log_density(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        n_probes: int | None = None,
        seed: int | None = None,
    ) -> np.ndarray:
        """Return the log-density of cells' latents and library sizes under the diffusion.

        Low values are cells that the model thinks unusual for their conditions.

        Parameters
        ----------
        adata
            Registered cells; ``None`` takes the training data.
        indices
            Which of them; ``None`` takes all.
        n_probes
            Random probes of the trace in the probability-flow equation, for speed where there are
            many latents. ``None`` computes it exactly.
        seed
            Of the probes; the same seed gives the same values.

        Returns
        -------
        Log-density, in nats, of the mean of each cell's posterior and its log library size
        together, given the cell's own conditions but for gene sets, ``(n_cells,)``. The solver's
        steps are shared by 256 cells, so that the third decimal depends on the others.

        Raises
        ------
        ValueError
            If a value is not allowed.
        RuntimeError
            If the model is not trained.
        """
        self._require("diffusion")
        density = self._density(n_probes, seed)
        cells = without_scores(self, encoded(self, selected(self, adata, indices)))
        return density(cells.mean, cells.log_library, cells.conditions).cpu().numpy()

    def get_log_likelihood(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        n_samples: int = 16,
        n_probes: int | None = None,
        seed: int | None = None,
    ) -> np.ndarray:
        """Return a lower bound on the log-likelihood of cells' counts given their conditions.

        Unlike :meth:`get_elbo`, whose prior is a standard normal, it measures the cells that
        :meth:`generate` makes. It can be compared between conditions of a cell, between cells,
        and between models of the same genes.

        Parameters
        ----------
        adata, indices
            As in :meth:`get_latent_log_density`.
        n_samples
            Draws from each cell's posterior; the more, the tighter is the bound.
        n_probes, seed
            As there; the seed is also that of the draws.

        Returns
        -------
        One draw of the bound for each cell, in nats, ``(n_cells,)``.

        Raises
        ------
        ValueError
            If the autoencoder is vector-quantised or a value is not allowed.
        RuntimeError
            If the model is not trained.
        """
        if getattr(self.module.autoencoder, "quantiser", None) is not None:
            raise ValueError(
                "`get_log_likelihood` is not available with `autoencoder='vq'`: its posterior is "
                "a single point, which has no density to weigh draws by. "
                "`get_latent_log_density()` works."
            )
        self._require("diffusion")
        n_samples = positive("n_samples", n_samples)
        density = self._density(n_probes, seed)
        cells = selected(self, adata, indices)
        latents = without_scores(self, encoded(self, cells))
        decoder = self._decoder_inputs(cells.frame)
        counts = self._make_data_loader(cells.adata, indices=cells.rows, batch_size=BLOCK_SIZE)
        parts = []
        with kept_randomness(self.device):
            for block, tensors in enumerate(counts):
                x = tensors[REGISTRY_KEYS.X_KEY].to(self.device)
                rows = np.arange(block * BLOCK_SIZE, block * BLOCK_SIZE + len(x))
                inputs = {name: value[rows] for name, value in decoder.items()}
                parts.append(self._bound(x, latents[rows], inputs, n_samples, density, block))
        return torch.cat(parts).cpu().numpy()

    def _density(self, n_probes: int | None, seed: int | None) -> _Density:
        self.module.eval()
        return _Density(
            self.module.diffusion,
            self.device,
            None if n_probes is None else positive("n_probes", n_probes),
            resolved_seed(seed),
        )

    def _bound(
        self,
        x: Tensor,
        cells: Latents,
        inputs: Mapping[str, Tensor],
        n_samples: int,
        density: _Density,
        block: int,
    ) -> Tensor:
        """Return the importance-weighted bound of the cells of one block, ``(n,)``."""
        n, d = cells.mean.shape
        mean, variance = cells.mean.to(self.device), cells.variance.to(self.device)
        log_library = cells.log_library.to(self.device)
        spread = _log_library_spread(self._distribution(mean, log_library, inputs))
        centre = torch.cat([mean, log_library], dim=1)
        posterior = Normal(centre, torch.cat([variance.sqrt(), spread], dim=1))
        source = generator(self.device, density.seed, Stream.POSTERIOR, block)
        shape = (n_samples, BLOCK_SIZE, d + 1)
        noise = torch.randn(shape, generator=source, device=self.device)[:, :n]
        drawn = centre + posterior.scale * noise
        # all draws in few passes, as each pass calls the network many times
        conditions = {name: value.repeat(n_samples, 1) for name, value in cells.conditions.items()}
        flat = drawn.flatten(0, 1)
        prior = density(flat[:, :d], flat[:, d:], conditions, block * n_samples)
        weights = prior.reshape(n_samples, n) - posterior.log_prob(drawn).sum(-1)
        for weight, point in zip(weights, drawn, strict=True):
            weight += self._distribution(point[:, :d], point[:, d:], inputs).log_prob(x).sum(-1)
        return weights.logsumexp(0) - math.log(n_samples)


@dataclass
class _Density:
    """The diffusion's log-density of any number of latents.

    Parameters
    ----------
    diffusion, device
        The diffusion and where it is.
    n_probes, seed
        As in :meth:`LikelihoodMixin.get_latent_log_density`, checked.
    """

    diffusion: LatentDiffusion
    device: torch.device
    n_probes: int | None
    seed: int

    def __call__(
        self, z: Tensor, log_library: Tensor, conditions: Mapping[str, Tensor], first: int = 0
    ) -> Tensor:
        """Return ``(n,)`` in nats; ``first`` numbers the first block of probes."""
        parts = []
        for block, start in enumerate(range(0, len(z), BLOCK_SIZE)):
            rows = slice(start, start + BLOCK_SIZE)
            parts.append(
                self.diffusion.log_prob(
                    z[rows].to(self.device),
                    log_library[rows].to(self.device),
                    {name: value[rows].to(self.device) for name, value in conditions.items()},
                    self.n_probes,
                    generator(self.device, self.seed, Stream.PROBES, first + block),
                )
            )
        return torch.cat(parts)


def _log_library_spread(dist: Distribution) -> Tensor:
    r"""Return the spread of the log of a total count around that of its mean, ``(n, 1)``.

    To first order :math:`\sqrt{\sum_g \mu_g + \mu_g^2 / \theta_g} / \sum_g \mu_g`. Zero inflation
    is left out: a proposal need not be exact.
    """
    mu = dist.mu if isinstance(dist, NegativeBinomial) else dist.mean
    variance = mu + mu.square() / dist.theta if isinstance(dist, NegativeBinomial) else mu
    return variance.sum(1, keepdim=True).sqrt() / mu.sum(1, keepdim=True)
