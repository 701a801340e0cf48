"""The model class."""

from __future__ import annotations

from typing import Any, Literal

import pandas as pd

# scvi-tools 1.4 prints setups with it, but relies on others to import it
import rich.pretty  # noqa: F401
from anndata import AnnData
from scvi.data import AnnDataManager
from scvi.model import SCVI
from scvi.model.base import BaseModelClass, RNASeqMixin, VAEMixin

from scldm.diffusion import PARAMETRISATIONS, SCHEDULES, TIME_DISTRIBUTIONS
from scldm.module import CountAutoencoder, LatentDiffusion, SCLDMModule
from scldm.nn import AdaLNMLP, ConditionEmbedder

from ._choices import chosen, positive, share
from ._fields import (
    CategoricalCovariatesField,
    CategoryField,
    ContinuousCovariatesField,
    CoordinatesField,
    CountsField,
    LibrarySizeField,
    NumberField,
    shortened,
)
from ._files import FilesMixin
from ._generation import GenerationMixin
from ._keys import KEYS
from ._recipe import Recipe
from ._registered import conditions_from_registry
from ._training import TrainingMixin

__all__ = ["SCLDM"]

LIKELIHOODS = ("nb", "zinb", "poisson")
DISPERSIONS = ("gene", "gene-batch", "gene-label", "gene-cell")


