"""Cells of which some modalities are known and others asked, from a user's data to latents."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse
from scvi import REGISTRY_KEYS
from torch import Tensor

from scldm._warnings import warn
from scldm.diffusion import Sampler
from scldm.module import ASKED, PRESENT, counts_key, given_key
from scldm.train import Latents

from ._blocks import BLOCK_SIZE, Stream, blocks, generator
from ._cells import kept_randomness
from ._fields import shortened
from ._modalities import FEATURES, Joined
from ._ranges import warn_beyond
from ._request import put_in

__all__ = ["Task", "TasksMixin", "dense", "direction"]

_ROWS_AT_A_TIME = 1024


def dense(x: Any) -> np.ndarray:
    """Return a dense array of a dense or sparse one."""
    return x.toarray() if sparse.issparse(x) else np.asarray(x)


def direction(sources: Sequence[str], target: str) -> str:
    """Return the name of a direction, ``"rna and atac to protein"``; sources in the model's order."""
    return f"{' and '.join(sources)} to {target}"


class Task(NamedTuple):
    """Cells, what is known of them and what is asked.

    ``frame`` has their conditions, ``encoded`` the network's input; a row for each cell.
    """

    cells: Joined
    frame: pd.DataFrame
    encoded: dict[str, np.ndarray]
    described: dict[str, str]

    def at(self, rows: np.ndarray) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
        """Return conditions and inputs of some cells, which may be named many times."""
        frame = self.frame.iloc[rows].reset_index(drop=True)
        return frame, {name: value[rows] for name, value in self.encoded.items()}


