"""The model class of several modalities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scvi.model.base import BaseModelClass

from scldm.module import (
    LIKELIHOODS,
    JointDiffusion,
    ModalityAutoencoder,
    MultimodalAutoencoder,
    SCLDMModule,
    counts_key,
)
from scldm.train import Latents

from ._choices import chosen, flag, positive, share, weight
from ._files import FilesMixin
from ._hub import HubMixin
from ._joint_generation import JointGenerationMixin
from ._keys import KEYS
from ._layouts import layout_of
from ._modality_reading import ModalityReadingMixin
from ._moments import count_moments
from ._multi_setup import MultiSetupMixin
from ._networks import build_joint_diffusion, compiled
from ._recipe import Recipe
from ._registered import conditions_from_registry
from ._spread import SpreadMixin
from ._training import TrainingMixin
from ._translation import TranslationMixin

__all__ = ["MultiLDM"]

LATENTS = ("separate", "aligned")


class MultiLDM(
    MultiSetupMixin,
    TranslationMixin,
    ModalityReadingMixin,
    SpreadMixin,
    JointGenerationMixin,
    FilesMixin,
    HubMixin,
    TrainingMixin,
    BaseModelClass,
):
    r"""Generate and translate cells of several modalities by joint latent diffusion.

    Stage 1 has an autoencoder for each modality: RNA, proteins, chromatin accessibility. Stage 2 is one
    diffusion model of all their latents, :math:`p(z_A | z_G, c)` for any modalities A given any others
    G and the registered conditions c. So the same model makes whole cells from noise, translates in any
    direction and fills in what cells lack; and it learns from cells that lack a modality.

    Parameters
    ----------
    mdata
        Data registered with :meth:`setup_mudata` or :meth:`setup_anndata`.
    registry
        Registry of a saved model, to build it without data; :meth:`load` uses it.
    n_latent
        Latent dimensions of each modality, or a mapping from modalities to theirs. ``None``, here and
        below, chooses by the data, and no more than a modality has features.
    n_hidden
        Width of the autoencoders' layers.
    n_layers
        Hidden layers of encoders and decoders each.
    dropout_rate
        Dropout in the encoders.
    gene_likelihood, protein_likelihood, atac_likelihood
        Distributions of counts. Proteins are negative binomial, or a mixture of two, antibodies that
        drift and antibodies that bind. Peaks are open or not, or have Poisson counts of fragments.
    latent
        ``"separate"`` latents of modalities, or ``"aligned"`` ones, in one space where each modality's
        decoder also has to read the latents of the others.
    alignment_weight
        Weight of what aligns them.
    kl_weight
        Weight of the KL terms of the autoencoders' loss.
    schedule, parametrisation, times, loss_weight, backbone, conditioning, width, depth
        As in :class:`SCLDM`.
    backbone_kwargs, compile_network, condition_dropout, ema_decay
        As there.

    References
    ----------
    Gayoso et al. (2021), Nature Methods 18:272 (proteins); Ashuach et al. (2023), Nature Methods
    20:1222 (modalities that cells lack); Bao et al. (2023), ICML (one diffusion for all marginals and
    conditionals).

    Examples
    --------
    >>> scldm.MultiLDM.setup_mudata(
    ...     mdata, modalities={"rna_layer": "rna", "protein_layer": "prot"}
    ... )
    >>> model = scldm.MultiLDM(mdata)
    >>> model.train()
    >>> proteins = model.translate(cells, source="rna", target="protein", n_samples=50)
    """

    def __init__(
        self,
        mdata: MuData | AnnData | None = None,
        registry: dict | None = None,
        *,
        n_latent: int | Mapping[str, int] | None = None,
        n_hidden: int | None = None,
        n_layers: int = 1,
        dropout_rate: float | None = None,
        gene_likelihood: Literal["nb", "zinb", "poisson"] = "nb",
        protein_likelihood: Literal["nb", "nb_mixture"] = "nb",
        atac_likelihood: Literal["bernoulli", "poisson"] = "bernoulli",
        latent: Literal["separate", "aligned"] = "separate",
        alignment_weight: float = 1.0,
        kl_weight: float | None = None,
        schedule: str = "rectified_flow",
        parametrisation: str = "flow",
        times: str = "uniform",
        loss_weight: str = "plain",
        backbone: str = "mlp",
        conditioning: str = "adaln",
        width: int | None = None,
        depth: int = 4,
        backbone_kwargs: dict[str, Any] | None = None,
        compile_network: bool = False,
        condition_dropout: float = 0.1,
        ema_decay: float = 0.999,
    ) -> None:
        super().__init__(None if mdata is None else self._table_of(mdata), registry)
        self._data = mdata
        self.layout = layout_of(self.registry_)
        self.recipe = Recipe.for_cells(self.summary_stats["n_cells"])
        self.kl_weight = weight("kl_weight", kl_weight, self.recipe.kl_weight)
        self.adversarial_weight = self.thinning = 0.0
        width = positive("width", width, self.recipe.width)
        self.conditions = conditions_from_registry(self.registry_)
        likelihoods = {
            "rna": chosen("gene_likelihood", gene_likelihood, LIKELIHOODS["rna"]),
            "protein": chosen("protein_likelihood", protein_likelihood, LIKELIHOODS["protein"]),
            "atac": chosen("atac_likelihood", atac_likelihood, LIKELIHOODS["atac"]),
        }
        is_aligned = chosen("latent", latent, LATENTS) == "aligned"
        sizes = self._latent_sizes(n_latent, is_aligned)
        autoencoders = {
            name: ModalityAutoencoder(
                len(self.features(name)),
                likelihoods[name](),
                sizes[name],
                n_hidden=positive("n_hidden", n_hidden, self.recipe.n_hidden),
                n_layers=positive("n_layers", n_layers),
                dropout_rate=share("dropout_rate", dropout_rate, self.recipe.dropout_rate),
                **self._decoder_sizes(),
            )
            for name in self.modalities
        }
        stage_1 = MultimodalAutoencoder(
            autoencoders, weight("alignment_weight", alignment_weight) if is_aligned else 0.0
        )
        diffusion = build_joint_diffusion(
            self.conditions,
            stage_1,
            width=width,
            network={
                "backbone": backbone,
                "conditioning": conditioning,
                "depth": depth,
                "backbone_kwargs": backbone_kwargs,
            },
            options={
                "schedule": schedule,
                "parametrisation": parametrisation,
                "times": times,
                "loss_weight": loss_weight,
                "condition_dropout": condition_dropout,
                "ema_decay": ema_decay,
            },
        )
        if flag("compile_network", compile_network):
            compiled(diffusion)
        self.module = SCLDMModule(stage_1, diffusion)
        for name in self.modalities:
            self._refuse_large(name, self._state_of(name)["largest"])
        self.var_ = {} if mdata is None else self.layout.var(mdata)
        self.training_frame_: pd.DataFrame | None = None
        self.autoencoder_trained_ = False
        self.diffusion_trained_ = False
        self.perturbation_trained_ = False
        self.trajectory_trained_ = False
        self.spatial_trained_ = False
        self.student_ = None
        self.spreads_ = None
        self._model_summary_string = (
            f"MultiLDM with modalities: {', '.join(self.modalities)}, latent: {latent}, "
            f"n_latent: {sizes}, conditions: {', '.join(c.name for c in self.conditions) or 'none'}."
        )
        self.init_params_ = self._get_init_params(locals())

    @property
    def modalities(self) -> list[str]:
        """Names of the modalities: ``"rna"``, ``"protein"``, ``"atac"``."""
        return self.layout.modalities

    def features(self, modality: str) -> pd.Index:
        """Return the names of a modality's features, in the model's order."""
        chosen("modality", modality, self.modalities)
        return pd.Index(self._state_of(modality)["column_names"])

    def _state_of(self, modality: str) -> dict[str, Any]:
        """Return what the registry keeps of a modality."""
        return self.registry_["field_registries"][counts_key(modality)]["state_registry"]

    @property
    def var_names(self) -> pd.Index:
        """Names of all features, the modality before each: ``"protein:CD4"``."""
        return pd.Index([f"{name}:{x}" for name in self.modalities for x in self.features(name)])

    def train(
        self,
        max_epochs: int | None = None,
        max_steps: int | None = None,
        *,
        early_stopping: bool | None = None,
        diffusion_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Train the autoencoders, then the diffusion.

        Parameters
        ----------
        max_epochs
            Epochs of stage 1; ``None`` chooses by the number of cells.
        max_steps
            Optimiser steps of stage 2; ``None`` chooses by the number of cells.
        early_stopping
            Stop a stage when its loss on validation cells no longer improves, and go back to its best
            epoch. ``None`` does so in stage 2: what one modality says of another is soon learned by
            heart, and predictions get too sure of themselves.
        diffusion_kwargs
            For stage 2 only, as in :meth:`SCLDM.train`.
        **kwargs
            As in :meth:`SCLDM.train`.
        """
        for name in ("perturbation_kwargs", "trajectory_kwargs", "spatial_kwargs"):
            if name in kwargs:
                raise TypeError(f"`{name}` belongs to a stage that this model lacks.")
        own = {
            "early_stopping": early_stopping is None or early_stopping,
            **(diffusion_kwargs or {}),
        }
        super().train(
            max_epochs,
            max_steps,
            early_stopping=bool(early_stopping),
            diffusion_kwargs=own,
            **kwargs,
        )

    def train_diffusion(
        self, max_steps: int | None = None, *, early_stopping: bool = True, **kwargs: Any
    ) -> None:
        """Train stage 2, as :meth:`SCLDM.train_diffusion` does, but with early stopping, and :meth:`calibrate`.

        Parameters
        ----------
        max_steps, early_stopping, **kwargs
            As there.
        """
        super().train_diffusion(max_steps, early_stopping=early_stopping, **kwargs)
        if len(self.validation_indices):
            self.calibrate()

    def _latent_sizes(
        self, n_latent: int | Mapping[str, int] | None, is_aligned: bool
    ) -> dict[str, int]:
        given = (
            n_latent if isinstance(n_latent, Mapping) else dict.fromkeys(self.modalities, n_latent)
        )
        for name in given:
            chosen("n_latent", name, self.modalities)
        sizes = {}
        for name in self.modalities:
            most = len(self.features(name))
            default = self.recipe.n_latent if is_aligned else min(self.recipe.n_latent, most)
            sizes[name] = positive("n_latent", given.get(name), default)
        if is_aligned and len(set(sizes.values())) > 1:
            raise ValueError(f"`n_latent={n_latent!r}` must be one number for aligned latents.")
        return sizes

    def _decoder_sizes(self) -> dict[str, Any]:
        fields = self.registry_["field_registries"]
        further = fields[KEYS.CATEGORICAL]["state_registry"].get("n_cats_per_key") or []
        return {
            "n_categories": [self.summary_stats["n_batch"], *further],
            "n_continuous": self.summary_stats.get(f"n_{KEYS.CONTINUOUS}", 0),
        }

    def _refuse_large(self, modality: str, largest: float) -> None:
        """Refuse counts that the likelihood of a modality cannot have."""
        most = self.module.autoencoder[modality].likelihood.largest
        if largest > most:
            raise ValueError(
                f"The largest count of {modality!r} is {largest:g}, but its likelihood knows 0 and 1 "
                f"only. Binarise the peaks, or train with `{modality}_likelihood='poisson'`."
            )

    def _start_autoencoder(self, indices: np.ndarray) -> None:
        adata = self.adata_manager.adata
        present = np.asarray(adata.obsm["present"]).astype(bool)
        for m, (name, autoencoder) in enumerate(self.module.autoencoder.items()):
            rows = np.intersect1d(indices, np.flatnonzero(present[:, m]))
            if not len(rows):
                raise ValueError(f"No training cell has the modality {name!r}.")
            sizes = None if autoencoder.likelihood.sized else np.ones(adata.n_obs)
            autoencoder.start_from_moments(*count_moments(adata.obsm[name], rows, sizes))

    def _with_given(self, latents: Latents) -> Latents:
        diffusion = cast(JointDiffusion, self.module.diffusion)
        given = diffusion.given(latents.mean, latents.log_library)
        return replace(latents, conditions={**latents.conditions, **given})

    def _write_data(self, folder: Path, prefix: str, **kwargs: Any) -> None:
        if isinstance(self._data, MuData):
            self._data.write_h5mu(folder / f"{prefix}mdata.h5mu", **kwargs)
        elif self._data is not None:
            self._data.write_h5ad(folder / f"{prefix}adata.h5ad", **kwargs)
        else:
            self._adata_manager_or_raise()

    def _can_learn_perturbations(self) -> bool:
        return False

    def _can_learn_trajectories(self) -> bool:
        return False

    def _can_learn_space(self) -> bool:
        return False

    def _forget_dependents(self) -> None:
        """Forget what was found of the diffusion before; this model makes no students."""
        self.spreads_ = None
