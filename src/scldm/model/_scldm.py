"""The model class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import pandas as pd

# scvi-tools 1.4 prints setups with it, but relies on others to import it
import rich.pretty  # noqa: F401
from anndata import AnnData
from scvi.data import AnnDataManager
from scvi.model.base import BaseModelClass, RNASeqMixin, VAEMixin

from scldm.module import AUTOENCODERS, SCLDMModule

from ._autoencoders import CodebookMixin, build_autoencoder
from ._choices import chosen, flag, positive, share, weight
from ._distillation import DistillationMixin
from ._editing import EditingMixin
from ._fates import FatesMixin
from ._files import FilesMixin
from ._fine_tuning import FineTuningMixin
from ._from_scvi import FromSCVIMixin
from ._gene_imputation import GeneImputationMixin
from ._gene_sets import GeneSetsMixin
from ._generation import GenerationMixin
from ._hub import HubMixin
from ._keys import KEYS
from ._latents import LatentsMixin
from ._likelihood import LikelihoodMixin
from ._networks import build_diffusion, compiled
from ._perturbing import PerturbingMixin
from ._query import QueryMixin
from ._reading import ReadingMixin
from ._registered import conditions_from_registry
from ._resolution import ResolutionMixin
from ._screening import ScreeningMixin
from ._setup import setup_fields
from ._spatial import SpatialMixin
from ._trajectories import TrajectoryMixin

__all__ = ["SCLDM"]

LIKELIHOODS = ("nb", "zinb", "poisson")
DISPERSIONS = ("gene", "gene-batch", "gene-label", "gene-cell")


class SCLDM(
    FilesMixin,
    HubMixin,
    QueryMixin,
    GenerationMixin,
    LatentsMixin,
    EditingMixin,
    PerturbingMixin,
    ScreeningMixin,
    TrajectoryMixin,
    FatesMixin,
    SpatialMixin,
    ResolutionMixin,
    GeneImputationMixin,
    LikelihoodMixin,
    ReadingMixin,
    DistillationMixin,
    FineTuningMixin,
    CodebookMixin,
    GeneSetsMixin,
    FromSCVIMixin,
    RNASeqMixin,
    VAEMixin,
    BaseModelClass,
):
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
        Hidden layers of encoder and decoder each; by default two, or one where a time, coordinates or a
        perturbation are registered.
    dropout_rate
        Dropout in the encoder.
    thinning
        Largest share of a cell's counts that are kept from the encoder in training, so that latents
        tell what a cell is and not what chance did to its counts; 0 shows it all of them.
    gene_likelihood
        Distribution of a count: negative binomial, zero-inflated negative binomial, or Poisson.
    dispersion
        What the (inverse) dispersion depends on: the gene, gene and batch, gene and cell type,
        or gene and cell (the decoder's output).
    kl_weight
        Weight of the KL term of the autoencoder's loss, the beta of a beta-VAE (Higgins et al.
        2017). The diffusion takes the place of the prior, so the latents need not be close to a
        normal distribution and the weight is small. For ``autoencoder="vq"`` the weight of the
        commitment loss, the beta of a VQ-VAE.
    autoencoder
        Kind of autoencoder, one of :data:`scldm.module.AUTOENCODERS`: variational, or
        vector-quantised, whose latents are codes (see :meth:`get_codebook_usage`).
    free_bits
        Nats below which no latent dimension's KL term is pushed; 0 is none. Of ``"vae"``.
    n_codes, code_dims
        Codes in each codebook, 64 by default, and latent dimensions that share one, 2 by
        default. Of ``"vq"``.
    adversarial_weight
        Weight of a discriminator that must not tell sampled expression from real one, see
        :class:`scldm.train.AdversarialPlan`; 0 is none. With few cells the discriminator learns
        them by heart: on the 1,700 of ``pbmc3k`` sampled cells got worse at a weight of 10.
    schedule
        Noise schedule, one of :data:`scldm.diffusion.SCHEDULES`. ``"vp_linear"`` with
        ``parametrisation="noise"`` is DDPM.
    parametrisation
        What the denoiser predicts, one of :data:`scldm.diffusion.PARAMETRISATIONS`.
    times
        The times it is trained on, one of :data:`scldm.diffusion.TIME_DISTRIBUTIONS`.
    loss_weight
        Weight of its loss over times, one of :data:`scldm.diffusion.LOSS_WEIGHTS`.
    coupling
        Which noise goes with which cell in training, one of :data:`scldm.diffusion.COUPLINGS`.
    backbone
        Network of the denoiser, one of :data:`scldm.nn.BACKBONES`.
    conditioning
        How conditions steer it, one of :data:`scldm.nn.CONDITIONINGS`.
    width, depth
        Width and number of blocks of the denoiser.
    backbone_kwargs
        Further arguments of the backbone, among them ``dropout_rate`` and ``checkpointing``
        (activations are computed anew in the backward pass, which saves memory).
    compile_network
        Whether to compile the denoiser with :func:`torch.compile`; worth its start of a minute
        for long training. A model that is loaded is not compiled.
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
        n_layers: int | None = None,
        dropout_rate: float | None = None,
        thinning: float | None = None,
        gene_likelihood: Literal["nb", "zinb", "poisson"] = "nb",
        dispersion: Literal["gene", "gene-batch", "gene-label", "gene-cell"] = "gene-cell",
        kl_weight: float | None = None,
        autoencoder: str = "vae",
        free_bits: float = 0.0,
        n_codes: int | None = None,
        code_dims: int | None = None,
        adversarial_weight: float = 0.0,
        schedule: str = "rectified_flow",
        parametrisation: str = "flow",
        times: str = "uniform",
        loss_weight: str = "plain",
        coupling: str = "independent",
        backbone: str = "mlp",
        conditioning: str = "adaln",
        width: int | None = None,
        depth: int = 4,
        backbone_kwargs: dict[str, Any] | None = None,
        compile_network: bool = False,
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
        chosen("autoencoder", autoencoder, AUTOENCODERS)
        chosen("dispersion", dispersion, DISPERSIONS)
        recipe = self.recipe
        n_latent = positive("n_latent", n_latent, recipe.n_latent)
        n_hidden = positive("n_hidden", n_hidden, recipe.n_hidden)
        n_layers = positive("n_layers", n_layers, recipe.n_layers)
        dropout_rate = share("dropout_rate", dropout_rate, recipe.dropout_rate)
        kl_weight = weight("kl_weight", kl_weight, recipe.kl_weight_of(autoencoder))
        width = positive("width", width, recipe.width)
        self.kl_weight = kl_weight
        self.thinning = share("thinning", thinning, recipe.thinning)
        self.adversarial_weight = weight("adversarial_weight", adversarial_weight)
        self.conditions = conditions_from_registry(self.registry_, dispersion == "gene-label")
        stage_1 = build_autoencoder(
            autoencoder,
            free_bits=free_bits,
            n_codes=n_codes,
            code_dims=code_dims,
            **self._decoder_sizes(),
            n_hidden=n_hidden,
            n_latent=n_latent,
            n_layers=n_layers,
            dropout_rate=dropout_rate,
            gene_likelihood=chosen("gene_likelihood", gene_likelihood, LIKELIHOODS),
            dispersion=dispersion,
            **module_kwargs,
        )
        diffusion = build_diffusion(
            self.conditions,
            n_latent,
            coupling=coupling,
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
        self.module = SCLDMModule(
            stage_1,
            diffusion,
            self._new_perturbation_module(n_latent),
            self._new_trajectory_module(n_latent),
            self._new_spatial_module(n_latent),
        )
        self.training_frame_: pd.DataFrame | None = None
        self.autoencoder_trained_ = False
        self.diffusion_trained_ = False
        self.perturbation_trained_ = False
        self.trajectory_trained_ = False
        self.spatial_trained_ = False
        self.shifts_ = {}
        self.trajectory_ = {}
        self.spatial_ = {}
        self.student_ = None
        self.var_ = None if adata is None else adata.var.copy()
        self._model_summary_string = (
            f"SCLDM with autoencoder: {autoencoder}, n_latent: {n_latent}, n_hidden: {n_hidden}, "
            f"n_layers: {n_layers}, gene_likelihood: {gene_likelihood}, dispersion: {dispersion}, "
            f"schedule: {schedule}, parametrisation: {parametrisation}, backbone: {backbone}, "
            f"conditions: {', '.join(c.name for c in self.conditions) or 'none'}."
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
        perturbation_separator: str = "+",
        embeddings: Mapping[str, str] | None = None,
        source_key: str | None = None,
        gene_sets_key: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Register data: where the counts are and what the cells depend on.

        Each key that is given becomes a condition of :meth:`generate`, under the names
        ``cell_type``, ``batch``, ``perturbation``, ``dose``, ``time``, ``spatial``, ``source``
        and ``gene_sets``; covariates go under their own column names. Batch and covariates enter
        the decoder too.

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
            The label of unperturbed cells in that column. They have no perturbation that a dose
            could be of: where one is asked for that no control cell has, they get one of theirs.
        dose_key
            Column with the dose of the perturbation, a number, or text with a number for each
            member of a combination, ``"1+10"``, in the order of its label.
        time_key
            Column with the time, a number in any unit.
        spatial_key
            Array in ``adata.obsm`` with coordinates, ``(n_cells, 2 or 3)``.
        categorical_covariate_keys, continuous_covariate_keys
            Further columns.
        perturbation_separator
            What stands between the members of a combination.
        embeddings
            For ``"cell_type"`` or ``"perturbation"``, the key of ``adata.uns`` with a vector for
            each cell type, or for each perturbation but the control: a data frame whose index
            has the names, or a mapping. Names with a vector can be asked for though no cell has
            them.
        source_key
            Array in ``adata.obsm`` with a vector for each cell, such as the latent of a cell
            that it came from, ``(n_cells, d)``.
        gene_sets_key
            Data frame or array in ``adata.varm`` with gene sets in its columns, weights of 0 or
            more for the genes (see :func:`scldm.data.add_gene_sets`). Names of an array's columns
            are taken from ``adata.uns[f"{gene_sets_key}_names"]``, if there are any. Cells are
            scored from their counts, see :meth:`get_gene_set_scores`.
        **kwargs
            For the data manager of scvi-tools (``source_registry``, ``extend_categories``).

        Raises
        ------
        KeyError
            If a layer, column or array is not there.
        ValueError
            If counts are negative, fractional or not finite, a cell has none, a value is missing
            or of the wrong type, the control does not occur, names of conditions collide, a
            vector is missing, or a gene set has no score.
        TypeError
            If ``adata`` is not an AnnData, or embeddings are no table.
        """
        if not isinstance(adata, AnnData):
            raise TypeError(f"`adata` is a {type(adata).__name__}, not an AnnData.")
        setup_method_args = cls._get_setup_method_args(**locals())
        fields = setup_fields(setup_method_args["setup_args"], cls._reserved_names())
        adata_manager = AnnDataManager(fields=fields, setup_method_args=setup_method_args)
        adata_manager.register_fields(adata, **kwargs)
        cls.register_manager(adata_manager)
