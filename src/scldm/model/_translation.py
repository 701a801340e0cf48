"""From modalities that are given to others."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from scipy import sparse
from scvi import REGISTRY_KEYS
from torch import Tensor

from scldm._version import __version__
from scldm.diffusion import Sampler
from scldm.metrics import translation as metrics
from scldm.module import ASKED, PRESENT, ProteinMixture, counts_key
from scldm.train import Latents

from ._blocks import BLOCK_SIZE, Stream, blocks, generator, resolved_seed
from ._choices import chosen, positive
from ._fields import shortened
from ._modalities import FEATURES, Joined
from ._order import checked_sampler, name_of
from ._request import put_in

__all__ = ["TranslationMixin"]

_ROWS_AT_A_TIME = 1024
_VALUES_AT_A_TIME = 2**27


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


class TranslationMixin:
    """``translate``, ``impute``, ``get_feature_agreement`` and their like."""

    def translate(
        self,
        data: MuData | AnnData | Mapping[str, AnnData] | None = None,
        *,
        source: str | Sequence[str] | None = None,
        target: str | Sequence[str],
        n_samples: int = 1,
        return_mean: bool = False,
        seed: int | None = None,
        batch_size: int = 1024,
        sampler: str | Sampler = "heun",
        steps: int | None = None,
        guidance_scale: float = 1.0,
        show_progress: bool = False,
        **conditions: Any,
    ) -> AnnData | MuData:
        """Return modalities of cells as other modalities of them have it.

        Parameters
        ----------
        data
            Cells as they were registered, or ``AnnData`` by modality, matched by names of cells, or
            one ``AnnData`` of the only source. Features are matched by name; those that the data lack
            are taken for zero, with a warning, and named in ``uns["scldm"]["missing_features"]``.
            ``None`` takes the training data.
        source
            Modalities that are given, ``None`` for all but the targets that ``data`` have. A cell needs
            one of them.
        target
            Modalities to return.
        n_samples
            Draws for each cell.
        return_mean
            Return expected counts, means over the draws, in place of counts.
        seed, batch_size, sampler, steps, show_progress
            As in :meth:`generate`.
        guidance_scale
            As there; what is given is guided along with the conditions.
        **conditions
            Conditions to take in place of the cells' own, ``None`` for none; of what the data do not
            say, those that the decoders depend on are needed.

        Returns
        -------
        ``n_samples`` cells for each cell, or one with ``return_mean``: an ``AnnData`` of the target, or a
        ``MuData`` of several, with the conditions in ``obs``, the name of the cell in
        ``obs["source_cell"]``, and how it was made in ``uns["scldm"]``.

        Raises
        ------
        ValueError
            If a modality is not known, is both source and target, cells lack all sources, no feature
            is known, or a condition is missing or not known.
        RuntimeError
            If the model is not trained.
        """
        self._require("diffusion")
        targets = self._checked_modalities("target", target)
        sources = self._checked_sources(data, source, targets)
        n_samples = positive("n_samples", n_samples)
        rule, n_steps = checked_sampler(sampler, steps, 0)
        seed = resolved_seed(seed)
        cells = self._joined(data, sources)
        task = self._task(cells, sources, targets, conditions)
        n_cells = len(task.frame)
        rows = np.repeat(np.arange(n_cells), n_samples)
        frame, latents_of = self._sampling(task, rows, seed, rule, n_steps, guidance_scale)
        if return_mean:
            counts = self._means_of(frame, latents_of, targets, n_samples)
            rows, frame = np.arange(n_cells), task.frame
        else:
            counts, _ = self._counts_of(
                frame, latents_of, targets, seed, batch_size, show_progress
            )
        names = cells.adata.obs_names[rows]
        copies = len(rows) > n_cells
        index = pd.Index([f"{x}_{i % n_samples}" if copies else x for i, x in enumerate(names)])
        obs = self._cells(frame, index)
        obs.obs["source_cell"] = names.to_numpy()
        parts = {name: self._part(name, x, index) for name, x in counts.items()}
        new: AnnData | MuData = self._with_obs(parts, obs)
        new.uns["scldm"] = {
            "version": __version__,
            "source": sources,
            "target": targets,
            "seed": seed,
            "sampler": name_of(rule),
            "n_samples": n_samples,
            "return_mean": return_mean,
            "guidance_scale": float(guidance_scale),
            "missing_features": cells.missing,
            "conditions": task.described,
        }
        return new

    def impute(
        self,
        data: MuData | AnnData | None = None,
        *,
        return_mean: bool = False,
        n_samples: int = 1,
        seed: int | None = None,
        batch_size: int = 1024,
        sampler: str | Sampler = "heun",
        steps: int | None = None,
        **conditions: Any,
    ) -> MuData | AnnData:
        """Return cells with all modalities, those that they lack drawn given those that they have.

        Parameters
        ----------
        data
            Cells as they were registered; ``None`` takes the training data.
        return_mean
            Fill in expected counts, means over ``n_samples`` draws, in place of one draw.
        n_samples
            Draws for the mean.
        seed, batch_size, sampler, steps
            As in :meth:`generate`.
        **conditions
            As in :meth:`translate`.

        Returns
        -------
        The cells as they were registered, measured counts as they are, with columns
        ``obs["imputed_protein"]`` and so on that say which are not.

        Raises
        ------
        ValueError, RuntimeError
            As :meth:`translate`.
        """
        self._require("diffusion")
        rule, n_steps = checked_sampler(sampler, steps, 0)
        seed = resolved_seed(seed)
        n_samples = positive("n_samples", n_samples) if return_mean else 1
        cells = self._joined(data, self.modalities)
        task = self._task(cells, self.modalities, self.modalities, conditions)
        absent = task.encoded[ASKED].astype(bool)
        names = cells.adata.obs_names
        obs = self._cells(task.frame, names)
        parts = {}
        for m, name in enumerate(self.modalities):
            lacking = np.flatnonzero(absent[:, m])
            obs.obs[f"imputed_{name}"] = absent[:, m]
            counts = cells.adata.obsm.get(name)
            if len(lacking):
                rows = np.repeat(lacking, n_samples)
                frame, latents_of = self._sampling(task, rows, seed, rule, n_steps)
                if return_mean:
                    new = self._means_of(frame, latents_of, [name], n_samples)[name]
                else:
                    new = self._counts_of(frame, latents_of, [name], seed, batch_size)[0][name]
                counts = _put_rows(counts, new, lacking, len(names))
            parts[name] = self._part(name, counts, names)
        filled = self.layout.write(obs, parts)
        filled.uns["scldm"] = {
            "version": __version__,
            "seed": seed,
            "sampler": name_of(rule),
            "return_mean": return_mean,
            "missing_features": cells.missing,
        }
        return filled

    def get_feature_agreement(
        self,
        data: MuData | AnnData | None = None,
        *,
        source: str | Sequence[str],
        target: str,
        n_samples: int = 30,
        seed: int | None = 0,
        **conditions: Any,
    ) -> pd.DataFrame:
        """Say how each feature agrees with what another modality says of it.

        An antibody that does not bind what it should, or a peak without a gene, has a low correlation;
        one whose counts drift away from the other cells' has a low coverage.

        Parameters
        ----------
        data
            Cells that were not trained on, best; ``None`` takes the training data.
        source, target
            As in :meth:`translate`, one target.
        n_samples, seed, **conditions
            As there.

        Returns
        -------
        A row for each feature that the data have, the worst first: ``pearson`` and ``spearman`` of
        measured with predicted ``log(1 + counts)``, the share of cells in the central 50 % and 90 % of
        predictions (``coverage_50``, ``coverage_90``), and the mean measured count.

        Raises
        ------
        ValueError, RuntimeError
            As :meth:`translate`; and if less than three cells have both modalities.
        """
        self._require("diffusion")
        (name,) = self._checked_modalities("target", [target])
        sources = self._checked_sources(data, source, [name])
        n_samples = positive("n_samples", n_samples)
        seed = resolved_seed(seed)
        cells = self._joined(data, [*sources, name])
        has = cells.present(name) & np.any([cells.present(s) for s in sources], axis=0)
        both = np.flatnonzero(has)
        if len(both) < 3:
            raise ValueError(f"{len(both)} cells have both {sources} and {name!r}; 3 are needed.")
        task = self._task(Joined(cells.adata[both], cells.missing), sources, [name], conditions)
        rule, n_steps = checked_sampler("heun", None, 0)
        true = np.log1p(_dense(cells.adata.obsm[name][both]))
        features = self.features(name)
        predicted = np.empty_like(true)
        inside = {50: np.zeros(len(features)), 90: np.zeros(len(features))}
        step = max(1, _VALUES_AT_A_TIME // (n_samples * len(features) * 4))
        for start in range(0, len(both), step):
            own = np.arange(start, min(start + step, len(both)))
            rows = np.repeat(own, n_samples)
            frame, latents_of = self._sampling(task, rows, seed, rule, n_steps)
            drawn = self._counts_of(frame, latents_of, [name], seed, len(rows))[0][name]
            draws = np.log1p(_dense(drawn)).reshape(len(own), n_samples, -1).swapaxes(0, 1)
            predicted[own] = draws.mean(axis=0)
            for level, count in inside.items():
                count += metrics.coverage(true[own], draws, level / 100, seed=start) * len(own)
        table = pd.DataFrame(
            {
                "pearson": metrics.feature_pearson(true, predicted),
                "spearman": metrics.feature_spearman(true, predicted),
                **{f"coverage_{level}": count / len(both) for level, count in inside.items()},
                "mean_count": np.expm1(true).mean(axis=0),
            },
            index=features,
        )
        return table.drop(index=cells.missing.get(name, [])).sort_values("pearson")

    @torch.inference_mode()
    def get_protein_foreground_probability(
        self, data: Any = None, *, n_samples: int = 25, seed: int | None = 0
    ) -> pd.DataFrame:
        """Return how probable it is that a cell's antibodies are bound and not adrift.

        Parameters
        ----------
        data
            Cells; ``None`` takes the training data.
        n_samples
            Draws of latents from each cell's posterior to take the mean over.
        seed
            Of the draws.

        Returns
        -------
        Cells by proteins; NaN for cells that lack proteins, see :meth:`impute`.

        Raises
        ------
        ValueError
            If there are no proteins, or their likelihood is not ``"nb_mixture"``.
        RuntimeError
            If stage 1 is not trained.
        """
        self._require("autoencoder")
        chosen("modality", "protein", self.modalities)
        if not isinstance(self.module.autoencoder["protein"].likelihood, ProteinMixture):
            raise ValueError(
                "The probability of the foreground needs `protein_likelihood='nb_mixture'`."
            )
        n_samples, seed = positive("n_samples", n_samples), resolved_seed(seed)
        cells = self._joined(data, self.modalities)
        task = self._task(cells, ["protein"], [], {}, need_sources=False)
        latents = self._encode_table(cells.adata)
        inputs = self._decoder_inputs(task.frame)
        parts = []
        for block, rows, padded in blocks(len(latents)):
            some = latents[padded]
            own = {name: values[padded] for name, values in inputs.items()}
            source = generator(self.device, seed, Stream.POSTERIOR, block)
            mean = some.mean.to(self.device)
            total = torch.zeros(len(mean), len(self.features("protein")), device=self.device)
            for _ in range(n_samples):
                noise = torch.randn(mean.shape, generator=source, device=self.device)
                z = mean + some.variance.to(self.device).sqrt() * noise
                dist = self._distribution_of("protein", z, some.log_library.to(self.device), own)
                total += (1 - dist.mixture_probs) / n_samples
            parts.append(total[: rows.stop - rows.start].cpu().numpy())
        return pd.DataFrame(
            np.concatenate(parts), index=cells.adata.obs_names, columns=self.features("protein")
        )

    def _checked_modalities(self, argument: str, names: str | Sequence[str]) -> list[str]:
        listed = [names] if isinstance(names, str) else list(names)
        if not listed:
            raise ValueError(f"`{argument}` is empty. Known: {self.modalities}.")
        for name in listed:
            chosen(argument, name, self.modalities)
        if len(set(listed)) < len(listed):
            raise ValueError(f"`{argument}={names!r}` names a modality twice.")
        return listed

    def _checked_sources(
        self, data: Any, source: str | Sequence[str] | None, targets: list[str]
    ) -> list[str]:
        if source is None:
            source = [name for name in self.modalities if name not in targets]
            if isinstance(data, Mapping):
                source = [name for name in source if name in data]
        sources = self._checked_modalities("source", source)
        if set(sources) & set(targets):
            raise ValueError(f"`source={sources}` and `target={targets}` share a modality.")
        return sources

    def _joined(self, data: Any, names: Sequence[str]) -> Joined:
        """Return cells of the user, or the training data, as a table."""
        if data is None or data is self._data:
            return Joined(self._adata_manager_or_raise().adata)
        features = {name: self.features(name) for name in names}
        cells = self.layout.join_known(data, names, features)
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
                x = _dense(adata.obsm[name][rows]) if name in known else np.zeros((len(own), 1))
                tensors[counts_key(name)] = torch.from_numpy(x.astype(np.float32)).to(self.device)
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
                key = list(known)[1 + m]
                known[key] = own[key].numpy()
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
            except KeyError:
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
    ) -> tuple[pd.DataFrame, Callable[[int, np.ndarray], tuple[Tensor, Tensor]]]:
        """Return conditions of cells, and what makes latents of a block of them."""
        frame, encoded = task.at(rows)
        diffusion = self.module.diffusion
        denoiser = diffusion.denoiser(scale=float(guidance_scale))

        @torch.inference_mode()
        def latents_of(block: int, padded: np.ndarray) -> tuple[Tensor, Tensor]:
            self.module.eval()
            source = generator(self.device, seed, Stream.LATENT, block)
            shape = (BLOCK_SIZE, diffusion.n_dims)
            noise = torch.randn(shape, generator=source, device=self.device)
            known = self._on_device(encoded, padded)
            return diffusion.sample(noise, known, rule, steps, source, denoiser)

        return frame, latents_of

    @torch.inference_mode()
    def _means_of(
        self,
        frame: pd.DataFrame,
        latents_of: Callable[[int, np.ndarray], tuple[Tensor, Tensor]],
        modalities: list[str],
        n_samples: int,
    ) -> dict[str, np.ndarray]:
        """Return expected counts by modality, means over the samples that follow one another."""
        n = len(frame) // n_samples
        means = {m: np.zeros((n, len(self.features(m))), np.float32) for m in modalities}
        inputs = self._decoder_inputs(frame)
        for block, rows, padded in blocks(len(frame)):
            z, log_sizes = latents_of(block, padded)
            own = {name: values[padded] for name, values in inputs.items()}
            at = np.arange(rows.start, rows.stop) // n_samples
            for name in modalities:
                mean = self._distribution_of(name, z, log_sizes, own).mean[: len(at)]
                np.add.at(means[name], at, mean.cpu().numpy() / n_samples)
        return means

    def _with_obs(self, parts: dict[str, AnnData], obs: AnnData) -> AnnData | MuData:
        """Return the only part, or all of them, with the cells' conditions."""
        if len(parts) == 1:
            (new,) = parts.values()
        else:
            mods = getattr(self.layout, "mods", {name: name for name in parts})
            new = MuData({mods[name]: part for name, part in parts.items()})
        new.obs = obs.obs
        for key in obs.obsm:
            new.obsm[key] = obs.obsm[key]
        return new


