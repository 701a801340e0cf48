"""Which control cells perturbed cells are compared with: those of the same context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from scldm._warnings import warn

from ._conditions import Category, Condition
from ._doses import Doses
from ._fields import shortened
from ._perturbations import PerturbationSet

__all__ = ["Group", "compared", "context_columns", "perturbation_of"]

_FEWEST_CONTROLS = 5


class Group(NamedTuple):
    """Cells of one perturbation, dose and context, and the control cells of that context.

    ``dose`` is not a number where none is registered, and a number for each member of a combination
    whose members have different ones.
    """

    label: str
    dose: Doses
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
    column is left out of the comparison, then the one before, and so on; where there are less than five
    of its time, the time is left out, and the others are taken again. Cells of different types are never
    compared. Doses that differ by rounding are one.

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
    labels, doses, dose = _labels_and_doses(frame, perturbation)
    is_control = labels == perturbation.control
    levels = _levels(columns)
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
            groups.append(
                Group(first["perturbation"], doses[first["dose"]], rows, chosen, context)
            )
        else:
            without.append({name: first[name] for name in ["perturbation", *columns]})
    if without:
        warn(
            f"No control cell ({perturbation.control!r}) is like the cells of {shortened(without, 3)}; "
            "they are left out when changes are learned."
        )
    return groups


def _levels(columns: Sequence[str]) -> list[list[str]]:
    """Return the columns to compare within, the closest comparison first."""
    timeless = [name for name in columns if name != "time"]
    fewest = int("cell_type" in columns)
    levels = []
    if len(timeless) < len(columns):
        until = columns.index("time") + 1
        levels = [list(columns[:n]) for n in range(len(columns), until - 1, -1)]
    return levels + [timeless[:n] for n in range(len(timeless), fewest - 1, -1)]


def _labels_and_doses(
    frame: pd.DataFrame, perturbation: PerturbationSet
) -> tuple[np.ndarray, list[Doses], np.ndarray]:
    """Return the perturbation of each cell, the doses there are in order, and each cell's among them."""
    written = frame["perturbation"].astype(str)
    if perturbation.dose is None:
        keys = {label: perturbation.key(label) for label in written.unique()}
        return written.map(keys).to_numpy(str), [np.nan], np.zeros(len(frame), int)
    pairs = list(zip(written, frame["dose"], strict=True))
    known = {pair: perturbation.keyed(*pair) for pair in dict.fromkeys(pairs)}
    rounded = {
        pair: tuple(float(f"{value:.6g}") for value in np.atleast_1d(dose))
        for pair, (_, dose) in known.items()
    }
    places = {doses: place for place, doses in enumerate(sorted(set(rounded.values())))}
    labels = np.array([known[pair][0] for pair in pairs])
    own = np.array([places[rounded[pair]] for pair in pairs])
    return labels, [doses[0] if len(doses) == 1 else doses for doses in places], own


def _by_context(
    frame: pd.DataFrame, columns: list[str], rows: np.ndarray
) -> dict[tuple, np.ndarray]:
    """Return the places of some rows by context."""
    places = np.flatnonzero(rows)
    if not columns:
        return {(): places}
    parts = frame.iloc[places].groupby(columns, observed=True).indices
    return {key if isinstance(key, tuple) else (key,): places[at] for key, at in parts.items()}