class SCLDM(FilesMixin, GenerationMixin, TrainingMixin, RNASeqMixin, VAEMixin, BaseModelClass):
    r"""Generate single cells by latent diffusion.

    Stage 1 is a count autoencoder. Stage 2 is a diffusion model on its latents and log library
    sizes, :math:`[z, \log l]`, given any of the registered conditions. Cells come back as
    :class:`~anndata.AnnData` of integer counts.

    Parameters
    ----------
    adata
        Data registered with :meth:`setup_anndata`.
    registry
        Registry of a saved model, to build it without data; :meth:`load` uses it.
    n_latent
        Latent dimensions of a cell. ``None``, here and below, chooses by the number of cells.
    n_hidden
        Width of the autoencoder's layers.
    n_layers
        Hidden layers of encoder and decoder each.
    dropout_rate
        Dropout in the encoder.
    gene_likelihood
        Distribution of a count: negative binomial, zero-inflated negative binomial, or Poisson.
    dispersion
        What the (inverse) dispersion depends on: the gene, gene and batch, gene and cell type,
        or gene and cell (the decoder's output).
    kl_weight
        Weight of the KL term of the autoencoder's loss. The diffusion takes the place of the
        prior, so the latents need not be close to a normal distribution and the weight is small.
    schedule
        Noise schedule, one of :data:`scldm.diffusion.SCHEDULES`. ``"vp_linear"`` with
        ``parametrisation="noise"`` is DDPM.
    parametrisation
        What the denoiser predicts, one of :data:`scldm.diffusion.PARAMETRISATIONS`.
    times
        The times it is trained on, one of :data:`scldm.diffusion.TIME_DISTRIBUTIONS`.
    width, depth
        Width and number of blocks of the denoiser.
    condition_dropout
        Rate at which each condition is dropped in training, for classifier-free guidance.
    ema_decay
        Decay of the average of the denoiser's weights, per step.
    **module_kwargs
        Further arguments of :class:`scvi.module.VAE`.

    References
    ----------
    Lopez et al. (2018), Nature Methods 15:1053 (the autoencoder); Rombach et al. (2022), CVPR
    (latent diffusion); Liu et al. (2023), ICLR and Lipman et al. (2023), ICLR (the straight
    path).

    Examples
    --------
    >>> adata = scldm.data.pbmc68k()
    >>> scldm.SCLDM.setup_anndata(adata, cell_type_key="cell_type")
    >>> model = scldm.SCLDM(adata)
    >>> model.train()
    >>> new = model.generate(1000, cell_type="CD14+ Monocyte", seed=0)
    """

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict | None = None,
        *,
        n_latent: int | None = None,
        n_hidden: int | None = None,
        n_layers: int = 1,
        dropout_rate: float | None = None,
        gene_likelihood: Literal["nb", "zinb", "poisson"] = "nb",
        dispersion: Literal["gene", "gene-batch", "gene-label", "gene-cell"] = "gene-cell",
        kl_weight: float | None = None,
        schedule: str = "rectified_flow",
        parametrisation: str = "flow",
        times: str = "uniform",
        width: int | None = None,
        depth: int = 4,
        condition_dropout: float = 0.1,
        ema_decay: float = 0.999,
        **module_kwargs: Any,
    ) -> None:
        if adata is not None and not isinstance(adata, AnnData):
            raise TypeError(f"`adata` is a {type(adata).__name__}, not an AnnData.")
        for name in ("latent_distribution", "use_observed_lib_size"):
            if name in module_kwargs:
                raise TypeError(f"`{name}` cannot be set: latents are normal, sizes observed.")
        super().__init__(adata, registry)
        self.recipe = Recipe.for_cells(self.summary_stats["n_cells"])
        n_latent = positive("n_latent", n_latent, self.recipe.n_latent)
        n_hidden = positive("n_hidden", n_hidden, self.recipe.n_hidden)
        n_layers = positive("n_layers", n_layers)
        dropout_rate = share("dropout_rate", dropout_rate, self.recipe.dropout_rate)
        kl_weight = self.recipe.kl_weight if kl_weight is None else kl_weight
        width = positive("width", width, self.recipe.width)
        self.kl_weight = kl_weight
        self.conditions = conditions_from_registry(self.registry_, dispersion == "gene-label")
        autoencoder = CountAutoencoder(
            **self._decoder_sizes(),
            n_hidden=n_hidden,
            n_latent=n_latent,
            n_layers=n_layers,
            dropout_rate=dropout_rate,
            gene_likelihood=chosen("gene_likelihood", gene_likelihood, LIKELIHOODS),
            dispersion=chosen("dispersion", dispersion, DISPERSIONS),
            **module_kwargs,
        )
        embedder = ConditionEmbedder({c.name: c.embedder(width) for c in self.conditions}, width)
        diffusion = LatentDiffusion(
            AdaLNMLP(n_latent + 1, embedder, positive("depth", depth)),
            n_latent,
            chosen("schedule", schedule, SCHEDULES)(),
            chosen("parametrisation", parametrisation, PARAMETRISATIONS)(),
            chosen("times", times, TIME_DISTRIBUTIONS)(),
            share("condition_dropout", condition_dropout),
            share("ema_decay", ema_decay),
        )
        self.module = SCLDMModule(autoencoder, diffusion)
        self.training_frame_: pd.DataFrame | None = None
        self.autoencoder_trained_ = False
        self.diffusion_trained_ = False
        self.var_ = None if adata is None else adata.var.copy()
        names = ", ".join(c.name for c in self.conditions) or "none"
        self._model_summary_string = (
            f"SCLDM with n_latent: {n_latent}, n_hidden: {n_hidden}, n_layers: {n_layers}, "
            f"gene_likelihood: {gene_likelihood}, dispersion: {dispersion}, "
            f"schedule: {schedule}, parametrisation: {parametrisation}, conditions: {names}."
        )
        self.init_params_ = self._get_init_params(locals())

    def _decoder_sizes(self) -> dict[str, Any]:
        fields = self.registry_["field_registries"]
        return {
            "n_input": self.summary_stats["n_vars"],
            "n_batch": self.summary_stats["n_batch"],
            "n_labels": self.summary_stats["n_labels"],
            "n_continuous_cov": self.summary_stats.get(f"n_{KEYS.CONTINUOUS}", 0),
            "n_cats_per_cov": fields[KEYS.CATEGORICAL]["state_registry"].get("n_cats_per_key"),
            "use_size_factor_key": self.registry_["setup_args"]["library_size_key"] is not None,
        }

    @property
    def var_names(self) -> pd.Index:
        """Names of the model's genes, in its order."""
        state = self.registry_["field_registries"][KEYS.COUNTS]["state_registry"]
        return pd.Index(state["column_names"])

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        layer: str | None = None,
        library_size_key: str | None = None,
        cell_type_key: str | None = None,
        batch_key: str | None = None,
        perturbation_key: str | None = None,
        control_label: str = "control",
        dose_key: str | None = None,
        time_key: str | None = None,
        spatial_key: str | None = None,
        categorical_covariate_keys: list[str] | None = None,
        continuous_covariate_keys: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Register data: where the counts are and what the cells depend on.

        Each key that is given becomes a condition of :meth:`generate`, under the names
        ``cell_type``, ``batch``, ``perturbation``, ``dose``, ``time`` and ``spatial``; covariates
        go under their own column names. Batch and covariates enter the decoder too.

        Parameters
        ----------
        adata
            Cells with raw counts, each with at least one.
        layer
            Layer with the counts; ``None`` is ``adata.X``.
        library_size_key
            Column of ``adata.obs`` with library sizes, for data that hold only part of the
            measured genes. ``None`` takes each cell's total count.
        cell_type_key, batch_key
            Columns of ``adata.obs`` with categories.
        perturbation_key
            Column with perturbations; combinations are written ``"A+B"``.
        control_label
            The label of unperturbed cells in that column.
        dose_key
            Column with the dose of the perturbation, a number.
        time_key
            Column with the time, a number in any unit.
        spatial_key
            Array in ``adata.obsm`` with coordinates, ``(n_cells, 2 or 3)``.
        categorical_covariate_keys, continuous_covariate_keys
            Further columns.
        **kwargs
            For the data manager of scvi-tools (``source_registry``, ``extend_categories``).

        Raises
        ------
        KeyError
            If a layer, column or array is not there.
        ValueError
            If counts are negative, fractional or not finite, a cell has none, a value is missing
            or of the wrong type, the control does not occur, or names of conditions collide.
        TypeError
            If ``adata`` is not an AnnData.
        """
        if not isinstance(adata, AnnData):
            raise TypeError(f"`adata` is a {type(adata).__name__}, not an AnnData.")
        setup_method_args = cls._get_setup_method_args(**locals())
        cls._check_covariate_names(categorical_covariate_keys, continuous_covariate_keys)
        control = control_label if perturbation_key is not None else None
        fields = [
            CountsField(KEYS.COUNTS, layer),
            LibrarySizeField(KEYS.LIBRARY_SIZE, library_size_key, "library_size_key"),
            CategoryField(KEYS.CELL_TYPE, cell_type_key, "cell_type_key"),
            CategoryField(KEYS.BATCH, batch_key, "batch_key"),
            CategoryField(
                KEYS.PERTURBATION, perturbation_key, "perturbation_key", control, open_ended=True
            ),
            NumberField(KEYS.DOSE, dose_key, "dose_key"),
            NumberField(KEYS.TIME, time_key, "time_key"),
            CategoricalCovariatesField(KEYS.CATEGORICAL, categorical_covariate_keys),
            ContinuousCovariatesField(KEYS.CONTINUOUS, continuous_covariate_keys),
        ]
        if spatial_key is not None:
            fields.append(CoordinatesField(KEYS.SPATIAL, spatial_key, "spatial_key"))
        adata_manager = AnnDataManager(fields=fields, setup_method_args=setup_method_args)
        adata_manager.register_fields(adata, **kwargs)
        cls.register_manager(adata_manager)

    @classmethod
    def from_scvi_model(
        cls,
        scvi_model: SCVI,
        *,
        perturbation_key: str | None = None,
        control_label: str = "control",
        dose_key: str | None = None,
        time_key: str | None = None,
        spatial_key: str | None = None,
        cell_type_key: str | None = None,
        **model_kwargs: Any,
    ) -> SCLDM:
        """Build a model on the autoencoder of a trained :class:`scvi.model.SCVI`.

        Counts, batch and covariates are those of the SCVI model, whose weights are copied. Only
        stage 2 remains to be trained: ``model.train_diffusion()``.

        Parameters
        ----------
        scvi_model
            A trained model, with its data.
        perturbation_key, control_label, dose_key, time_key, spatial_key
            As in :meth:`setup_anndata`.
        cell_type_key
            As there; ``None`` takes the SCVI model's ``labels_key``.
        **model_kwargs
            Arguments of this class that concern stage 2.

        Raises
        ------
        ValueError
            If the model is not trained or has no data, or uses a latent or a likelihood that
            cannot be diffused here.
        TypeError
            If it is no SCVI model, or an argument is one that it settles.
        """
        if not isinstance(scvi_model, SCVI):
            raise TypeError(f"`scvi_model` is a {type(scvi_model).__name__}, not an SCVI model.")
        if not scvi_model.is_trained or scvi_model.adata is None:
            raise ValueError("`scvi_model` must be trained and have its data.")
        source = scvi_model.module
        if source.latent_distribution != "normal" or not source.use_observed_lib_size:
            raise ValueError(
                "`scvi_model` must have `latent_distribution='normal'` and "
                "`use_observed_lib_size=True`."
            )
        params = scvi_model.init_params_
        inherited = {**params["non_kwargs"], **params["kwargs"].get("kwargs", {})}
        fixed = sorted(set(inherited) & set(model_kwargs))
        if fixed:
            raise TypeError(f"{shortened(fixed)} come from `scvi_model` and cannot be set.")
        for name in ("use_observed_lib_size", "latent_distribution"):
            inherited.pop(name, None)
        setup = scvi_model.registry_["setup_args"]
        cls.setup_anndata(
            scvi_model.adata,
            layer=setup["layer"],
            library_size_key=setup["size_factor_key"],
            cell_type_key=cell_type_key or setup["labels_key"],
            batch_key=setup["batch_key"],
            perturbation_key=perturbation_key,
            control_label=control_label,
            dose_key=dose_key,
            time_key=time_key,
            spatial_key=spatial_key,
            categorical_covariate_keys=setup["categorical_covariate_keys"],
            continuous_covariate_keys=setup["continuous_covariate_keys"],
            source_registry=cls._codes_of(scvi_model, cell_type_key or setup["labels_key"]),
        )
        model = cls(scvi_model.adata, **{**inherited, **model_kwargs})
        model.module.autoencoder.load_state_dict(source.state_dict())
        model.train_indices = scvi_model.train_indices
        model.validation_indices = scvi_model.validation_indices
        model.test_indices = scvi_model.test_indices
        model.history_ = dict(scvi_model.history or {})
        model.autoencoder_trained_ = model.is_trained_ = True
        model.training_frame_ = model._read_conditions(model.adata)
        model.to_device(scvi_model.device)
        model.module.eval()
        return model

    @staticmethod
    def _codes_of(scvi_model: SCVI, cell_type_key: str | None) -> dict[str, Any]:
        """Return the part of a registry that says which code a category has."""
        fields = scvi_model.registry_["field_registries"]
        keys = [KEYS.BATCH, KEYS.CATEGORICAL]
        if cell_type_key == scvi_model.registry_["setup_args"]["labels_key"]:
            keys.append(KEYS.CELL_TYPE)
        return {"field_registries": {key: fields[key] for key in keys}}

    @staticmethod
    def _check_covariate_names(*covariates: list[str] | None) -> None:
        taken = GenerationMixin._reserved_names()
        seen: set[str] = set()
        for keys in covariates:
            if isinstance(keys, str):
                raise TypeError(
                    f"Covariate keys must be a list of columns, not the text {keys!r}."
                )
            for key in keys or []:
                if not isinstance(key, str):
                    raise TypeError(f"The covariate key {key!r} is not text.")
                if key in seen:
                    raise ValueError(f"The covariate {key!r} is given twice.")
                seen.add(key)
                if key in taken:
                    raise ValueError(
                        f"The covariate {key!r} has the name of an argument of `generate`. "
                        f"Rename the column; taken are {sorted(taken)}."
                    )
