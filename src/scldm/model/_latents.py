"""Latents of new cells, and counts of any latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor
from torch.distributions import Distribution

from scldm.diffusion import Sampler

from ._blocks import Stream, blocks, resolved_seed
from ._generation import to_csr
from ._request import complete

__all__ = ["LatentsMixin"]


class LatentsMixin:
    """``sample_latent`` and ``decode``."""

    def sample_latent(
        self,
        n_cells: int | None = None,
        *,
        seed: int | None = None,
        sampler: str | Sampler = "heun",
        steps: int | None = None,
        guidance_scale: float | Mapping[str, float] = 1.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        guidance_rescale: float = 0.0,
        negative: Mapping[str, Any] | None = None,
        **conditions: Any,
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Draw latents of new cells without decoding them.

        Parameters
        ----------
        n_cells, seed, sampler, steps
            As in :meth:`generate`; the same seed gives the latents of the cells made there.
        guidance_scale, guidance_interval, guidance_rescale, negative, **conditions
            As there.

        Returns
        -------
        Latents, ``(n_cells, n_latent)``, and what belongs to them by argument: the conditions and
        ``library_size``, so that ``decode(z, **what)`` makes counts of them.
        """
        guidance = (guidance_scale, guidance_interval, guidance_rescale, negative)
        order = self._order(n_cells, conditions, seed, sampler, steps, *guidance)
        parts = []
        for block, rows, padded in blocks(order.n_cells):
            z, log_library = self._sample_block(order, block, padded)
            parts.append(torch.cat([z, log_library], dim=1)[: rows.stop - rows.start])
        joined = torch.cat(parts).cpu().numpy()
        # in double precision, so that the way back to the logarithm loses nothing
        what = {"library_size": np.exp(joined[:, -1].astype(np.float64))}
        for condition in self.conditions:
            for argument in condition.arguments:
                values = order.request.frame[condition.columns(argument)].to_numpy()
                if not pd.isna(values).any():
                    what[argument] = values[:, 0] if values.shape[1] == 1 else values
        return joined[:, :-1], what

    def decode(
        self,
        z: np.ndarray,
        library_size: float | np.ndarray,
        *,
        seed: int | None = None,
        return_mean: bool = False,
        return_dist: bool = False,
        **conditions: Any,
    ) -> sparse.csr_matrix | np.ndarray | Distribution:
        """Decode latents to counts.

        Parameters
        ----------
        z
            Latents, ``(n, n_latent)``.
        library_size
            Library size of all cells or of each.
        seed
            Of the draw of counts.
        return_mean
            Return the means and draw nothing.
        return_dist
            Return the distribution and draw nothing.
        **conditions
            As in :meth:`generate`; the decoder uses batch and covariates.

        Returns
        -------
        Counts as CSR, ``(n, n_genes)``; or the means; or the distribution.

        Raises
        ------
        ValueError
            If shapes do not fit, a value is not finite, or a condition is not known.
        RuntimeError
            If stage 1 is not trained.
        """
        self._require("autoencoder")
        latents = self._checked_latents(z)
        log_library = _checked_log_library(library_size, len(z))
        seed = resolved_seed(seed)
        rng = np.random.default_rng((seed, Stream.REQUEST))
        request = complete(self.conditions, conditions, len(z), self.training_frame_, rng)
        inputs = self._decoder_inputs(request.frame)
        if return_mean or return_dist:
            dist = self._distribution(latents, log_library, inputs)
            return dist if return_dist else dist.mean.cpu().numpy()
        parts = []
        for block, rows, padded in blocks(len(z)):
            cut = {name: values[padded] for name, values in inputs.items()}
            x = self._count_block(latents[padded], log_library[padded], cut, seed, block)
            parts.append(to_csr(x[: rows.stop - rows.start]))
        return sparse.vstack(parts, format="csr")

    def _checked_latents(self, z: np.ndarray) -> Tensor:
        z = np.asarray(z, dtype=np.float32)
        n_latent = self.module.diffusion.n_latent
        if z.ndim != 2 or z.shape[1] != n_latent or not len(z):
            raise ValueError(f"`z` has shape {z.shape}, but must be (n_cells, {n_latent}).")
        if not np.isfinite(z).all():
            raise ValueError("`z` has NaN or infinite values; finite ones are allowed.")
        return torch.from_numpy(z)


def _checked_log_library(library_size: float | np.ndarray, n: int) -> Tensor:
    sizes = np.asarray(library_size, dtype=np.float64).reshape(-1, 1)
    if len(sizes) not in (1, n):
        raise ValueError(f"`library_size` has {len(sizes)} values for {n} cells.")
    if not (np.isfinite(sizes) & (sizes > 0)).all():
        raise ValueError("`library_size` must be above 0 and finite.")
    return torch.from_numpy(np.broadcast_to(np.log(sizes), (n, 1)).astype(np.float32))
