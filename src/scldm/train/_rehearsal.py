"""Cells that a model made before it is trained on others, so that it goes on making them.

Trained on few new cells alone, a network forgets the many that it was trained on before, and those are
often not at hand. But the model can make cells like them, latents and counts, and learn from these
beside the new ones.

References
----------
Shin et al. (2017), *Continual learning with deep generative replay*, NeurIPS.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy import sparse
from torch import Tensor

from scldm.module import CountAutoencoder, LatentDiffusion

from ._latents import Latents

__all__ = ["Rehearsal"]


@dataclass
class Rehearsal:
    """Generated cells to learn from beside new ones, as many as these in each minibatch.

    Parameters
    ----------
    latents
        Latents without variance, log library sizes and conditions.
    counts
        ``(n, n_genes)``.
    inputs
        What the decoder depends on besides, see :meth:`scldm.module.CountAutoencoder.decode`.
    """

    latents: Latents
    counts: sparse.csr_matrix
    inputs: dict[str, Tensor]

    def decoding_loss(self, autoencoder: CountAutoencoder, n_cells: int) -> Tensor:
        """Return the mean negative log-likelihood of the counts of some cells, in nats."""
        rows = torch.randint(len(self.latents), (n_cells,)).numpy()
        device = next(autoencoder.parameters()).device
        cells = self.latents[rows]
        distribution = autoencoder.decode(
            cells.mean.to(device),
            cells.log_library.to(device),
            **{name: values[rows].to(device) for name, values in self.inputs.items()},
        )
        counts = torch.from_numpy(self.counts[rows].toarray()).to(device)
        return -distribution.log_prob(counts).sum(1).mean()

    def diffusion_loss(self, diffusion: LatentDiffusion, n_cells: int) -> Tensor:
        """Return the mean loss of the diffusion on some cells."""
        cells = self.latents[torch.randint(len(self.latents), (n_cells,)).numpy()]
        device = diffusion.shift.device
        x_0 = diffusion.standardise(cells.mean.to(device), cells.log_library.to(device))
        conditions = {name: value.to(device) for name, value in cells.conditions.items()}
        return diffusion.loss(x_0, conditions).mean()
