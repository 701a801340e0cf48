"""Cells from a simulator, so that the truth about them is known."""

from collections.abc import Callable

import numpy as np
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

N_GENES = 60


@pytest.fixture(scope="session")
def simulate() -> Callable[..., AnnData]:
    """Negative binomial cells of three types, always of the same distribution."""
    rng = np.random.default_rng(1234)
    profiles = rng.lognormal(0.0, 1.0, size=(3, N_GENES))
    profiles /= profiles.sum(axis=1, keepdims=True)

    def draw(n: int, seed: int, prefix: str = "cell") -> AnnData:
        rng = np.random.default_rng(seed)
        kind = rng.choice(3, n, p=[0.5, 0.3, 0.2])
        depth = rng.lognormal(np.log(300), 0.3, size=(n, 1))
        rate = depth * profiles[kind] * rng.gamma(4.0, 0.25, size=(n, N_GENES))
        adata = AnnData(csr_matrix(rng.poisson(rate).astype(np.float32)))
        adata.obs_names = [f"{prefix}{i}" for i in range(n)]
        adata.var_names = [f"gene{i}" for i in range(N_GENES)]
        adata.obs["cell_type"] = np.array(["a", "b", "c"])[kind]
        return adata

    return draw