def _dense(x: Any) -> np.ndarray:
    return x.toarray() if sparse.issparse(x) else np.asarray(x)


def _put_rows(counts: Any, new: Any, rows: np.ndarray, n: int) -> Any:
    """Return counts with new ones in some rows, dense where one of them is."""
    whole = sparse.issparse(new) and (counts is None or sparse.issparse(counts))
    if not whole:
        filled = np.zeros((n, new.shape[1]), np.float32) if counts is None else _dense(counts)
        filled = filled.astype(np.float32)
        filled[rows] = _dense(new)
        return filled
    place = sparse.csr_matrix(
        (np.ones(len(rows), np.float32), (rows, np.arange(len(rows)))), (n, len(rows))
    )
    if counts is None:
        return (place @ new).tocsr()
    kept = np.ones(n, np.float32)
    kept[rows] = 0
    return (sparse.diags(kept) @ counts + place @ new).tocsr()


def _warn_of_missing(modality: str, missing: list[str], n_features: int) -> None:
    warnings.warn(
        f"The {modality} data lack {len(missing)} of the model's {n_features} features, which are "
        f"taken for zero: {shortened(missing, 5)}. All are in `uns['scldm']['missing_features']` of "
        "the result.",
        UserWarning,
        stacklevel=4,
    )
