r"""Simulated cells in three modalities whose truth is known.

A cell is of one of three types and has a state :math:`s \sim N(0, I_2)`. With the type's level :math:`b`
and loadings :math:`W` of each modality,

.. math:: \eta = b_k + W s, \qquad
    x^{rna} \sim \mathrm{NB}(\ell\, \mathrm{softmax}(\eta), \theta), \quad
    x^{protein} \sim \mathrm{NB}(e^{\eta}, \theta), \quad
    x^{atac} \sim \mathrm{Bernoulli}(\sigma(\eta)).

Given type and state the modalities are independent, so that what one says of another it says by them.
"""

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from scldm._randomness import kept_choices

__all__ = ["simulate_multiome"]

TYPES = ("A", "B", "C")
STATE_DIMS = 2
LIBRARY_SIZE = 2000.0
DISPERSION = {"rna": 5.0, "protein": 10.0}
"""Inverse dispersions, theta."""
PROTEIN_LEVEL = 4.0
"""Log counts of a protein in the middle."""
OPEN_LEVEL = -1.5
"""Logit of an open peak in the middle."""


def simulate_multiome(
    n_cells: int = 600,
    n_genes: int = 200,
    n_proteins: int = 20,
    n_peaks: int = 200,
    *,
    n_rounds: int = 1,
    seed: int = 0,
) -> MuData:
    """Cells with RNA, proteins and chromatin accessibility.

    Parameters
    ----------
    n_cells
        Number of cells of each round.
    n_genes, n_proteins, n_peaks
        Numbers of features; 0 leaves a modality out.
    n_rounds
        Times that the counts of the same cells are drawn, each from the same means.
    seed
        Of all that is random. Genes, proteins and peaks do not depend on the number of cells.

    Returns
    -------
    Modalities ``"rna"``, ``"protein"`` and ``"atac"``, counts in ``X`` and their means in
    ``layers["mean"]``; ``obs["cell_type"]``, ``obs["round"]`` and ``obsm["state"]``.

    Raises
    ------
    ValueError
        If there are no cells or less than two modalities.
    """
    numbers = {"rna": n_genes, "protein": n_proteins, "atac": n_peaks}
    if n_cells < 1 or n_rounds < 1:
        raise ValueError(f"`n_cells={n_cells!r}` and `n_rounds={n_rounds!r}` must be 1 or more.")
    if min(numbers.values()) < 0 or sum(n > 0 for n in numbers.values()) < 2:
        raise ValueError(
            f"`n_genes={n_genes!r}`, `n_proteins={n_proteins!r}`, `n_peaks={n_peaks!r}`: two of them "
            "must be above 0, and none below."
        )
    rng = np.random.default_rng((seed, 0))
    kind = rng.integers(len(TYPES), size=n_cells)
    state = rng.normal(size=(n_cells, STATE_DIMS))
    log_size = np.log(LIBRARY_SIZE) + 0.3 * rng.normal(size=(n_cells, 1))
    obs = pd.DataFrame(
        {
            "cell_type": np.tile(np.array(TYPES)[kind], n_rounds),
            "round": np.repeat([f"round_{i}" for i in range(n_rounds)], n_cells),
        },
        index=[f"cell_{i}" for i in range(n_cells * n_rounds)],
    )
    parts = {}
    for m, (name, n) in enumerate(numbers.items()):
        if n:
            mean = _mean(name, n, kind, state, log_size, np.random.default_rng((seed, 1, m)))
            draws = np.random.default_rng((seed, 2, m))
            counts = [_counts(name, mean, draws) for _ in range(n_rounds)]
            part = AnnData(
                csr_matrix(np.vstack(counts), dtype=np.float32),
                obs=pd.DataFrame(index=obs.index),
                var=pd.DataFrame(index=[f"{name}_{i}" for i in range(n)]),
            )
            part.layers["mean"] = np.tile(mean, (n_rounds, 1)).astype(np.float32)
            parts[name] = part
    with kept_choices():
        mdata = MuData(parts)
    mdata.obs = obs
    mdata.obsm["state"] = np.tile(state, (n_rounds, 1))
    return mdata


def _mean(
    name: str,
    n: int,
    kind: NDArray[np.intp],
    state: NDArray[np.float64],
    log_size: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Return the mean of each cell and feature of a modality."""
    level = rng.normal(size=n) + 0.7 * rng.normal(size=(len(TYPES), n))
    loadings = 0.6 * rng.normal(size=(STATE_DIMS, n))
    eta = level[kind] + state @ loadings
    if name == "rna":
        share = np.exp(eta - eta.max(axis=1, keepdims=True))
        return np.exp(log_size) * share / share.sum(axis=1, keepdims=True)
    if name == "protein":
        return np.exp(PROTEIN_LEVEL + eta)
    return 1 / (1 + np.exp(-(OPEN_LEVEL + eta)))


def _counts(name: str, mean: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    if name == "atac":
        return (rng.random(mean.shape) < mean).astype(float)
    theta = DISPERSION[name]
    return rng.poisson(rng.gamma(theta, mean / theta)).astype(float)
