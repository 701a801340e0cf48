"""From a request to cells of several modalities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from scipy import sparse
from scvi.utils import track
from torch import Tensor
from torch.distributions import Distribution

from scldm.diffusion import Heun, Sampler
from scldm.module import ASKED, decoder_inputs, given_key, sample_counts

from ._blocks import BLOCK_SIZE, Stream, blocks, generator
from ._choices import positive
from ._generation import GenerationMixin, to_csr
from ._order import DISTILLED, Order, checked_sampler, is_distilled

__all__ = ["JointGenerationMixin", "joint_sampler"]

_HEUN_STEPS = 16

LatentsOf = Callable[[int, np.ndarray], tuple[Tensor, Tensor]]


def joint_sampler(sampler: str | Sampler, steps: int | None) -> tuple[Sampler, int | None]:
    """Return the rule and its number of steps, more than its own where none is given.

    Latents of several modalities depend on one another, and on few steps their spread is too small.
    """
    if is_distilled(sampler):
        raise ValueError(
            f"`sampler={DISTILLED!r}` needs a student, which this model does not make."
        )
    rule, n_steps = checked_sampler(sampler, steps, 0)
    if steps is not None or n_steps is None:
        return rule, n_steps
    return rule, _HEUN_STEPS if isinstance(rule, Heun) else 3 * n_steps


class JointGenerationMixin(GenerationMixin):
    """``generate`` for several modalities."""

    def _order(
        self,
        n_cells: int | None,
        given: Mapping[str, Any],
        seed: int | None,
        sampler: str | Sampler,
        steps: int | None,
        *guidance: Any,
    ) -> Order:
        rule, n_steps = joint_sampler(sampler, steps)
        order = super()._order(n_cells, given, seed, rule, n_steps, *guidance)
        order.request.encoded.update(self._asked(len(order.request.frame), self.modalities))
        return order

    def _asked(self, n: int, modalities: list[str]) -> dict[str, np.ndarray]:
        """Return the network's input for cells of which some modalities are asked and none given."""
        owner = self.module.diffusion.owner.tolist()
        asked = np.zeros((n, len(self.modalities)), dtype=np.float32)
        given = {}
        for m, name in enumerate(self.modalities):
            asked[:, m] = name in modalities
            given[given_key(name)] = np.full((n, owner.count(m)), np.nan, dtype=np.float32)
        return {ASKED: asked, **given}

    def _decoded(
        self,
        frame: pd.DataFrame,
        latents_of: LatentsOf,
        seed: int,
        batch_size: int,
        show_progress: bool = False,
    ) -> MuData | AnnData:
        """Return cells with counts of all modalities drawn block by block."""
        counts, latents = self._counts_of(
            frame, latents_of, self.modalities, seed, batch_size, show_progress
        )
        names = pd.Index([f"generated_{i}" for i in range(len(frame))])
        cells = self._cells(frame, names)
        cells.obsm["X_scldm"] = latents
        return self.layout.write(cells, {n: self._part(n, x, names) for n, x in counts.items()})

    def _counts_of(
        self,
        frame: pd.DataFrame,
        latents_of: LatentsOf,
        modalities: list[str],
        seed: int,
        batch_size: int,
        show_progress: bool = False,
    ) -> tuple[dict[str, sparse.csr_matrix], np.ndarray]:
        """Return counts by modality, and latents.

        Parameters
        ----------
        frame
            Conditions of the cells.
        latents_of
            Takes a block's number and rows, and returns its latents and log sizes.
        modalities
            Those to draw.
        seed, batch_size, show_progress
            As in :meth:`generate`.
        """
        batch_size = positive("batch_size", batch_size)
        inputs = self._decoder_inputs(frame)
        counts: dict[str, list] = {name: [] for name in modalities}
        dense: dict[str, list[Tensor]] = {name: [] for name in modalities}
        latents = []
        all_blocks = list(blocks(len(frame)))
        for block, rows, padded in track(all_blocks, "Generating", disable=not show_progress):
            z, log_sizes = latents_of(block, padded)
            n = rows.stop - rows.start
            latents.append(z[:n].cpu().numpy())
            own = {name: values[padded] for name, values in inputs.items()}
            full = (len(latents) * BLOCK_SIZE) % max(batch_size, BLOCK_SIZE) < BLOCK_SIZE
            for name in modalities:
                dist = self._distribution_of(name, z, log_sizes, own)
                # one stream for each modality
                stream = block * len(self.modalities) + self.modalities.index(name)
                source = generator(self.device, seed, Stream.COUNTS, stream)
                dense[name].append(sample_counts(dist, source)[:n])
                if full or rows.stop == len(frame):
                    counts[name].append(to_csr(torch.cat(dense[name])))
                    dense[name] = []
        joined = {name: sparse.vstack(parts, format="csr") for name, parts in counts.items()}
        return joined, np.concatenate(latents)

    @torch.inference_mode()
    def _distribution_of(
        self, modality: str, z: Tensor, log_sizes: Tensor, inputs: dict[str, Tensor]
    ) -> Distribution:
        """Return the distribution of a modality's counts of cells with latents of all."""
        self.module.eval()
        m = self.modalities.index(modality)
        owner = self.module.diffusion.owner.to(z.device)
        n_latent = z.shape[1]
        categories, continuous = decoder_inputs(
            **{name: values.to(self.device) for name, values in inputs.items()}
        )
        return self.module.autoencoder[modality].decode(
            z[:, owner[:n_latent] == m],
            log_sizes[:, owner[n_latent:] == m],
            categories,
            continuous,
        )

    def _cells(self, frame: pd.DataFrame, names: pd.Index) -> AnnData:
        """Return cells without counts, their conditions where the user's data have them."""
        cells = AnnData(obs=pd.DataFrame(index=names))
        for condition in self.conditions:
            condition.write(frame, cells)
        return cells

    def _part(self, modality: str, counts: Any, names: pd.Index) -> AnnData:
        """Return one modality of cells."""
        return AnnData(
            X=counts,
            obs=pd.DataFrame(index=names),
            var=self.var_.get(modality, pd.DataFrame(index=self.features(modality))).copy(),
        )
