"""One map for two samples of cells."""

import warnings

import numpy as np
import scanpy as sc
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from scldm.metrics import Projection

__all__ = ["joint_umap"]

NEIGHBORS = 15


def joint_umap(
    real: sparse.csr_matrix, generated: sparse.csr_matrix, n_pcs: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Coordinates of two samples on a UMAP of both.

    Parameters
    ----------
    real, generated
        Counts of shape (n_cells, n_genes).
    n_pcs
        Number of principal components; fewer where there are not enough genes or cells.
    seed
        Seed of the layout.

    Returns
    -------
    Coordinates of shape (n_cells, 2) of ``real`` and of ``generated``.

    References
    ----------
    McInnes, Healy and Melville (2018). UMAP: Uniform manifold approximation and projection for
    dimension reduction. arXiv:1802.03426.
    """
    counts = sparse.vstack([real, generated], format="csr")
    n_pcs = min(n_pcs, min(counts.shape) - 1)
    joint = AnnData(obsm={"X_pca": Projection(n_pcs, seed=seed).fit(counts).transform(counts)})
    with warnings.catch_warnings():
        # UMAP warns that a seed costs it its threads.
        warnings.simplefilter("ignore")
        neighbors = min(NEIGHBORS, counts.shape[0] - 1)
        sc.pp.neighbors(joint, n_neighbors=neighbors, use_rep="X_pca", random_state=seed)
        sc.tl.umap(joint, random_state=seed)
    position = joint.obsm["X_umap"]
    return position[: real.shape[0]], position[real.shape[0] :]
