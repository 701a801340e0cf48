"""What a model of several modalities says of the cells and features that it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData

from scldm.metrics import translation as metrics
from scldm.module import JointDiffusion, ProteinMixture

from ._blocks import Stream, blocks, generator, resolved_seed
from ._choices import chosen, positive
from ._joint_generation import joint_sampler
from ._modalities import FEATURES, Joined
from ._tasks import dense

__all__ = ["ModalityReadingMixin"]

_VALUES_AT_A_TIME = 2**25


class ModalityReadingMixin:
    """``get_latent_representation``, ``get_feature_agreement`` and their like."""

    @torch.inference_mode()
    def get_latent_representation(
        self, modality: str | None = None, *, data: Any = None
    ) -> np.ndarray:
        """Return the means of cells' posteriors.

        Parameters
        ----------
        modality
            Of one modality, or ``None`` for those of all side by side, standardised as the training
            cells are.
        data
            Cells; ``None`` takes the training data.

        Returns
        -------
        ``(n_cells, n_latent)``, rows of NaN where a cell lacks the modality. See :meth:`impute` for
        cells that lack some.

        Raises
        ------
        ValueError
            If the modality is not known.
        RuntimeError
            If stage 1 is not trained, or stage 2 for those of all.
        """
        self._require("autoencoder")
        if modality is not None:
            chosen("modality", modality, self.modalities)
        else:
            self._require("diffusion")
        wanted = self.modalities if modality is None else [modality]
        z = self._encode_table(self._joined(data, wanted).adata).mean
        if modality is not None:
            m = self.modalities.index(modality)
            owner = cast(JointDiffusion, self.module.diffusion).owner[: z.shape[1]]
            return z[:, owner.cpu() == m].numpy()
        diffusion, n = self.module.diffusion, z.shape[1]
        return ((z - diffusion.shift[:n].cpu()) / diffusion.scale[:n].cpu()).numpy()

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
        if name not in cells.adata.uns[FEATURES]:
            raise ValueError(f"The data have no {name!r}, with which to compare predictions.")
        has = cells.present(name) & np.any([cells.present(s) for s in sources], axis=0)
        both = np.flatnonzero(has)
        if len(both) < 3:
            raise ValueError(f"{len(both)} cells have both {sources} and {name!r}; 3 are needed.")
        # values for each cell are those of all cells
        conditions = {
            key: np.asarray(value)[both] if np.ndim(value) else value
            for key, value in conditions.items()
        }
        task = self._task(Joined(cells.adata[both], cells.missing), sources, [name], conditions)
        rule, n_steps = joint_sampler("heun", None)
        # of the type that draws have, in which counts that are equal stay so
        true = np.log1p(dense(cells.adata.obsm[name][both]).astype(np.float32))
        features = self.features(name)
        predicted = np.empty_like(true)
        inside = {50: np.zeros(len(features)), 90: np.zeros(len(features))}
        step = max(1, _VALUES_AT_A_TIME // (n_samples * len(features)))
        for start in range(0, len(both), step):
            own = np.arange(start, min(start + step, len(both)))
            rows = np.repeat(own, n_samples)
            frame, latents_of = self._sampling(task, rows, seed, rule, n_steps)
            drawn = self._counts_of(frame, latents_of, [name], seed, len(rows))[0][name]
            draws = np.log1p(dense(drawn)).reshape(len(own), n_samples, -1).swapaxes(0, 1)
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
        return table.drop(index=cells.missing.get(name, [])).sort_values(
            "pearson", na_position="first"
        )

    @torch.inference_mode()
    def get_protein_foreground_probability(
        self, data: Any = None, *, n_samples: int = 25, seed: int | None = 0, **conditions: Any
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
        **conditions
            As in :meth:`translate`.

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
        cells = self._joined(data, ["protein"])
        task = self._task(cells, ["protein"], [], conditions, need_sources=False)
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
