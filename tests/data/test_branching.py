"""The simulated branch against its own equations."""

import numpy as np
import pytest

from scldm.data import simulate_branching, true_fate_probability


def test_layout_and_seed():
    adata = simulate_branching(50, 40, times=(0, 3, 8), seed=1)
    assert adata.shape == (150, 40)
    assert adata.X.dtype == np.float32 and (adata.X.data == adata.X.data.round()).all()
    again = simulate_branching(50, 40, times=(0, 3, 8), seed=1)
    assert (adata.X != again.X).nnz == 0
    assert (adata.X != simulate_branching(50, 40, times=(0, 3, 8), seed=2).X).nnz > 0
    assert set(adata.obs["fate"][adata.obs["time"] < 6]) == {"progenitor"}
    assert set(adata.obs["fate"][adata.obs["time"] > 7]) == {"A", "B"}


def test_fate_probability_is_that_of_simulated_futures():
    rng = np.random.default_rng(0)
    from scldm.data._branching import PULL, STEEPNESS

    u, wait, n = 1.0, 4.0, 200_000
    keep = np.exp(-PULL * wait)
    later = keep * u + np.sqrt(1 - keep**2) * rng.standard_normal(n)
    becomes_a = rng.random(n) < 1 / (1 + np.exp(-STEEPNESS * later))
    assert true_fate_probability([u], [0.0], wait)[0] == pytest.approx(becomes_a.mean(), abs=0.004)


def test_fate_probability_at_the_branch_is_the_sigmoid():
    p = true_fate_probability([-1.0, 0.0, 1.0], 6.0, 6.0)
    np.testing.assert_allclose(p, 1 / (1 + np.exp([1.5, 0, -1.5])), atol=1e-9)
    with pytest.raises(ValueError, match="after the branch"):
        true_fate_probability([0.0], [7.0], 6.0)


def test_growing_cells_become_more():
    def share(growth):
        late = simulate_branching(4000, 5, times=(0, 12), growth=growth).obs
        return (late["fate"][late["time"] == 12] == "A").mean()

    assert share(0.0) == pytest.approx(0.5, abs=0.03)
    grown = np.exp(0.2 * (12 - 6.3))
    assert share(0.2) == pytest.approx(grown / (1 + grown), abs=0.03)


def test_genes_do_what_their_role_says():
    adata = simulate_branching(400, 200, times=(0, 12))
    late = adata[adata.obs["time"] == 12]
    x = np.log1p(late.X.toarray() / late.X.sum(axis=1).A1[:, None] * 1e3)
    is_a = (late.obs["fate"] == "A").to_numpy()
    change = x[is_a].mean(axis=0) - x[~is_a].mean(axis=0)
    role = adata.var["role"].to_numpy()
    assert change[role == "A"].mean() > 0.3 > abs(change[role == "none"].mean())
    assert change[role == "B"].mean() < -0.3


@pytest.mark.parametrize(
    "odd",
    [
        {"n_cells": 0},
        {"n_genes": 1.5},
        {"times": ()},
        {"branch_time": np.nan},
        {"growth": -1},
        {"growth": np.inf},
    ],
)
def test_odd_numbers_are_refused(odd):
    with pytest.raises(ValueError, match=f"`{next(iter(odd))}="):
        simulate_branching(**{"n_cells": 10, "n_genes": 10, **odd})
