"""What a user asks for, completed from the training cells.

A condition that is not given is drawn from the training cells that match the given ones, so the
frame of conditions is complete and the mix is the data's own. Those that stay free unless asked
for are the exception: they are neither drawn nor given to the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from scldm._warnings import warn

from ._choices import positive
from ._conditions import Condition
from ._fields import shortened
from ._lenders import Lenders
from ._ranges import warn_beyond

__all__ = ["Request", "changed", "complete", "concatenated", "put_in", "redrawn", "replaced"]


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
    for condition in conditions:
        given = condition.together(given)
    parsed = {
        argument: owners[argument].parse(argument, value)
        for argument, value in given.items()
        if value is not None
    }
    n = _number_of_cells(n_cells, owners, given, parsed)
    wanted = pd.DataFrame(index=pd.RangeIndex(n))
    for columns in parsed.values():
        rows = np.zeros(n, dtype=int) if len(columns) == 1 else np.arange(n)
        wanted = wanted.join(columns.iloc[rows].reset_index(drop=True))
    for condition in conditions:
        wanted = condition.settle(wanted, training, rng)
    drawn = training.drop(columns=_left_free(owners, parsed))
    frame = _filled(conditions, wanted, drawn, rng).reindex(columns=list(training))
    warn_beyond(conditions, parsed, frame, training)
    encoded = {}
    for condition in conditions:
        values = condition.encode(frame)
        encoded[condition.name] = np.full_like(values, np.nan) if condition in dropped else values
        if condition in dropped and not condition.in_decoder:
            columns = [c for a in condition.arguments for c in condition.columns(a)]
            frame[columns] = np.nan
    described = {a: _describe(c, a, given, parsed) for a, c in owners.items()}
    return Request(frame, encoded, described)


def changed(
    conditions: Sequence[Condition],
    own: pd.DataFrame,
    given: Mapping[str, Any],
    training: pd.DataFrame,
    rng: np.random.Generator,
    *,
    check_range: bool = True,
) -> Request:
    """Return the conditions of cells with some of them changed.

    Parameters
    ----------
    conditions
        The registered conditions.
    own
        Frame of the cells.
    given
        What to change, by argument: one value for all cells, or one for each.
    training
        Frame of the training cells.
    rng
        Source of values that have to be set right.
    check_range
        Whether to warn of numbers beyond those of the training cells.

    Raises
    ------
    ValueError
        If nothing is given, an argument is not registered, a value is not known, or lengths
        differ.
    """
    owners = {argument: c for c in conditions for argument in c.arguments}
    if not given:
        raise ValueError(f"No condition is changed. Registered: {shortened(owners)}.")
    frame, parsed = put_in(conditions, own, given)
    if check_range:
        warn_beyond(conditions, parsed, frame, training)
    frame[_left_free(owners, parsed)] = np.nan
    for condition in conditions:
        frame = condition.settle(frame, training, rng)
    encoded = {condition.name: condition.encode(frame) for condition in conditions}
    described = {
        a: c.describe(parsed[a]) if a in parsed else "the cells' own" for a, c in owners.items()
    }
    return Request(frame, encoded, described)


def redrawn(
    conditions: Sequence[Condition],
    request: Request,
    name: str,
    training: pd.DataFrame,
    rng: np.random.Generator,
) -> Request:
    """Return a request with one condition drawn anew from training cells that match the others.

    Parameters
    ----------
    conditions
        The registered conditions.
    request
        The request.
    name
        The condition, of one column.
    training
        Frame of the training cells.
    rng
        Source of the draws.
    """
    wanted = request.frame.drop(columns=name).dropna(axis=1, how="all")
    drawn = _filled(conditions, wanted, training, rng)
    found = replaced(conditions, request, name, drawn[name])
    found.described[name] = "drawn from the training cells"
    return found


def replaced(conditions: Sequence[Condition], request: Request, name: str, values: Any) -> Request:
    """Return a request with other values of one condition, of one column."""
    frame = request.frame.assign(**{name: values})
    (condition,) = (c for c in conditions if c.name == name)
    encoded = {**request.encoded, name: condition.encode(frame)}
    return Request(frame, encoded, {**request.described, name: "predicted"})


def concatenated(requests: Sequence[Request]) -> Request:
    """Return requests one below the other; the record is that of the first."""
    first = requests[0]
    frame = pd.concat([r.frame for r in requests], ignore_index=True)
    encoded = {name: np.concatenate([r.encoded[name] for r in requests]) for name in first.encoded}
    return Request(frame, encoded, first.described)


def put_in(
    conditions: Sequence[Condition], own: pd.DataFrame, given: Mapping[str, Any]
) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """Return a frame of conditions with some values replaced, and these values by argument.

    Parameters
    ----------
    conditions
        The registered conditions.
    own
        The frame.
    given
        Values by argument, one for all cells or one for each.

    Raises
    ------
    ValueError
        If an argument is not registered, a value is not known, or lengths differ.
    """
    owners = {argument: c for c in conditions for argument in c.arguments}
    for condition in conditions:
        given = condition.together(given)
    frame, parsed = own.copy(), {}
    for argument, value in given.items():
        if argument not in owners:
            raise ValueError(
                f"`{argument}` is not a registered condition. Registered: {shortened(owners)}."
            )
        if value is None:
            raise ValueError(f"`{argument}=None` says no value to change it to.")
        parsed[argument] = columns = owners[argument].parse(argument, value)
        if len(columns) not in (1, len(own)):
            raise ValueError(f"`{argument}` has {len(columns)} values for {len(own)} cells.")
        rows = np.zeros(len(own), int) if len(columns) == 1 else np.arange(len(own))
        for name in columns:
            frame[name] = columns[name].iloc[rows].array
    return frame, parsed


def _left_free(owners: Mapping[str, Condition], parsed: Mapping[str, pd.DataFrame]) -> list[str]:
    """Return the columns that are neither asked for nor to be drawn."""
    return [
        column
        for argument, condition in owners.items()
        if condition.stays_free and argument not in parsed
        for column in condition.columns(argument)
    ]


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
    n_cells: int | None,
    owners: Mapping[str, Condition],
    given: Mapping[str, Any],
    parsed: Mapping[str, pd.DataFrame],
) -> int:
    lengths = {
        argument: len(columns)
        for argument, columns in parsed.items()
        if len(columns) != 1 or owners[argument].per_cell(argument, given[argument])
    }
    if n_cells is not None:
        lengths = {"n_cells": positive("n_cells", n_cells), **lengths}
    if not lengths:
        raise ValueError("`n_cells` is needed unless a condition has one value for each cell.")
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"`{argument}` {length}" for argument, length in lengths.items())
        raise ValueError(f"Numbers of cells differ: {told}.")
    if 0 in lengths.values():
        raise ValueError(f"`{next(iter(lengths))}` is empty; at least one cell is needed.")
    return next(iter(lengths.values()))


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
        lenders = Lenders(training, list(wanted))
        groups = wanted.groupby(list(wanted), observed=True, sort=True, dropna=False).ngroup()
        for indices in groups.groupby(groups).indices.values():
            values = wanted.iloc[indices[0]]
            candidates = lenders.matching(values)
            if not len(candidates):
                categories = dict(values[lenders.categories])
                if categories not in unmatched:
                    unmatched.append(categories)
                plausible = [condition.plausible(training, values) for condition in conditions]
                candidates = np.flatnonzero(np.logical_and.reduce(plausible))
            rows[indices] = rng.choice(candidates, size=len(indices))
        if unmatched:
            _warn_of_unmatched(conditions, unmatched, missing)
    frame = training.iloc[rows].reset_index(drop=True)
    for column in wanted:
        frame[column] = wanted[column]
    return frame


def _warn_of_unmatched(
    conditions: Sequence[Condition], unmatched: list[dict], missing: list[str]
) -> None:
    drawn = [
        a for c in conditions for a in c.arguments if not set(missing).isdisjoint(c.columns(a))
    ]
    warn(
        f"No training cell has {shortened(unmatched, 3)}; {shortened(drawn)} were drawn from all "
        "training cells."
    )


def _describe(
    condition: Condition,
    argument: str,
    given: Mapping[str, Any],
    parsed: Mapping[str, pd.DataFrame],
) -> str:
    if argument in parsed:
        return condition.describe(parsed[argument])
    if argument in given:
        return "unconditional"
    return "left free" if condition.stays_free else "drawn from the training cells"
