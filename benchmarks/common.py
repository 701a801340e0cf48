"""What benchmarks share: splits of real data and tables that can be continued."""

from __future__ import annotations

import fcntl
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from sklearn.model_selection import train_test_split

N_GENES = 2000


def split(
    path: Path,
    seed: int,
    label: str = "cell_type",
    max_train: int | None = None,
    validation: bool = False,
) -> tuple[ad.AnnData, ad.AnnData]:
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
    max_train
        The most training cells; others are left out, at random within labels.
    validation
        Whether to cut the training cells once more and return a part of them in place of the
        test cells, which choices of settings must not see.
    """
    adata = ad.read_h5ad(path)
    strata = None
    if label in adata.obs:
        names = adata.obs[label].astype(str)
        rare = names.map(names.value_counts()) < 10
        strata = names.where(~rare, "rare").to_numpy()
        adata.obs[label] = pd.Categorical(names)

    def cut(rows: np.ndarray, **sizes: float) -> tuple[np.ndarray, np.ndarray]:
        within = None if strata is None else strata[rows]
        return train_test_split(rows, **sizes, random_state=seed, stratify=within)

    train, test = cut(np.arange(adata.n_obs), test_size=0.2)
    if max_train is not None and len(train) > max_train:
        train, _ = cut(train, train_size=max_train)
    if validation:
        train, test = cut(train, test_size=0.2)
    return _prepared(adata[train].copy(), adata[test].copy())


def _prepared(train: ad.AnnData, test: ad.AnnData) -> tuple[ad.AnnData, ad.AnnData]:
    """Keep the training cells' most variable genes, and cells that have counts of them."""
    if train.n_vars > N_GENES:
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

    Several processes may write the same table: each reads it again before it adds a row.

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
        self.rows = self._read()

    def _read(self) -> pd.DataFrame:
        return pd.read_csv(self.path) if self.path.is_file() else pd.DataFrame(columns=self.keys)

    def _like(self, key: Mapping[str, object]) -> pd.Series:
        """Say which rows have these values."""
        same = pd.Series(True, index=self.rows.index)
        for name, value in key.items():
            same &= self.rows[name] == value
        return same

    def has(self, **key: object) -> bool:
        """Whether a row with these values is there."""
        return bool(self._like(key).any())

    def add(self, **row: object) -> None:
        """Write a row, in place of one with the same keys."""
        with self._alone():
            self.rows = self._read()
            kept = self.rows[~self._like({name: row[name] for name in self.keys})]
            new = pd.DataFrame([row])
            self.rows = pd.concat([kept, new], ignore_index=True) if len(kept) else new
            partial = self.path.with_suffix(".partial")
            self.rows.to_csv(partial, index=False)
            partial.replace(self.path)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other process writes to the folder, and hold them off."""
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def table(self, by: list[str]) -> pd.DataFrame:
        """Return means over the remaining keys, in the order of first appearance."""
        numbers = [c for c in self.rows.select_dtypes("number") if c not in self.keys]
        return self.rows.groupby(by, sort=False)[numbers].mean()
