"""Pairs of modalities of real cells, cut into those to learn from and those to translate."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import scanpy as sc
import scvi
from scipy import sparse

import scldm

__all__ = ["TASKS", "Task", "counts_of", "normalised", "task", "trained"]

N_GENES = 2000
TOTALVI_EPOCHS = 400
"""The default of scvi-tools for as many cells."""


@dataclass(frozen=True)
class Task:
    """One direction of one data set.

    Parameters
    ----------
    train, test
        Cells with all modalities, counts under the kind of modality.
    seed
        Of the cut and of what learns from it.
    directions
        Pairs of modalities, the given one first.
    """

    train: md.MuData
    test: md.MuData
    seed: int
    directions: tuple[tuple[str, str], ...]

    @cached_property
    def model(self) -> scldm.MultiLDM:
        """A model of this package, trained with its defaults on all training cells."""
        return trained(self.train, self.seed)

    @cached_property
    def totalvi(self) -> scvi.model.TOTALVI:
        """A trained totalVI; the test cells are a batch without proteins, which come after the others."""
        return fit_totalvi(self)


def trained(train: md.MuData, seed: int, **kwargs: Any) -> scldm.MultiLDM:
    """Return a trained model of this package."""
    scldm.MultiLDM.setup_mudata(train, modalities={f"{name}_layer": name for name in train.mod})
    scvi.settings.seed = seed
    model = scldm.MultiLDM(train, **kwargs)
    model.train(enable_progress_bar=False)
    return model


def fit_totalvi(task: Task) -> scvi.model.TOTALVI:
    """Return a trained totalVI, which saw the RNA of all cells."""
    parts = {"train": task.train, "test": task.test}
    joined = ad.AnnData(
        sparse.vstack([sparse.csr_matrix(m["rna"].X) for m in parts.values()], format="csr"),
        obs=pd.DataFrame(
            {"batch": np.repeat(list(parts), [m.n_obs for m in parts.values()])},
            index=[name for m in parts.values() for name in m.obs_names],
        ),
    )
    known = counts_of(task.train, "protein")
    joined.obsm["protein"] = np.vstack(
        [known, np.zeros((task.test.n_obs, known.shape[1]), np.float32)]
    )
    scvi.model.TOTALVI.setup_anndata(
        joined, batch_key="batch", protein_expression_obsm_key="protein"
    )
    scvi.settings.seed = task.seed
    model = scvi.model.TOTALVI(joined)
    model.train(max_epochs=TOTALVI_EPOCHS, enable_progress_bar=False)
    return model


def counts_of(mdata: md.MuData, modality: str) -> np.ndarray:
    """Return dense counts of a modality."""
    x = mdata[modality].X
    return np.asarray(x.toarray() if sparse.issparse(x) else x, dtype=np.float32)


def normalised(counts: np.ndarray, kind: str) -> np.ndarray:
    """Return counts on the scale on which they are compared.

    Proteins as log(1 + counts), peaks as they are; RNA of each cell as shares of 10,000, then
    logarithms.
    """
    counts = np.asarray(counts, dtype=np.float32)
    if kind == "atac":
        return counts
    if kind == "rna":
        counts = counts / counts.sum(axis=-1, keepdims=True).clip(1) * 1e4
    return np.log1p(counts)


def tables(path: Path) -> md.MuData:
    """Return the cells of a file as a ``MuData`` with ``rna`` and ``protein`` or ``atac``."""
    if path.suffix == ".h5mu":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return md.read_h5mu(path)
    adata = ad.read_h5ad(path)
    protein = ad.AnnData(
        np.asarray(adata.obsm["protein_counts"], dtype=np.float32),
        obs=pd.DataFrame(index=adata.obs_names),
        var=pd.DataFrame(index=pd.Index(adata.uns["protein_names"]).astype(str)),
    )
    rna = ad.AnnData(adata.X, obs=pd.DataFrame(index=adata.obs_names), var=adata.var[[]].copy())
    return md.MuData({"rna": rna, "protein": protein})


def split(mdata: md.MuData, seed: int, validation: bool = False) -> tuple[md.MuData, md.MuData]:
    """Return training and test cells, 80 to 20, with the training cells' most variable genes.

    Parameters
    ----------
    mdata
        All cells.
    seed
        Of the cut.
    validation
        Whether to cut the training cells once more and leave the test cells out, which choices of
        settings must not see.
    """
    order = np.random.default_rng(seed).permutation(mdata.n_obs)
    n_train = int(0.8 * len(order))
    train, test = order[:n_train], order[n_train:]
    if validation:
        train, test = train[: int(0.8 * n_train)], train[int(0.8 * n_train) :]
    rna = mdata["rna"]
    if rna.n_vars > N_GENES:
        cells = rna[np.sort(train)].copy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sc.pp.highly_variable_genes(cells, n_top_genes=N_GENES, flavor="seurat_v3")
        kept = {"rna": rna[:, cells.var["highly_variable"].to_numpy()].copy()}
    else:
        kept = {"rna": rna}
    kept |= {name: mdata[name] for name in mdata.mod if name != "rna"}
    # features that no training cell has cannot be learned
    for name, part in kept.items():
        seen = np.asarray((part[np.sort(train)].X > 0).sum(axis=0)).ravel() > 0
        kept[name] = part[:, seen].copy()
    whole = md.MuData(kept)
    return whole[np.sort(train)].copy(), whole[np.sort(test)].copy()


def task(path: Path, pair: tuple[str, str], seed: int, validation: bool = False) -> Task:
    """Return the cells of a file to translate both ways."""
    train, test = split(tables(path), seed, validation)
    return Task(train, test, seed, (pair, pair[::-1]))


TASKS = {
    "pbmc10k_cite": ("h5ad", ("rna", "protein")),
    "pbmc_eccite_500": ("h5ad", ("rna", "protein")),
    "a549_scicar_multiome": ("h5mu", ("rna", "atac")),
}
"""By data set: how its file ends, and its modalities."""
