"""Registering data of several modalities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar
from weakref import WeakValueDictionary

from anndata import AnnData
from mudata import MuData
from scvi.data import AnnDataManager

from ._choices import chosen
from ._layouts import AnnDataLayout, Layout, MuDataLayout
from ._modalities import ModalityField, PresentField
from ._setup import check_setup, condition_fields

__all__ = ["MultiSetupMixin"]


class MultiSetupMixin:
    """``setup_mudata`` and ``setup_anndata``."""

    _registered_data: ClassVar[WeakValueDictionary[str, Any]] = WeakValueDictionary()

    @classmethod
    def setup_mudata(
        cls,
        mdata: MuData,
        rna_layer: str | None = None,
        protein_layer: str | None = None,
        atac_layer: str | None = None,
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
        measured_keys: Mapping[str, str] | None = None,
        modalities: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Register data: where counts are, and what the cells depend on.

        Cells may lack a modality: those that are not in it, and those of which the column named in
        ``measured_keys`` says so. Zeros alone say nothing.

        Parameters
        ----------
        mdata
            Cells with raw counts. They are not copied: do not change them in place afterwards.
        rna_layer, protein_layer, atac_layer
            Layers with the counts; ``None`` is ``X``.
        cell_type_key, batch_key, perturbation_key, control_label, dose_key, time_key, spatial_key
            As in :meth:`SCLDM.setup_anndata`, of ``mdata`` or of the modality that ``modalities`` names
            for the argument.
        categorical_covariate_keys, continuous_covariate_keys, perturbation_separator, embeddings
            As there.
        source_key
            As there.
        measured_keys
            By ``"rna"``, ``"protein"`` or ``"atac"``, a column of ``obs`` with booleans, False for cells
            in which it was not measured.
        modalities
            Keys of ``mdata.mod`` by argument: of ``"rna_layer"``, ``"protein_layer"`` and
            ``"atac_layer"`` at least two; arguments of conditions without one are sought in ``mdata``.
        **kwargs
            For the data manager of scvi-tools.

        Raises
        ------
        KeyError
            If a modality, layer, column or array is not there.
        ValueError
            If counts are not counts, a measured cell has none, cells lack all modalities, names are not
            unique, or a condition is not right.
        TypeError
            If ``mdata`` is not a MuData.
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        setup = setup_method_args["setup_args"]
        check_setup(setup, cls._reserved_names())
        setup["modalities"] = dict(modalities or {})
        layout = MuDataLayout(setup)
        layout.check(mdata)
        cls._register(mdata, layout, setup_method_args, **kwargs)

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        protein_expression_obsm_key: str,
        protein_names_uns_key: str | None = None,
        layer: str | None = None,
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
        measured_keys: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Register RNA and proteins that stand in one ``AnnData``.

        Parameters
        ----------
        adata
            Cells with raw counts of RNA in ``X`` or a layer.
        protein_expression_obsm_key
            Data frame or array in ``adata.obsm`` with counts of proteins.
        protein_names_uns_key
            Key of ``adata.uns`` with their names, where it is an array.
        layer
            Layer with the counts of RNA; ``None`` is ``adata.X``.
        cell_type_key, batch_key, perturbation_key, control_label, dose_key, time_key, spatial_key
            As in :meth:`SCLDM.setup_anndata`.
        categorical_covariate_keys, continuous_covariate_keys, perturbation_separator, embeddings
            As there.
        source_key, **kwargs
            As there.
        measured_keys
            For ``"protein"``, the column of ``adata.obs`` with booleans, False for cells in which no
            protein was measured.

        Raises
        ------
        KeyError, ValueError, TypeError
            As :meth:`setup_mudata`.
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        check_setup(setup_method_args["setup_args"], cls._reserved_names())
        layout = AnnDataLayout(setup_method_args["setup_args"])
        cls._register(adata, layout, setup_method_args, **kwargs)

    @classmethod
    def _register(
        cls, data: Any, layout: Layout, setup_method_args: dict[str, Any], **kwargs: Any
    ) -> None:
        setup = setup_method_args["setup_args"]
        for name in setup["measured_keys"] or {}:
            chosen("measured_keys", name, layout.modalities)
        table = layout.join(data)
        fields = [
            PresentField(),
            *(ModalityField(name) for name in layout.modalities),
            *condition_fields(setup),
        ]
        manager = AnnDataManager(fields=fields, setup_method_args=setup_method_args)
        manager.register_fields(table, **kwargs)
        cls.register_manager(manager)
        # the user's data are known by the table made of them
        data.uns["_scvi_uuid"] = table.uns["_scvi_uuid"]
        data.uns["_scvi_manager_uuid"] = table.uns["_scvi_manager_uuid"]
        cls._registered_data[table.uns["_scvi_uuid"]] = data

    @classmethod
    def _table_of(cls, data: Any) -> AnnData:
        """Return the table that was made of registered data."""
        if not isinstance(data, MuData | AnnData):
            raise TypeError(f"`mdata` is a {type(data).__name__}, not a MuData or AnnData.")
        known = cls._setup_adata_manager_store.get(data.uns.get("_scvi_uuid"))
        if known is None:
            raise ValueError(
                "The data are not registered. Call `MultiLDM.setup_mudata` or "
                "`MultiLDM.setup_anndata` first."
            )
        if cls._registered_data.get(data.uns["_scvi_uuid"]) is not data:
            raise ValueError(
                "The data are a copy or a part of those that were registered. Register them themselves."
            )
        return known.adata
