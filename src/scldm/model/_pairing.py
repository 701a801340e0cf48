"""Which control cells perturbed cells are compared with: those of the same context."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from ._conditions import Category, Condition
from ._fields import shortened
from ._perturbations import PerturbationSet

__all__ = ["Group", "compared", "context_columns", "perturbation_of"]

_FEWEST_CONTROLS = 5


class Group(NamedTuple):
    """Cells of one perturbation, dose and context, and the control cells of that context.

    ``dose`` is not a number where none is registered.
    """

    label: str
    dose: float
    perturbed: np.ndarray
    control: np.ndarray
    context: tuple


def perturbation_of(conditions: Sequence[Condition]) -> PerturbationSet | None:
    """Return the perturbation among the conditions, if it is there."""
    return next((c for c in conditions if isinstance(c, PerturbationSet)), None)


def context_columns(conditions: Sequence[Condition]) -> list[str]:
    """Return the columns that make a context: cell type, time, batch and categorical covariates."""
    names = [c.name for c in conditions if isinstance(c, Category)]
    first = [name for name in ("cell_type", "time") if any(c.name == name for c in conditions)]
    return [*first, *(name for name in names if name not in first)]


def compared(
    frame: pd.DataFrame, perturbation: PerturbationSet, columns: Sequence[str]
) -> list[Group]:
    """Return the groups of perturbed cells and of the control cells to compare each with.

    Control cells are of the same context. Where a context has less than five of them, its last
    column is left out of the comparison, then the one before, and so on; but cells of different types
    are never compared. Doses that differ by rounding are one.

    Parameters
    ----------
    frame
        Conditions of the cells.
    perturbation
        The perturbation among them.
    columns
        Columns that make a context, the most important first.

    Warns
    -----
    UserWarning
        If contexts have perturbed cells but no control cells; they are left out.
    """
    labels = np.array([perturbation.key(str(label)) for label in frame["perturbation"]])
    is_control = labels == perturbation.control
    dose = np.full(len(frame), np.nan)
    if perturbation.dose is not None:
        dose = np.array([float(f"{value:.6g}") for value in frame["dose"].to_numpy(float)])
    fewest = 1 if "cell_type" in columns else 0
    levels = [list(columns[:n]) for n in range(len(columns), fewest - 1, -1)]
    controls = [_by_context(frame, level, is_control) for level in levels]
    table = frame[list(columns)].assign(perturbation=labels, dose=dose)
    places = np.flatnonzero(~is_control)
    codes = (
        table.iloc[places]
        .groupby(["perturbation", "dose", *columns], observed=True, dropna=False)
        .ngroup()
        .to_numpy()
    )
    groups, without = [], []
    for code in range(codes.max(initial=-1) + 1):
        rows = places[codes == code]
        first = table.iloc[rows[0]]
        found = [
            by_context.get(tuple(first[level]), np.arange(0))
            for level, by_context in zip(levels, controls, strict=True)
        ]
        enough = [cells for cells in found if len(cells) >= _FEWEST_CONTROLS]
        chosen = enough[0] if enough else max(found, key=len)
        if len(chosen):
            context = tuple(first[list(columns)])
            groups.append(Group(first["perturbation"], first["dose"], rows, chosen, context))
        else:
            without.append({name: first[name] for name in ["perturbation", *columns]})
    if without:
        warnings.warn(
            f"No control cell ({perturbation.control!r}) is like the cells of {shortened(without, 3)}; "
            "they are left out when changes are learned.",
            UserWarning,
            stacklevel=4,
        )
    return groups


def _by_context(
    frame: pd.DataFrame, columns: list[str], rows: np.ndarray
) -> dict[tuple, np.ndarray]:
    """Return the places of some rows by context."""
    places = np.flatnonzero(rows)
    if not columns:
        return {(): places}
    parts = frame.iloc[places].groupby(columns, observed=True).indices
    return {key if isinstance(key, tuple) else (key,): places[at] for key, at in parts.items()}
