"""From modalities that are given to others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from scldm._randomness import kept_choices
from scldm.diffusion import Sampler
from scldm.module import ASKED

from ._blocks import resolved_seed
from ._choices import chosen, flag, listed, positive
from ._joint_generation import joint_sampler
from ._modalities import FEATURES
from ._order import joint_scale, name_of
from ._provenance import provenance, recorded
from ._tasks import TasksMixin, dense

__all__ = ["TranslationMixin"]


class TranslationMixin(TasksMixin):
    """``translate`` and ``impute``."""

    @recorded
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
            Return expected counts, means over the draws, in place of counts, and in
            ``layers["spread"]`` the standard deviation of counts over draws.
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
        batch_size = positive("batch_size", batch_size)
        return_mean = flag("return_mean", return_mean)
        show_progress = flag("show_progress", show_progress)
        guidance_scale = joint_scale(guidance_scale)
        rule, n_steps = joint_sampler(sampler, steps)
        seed = resolved_seed(seed)
        cells = self._joined(data, sources)
        held = [name for name in sources if name in cells.adata.uns[FEATURES]]
        if source is not None and len(held) < len(sources):
            raise ValueError(f"`source={sources}`, but the data have {held}.")
        sources = held
        task = self._task(cells, sources, targets, conditions)
        n_cells = len(task.frame)
        rows = np.repeat(np.arange(n_cells), n_samples)
        frame, latents_of = self._sampling(task, rows, seed, rule, n_steps, guidance_scale)
        spreads: dict[str, np.ndarray] = {}
        if return_mean:
            counts, spreads = self._means_of(frame, latents_of, targets, n_samples, targets)
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
        for name, spread in spreads.items():
            parts[name].layers["spread"] = spread
        new: AnnData | MuData = self._with_obs(parts, obs)
        new.uns["scldm"] = {
            **provenance(),
            "source": sources,
            "target": targets,
            "seed": seed,
            "sampler": name_of(rule),
            **({} if n_steps is None else {"steps": n_steps}),
            "n_samples": n_samples,
            "return_mean": return_mean,
            "guidance_scale": guidance_scale,
            "spread": self._spread_of(task, rule, guidance_scale),
            "missing_features": cells.missing,
            "conditions": task.described,
        }
        return new

    @recorded
    def impute(
        self,
        data: MuData | AnnData | Mapping[str, AnnData] | None = None,
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
            Cells as they were registered, or ``AnnData`` by modality; ``None`` takes the training data.
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
        The cells laid out as they were registered: counts, measured ones as they are, conditions, the
        other columns of ``obs``, and columns ``obs["imputed_protein"]`` and so on that say which counts are
        not measured.

        Raises
        ------
        ValueError
            As :meth:`translate`, and if there are ``n_samples`` but no ``return_mean``.
        RuntimeError
            If the model is not trained.
        """
        self._require("diffusion")
        rule, n_steps = joint_sampler(sampler, steps)
        return_mean = flag("return_mean", return_mean)
        n_samples = positive("n_samples", n_samples)
        if n_samples > 1 and not return_mean:
            raise ValueError(
                f"`n_samples={n_samples}` is the number of draws for the mean and needs `return_mean=True`; "
                "for several draws of each cell there is `translate`."
            )
        batch_size = positive("batch_size", batch_size)
        seed = resolved_seed(seed)
        cells = self._joined(data, self.modalities)
        task = self._task(cells, self.modalities, self.modalities, conditions)
        absent = task.encoded[ASKED].astype(bool)
        names = cells.adata.obs_names
        obs = self._cells(task.frame, names)
        # together, so that what a cell lacks belongs together
        lacking = np.flatnonzero(absent.any(axis=1))
        wanted = [name for m, name in enumerate(self.modalities) if absent[:, m].any()]
        new: dict[str, Any] = {}
        if wanted:
            rows = np.repeat(lacking, n_samples)
            frame, latents_of = self._sampling(task, rows, seed, rule, n_steps)
            if return_mean:
                new, _ = self._means_of(frame, latents_of, wanted, n_samples)
            else:
                new, _ = self._counts_of(frame, latents_of, wanted, seed, batch_size)
        parts = {}
        for m, name in enumerate(self.modalities):
            obs.obs[f"imputed_{name}"] = absent[:, m]
            counts = cells.adata.obsm.get(name)
            if name in new:
                own = absent[lacking, m]
                counts = _put_rows(counts, new[name][own], lacking[own], len(names))
            else:
                counts = counts.copy()
            parts[name] = self._part(name, counts, names)
        filled = self.layout.write(obs, parts)
        self._keep_columns(self._data if data is None else data, filled)
        filled.uns["scldm"] = {
            **provenance(),
            "seed": seed,
            "sampler": name_of(rule),
            **({} if n_steps is None else {"steps": n_steps}),
            "return_mean": return_mean,
            "spread": self._spread_of(task, rule),
            "missing_features": cells.missing,
        }
        return filled

    def _keep_columns(self, data: Any, filled: MuData | AnnData) -> None:
        """Copy the columns of ``obs``, and of that of modalities, that are the user's own."""
        whole: list[tuple[pd.DataFrame, Any]] = []
        if isinstance(data, Mapping):
            mods = getattr(self.layout, "mods", None)
            whole = [
                (x.obs, filled if mods is None else filled[mods[name]]) for name, x in data.items()
            ]
        elif isinstance(data, MuData):
            # columns that it has pulled from modalities stay with these
            pulled = tuple(f"{name}:" for name in data.mod)
            own = [column for column in data.obs if not str(column).startswith(pulled)]
            parts = [(x.obs, filled[name]) for name, x in data.mod.items() if name in filled.mod]
            whole = [(data.obs[own], filled), *parts]
        else:
            whole = [(data.obs, filled)]
        for obs, new in whole:
            for column in obs:
                # those of scvi-tools are of the registered data
                if column not in new.obs and not str(column).startswith("_scvi"):
                    new.obs[column] = obs[column].reindex(new.obs_names)

    def _checked_modalities(self, argument: str, names: str | Sequence[str]) -> list[str]:
        asked = listed(argument, names)
        if not asked:
            raise ValueError(f"`{argument}` is empty. Known: {self.modalities}.")
        for name in asked:
            chosen(argument, name, self.modalities)
        if len(set(asked)) < len(asked):
            raise ValueError(f"`{argument}={names!r}` names a modality twice.")
        return asked

    def _checked_sources(
        self, data: Any, source: str | Sequence[str] | None, targets: list[str]
    ) -> list[str]:
        if source is None:
            source = [name for name in self.modalities if name not in targets]
            if isinstance(data, Mapping):
                for name in data:
                    chosen("data", name, self.modalities)
                source = [name for name in source if name in data]
        sources = self._checked_modalities("source", source)
        if set(sources) & set(targets):
            raise ValueError(f"`source={sources}` and `target={targets}` share a modality.")
        return sources

    def _with_obs(self, parts: dict[str, AnnData], obs: AnnData) -> AnnData | MuData:
        """Return the only part, or all of them, with the cells' conditions."""
        if len(parts) == 1:
            (new,) = parts.values()
        else:
            mods = getattr(self.layout, "mods", {name: name for name in parts})
            with kept_choices():
                new = MuData({mods[name]: part for name, part in parts.items()})
        new.obs = obs.obs
        for key in obs.obsm:
            new.obsm[key] = obs.obsm[key]
        return new


def _put_rows(counts: Any, new: Any, rows: np.ndarray, n: int) -> Any:
    """Return counts with new ones in some rows, dense where one of them is."""
    whole = sparse.issparse(new) and (counts is None or sparse.issparse(counts))
    if not whole:
        filled = np.zeros((n, new.shape[1]), np.float32) if counts is None else dense(counts)
        filled = filled.astype(np.float32)
        filled[rows] = dense(new)
        return filled
    place = sparse.csr_matrix(
        (np.ones(len(rows), np.float32), (rows, np.arange(len(rows)))), (n, len(rows))
    )
    if counts is None:
        return (place @ new).tocsr()
    kept = np.ones(n, np.float32)
    kept[rows] = 0
    return (sparse.diags(kept) @ counts + place @ new).tocsr()
