"""The genes of a model in other data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scldm._warnings import warn

from ._fields import shortened
from ._keys import KEYS

__all__ = ["genes_of", "with_genes"]


def genes_of(registry: Mapping[str, Any]) -> pd.Index:
    """Return the names of the genes that a registry was made with."""
    state = registry["field_registries"][KEYS.COUNTS]["state_registry"]
    return pd.Index(state["column_names"])


def with_genes(adata: AnnData, genes: pd.Index) -> AnnData:
    """Return a copy of cells with certain genes, filled with zeros where they are missing.

    Raises
    ------
    ValueError
        If names of genes are not unique, or none is there.
    """
    if not adata.var_names.is_unique:
        raise ValueError("`adata` has genes of the same name. Make them unique first.")
    missing = genes.difference(adata.var_names, sort=False)
    if len(missing) == len(genes):
        raise ValueError(
            f"`adata` has none of the {len(genes)} genes of the model, {shortened(genes, 5)}; its own "
            f"are {shortened(adata.var_names, 5)}."
        )
    if not len(missing):
        return adata[:, genes].copy()
    warn(
        f"`adata` lacks {len(missing)} of the {len(genes)} genes of the model, which are filled with "
        f"zeros: {shortened(missing, 5)}."
    )
    blank = sparse.csr_matrix((adata.n_obs, len(missing)), dtype=np.float32)
    filling = AnnData(
        blank,
        obs=pd.DataFrame(index=adata.obs_names),
        var=pd.DataFrame(index=missing),
        layers={name: blank.copy() for name in adata.layers},
    )
    known = adata[:, adata.var_names.isin(genes)]
    # what stands in varm has no rows for genes that are not there
    whole = ad.concat([known, filling], axis="var", join="outer", merge="first", uns_merge="first")
    return whole[:, genes].copy()
