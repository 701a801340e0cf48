r"""A simulated tissue in which cells choose between two fates, with known truth.

A progenitor has a lean :math:`u` that wanders a little (an Ornstein-Uhlenbeck process). At the branch time
it commits to fate A with probability :math:`\operatorname{sigmoid}(\beta u)`, keeps its lean, and moves along
the branch at a constant pace. Committed cells of fate A divide at a rate of their own. Counts are negative
binomial with log levels

.. math:: \eta_{ig} = b_g + s_g\, p_i + w_g\, u_i + a_{gf}\, r_i,

with the progress :math:`p` of time, which all cells share, the lean, and the way :math:`r` gone along the
branch of fate f.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix

__all__ = ["simulate_branching", "true_fate_probability"]

Array = NDArray[np.float64]

FATES = ("A", "B")
PROGENITOR = "progenitor"
LIBRARY_SIZE = 3000.0
DISPERSION = 5.0
"""The inverse dispersion, theta."""
STEEPNESS = 1.5
"""beta"""
PULL = 0.02
"""Rate at which a lean is forgotten, per unit of time; the spread of leans stays 1."""
PACE = 3.0
"""Units of time after which a branch is fully gone."""
_PARTICLES = 20_000
_QUADRATURE = 200


def simulate_branching(
    n_cells: int = 300,
    n_genes: int = 300,
    times: Sequence[float] = tuple(range(13)),
    branch_time: float = 6.3,
    growth: float = 0.1,
    *,
    seed: int = 0,
) -> AnnData:
    """Cells of one lineage that branches, measured at several times.

    Parameters
    ----------
    n_cells
        Cells at each time; those of one are no ancestors of those of another.
    n_genes
        Number of genes. A third follow time, a sixth the lean, a sixth each the two fates.
    times
        When cells are measured.
    branch_time
        When progenitors commit.
    growth
        Rate at which cells of fate A divide, per unit of time, so that they become more.
    seed
        Of all that is random.

    Returns
    -------
    Integer counts as CSR in ``X``; in ``obs`` the ``time``, the ``fate`` (``"progenitor"`` before the
    branch), the truth ``p_A`` (the probability that the cell, or what becomes of it, is of fate A), its
    ``lean`` and its ``growth`` rate; in ``var`` what each gene does (``role``: ``"time"``, ``"lean"``,
    ``"A"``, ``"B"`` or ``"none"``) and its ``effect``; in ``uns["branching"]`` the branch time.

    Raises
    ------
    ValueError
        If a number is below 1, times are not finite, or growth is below 0.
    """
    for name, value in (("n_cells", n_cells), ("n_genes", n_genes)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"`{name}={value!r}` must be a whole number of 1 or more.")
    when = np.unique(np.asarray(times, dtype=float))
    if not len(when) or not np.isfinite([*when, branch_time]).all():
        raise ValueError(f"`times={times!r}` and `branch_time={branch_time!r}` must be finite.")
    if not 0 <= growth < np.inf:
        raise ValueError(f"`growth={growth!r}` must be a finite number of 0 or more.")
    rng = np.random.default_rng(seed)
    parts = [_population(t, n_cells, branch_time, growth, rng) for t in when]
    obs = pd.concat(parts, ignore_index=True)
    var = _genes(n_genes, rng)
    way = np.clip((obs["time"] - branch_time) / PACE, 0, 1).to_numpy()
    progress = (obs["time"] - when[0]).to_numpy() / max(float(np.ptp(when)), 1e-9)
    role, effect = var["role"].to_numpy(), var["effect"].to_numpy()
    logits = np.tile(var["level"].to_numpy(), (len(obs), 1))
    logits += np.outer(progress, effect * (role == "time"))
    logits += np.outer(obs["lean"].to_numpy(), 0.5 * effect * (role == "lean"))
    for fate in FATES:
        logits += np.outer(way * (obs["fate"] == fate).to_numpy(), effect * (role == fate))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    mu = LIBRARY_SIZE * rng.lognormal(0, 0.25, (len(obs), 1)) * shares
    counts = rng.poisson(rng.gamma(DISPERSION, mu / DISPERSION)).astype(np.float32)
    obs.index = pd.Index([f"cell_{i}" for i in range(len(obs))])
    obs["fate"] = pd.Categorical(obs["fate"], [PROGENITOR, *FATES])
    adata = AnnData(csr_matrix(counts), obs=obs, var=var)
    adata.uns["branching"] = {"branch_time": float(branch_time), "growth": float(growth)}
    return adata


def true_fate_probability(lean: ArrayLike, time: ArrayLike, branch_time: float) -> Array:
    """Return the probability that a progenitor's descendants are of fate A, ``(n,)``.

    Parameters
    ----------
    lean
        Lean of each progenitor.
    time
        Its time, not after the branch.
    branch_time
        When it commits.

    Raises
    ------
    ValueError
        If a time is after the branch.
    """
    u, t = np.broadcast_arrays(np.asarray(lean, dtype=float), np.asarray(time, dtype=float))
    if (t > branch_time).any():
        raise ValueError(f"`time` has {t.max():g}, after the branch at {branch_time:g}.")
    keep = np.exp(-PULL * (branch_time - t))
    nodes, weights = np.polynomial.hermite_e.hermegauss(_QUADRATURE)
    at_branch = keep[..., None] * u[..., None] + np.sqrt(1 - keep**2)[..., None] * nodes
    return (_sigmoid(STEEPNESS * at_branch) * weights).sum(axis=-1) / weights.sum()


def _population(
    time: float, n: int, branch_time: float, growth: float, rng: np.random.Generator
) -> pd.DataFrame:
    """Draw the cells of one time: committed cells of fate A are as many more as they have divided."""
    lean = rng.standard_normal(_PARTICLES)
    if time < branch_time:
        lean = lean[:n] if n <= _PARTICLES else rng.standard_normal(n)
        p = true_fate_probability(lean, time, branch_time)
        return pd.DataFrame(
            {"time": time, "fate": PROGENITOR, "p_A": p, "lean": lean, "growth": 0.0}
        )
    is_a = rng.random(_PARTICLES) < _sigmoid(STEEPNESS * lean)
    # leans wander on after the commitment
    keep = np.exp(-PULL * (time - branch_time))
    lean = keep * lean + np.sqrt(1 - keep**2) * rng.standard_normal(_PARTICLES)
    mass = np.where(is_a, np.exp(growth * (time - branch_time)), 1.0)
    rows = rng.choice(_PARTICLES, n, p=mass / mass.sum())
    is_a, lean = is_a[rows], lean[rows]
    return pd.DataFrame(
        {
            "time": time,
            "fate": np.where(is_a, *FATES),
            "p_A": is_a.astype(float),
            "lean": lean,
            "growth": np.where(is_a, growth, 0.0),
        }
    )


def _genes(n: int, rng: np.random.Generator) -> pd.DataFrame:
    var = pd.DataFrame(index=[f"gene_{i}" for i in range(n)])
    var["level"] = rng.normal(0, 1.0, n)
    roles = ["time", "lean", *FATES, "none"]
    var["role"] = pd.Categorical(rng.choice(roles, n, p=[1 / 3, 1 / 6, 1 / 6, 1 / 6, 1 / 6]))
    # all genes of a fate rise, so that its program is one
    sign = np.where(var["role"].isin(FATES), 1.0, rng.choice([-1.0, 1.0], n))
    var["effect"] = sign * rng.uniform(1.0, 2.0, n)
    return var


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))
