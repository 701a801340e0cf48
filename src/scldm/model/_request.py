"""What a user asks for, completed from the training cells.

A condition that is not given is drawn from the training cells that match the given ones, so the
frame of conditions is always complete and the mix is the data's own.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ._conditions import Condition
from ._fields import shortened

__all__ = ["Request", "complete"]

_NEAREST = 50


@dataclass
class Request:
    """Conditions of the cells to generate.

    Parameters
    ----------
    frame
        One row for each cell, one column for each argument.
    encoded
        The network's inputs by condition, ``(n, k)`` each, NaN where unconditional.
    described
        For each argument, how its values came about, for the record.
    """

    frame: pd.DataFrame
    encoded: dict[str, np.ndarray]
    described: dict[str, str]


def complete(
    conditions: Sequence[Condition],
    given: Mapping[str, Any],
    n_cells: int | None,
    training: pd.DataFrame,
    rng: np.random.Generator,
) -> Request:
    """Check what is given and draw the rest.

    Parameters
    ----------
    conditions
        The registered conditions.
    given
        Values by argument: one for all cells, one for each, or ``None`` for unconditional.
    n_cells
        Number of cells, or ``None`` to take it from the values given for each cell.
    training
        Frame of the training cells.
    rng
        Source of the draws.

    Raises
    ------
    ValueError
        If an argument is not registered, a value is not known, or lengths differ.
    """
    owners = {argument: c for c in conditions for argument in c.arguments}
    for argument in given:
        if argument not in owners:
            raise ValueError(
                f"`{argument}` is not a registered condition. Registered: {shortened(owners)}."
            )
    dropped = _dropped(conditions, given)
    parsed = {
        argument: owners[argument].parse(argument, value)
        for argument, value in given.items()
        if value is not None
    }
    n = _number_of_cells(n_cells, given, parsed)
    wanted = pd.DataFrame(index=pd.RangeIndex(n))
    for columns in parsed.values():
        rows = np.zeros(n, dtype=int) if len(columns) == 1 else np.arange(n)
        wanted = wanted.join(columns.iloc[rows].reset_index(drop=True))
    frame = _filled(conditions, wanted, training, rng)
    encoded = {}
    for condition in conditions:
        values = condition.encode(frame)
        encoded[condition.name] = np.full_like(values, np.nan) if condition in dropped else values
        if condition in dropped and not condition.in_decoder:
            columns = [c for a in condition.arguments for c in condition.columns(a)]
            frame[columns] = np.nan
    return Request(frame, encoded, {a: _describe(a, given, parsed) for a in owners})


def _dropped(conditions: Sequence[Condition], given: Mapping[str, Any]) -> list[Condition]:
    dropped = []
    for condition in conditions:
        first, *others = condition.arguments
        if first in given and given[first] is None:
            dropped.append(condition)
            continue
        for other in others:
            if other in given and given[other] is None:
                raise ValueError(
                    f"`{other}=None` goes with `{first}=None` only. Leave `{other}` out to draw "
                    "it from the training cells."
                )
    return dropped


def _number_of_cells(
    n_cells: int | None, given: Mapping[str, Any], parsed: Mapping[str, pd.DataFrame]
) -> int:
    lengths = {
        argument: len(columns)
        for argument, columns in parsed.items()
        if len(columns) != 1 or _is_per_cell(given[argument])
    }
    if n_cells is not None:
        if isinstance(n_cells, bool) or not isinstance(n_cells, int | np.integer) or n_cells < 1:
            raise ValueError(f"`n_cells={n_cells!r}` must be a whole number of 1 or more.")
        lengths = {"n_cells": int(n_cells), **lengths}
    if not lengths:
        raise ValueError("`n_cells` is needed unless a condition has one value for each cell.")
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"`{argument}` {length}" for argument, length in lengths.items())
        raise ValueError(f"Numbers of cells differ: {told}.")
    if 0 in lengths.values():
        raise ValueError(f"`{next(iter(lengths))}` is empty; at least one cell is needed.")
    return next(iter(lengths.values()))


def _is_per_cell(value: Any) -> bool:
    """Whether a value of length one was meant for one cell and not for all."""
    return not pd.api.types.is_scalar(value) and not (
        isinstance(value, np.ndarray | list | tuple) and np.ndim(value) == 1 and len(value) > 1
    )


def _filled(
    conditions: Sequence[Condition],
    wanted: pd.DataFrame,
    training: pd.DataFrame,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Complete the wanted columns with those of matching training cells."""
    missing = [column for column in training if column not in wanted]
    if not missing:
        return wanted[list(training)].copy()
    rows = np.empty(len(wanted), dtype=int)
    if wanted.empty:
        rows[:] = rng.integers(len(training), size=len(wanted))
    else:
        unmatched = []
        groups = wanted.groupby(list(wanted), observed=True, sort=True)
        for _, indices in groups.indices.items():
            values = wanted.iloc[indices[0]]
            candidates = _matching(training, values)
            if not len(candidates):
                unmatched.append(dict(values))
                lenders = [condition.plausible(training, values) for condition in conditions]
                candidates = np.flatnonzero(np.logical_and.reduce(lenders))
            rows[indices] = rng.choice(candidates, size=len(indices))
        if unmatched:
            warnings.warn(
                f"No training cell has {shortened(unmatched, 3)}; {shortened(missing)} "
                "were drawn from all training cells.",
                UserWarning,
                stacklevel=2,
            )
    frame = training.iloc[rows].reset_index(drop=True)
    for column in wanted:
        frame[column] = wanted[column]
    return frame


def _matching(training: pd.DataFrame, values: pd.Series) -> np.ndarray:
    """Return the training cells with the wanted categories and the nearest numbers.

    Cells with exactly the wanted numbers, if there are any, else the nearest fifty.
    """
    keep = np.ones(len(training), dtype=bool)
    numbers = []
    for column, value in values.items():
        if pd.api.types.is_numeric_dtype(training[column]):
            numbers.append(column)
        else:
            keep &= (training[column] == value).to_numpy(dtype=bool)
    candidates = np.flatnonzero(keep)
    if not numbers or not len(candidates):
        return candidates
    near = training[numbers].iloc[candidates].to_numpy(float)
    spread = training[numbers].std(ddof=0).replace(0, 1).to_numpy(float)
    distance = np.square((near - values[numbers].to_numpy(float)) / spread).sum(axis=1)
    if (distance == 0).any():
        return candidates[distance == 0]
    k = min(_NEAREST, len(candidates)) - 1
    return candidates[np.argpartition(distance, k)[: k + 1]]


def _describe(argument: str, given: Mapping[str, Any], parsed: Mapping[str, pd.DataFrame]) -> str:
    if argument not in given:
        return "drawn from the training cells"
    if given[argument] is None:
        return "unconditional"
    if len(parsed[argument]) == 1:
        return ", ".join(str(value) for value in parsed[argument].iloc[0])
    return "given for each cell"
