r"""Simulated perturbations whose truth is known.

Counts of cell :math:`i` and gene :math:`g` are negative binomial,

.. math:: x_{ig} \sim \mathrm{NB}\left(\ell_i \frac{e^{\eta_{ig}}}{\sum_h e^{\eta_{ih}}}, \theta\right),
          \qquad \eta_{ig} = b_{gk} + \Delta_{gk},

with the level :math:`b` of the gene in the cell's type :math:`k`, and the change :math:`\Delta` by the
perturbation, which responds to the dose or comes in some cells only.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix

__all__ = ["simulate_dose_response", "simulate_responders", "true_log_change"]

Array = NDArray[np.float64]

TYPES = ("A", "B", "C")
CONTROL, DRUG = "control", "drug"
LIBRARY_SIZE = 3000.0
DISPERSION = 5.0
"""The inverse dispersion, theta."""
RESPONDING = 1 / 3
"""Share of genes that respond."""


def simulate_dose_response(
    n_cells: int = 100,
    n_genes: int = 300,
    doses: Sequence[float] = (0.1, 0.3, 1.0, 3.0, 10.0),
    *,
    seed: int = 0,
) -> AnnData:
    r"""Three cell types under rising doses of a drug.

    A sixth of the genes responds along a Hill curve, rising or falling,
    :math:`\Delta = a\, d^h / (d^h + e^h)`, a sixth at medium doses only,
    :math:`\Delta = a \exp(-(\log d - \log e)^2 / 2 w^2)`, the others not at all. Amplitudes differ by
    a factor between types.

    Parameters
    ----------
    n_cells
        Cells of each type at each dose, and three times as many control cells.
    n_genes
        Number of genes.
    doses
        Doses above 0.
    seed
        Of all that is random.

    Returns
    -------
    Integer counts as CSR in ``X``; ``cell_type``, ``perturbation`` (``"control"``, ``"drug"``) and
    ``dose`` in ``obs``; in ``var`` the ``level`` of each gene in each type and what it does
    (``response``: ``"sigmoidal"``, ``"bell"`` or ``"none"``, ``half_dose``, ``steepness``, and the
    ``amplitude`` in each type), from which :func:`true_log_change` computes the change at any dose.

    Raises
    ------
    ValueError
        If a number of cells or genes is below 1 or a dose is not above 0.
    """
    _require(n_cells=n_cells, n_genes=n_genes)
    levels = np.asarray(doses, dtype=float)
    if levels.ndim != 1 or not len(levels) or not (np.isfinite(levels) & (levels > 0)).all():
        raise ValueError(f"`doses={doses!r}` must be numbers above 0.")
    rng = np.random.default_rng(seed)
    var = _genes(n_genes, levels, rng)
    groups = [(kind, dose) for kind in TYPES for dose in (0.0, *levels.tolist())]
    rows = [group for group in groups for _ in range(n_cells * (3 if group[1] == 0 else 1))]
    obs = pd.DataFrame(rows, columns=["cell_type", "dose"])
    obs.insert(1, "perturbation", np.where(obs["dose"] > 0, DRUG, CONTROL))
    change = np.zeros((len(obs), n_genes))
    for (kind, dose), at in obs.groupby(["cell_type", "dose"]).indices.items():
        change[at] = _response(var, dose, kind)
    return _cells(obs, var, rng, change)


def true_log_change(adata: AnnData, dose: float, cell_type: str) -> Array:
    r"""Return the change :math:`\Delta` of each gene's log level at a dose, ``(n_genes,)``.

    Parameters
    ----------
    adata
        From :func:`simulate_dose_response`.
    dose
        Any dose of 0 or more.
    cell_type
        One of the three.

    Raises
    ------
    ValueError
        If the type is not one of them, or the dose below 0.
    """
    if cell_type not in TYPES:
        raise ValueError(f"`cell_type={cell_type!r}` is not known. Known: {list(TYPES)}.")
    if not dose >= 0:
        raise ValueError(f"`dose={dose!r}` must be 0 or more.")
    return _response(adata.var, dose, cell_type)


def _response(var: pd.DataFrame, dose: float, cell_type: str) -> Array:
    if dose == 0:
        return np.zeros(len(var))
    # in logarithms, which do not overflow
    off = np.log(dose) - np.log(var["half_dose"].to_numpy())
    steepness = var["steepness"].to_numpy()
    shapes = {
        "sigmoidal": 1 / (1 + np.exp(-steepness * off)),
        "bell": np.exp(-0.5 * np.square(steepness * off)),
        "none": np.zeros(len(var)),
    }
    response = var["response"].to_numpy()
    shape = np.select([response == name for name in shapes], list(shapes.values()))
    return var[f"amplitude_{cell_type}"].to_numpy() * shape


def simulate_responders(
    n_cells: int = 200, n_genes: int = 300, share: float = 0.4, *, seed: int = 0
) -> AnnData:
    """Three cell types under a drug to which only some cells respond.

    Nothing about a cell before tells whether it will respond.

    Parameters
    ----------
    n_cells
        Control cells, and as many treated cells, of each type.
    n_genes
        Number of genes; a third of them change in responders, by the same factors in all types.
    share
        Share of treated cells that respond.
    seed
        Of all that is random.

    Returns
    -------
    Integer counts as CSR in ``X``; ``cell_type``, ``perturbation`` and the truth, ``responder``, in
    ``obs``; in ``var`` the ``level`` of each gene in each type and its ``log_change`` in responders.

    Raises
    ------
    ValueError
        If a number of cells or genes is below 1 or the share not between 0 and 1.
    """
    _require(n_cells=n_cells, n_genes=n_genes)
    if not 0 <= share <= 1:
        raise ValueError(f"`share={share!r}` must be from 0 to 1.")
    rng = np.random.default_rng(seed)
    responds = rng.random(n_genes) < RESPONDING
    change = np.where(responds, rng.choice([-1.0, 1.0], n_genes) * rng.uniform(1, 2, n_genes), 0.0)
    obs = pd.DataFrame(
        [(kind, label) for kind in TYPES for label in (CONTROL, DRUG) for _ in range(n_cells)],
        columns=["cell_type", "perturbation"],
    )
    treated = (obs["perturbation"] == DRUG).to_numpy()
    obs["responder"] = treated & (rng.random(len(obs)) < share)
    var = pd.DataFrame({"log_change": change}, index=[f"gene_{i}" for i in range(n_genes)])
    return _cells(obs, var, rng, obs["responder"].to_numpy()[:, None] * change)


def _genes(n_genes: int, doses: Array, rng: np.random.Generator) -> pd.DataFrame:
    half = RESPONDING / 2
    var = pd.DataFrame(index=[f"gene_{i}" for i in range(n_genes)])
    var["response"] = rng.choice(
        ["sigmoidal", "bell", "none"], n_genes, p=[half, half, 1 - 2 * half]
    )
    low, high = np.log(doses.min()), np.log(doses.max())
    var["half_dose"] = np.exp(rng.uniform(low, high, n_genes))
    var["steepness"] = rng.uniform(1.0, 3.0, n_genes)
    amplitude = rng.choice([-1.0, 1.0], n_genes) * rng.uniform(1.0, 2.5, n_genes)
    for kind, factor in zip(TYPES, (0.7, 1.0, 1.3), strict=True):
        var[f"amplitude_{kind}"] = factor * amplitude * (var["response"] != "none")
    return var


def _cells(
    obs: pd.DataFrame, var: pd.DataFrame, rng: np.random.Generator, change: Array
) -> AnnData:
    """Draw counts of cells whose log levels have changed."""
    common = rng.normal(0, 1.2, len(var))
    level = {kind: common + rng.normal(0, 0.7, len(var)) for kind in TYPES}
    levels = pd.DataFrame({f"level_{kind}": own for kind, own in level.items()}, index=var.index)
    logits = np.stack([level[kind] for kind in obs["cell_type"]]) + change
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    mu = LIBRARY_SIZE * rng.lognormal(0, 0.25, (len(obs), 1)) * shares
    counts = rng.poisson(rng.gamma(DISPERSION, mu / DISPERSION)).astype(np.float32)
    named = obs.set_index(pd.Index([f"cell_{i}" for i in range(len(obs))]))
    adata = AnnData(csr_matrix(counts), obs=named, var=levels.join(var))
    for column in ("cell_type", "perturbation"):
        adata.obs[column] = adata.obs[column].astype("category")
    return adata


def _require(**numbers: ArrayLike) -> None:
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"`{name}={value!r}` must be a whole number of 1 or more.")
