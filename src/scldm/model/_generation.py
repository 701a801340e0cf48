"""From a request to cells."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse
from torch import Tensor
from torch.distributions import Distribution
from tqdm.auto import tqdm

from scldm.diffusion import Sampler
from scldm.module import sample_counts
from scldm.nn import keeping_signals

from ._blocks import BLOCK_SIZE, Stream, blocks, generator, resolved_seed
from ._choices import flag, positive
from ._order import Order, checked_guidance, checked_sampler, is_distilled
from ._provenance import provenance, recorded
from ._request import complete
from ._streaming import Part, PartStore, checked_out, checked_shard, fingerprint

__all__ = ["GenerationMixin", "from_array", "to_csr"]

_SAID = {"spatial": "spatial stage"}
_CELLS_OF_A_PART = 4096

LatentsOf = Callable[[int, np.ndarray], tuple[Tensor, Tensor]]
"""Takes a block's number and rows, and returns its latents and log library sizes."""

DrawCounts = Callable[[Distribution, int, np.ndarray], Tensor]
"""Takes the distribution of a block's counts, its number and rows, and returns counts."""


class GenerationMixin:
    """``generate``."""

    @recorded
    def generate(
        self,
        n_cells: int | None = None,
        *,
        seed: int | None = None,
        batch_size: int = 1024,
        sampler: str | Sampler = "heun",
        steps: int | None = None,
        guidance_scale: float | Mapping[str, float] = 1.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        guidance_rescale: float = 0.0,
        negative: Mapping[str, Any] | None = None,
        show_progress: bool = False,
        out: str | os.PathLike | None = None,
        shard: tuple[int, int] | None = None,
        **conditions: Any,
    ) -> AnnData | Path:
        """Generate new cells.

        Parameters
        ----------
        n_cells
            How many. Not needed where a condition has one value for each cell.
        seed
            The same seed gives the same cells, whatever the batch size. ``None`` draws one from
            torch's global state, which ``scvi.settings.seed`` sets; it is recorded.
        batch_size
            Cells held as dense counts at a time, in whole blocks of 256.
        sampler
            One of :data:`scldm.diffusion.SAMPLERS`, a sampler, or ``"distilled"`` after
            :meth:`distill`.
        steps
            Steps of the sampler; ``None`` takes its own number.
        guidance_scale
            Strength of classifier-free guidance: 1 is none, above 1 makes cells more typical of their
            conditions and less diverse. A mapping has a scale for each of several conditions or members of
            a combination, composed as if they were independent, also for combinations not seen.
        guidance_interval
            Times, from 0 (data) to 1 (noise), between which to guide.
        guidance_rescale
            Share, from 0 to 1, by which guided latents get back the spread of unguided ones.
        negative
            Conditions that guidance moves away from, in place of none; needs a scale above 1.
        show_progress
            Whether to show a progress bar, with cells per second.
        out
            A file to write the cells to as they are made, ``.h5ad`` or ``.zarr``, which is whole or absent.
            Counts of no more than 4,096 cells are in memory at a time. Where a call was cut off, the same
            call goes on, and the cells are the same.
        shard
            With ``out``, this process's number, from 0, and the number of processes that share the work,
            each with the same call. When all are done, a call without it makes the file.
        **conditions
            Registered conditions by name: ``cell_type``, ``batch``, ``perturbation``, ``dose``,
            ``time``, ``spatial``, ``source``, ``gene_sets``, or a covariate's column. One value
            holds for all cells, a list or array has one for each. A condition that is left out is
            drawn from the training cells that match the given ones: those with the same
            categories and the same numbers, or else the nearest numbers. ``None`` asks for cells
            regardless of it. Gene sets that are left out are left free.

        Returns
        -------
        Counts as CSR in ``X``; ``var`` of the training data; in ``obs`` (``obsm`` for
        coordinates) every registered condition under the user's own name; latents in
        ``obsm["X_scldm"]``; and how it was made in ``uns["scldm"]``. With ``out`` the path of the file; of
        a shard, the folder of its parts.

        Raises
        ------
        ValueError
            If a condition is not registered, a value not known, lengths do not agree, ``out`` has another
            ending, or cells of another order are being written there.
        OSError
            If ``out`` exists or nothing can be written there; parts that were made are kept.
        RuntimeError
            If the model is not trained.

        Warns
        -----
        UserWarning
            If numbers lie outside of those of training cells, or no cell has what is asked for.
        """
        show_progress = flag("show_progress", show_progress)
        batch_size = positive("batch_size", batch_size)
        guidance = (guidance_scale, guidance_interval, guidance_rescale, negative)
        if shard is not None and out is None:
            raise ValueError("`shard` needs `out`, the file that processes write together.")
        path = None if out is None else checked_out(out)
        if shard is not None and seed is None:
            raise ValueError("`shard` needs a `seed`, the same for all processes.")
        of_all = checked_shard(shard)
        if path is not None and seed is None:
            seed = PartStore.seed_of(path)
        order = self._order(n_cells, conditions, seed, sampler, steps, *guidance)

        def latents_of(block: int, rows: np.ndarray) -> tuple[Tensor, Tensor]:
            return self._sample_block(order, block, rows)

        if path is not None:
            return self._streamed(order, latents_of, path, of_all, show_progress)
        frame = order.request.frame
        adata = self._decoded(frame, latents_of, order.seed, batch_size, show_progress)
        adata.uns["scldm"] = {**provenance(), **order.record()}
        return adata

    def _streamed(
        self,
        order: Order,
        latents_of: LatentsOf,
        path: Path,
        shard: tuple[int, int],
        show_progress: bool,
    ) -> Path:
        """Write cells to a file part by part."""
        frame = order.request.frame
        store = PartStore(
            path,
            fingerprint(self.module, frame, order.record()),
            -(-len(frame) // _CELLS_OF_A_PART),
            order.seed,
        )
        wanted = store.missing(shard)
        drawn = self._parts(frame, latents_of, order.seed, _CELLS_OF_A_PART, show_progress, wanted)
        for i, part in zip(wanted, drawn, strict=True):
            store.put(i, part)
        # of processes that share the work none knows that it is the last
        if shard[1] > 1:
            return store.folder
        head = self._as_anndata(
            frame,
            sparse.csr_matrix((len(frame), len(self.var_names)), dtype=np.float32),
            None,
            np.zeros(len(frame)),
        )
        head.uns["scldm"] = {**provenance(), **order.record()}
        return store.join(head, self.registry_["setup_args"]["library_size_key"])

    @classmethod
    def _reserved_names(cls) -> set[str]:
        """Return names that a covariate cannot have, as they mean something in ``generate``."""
        names = {"cell_type", "batch", "perturbation", "dose", "time", "spatial"}
        names |= {f"spatial_{axis}" for axis in range(3)} | {"source", "gene_sets"}
        # for arguments that sampling methods have or may come to have
        names |= {"adata", "cells", "coordinates", "indices", "method", "n_samples", "out"}
        names |= {"start", "end", "times", "neighbours", "factor", "conserve", "reference"}
        names |= {"z", "library_size", "return_mean", "return_dist", "adjacent", "target"}
        taken = inspect.signature(GenerationMixin.generate).parameters
        return names | set(taken) - {"self", "conditions"}

    def _require(self, stage: str) -> None:
        if not getattr(self, f"{stage}_trained_"):
            raise RuntimeError(
                f"The {_SAID.get(stage, stage)} is not trained. Call `train()`, or `train_{stage}()` for this stage."
            )

    def _order(
        self,
        n_cells: int | None,
        given: Mapping[str, Any],
        seed: int | None,
        sampler: str | Sampler,
        steps: int | None,
        *guidance: Any,
    ) -> Order:
        self._require("diffusion")
        rule, n_steps = checked_sampler(sampler, steps, self.module.diffusion.n_student_steps)
        seed = resolved_seed(seed)
        rng = np.random.default_rng((seed, Stream.REQUEST))
        request = complete(self.conditions, given, n_cells, self.training_frame_, rng)
        guided = checked_guidance(self.conditions, request, *guidance)
        if not is_distilled(sampler):
            return Order(request, seed, rule, n_steps, guided)
        if guided.scale != 1:
            raise ValueError(
                "`guidance_scale` has no meaning for a student; give it to `distill()` instead."
            )
        return Order(request, seed, rule, n_steps, guided, self.student_)

    def _decoded(
        self,
        frame: pd.DataFrame,
        latents_of: LatentsOf,
        seed: int,
        batch_size: int,
        show_progress: bool = False,
    ) -> AnnData:
        """Return cells with counts drawn block by block.

        Parameters
        ----------
        frame
            Conditions of the cells.
        latents_of
            Takes a block's number and rows, and returns its latents and log library sizes.
        seed, batch_size, show_progress
            As in :meth:`generate`.
        """
        return self._assembled(
            frame, self._parts(frame, latents_of, seed, batch_size, show_progress)
        )

    def _assembled(self, frame: pd.DataFrame, parts: Iterable[Part]) -> AnnData:
        counts, latents, sizes = zip(*parts, strict=True)
        joined = np.concatenate(latents), np.concatenate(sizes)
        return self._as_anndata(frame, sparse.vstack(counts, format="csr"), *joined)

    def _parts(
        self,
        frame: pd.DataFrame,
        latents_of: LatentsOf,
        seed: int,
        batch_size: int,
        show_progress: bool = False,
        wanted: Sequence[int] | None = None,
        draw: DrawCounts | None = None,
    ) -> Iterator[Part]:
        """Yield cells in parts of ``batch_size``, in whole blocks; all parts or some by their numbers.

        Counts are new draws, or what ``draw`` makes of their distributions.
        """
        in_a_part = -(-positive("batch_size", batch_size) // BLOCK_SIZE)
        decoder = self._decoder_inputs(frame)
        all_blocks = list(blocks(len(frame)))
        starts = range(0, len(all_blocks), in_a_part)
        chosen = list(starts) if wanted is None else [starts[i] for i in wanted]
        total = sum(
            rows.stop - rows.start for i in chosen for _, rows, _ in all_blocks[i : i + in_a_part]
        )
        options = {"unit": " cells", "unit_scale": True, "disable": not show_progress}
        with tqdm(total=total, desc="Generating", **options) as progress:
            for start in chosen:
                counts, latents, sizes = [], [], []
                for block, rows, padded in all_blocks[start : start + in_a_part]:
                    z, log_library = latents_of(block, padded)
                    inputs = {name: values[padded] for name, values in decoder.items()}
                    if draw is None:
                        x = self._count_block(z, log_library, inputs, seed, block)
                    else:
                        x = draw(self._distribution(z, log_library, inputs), block, padded)
                    n = rows.stop - rows.start
                    counts.append(x[:n])
                    latents.append(z[:n].cpu().numpy())
                    sizes.append(log_library[:n, 0].exp().cpu().numpy())
                    progress.update(n)
                yield Part(
                    to_csr(torch.cat(counts)), np.concatenate(latents), np.concatenate(sizes)
                )

    def _as_anndata(
        self,
        frame: pd.DataFrame,
        counts: sparse.csr_matrix | np.ndarray,
        latents: np.ndarray | None,
        library_sizes: np.ndarray,
    ) -> AnnData:
        """Return cells with their conditions where the user's data have them."""
        adata = AnnData(
            X=counts,
            obs=pd.DataFrame(index=[f"generated_{i}" for i in range(len(frame))]),
            var=pd.DataFrame(index=self.var_names) if self.var_ is None else self.var_.copy(),
        )
        for condition in self.conditions:
            condition.write(frame, adata)
        library_size_key = self.registry_["setup_args"]["library_size_key"]
        if library_size_key is not None:
            adata.obs[library_size_key] = library_sizes
        if latents is not None:
            adata.obsm["X_scldm"] = latents
        return adata

    @torch.inference_mode()
    def _sample_block(
        self, order: Order, block: int, rows: np.ndarray, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return latents and log library sizes of one whole block, of given noise or new."""
        diffusion = self.module.diffusion
        source = generator(self.device, order.seed, Stream.LATENT, block)
        if noise is None:
            shape = (BLOCK_SIZE, diffusion.n_dims)
            noise = torch.randn(shape, generator=source, device=self.device)
        if order.student is not None:
            denoiser = diffusion.student
        else:
            guidance = order.guidance.of_block(lambda encoded: self._on_device(encoded, rows))
            denoiser = diffusion.denoiser(**guidance)
        encoded = self._on_device(order.request.encoded, rows)
        with keeping_signals(order.signals):
            z, log_library = diffusion.sample(
                noise, encoded, order.sampler, order.steps, source, denoiser
            )
        return self.module.autoencoder.allowed(z), log_library

    def _on_device(
        self, encoded: Mapping[str, np.ndarray], rows: np.ndarray | slice
    ) -> dict[str, Tensor]:
        return {
            name: torch.from_numpy(values[rows]).to(self.device)
            for name, values in encoded.items()
        }

    @torch.inference_mode()
    def _count_block(
        self, z: Tensor, log_library: Tensor, inputs: Mapping[str, Tensor], seed: int, block: int
    ) -> Tensor:
        """Draw the counts of one whole block, ``(256, n_genes)``."""
        dist = self._distribution(z, log_library, inputs)
        return sample_counts(dist, generator(self.device, seed, Stream.COUNTS, block))

    @torch.inference_mode()
    def _distribution(
        self, z: Tensor, log_library: Tensor, inputs: Mapping[str, Tensor]
    ) -> Distribution:
        # to ask costs nothing, to set takes as long as a layer; a stage that broke off leaves it set
        if self.module.autoencoder.training:
            self.module.eval()
        on_device = {name: values.to(self.device) for name, values in inputs.items()}
        return self.module.autoencoder.decode(
            z.to(self.device), log_library.to(self.device), **on_device
        )

    def _decoder_inputs(self, frame: pd.DataFrame) -> dict[str, Tensor]:
        """Return what the decoder depends on besides latents, one row for each cell."""
        encoded = {c.name: c for c in self.conditions}

        def codes(name: str) -> Tensor:
            if name not in encoded or frame[name].isna().any():
                return torch.zeros(len(frame), 1, dtype=torch.long)
            return torch.from_numpy(encoded[name].encode(frame)).long()

        setup = self.registry_["setup_args"]
        inputs = {"batch_index": codes("batch"), "labels": codes("cell_type")}
        if categorical := setup["categorical_covariate_keys"]:
            inputs["cat_covs"] = torch.cat([codes(name) for name in categorical], dim=1)
        if continuous := setup["continuous_covariate_keys"]:
            # as they are: scvi-tools trains the decoder on them without scaling
            inputs["cont_covs"] = torch.from_numpy(frame[continuous].to_numpy(np.float32))
        return inputs


def to_csr(counts: Tensor) -> sparse.csr_matrix:
    """Return dense counts as a sparse matrix."""
    return sparse.csr_matrix(counts.cpu().numpy())


def from_array(
    x: np.ndarray, device: torch.device
) -> Callable[[int, np.ndarray], tuple[Tensor, Tensor]]:
    """Return what hands out rows of latents and log library sizes, ``(n, n_latent + 1)``."""

    def latents_of(block: int, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        cells = torch.from_numpy(x[rows]).to(device)
        return cells[:, :-1], cells[:, -1:]

    return latents_of
