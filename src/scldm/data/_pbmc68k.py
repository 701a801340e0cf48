r"""Counts of 700 blood cells, recovered from the data set that scanpy carries.

``scanpy.datasets.pbmc68k_reduced`` stores, for a cell with total :math:`n` and count :math:`c`,

.. math:: v = \operatorname{round}_3\left(\log(1 + 10^4 c / n)\right),

that is, rounded to three decimals. The count comes back as :math:`c = n (e^v - 1) / 10^4`.
Rounding moves :math:`v` by at most :math:`\delta = 5 \cdot 10^{-4}`, hence the count by at most
:math:`\delta (c + n / 10^4)`, which is below 0.13 here: the nearest integer is the count.
"""

import numpy as np
import scanpy as sc
from anndata import AnnData
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

__all__ = ["pbmc68k"]

ROUNDING = 5e-4
TARGET_SUM = 1e4


def pbmc68k() -> AnnData:
    """Blood cells of one donor (10x Genomics), small enough for a first try.

    700 peripheral blood mononuclear cells and 765 variable genes, chosen from the 68,579 cells
    of Zheng et al. (2017). Nothing is downloaded: the cells are part of scanpy.

    Returns
    -------
    A new :class:`~anndata.AnnData` of 700 cells by 765 genes with

    - ``X``: integer counts, CSR, ``float32``;
    - ``obs["cell_type"]``: ten types. Each cell got the type whose sorted bulk profile it is
      most like, so these labels are a guide and no ground truth;
    - ``obs["phase"]``, ``obs["louvain"]``: cell cycle phase and cluster from the source;
    - ``obs["full_library_size"]``: the count of the cell over *all* genes that were measured. The
      765 genes hold 11% to 28% of it;
    - ``uns["source"]``: name, paper, DOI and notes.

    Raises
    ------
    ValueError
        If the installed scanpy carries other values, from which no counts come back.

    References
    ----------
    Zheng et al. (2017). Massively parallel digital transcriptional profiling of single cells.
    Nature Communications 8:14049.
    """
    source = sc.datasets.pbmc68k_reduced()
    total = source.obs["n_counts"].to_numpy(dtype=np.float64)
    obs = source.obs[["phase", "louvain"]].copy()
    obs.insert(0, "cell_type", source.obs["bulk_labels"].astype("category"))
    obs["full_library_size"] = total.astype(np.float32)
    obs.index.name = None
    adata = AnnData(X=_counts(source.raw.X, total), obs=obs, var=source.raw.var[[]].copy())
    adata.var.index.name = None
    adata.uns["source"] = {
        "name": "Fresh 68k PBMCs (donor A), 700 cells and 765 genes, as carried by scanpy",
        "paper": "Zheng et al. 2017 Nat Commun 8:14049",
        "doi": "10.1038/ncomms14049",
        "notes": "counts recovered from log1p(CP10k) values rounded to three decimals; "
        "cell_type is the most similar sorted bulk profile",
    }
    return adata


def _counts(log_normalized: csr_matrix, total: NDArray[np.float64]) -> csr_matrix:
    """Integer counts of log-normalised values, or an error if they are none."""
    values = csr_matrix(log_normalized, dtype=np.float32)
    n = np.repeat(total, np.diff(values.indptr))
    real = np.expm1(values.data.astype(np.float64)) * n / TARGET_SUM
    counts = np.rint(real)
    # The rounded value was stored in float32, which adds half of its spacing.
    delta = ROUNDING + np.spacing(values.data) / 2
    allowed = delta * (real + n / TARGET_SUM)
    if (np.abs(real - counts) > allowed).any() or (allowed >= 0.5).any():
        worst = float(np.abs(real - counts).max())
        raise ValueError(
            "The values in `scanpy.datasets.pbmc68k_reduced()` do not come back as counts: one "
            f"lies {worst:.3f} away from an integer. Use scanpy 1.9 or newer, or your own data."
        )
    return csr_matrix((counts.astype(np.float32), values.indices, values.indptr), values.shape)
