"""Where a user's data have modalities and conditions, and where they get them back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from scldm._randomness import kept_choices

from ._fields import shortened
from ._modalities import KINDS, Joined, Modality, aligned, booleans, in_layer, in_mudata, join

__all__ = ["AnnDataLayout", "Layout", "MuDataLayout", "layout_of"]

Columns = Mapping[str, Any]

_OBS = ("cell_type_key", "batch_key", "perturbation_key", "dose_key", "time_key")
_LISTS = ("categorical_covariate_keys", "continuous_covariate_keys")
_OBSM = ("spatial_key", "source_key")


class Layout(ABC):
    """How a user's data are laid out.

    Parameters
    ----------
    setup
        The arguments of the setup.
    """

    def __init__(self, setup: Mapping[str, Any]) -> None:
        self.setup = setup

    @property
    @abstractmethod
    def modalities(self) -> list[str]:
        """Its modalities."""

    @abstractmethod
    def read(
        self, data: Any, names: Iterable[str], strict: bool = True
    ) -> tuple[pd.Index, list[Modality]]:
        """Return the cells, and those of some modalities that the data have.

        Columns that say what was measured have to be there if ``strict``; else all was.
        """

    @abstractmethod
    def owner(self, data: Any, argument: str) -> Any:
        """Return what has the ``obs``, ``obsm`` or ``uns`` that an argument of the setup names."""

    @abstractmethod
    def var(self, data: Any) -> dict[str, pd.DataFrame]:
        """Return what is known of features, by modality."""

    @abstractmethod
    def write(self, obs: AnnData, parts: Mapping[str, AnnData]) -> MuData | AnnData:
        """Return generated cells in this layout.

        Parameters
        ----------
        obs
            Cells with their conditions and nothing else.
        parts
            Counts by modality.
        """

    def join(self, data: Any) -> AnnData:
        """Return a user's data with all modalities and conditions as one table.

        Raises
        ------
        KeyError, TypeError, ValueError
            If something is not there or not what it must be.
        """
        cells, found = self.read(data, self.modalities)
        absent = [name for name in self.modalities if name not in [m.name for m in found]]
        if absent:
            raise ValueError(f"The data have no modality {absent[0]!r}.")
        adata = join(cells, found)
        for argument, key in self._keys("obs"):
            adata.obs[key] = _column(self.owner(data, argument).obs, argument, key, cells)
        for argument, key in self._keys("obsm"):
            adata.obsm[key] = _array(self.owner(data, argument), argument, key, cells)
        for name, key in (self.setup["embeddings"] or {}).items():
            uns = self.owner(data, "embeddings").uns
            if key not in uns:
                raise KeyError(
                    f"`embeddings[{name!r}]={key!r}` is not in `uns`. Known: {shortened(uns)}."
                )
            adata.uns[key] = uns[key]
        return adata

    def join_known(
        self, data: Any, names: Sequence[str], features: Mapping[str, Sequence[str]]
    ) -> Joined:
        """Return new data as a table with some modalities, their features those of the model.

        Parameters
        ----------
        data
            In this layout, or ``AnnData`` by modality, or one where one modality is asked for.
        names
            Modalities to look for.
        features
            By modality.
        """
        if isinstance(data, Mapping):
            if not data:
                raise ValueError(f"`data` is empty; some of {list(names)} are needed.")
            cells, found = _in_mapping(data, self.setup, names)
        elif isinstance(data, AnnData) and not self._fits(data):
            if len(names) != 1:
                raise TypeError(
                    f"`data` is an AnnData, but {list(names)} are needed; give a MuData, or a "
                    "mapping from these names to AnnData."
                )
            cells, found = _in_mapping({names[0]: data}, self.setup, names)
        else:
            cells, found = self.read(data, names, strict=False)
        missing: dict[str, list[str]] = {}
        parts = []
        for modality in found:
            part, lacking = aligned(modality, features[modality.name])
            parts.append(part)
            if lacking:
                missing[modality.name] = lacking
        adata = join(cells, parts)
        for kind in ("obs", "obsm"):
            for argument, key in self._keys(kind):
                held = self._held(data, argument, kind, key, cells)
                if held is not None:
                    getattr(adata, kind)[key] = held
        return Joined(adata, missing)

    @abstractmethod
    def _fits(self, data: Any) -> bool:
        """Say whether data have this layout."""

    def _owners(self, data: Any, argument: str) -> list[Any]:
        """Return what may have the column or array that an argument names, in new data."""
        return list(data.values()) if isinstance(data, Mapping) else [data]

    def _held(self, data: Any, argument: str, kind: str, key: str, cells: pd.Index) -> Any:
        """Return a column or array of new data, ``None`` where they lack it."""
        for owner in self._owners(data, argument):
            if key not in getattr(owner, kind):
                continue
            if kind == "obs":
                return owner.obs[key].reindex(cells)
            places = owner.obs_names.get_indexer(cells)
            if (places < 0).any():
                raise ValueError(
                    f"`obsm[{key!r}]` of the data lacks {int((places < 0).sum())} of the cells."
                )
            return np.asarray(owner.obsm[key])[places]
        return None

    def _keys(self, kind: str) -> Iterable[tuple[str, str]]:
        """Yield arguments and keys of what stands in ``obs`` or ``obsm``."""
        for argument in _OBS if kind == "obs" else _OBSM:
            if self.setup[argument] is not None:
                yield argument, self.setup[argument]
        for argument in _LISTS if kind == "obs" else ():
            for key in self.setup[argument] or []:
                yield argument, key


class MuDataLayout(Layout):
    """Modalities in a ``MuData``; conditions in its ``obs`` or in that of a modality."""

    @property
    def mods(self) -> dict[str, str]:
        """Keys of ``mdata.mod`` by modality."""
        named = self.setup["modalities"]
        keys = {kind: named.get(f"{kind}_layer") for kind in KINDS}
        return {kind: key for kind, key in keys.items() if key is not None}

    @property
    def modalities(self) -> list[str]:
        return list(self.mods)

    def check(self, mdata: Any) -> None:
        """Check that data have the modalities that the setup names."""
        if not isinstance(mdata, MuData):
            raise TypeError(f"`mdata` is a {type(mdata).__name__}, not a MuData.")
        named = self.setup["modalities"]
        known = [f"{kind}_layer" for kind in KINDS]
        known += [*_OBS, *_LISTS, *_OBSM, "embeddings"]
        for argument, key in named.items():
            if argument not in known:
                raise ValueError(
                    f"`modalities` has {argument!r}, which is not an argument. Known: {known}."
                )
            if key is not None and key not in mdata.mod:
                raise KeyError(
                    f"`modalities[{argument!r}]={key!r}` is not a modality of `mdata`. "
                    f"Known: {shortened(mdata.mod)}."
                )
        if len(self.mods) < 2:
            raise ValueError(
                f"`modalities` names {list(self.mods)}; give two or more of "
                f"{[f'{kind}_layer' for kind in KINDS]}. One modality is what `SCLDM` is for."
            )
        if len(set(self.mods.values())) < len(self.mods):
            raise ValueError(f"`modalities` names one modality of `mdata` twice: {self.mods}.")
        for kind in KINDS:
            if self.setup[f"{kind}_layer"] is not None and kind not in self.mods:
                raise ValueError(
                    f"`{kind}_layer` is given, but `modalities` has no '{kind}_layer'."
                )

    def _fits(self, data: Any) -> bool:
        return isinstance(data, MuData)

    def read(
        self, data: Any, names: Iterable[str], strict: bool = True
    ) -> tuple[pd.Index, list[Modality]]:
        if not isinstance(data, MuData):
            raise TypeError(f"`data` is a {type(data).__name__}, not a MuData.")
        mods = {n: key for n, key in self.mods.items() if n in set(names) and key in data.mod}
        layers = {kind: self.setup[f"{kind}_layer"] for kind in KINDS}
        return in_mudata(data, mods, layers, self.setup["measured_keys"] or {}, strict)

    def owner(self, data: Any, argument: str) -> Any:
        key = self.setup["modalities"].get(argument)
        return data if key is None else data.mod[key]

    def _owners(self, data: Any, argument: str) -> list[Any]:
        if not isinstance(data, MuData):
            return super()._owners(data, argument)
        key = self.setup["modalities"].get(argument)
        return [data.mod[key], data] if key in data.mod else [data]

    def var(self, data: Any) -> dict[str, pd.DataFrame]:
        return {name: data.mod[key].var.copy() for name, key in self.mods.items()}

    def write(self, obs: AnnData, parts: Mapping[str, AnnData]) -> MuData:
        for name, part in parts.items():
            if (layer := self.setup[f"{name}_layer"]) is not None:
                part.layers[layer] = part.X
        with kept_choices():
            mdata = MuData({self.mods[name]: part for name, part in parts.items()})
        mdata.obs = obs.obs.reindex(mdata.obs_names)
        for key in obs.obsm:
            mdata.obsm[key] = obs.obsm[key]
        for argument, key in self._keys("obs"):
            if self.setup["modalities"].get(argument) is not None:
                self.owner(mdata, argument).obs[key] = mdata.obs[key]
        return mdata


class AnnDataLayout(Layout):
    """RNA in ``X`` or a layer and proteins in ``obsm``, as totalVI takes them."""

    modalities = ["rna", "protein"]

    def _fits(self, data: Any) -> bool:
        key = self.setup["protein_expression_obsm_key"]
        return isinstance(data, AnnData) and key in data.obsm

    def owner(self, data: Any, argument: str) -> Any:
        return data

    def read(
        self, data: Any, names: Iterable[str], strict: bool = True
    ) -> tuple[pd.Index, list[Modality]]:
        if not isinstance(data, AnnData):
            raise TypeError(f"`adata` is a {type(data).__name__}, not an AnnData.")
        found = []
        if "rna" in set(names):
            counts = in_layer(data, self.setup["layer"], "layer", "`adata`")
            here = self._measured(data, "rna", strict)
            found.append(
                Modality("rna", counts, data.obs_names, data.var_names, "`adata.X`", here)
            )
        if "protein" in set(names):
            found.append(self._proteins(data, strict))
        return data.obs_names, found

    def _measured(self, data: AnnData, name: str, strict: bool) -> np.ndarray | None:
        column = (self.setup["measured_keys"] or {}).get(name)
        return None if column is None else booleans(data.obs, data.obs, column, name, strict)

    def _proteins(self, data: AnnData, strict: bool) -> Modality:
        key = self.setup["protein_expression_obsm_key"]
        where = f"`adata.obsm[{key!r}]`"
        if key not in data.obsm:
            raise KeyError(
                f"`protein_expression_obsm_key={key!r}` is not in `adata.obsm`. "
                f"Known: {shortened(data.obsm)}."
            )
        counts = data.obsm[key]
        uns_key = self.setup["protein_names_uns_key"]
        if uns_key is not None:
            if uns_key not in data.uns:
                raise KeyError(
                    f"`protein_names_uns_key={uns_key!r}` is not in `adata.uns`. "
                    f"Known: {shortened(data.uns)}."
                )
            names = pd.Index(data.uns[uns_key])
        elif isinstance(counts, pd.DataFrame):
            names = counts.columns.astype(str)
        else:
            names = pd.Index([f"protein_{i}" for i in range(counts.shape[1])])
        if len(names) != counts.shape[1]:
            raise ValueError(f"{where} has {counts.shape[1]} columns, but {len(names)} names.")
        measured = self._measured(data, "protein", strict)
        return Modality("protein", counts, data.obs_names, names, where, measured)

    def var(self, data: Any) -> dict[str, pd.DataFrame]:
        return {"rna": data.var.copy()}

    def write(self, obs: AnnData, parts: Mapping[str, AnnData]) -> AnnData:
        adata = parts["rna"].copy()
        if self.setup["layer"] is not None:
            adata.layers[self.setup["layer"]] = adata.X
        adata.obs = obs.obs
        for key in obs.obsm:
            adata.obsm[key] = obs.obsm[key]
        protein = parts["protein"]
        counts = protein.X.toarray() if sparse.issparse(protein.X) else np.asarray(protein.X)
        adata.obsm[self.setup["protein_expression_obsm_key"]] = pd.DataFrame(
            counts, index=adata.obs_names, columns=protein.var_names
        )
        if self.setup["protein_names_uns_key"] is not None:
            adata.uns[self.setup["protein_names_uns_key"]] = list(protein.var_names)
        return adata


def layout_of(registry: Mapping[str, Any]) -> Layout:
    """Return the layout that a registry was made with."""
    kind = MuDataLayout if registry["setup_method_name"] == "setup_mudata" else AnnDataLayout
    return kind(registry["setup_args"])


def _column(obs: pd.DataFrame, argument: str, key: str, cells: pd.Index) -> pd.Series:
    if key not in obs:
        raise KeyError(
            f"`{argument}={key!r}` is not a column of `obs`. Known: {shortened(obs.columns)}. "
            "Columns of a modality's `obs` are named in `modalities`: "
            f"`modalities={{..., {argument!r}: 'rna'}}`."
        )
    return obs[key].reindex(cells)


def _array(owner: Any, argument: str, key: str, cells: pd.Index) -> Any:
    if key not in owner.obsm:
        raise KeyError(f"`{argument}={key!r}` is not in `obsm`. Known: {shortened(owner.obsm)}.")
    if not owner.obs_names.equals(cells):
        raise ValueError(f"`{argument}={key!r}` stands with a modality that lacks cells.")
    return owner.obsm[key]


def _in_mapping(
    data: Mapping[str, Any], setup: Mapping[str, Any], names: Sequence[str]
) -> tuple[pd.Index, list[Modality]]:
    """Return the cells and modalities of ``AnnData`` by modality, matched by names of cells."""
    found, cells = [], pd.Index([])
    for name, adata in data.items():
        if name not in KINDS or not isinstance(adata, AnnData):
            raise TypeError(
                f"`data` has {name!r} of type {type(adata).__name__}; it must map some of "
                f"{list(KINDS)} to AnnData."
            )
        if name not in names:
            continue
        layer = setup.get(f"{name}_layer", setup.get("layer") if name == "rna" else None)
        counts = in_layer(adata, layer, f"{name}_layer", f"`data[{name!r}]`")
        where = f"`data[{name!r}]`"
        column = (setup["measured_keys"] or {}).get(name)
        here = None if column is None else booleans(adata.obs, adata.obs, column, name, False)
        found.append(Modality(name, counts, adata.obs_names, adata.var_names, where, here))
        if len(cells) and not len(cells.intersection(adata.obs_names)):
            raise ValueError(f"{where} has no cell in common with the others; they match by name.")
        cells = adata.obs_names if not len(cells) else cells.union(adata.obs_names, sort=False)
    return cells, found
