"""A model on the autoencoder of a trained SCVI model."""

from __future__ import annotations

import inspect
from typing import Any, Self, cast

from scvi.model import SCVI

from ._fields import shortened
from ._keys import KEYS

__all__ = ["FromSCVIMixin"]


class FromSCVIMixin:
    """``from_scvi_model``."""

    @classmethod
    def from_scvi_model(
        cls, scvi_model: SCVI, *, cell_type_key: str | None = None, **kwargs: Any
    ) -> Self:
        """Build a model on the autoencoder of a trained :class:`scvi.model.SCVI`.

        Counts, batch and covariates are those of the SCVI model, whose weights are copied. Only
        stage 2 remains to be trained: ``model.train_diffusion()``.

        Parameters
        ----------
        scvi_model
            A trained model, with its data.
        cell_type_key
            As in :meth:`setup_anndata`; ``None`` takes the SCVI model's ``labels_key``.
        **kwargs
            Further arguments of :meth:`setup_anndata` (``perturbation_key``, ``dose_key``,
            ``time_key``, ``spatial_key``, ...), and those of this class that concern stage 2.

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
        if kwargs.get("autoencoder", "vae") != "vae":
            raise ValueError(
                f"`autoencoder={kwargs['autoencoder']!r}` does not fit: the autoencoder of "
                "`scvi_model` is a variational one. Build the model with `SCLDM(adata, ...)`."
            )
        setup, inherited = _settled(scvi_model)
        fixed = sorted((set(setup) | set(inherited)) & set(kwargs))
        if fixed:
            raise TypeError(f"{shortened(fixed)} come from `scvi_model` and cannot be set.")
        labels_key = scvi_model.registry_["setup_args"]["labels_key"]
        of_setup = set(inspect.signature(cls.setup_anndata).parameters) & set(kwargs)
        cls.setup_anndata(
            scvi_model.adata,
            cell_type_key=cell_type_key or labels_key,
            source_registry=_codes_of(scvi_model, (cell_type_key or labels_key) == labels_key),
            **setup,
            **{name: kwargs.pop(name) for name in of_setup},
        )
        model = cast(Any, cls)(scvi_model.adata, **{**inherited, **kwargs})
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


def _settled(scvi_model: SCVI) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments of the setup and of the autoencoder that the SCVI model settles."""
    registered = scvi_model.registry_["setup_args"]
    names = ("layer", "batch_key", "categorical_covariate_keys", "continuous_covariate_keys")
    setup = {name: registered[name] for name in names}
    params = scvi_model.init_params_
    inherited = {**params["non_kwargs"], **params["kwargs"].get("kwargs", {})}
    for name in ("use_observed_lib_size", "latent_distribution"):
        inherited.pop(name, None)
    return setup | {"library_size_key": registered["size_factor_key"]}, inherited


def _codes_of(scvi_model: SCVI, same_labels: bool) -> dict[str, Any]:
    """Return the part of a registry that says which code a category has."""
    fields = scvi_model.registry_["field_registries"]
    keys = [KEYS.BATCH, KEYS.CATEGORICAL, *([KEYS.CELL_TYPE] if same_labels else [])]
    return {"field_registries": {key: fields[key] for key in keys}}
