"""What benchmarks share: splits of real data and tables that can be continued."""

from __future__ import annotations

import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from sklearn.model_selection import train_test_split

N_GENES = 2000


def split(path: Path, seed: int, label: str = "cell_type") -> tuple[ad.AnnData, ad.AnnData]:
    """Return training and test cells, 80 to 20, stratified by label.

    The 2,000 most variable genes are chosen on the training cells. Labels with fewer than ten
    cells are stratified together.

    Parameters
    ----------
    path
        File with counts in ``X``.
    seed
        Seed of the split.
    label
        Column of ``obs``; data without it are not stratified.
    """
    adata = ad.read_h5ad(path)
    strata = None
    if label in adata.obs:
        names = adata.obs[label].astype(str)
        rare = names.map(names.value_counts()) < 10
        strata = names.where(~rare, "rare")
        adata.obs[label] = pd.Categorical(names)
    rows = np.arange(adata.n_obs)
    train, test = train_test_split(rows, test_size=0.2, random_state=seed, stratify=strata)
    train, test = adata[train].copy(), adata[test].copy()
    if adata.n_vars > N_GENES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sc.pp.highly_variable_genes(train, n_top_genes=N_GENES, flavor="seurat_v3")
        chosen = train.var["highly_variable"].to_numpy()
        train, test = train[:, chosen].copy(), test[:, chosen].copy()
    for cells in (train, test):
        sc.pp.filter_cells(cells, min_counts=1)
    return train, test


class Results:
    """Rows of a table, each kept on disk as soon as it is finished.

    Parameters
    ----------
    path
        CSV file; rows that stand there already are not computed again.
    keys
        Columns that tell rows apart.
    """

    def __init__(self, path: Path, keys: list[str]) -> None:
        self.path = path
        self.keys = keys
        path.parent.mkdir(parents=True, exist_ok=True)
        self.rows = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=keys)

    def has(self, **key: object) -> bool:
        """Whether a row with these values is there."""
        same = [self.rows[name] == value for name, value in key.items()]
        return bool(np.logical_and.reduce(same).any()) if len(self.rows) else False

    def add(self, **row: object) -> None:
        """Append a row and write the table."""
        self.rows = pd.concat([self.rows, pd.DataFrame([row])], ignore_index=True)
        partial = self.path.with_suffix(".partial")
        self.rows.to_csv(partial, index=False)
        partial.replace(self.path)

    def table(self, by: list[str]) -> pd.DataFrame:
        """Return means over the remaining keys, in the order of first appearance."""
        numbers = [c for c in self.rows.select_dtypes("number") if c not in self.keys]
        return self.rows.groupby(by, sort=False)[numbers].mean()
