"""Cells from a simulator with known truth, whole or with one planted fault."""

from collections.abc import Callable

import numpy as np
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

N_GENES, N_FACTORS = 100, 3
TYPES, SHARES = np.array(["a", "b", "c"]), np.array([0.5, 0.3, 0.2])


@pytest.fixture(scope="session")
def simulate() -> Callable[..., AnnData]:
    """Draw from one distribution: negative binomial counts of three types.

    Within a type, genes vary together along a few factors. ``spread`` scales these and the
    variation of depth, ``independent`` gives each gene factors of its own, ``means`` leaves out
    the noise of counting and of the negative binomial.
    """
    truth = np.random.default_rng(1234)
    base = truth.normal(size=(3, N_GENES))
    loadings = 0.6 * truth.normal(size=(3, N_FACTORS, N_GENES))

    def draw(
        n: int,
        seed: int,
        prefix: str = "cell",
        *,
        types: str = "abc",
        spread: float = 1.0,
        depth: float = 300.0,
        independent: bool = False,
        means: bool = False,
    ) -> AnnData:
        rng = np.random.default_rng(seed)
        share = SHARES * np.isin(TYPES, list(types))
        kind = rng.choice(3, n, p=share / share.sum())
        z = spread * rng.normal(size=(n, N_FACTORS, N_GENES if independent else 1))
        scale = np.exp(base[kind] + (z * loadings[kind]).sum(axis=1))
        scale /= scale.sum(axis=1, keepdims=True)
        mu = rng.lognormal(np.log(depth), 0.3 * spread, size=(n, 1)) * scale
        counts = mu if means else rng.poisson(mu * rng.gamma(2.0, 0.5, size=mu.shape))
        adata = AnnData(csr_matrix(counts.astype(np.float32)))
        adata.obs_names = [f"{prefix}{i}" for i in range(n)]
        adata.var_names = [f"gene{i}" for i in range(N_GENES)]
        adata.obs["cell_type"] = TYPES[kind]
        return adata

    return draw


@pytest.fixture(scope="session")
def multiplicities() -> Callable[[int, int, int], np.ndarray]:
    """How often each of n cells was drawn in each row of a bootstrap, shape (n_rows, n)."""

    def draw(n: int, n_rows: int, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), n_rows)

    return draw