class TasksMixin:
    """What the methods share that answer for some modalities given others."""

    spreads_: dict[str, float] | None = None
    """By what is predicted of what, see :func:`direction`, the factor of the noise it starts from."""

    def _joined(self, data: Any, names: Sequence[str]) -> Joined:
        """Return cells of the user, or the training data, as a table."""
        if data is None or data is self._data:
            return Joined(self._adata_manager_or_raise().adata)
        features = {name: self.features(name) for name in names}
        cells = self.layout.join_known(data, names, features)
        for name in cells.adata.uns[FEATURES]:
            self._refuse_large(name, cells.adata.obsm[name].max())
        for name, lacking in cells.missing.items():
            _warn_of_missing(name, lacking, len(features[name]))
        return cells

    @torch.inference_mode()
    def _encode_table(self, adata: AnnData) -> Latents:
        """Encode cells that need not be registered."""
        self.module.eval()
        known = list(adata.uns[FEATURES])
        n = adata.n_obs
        present = np.zeros((n, len(self.modalities)), dtype=np.float32)
        held = np.asarray(adata.obsm[PRESENT])
        for m, name in enumerate(self.modalities):
            if name in known:
                present[:, m] = held[:, known.index(name)]
        parts = []
        for start in range(0, n, _ROWS_AT_A_TIME):
            rows = slice(start, start + _ROWS_AT_A_TIME)
            own = torch.from_numpy(present[rows]).to(self.device)
            tensors = {PRESENT: own, REGISTRY_KEYS.BATCH_KEY: own[:, :1]}
            for name in self.modalities:
                x = dense(adata.obsm[name][rows]) if name in known else np.zeros((len(own), 1))
                tensors[counts_key(name)] = torch.from_numpy(x.astype(np.float32)).to(self.device)
            with kept_randomness(self.device):
                parts.append([part.cpu() for part in self.module.autoencoder.encode(tensors)])
        mean, variance, log_size = (torch.cat(part) for part in zip(*parts, strict=True))
        return Latents(mean, variance, log_size, {})

    def _task(
        self,
        cells: Joined,
        sources: Sequence[str],
        targets: Sequence[str],
        given: Mapping[str, Any],
        need_sources: bool = True,
    ) -> Task:
        """Return what is known of cells and asked of them.

        A modality that is both source and target is given to the cells that have it and asked of the
        others.
        """
        adata = cells.adata
        n = adata.n_obs
        has = {name: cells.present(name) for name in adata.uns[FEATURES]}
        any_source = np.any([has[s] for s in sources if s in has] or [np.zeros(n, bool)], axis=0)
        if need_sources and not any_source.all():
            raise ValueError(f"{int((~any_source).sum())} of {n} cells have none of {sources}.")
        frame, encoded, described = self._own_conditions(adata, given)
        known = self._asked(n, list(targets))
        latents = self._encode_table(adata)
        own = self.module.diffusion.given(latents.mean, latents.log_library)
        for m, name in enumerate(self.modalities):
            if name in sources and name in has:
                known[given_key(name)] = own[given_key(name)].numpy()
                known[ASKED][has[name], m] = 0
        return Task(cells, frame, {**encoded, **known}, described)

    def _own_conditions(
        self, adata: AnnData, given: Mapping[str, Any]
    ) -> tuple[pd.DataFrame, dict[str, np.ndarray], dict[str, str]]:
        """Return cells' conditions, encoded too, some taken from the user and some left open."""
        frame = pd.DataFrame(index=pd.RangeIndex(adata.n_obs))
        stand_in = self.training_frame_.iloc[np.zeros(adata.n_obs, int)].reset_index(drop=True)
        owners = {argument: c for c in self.conditions for argument in c.arguments}
        left_open, described = set(), {}
        for condition in self.conditions:
            columns = [name for a in condition.arguments for name in condition.columns(a)]
            try:
                frame = frame.join(condition.read(adata).reset_index(drop=True))
                described[condition.name] = "the cells' own"
            except (KeyError, ValueError) as error:
                if isinstance(error, ValueError) and condition.name not in given:
                    raise
                if condition.in_decoder and given.get(condition.name) is None:
                    raise ValueError(
                        f"The data do not say their {condition.name.replace('_', ' ')}, on which the "
                        f"decoders depend. Give `{condition.name}=`."
                    ) from None
                frame = frame.join(stand_in[columns])
                if condition.name not in given:
                    left_open.add(condition.name)
        for argument, value in given.items():
            if argument in owners and value is None:
                if owners[argument].in_decoder:
                    raise ValueError(f"`{argument}=None`, but the decoders depend on it.")
                left_open.add(owners[argument].name)
        changes = {name: value for name, value in given.items() if value is not None}
        frame, parsed = put_in(self.conditions, frame, changes)
        warn_beyond(self.conditions, parsed, frame, self.training_frame_)
        for argument, values in parsed.items():
            described[argument] = owners[argument].describe(values)
        encoded = {}
        for condition in self.conditions:
            values = condition.encode(frame)
            if condition.name in left_open:
                values = np.full_like(values, np.nan)
                described[condition.name] = "unconditional"
                frame[[c for a in condition.arguments for c in condition.columns(a)]] = np.nan
            encoded[condition.name] = values
        return frame, encoded, described

    def _sampling(
        self,
        task: Task,
        rows: np.ndarray,
        seed: int,
        rule: Sampler,
        steps: int | None,
        guidance_scale: float = 1.0,
        spreads: Mapping[str, float] | None = None,
    ) -> tuple[pd.DataFrame, Callable[[int, np.ndarray], tuple[Tensor, Tensor]]]:
        """Return conditions of cells, and what makes latents of a block of them.

        ``spreads`` are factors of the noise by direction, those of the model by default.
        """
        frame, encoded = task.at(rows)
        diffusion = self.module.diffusion
        if spreads is None:
            spreads = self._spreads_with(rule, guidance_scale)
        factors = self._noise_factors(encoded, spreads)
        owner = diffusion.owner.cpu()
        denoiser = diffusion.denoiser(scale=float(guidance_scale))

        @torch.inference_mode()
        def latents_of(block: int, padded: np.ndarray) -> tuple[Tensor, Tensor]:
            self.module.eval()
            source = generator(self.device, seed, Stream.LATENT, block)
            shape = (BLOCK_SIZE, diffusion.n_dims)
            noise = torch.randn(shape, generator=source, device=self.device)
            noise *= torch.from_numpy(factors[padded])[:, owner].to(self.device)
            known = self._on_device(encoded, padded)
            return diffusion.sample(noise, known, rule, steps, source, denoiser)

        return frame, latents_of

    def _noise_factors(
        self, encoded: Mapping[str, np.ndarray], spreads: Mapping[str, float]
    ) -> np.ndarray:
        """Return the factor of each modality's noise for each cell, ``(n, n_modalities)``."""
        factors = np.ones(encoded[ASKED].shape, dtype=np.float32)
        for cells, names in self._directions_of(encoded):
            factors[cells] = [spreads.get(name, 1.0) for name in names]
        return factors

    def _spreads_with(self, rule: Sampler, guidance_scale: float) -> Mapping[str, float]:
        """Return the factors that were found, where they hold: a stochastic rule has a spread of its own."""
        known = rule.deterministic and guidance_scale == 1.0
        return (self.spreads_ or {}) if known else {}

    def _spread_of(
        self, task: Task, rule: Sampler, guidance_scale: float = 1.0
    ) -> dict[str, float]:
        """Return the factor of the noise of each direction that cells are predicted in."""
        spreads = self._spreads_with(rule, guidance_scale)
        return {
            name: spreads.get(name, 1.0)
            for cells, names in self._directions_of(task.encoded)
            for name, asked in zip(names, task.encoded[ASKED][cells].any(axis=0), strict=True)
            if asked
        }

    def _directions_of(
        self, encoded: Mapping[str, np.ndarray]
    ) -> Iterator[tuple[np.ndarray, list[str]]]:
        """Yield cells that have the same modalities, and the direction to each modality from these."""
        names = self.modalities
        held = np.stack([~np.isnan(encoded[given_key(m)]).any(axis=1) for m in names], axis=1)
        for has in np.unique(held, axis=0):
            sources = [name for name, own in zip(names, has, strict=True) if own]
            cells = np.flatnonzero((held == has).all(axis=1))
            yield cells, [direction(sources, name) for name in names]

    @torch.inference_mode()
    def _means_of(
        self,
        frame: pd.DataFrame,
        latents_of: Callable[[int, np.ndarray], tuple[Tensor, Tensor]],
        modalities: list[str],
        n_samples: int,
        spread_of: Collection[str] = (),
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Return expected counts by modality, means over the samples that follow one another.

        And of some the standard deviations: of counting, and of what the samples differ in.
        """
        n = len(frame) // n_samples
        means, squares = (
            {m: np.zeros((n, len(self.features(m))), np.float32) for m in some}
            for some in (modalities, spread_of)
        )
        inputs = self._decoder_inputs(frame)
        for block, rows, padded in blocks(len(frame)):
            z, log_sizes = latents_of(block, padded)
            own = {name: values[padded] for name, values in inputs.items()}
            at = np.arange(rows.start, rows.stop) // n_samples
            for name in modalities:
                dist = self._distribution_of(name, z, log_sizes, own)
                mean = dist.mean[: len(at)].cpu().numpy()
                np.add.at(means[name], at, mean / n_samples)
                if name in squares:
                    variance = dist.variance[: len(at)].cpu().numpy()
                    np.add.at(squares[name], at, (variance + mean**2) / n_samples)
        return means, {m: np.sqrt(np.maximum(x - means[m] ** 2, 0)) for m, x in squares.items()}


def _warn_of_missing(modality: str, missing: list[str], n_features: int) -> None:
    warn(
        f"The {modality} data lack {len(missing)} of the model's {n_features} features, which are "
        f"taken for zero: {shortened(missing, 5)}. All are in `uns['scldm']['missing_features']` of "
        "the result."
    )
