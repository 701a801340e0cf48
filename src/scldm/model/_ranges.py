"""Numbers beyond those that training cells have."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from scldm._warnings import warn

from ._array_conditions import Coordinates
from ._conditions import Condition, Number
from ._perturbations import PerturbationSet

__all__ = ["BEYOND", "warn_beyond", "warn_of_doses"]

BEYOND = "What is made there is a guess"
"""How each of these warnings ends."""

_ROUNDING = 1e-6
_MARGIN = 0.05


def warn_beyond(
    conditions: Sequence[Condition],
    asked: Collection[str],
    frame: pd.DataFrame,
    training: pd.DataFrame,
) -> None:
    """Warn of what lies beyond the training cells, once for each argument.

    Parameters
    ----------
    conditions
        The registered conditions.
    asked
        The arguments that a user gave.
    frame
        Conditions of the cells to make, complete.
    training
        Those of the training cells.
    """
    for condition in conditions:
        own = [argument for argument in condition.arguments if argument in asked]
        if not own:
            continue
        if isinstance(condition, PerturbationSet):
            warn_of_doses(condition, frame, training)
        elif isinstance(condition, Number | Coordinates):
            _warn_of_numbers(condition, own[0], frame, training)


def _warn_of_numbers(
    condition: Condition, argument: str, frame: pd.DataFrame, training: pd.DataFrame
) -> None:
    columns = condition.columns(argument)
    values = frame[columns].to_numpy(float)
    known = training[columns].to_numpy(float)
    low, high = np.nanmin(known, axis=0), np.nanmax(known, axis=0)
    # the edge of a tissue is no line
    margin = _MARGIN * (high - low) if isinstance(condition, Coordinates) else 0.0
    off = np.fmax(low - values, values - high) - margin
    off -= _ROUNDING * np.maximum(np.abs(low), np.abs(high))
    if not (off > 0).any():
        return
    row, axis = np.unravel_index(np.nanargmax(off), off.shape)
    where = "" if len(columns) == 1 else f" along axis {axis}"
    warn(
        f"`{argument}` has {values[row, axis]:.6g}{where}, outside of what training cells have, "
        f"{low[axis]:.6g} to {high[axis]:.6g}. {BEYOND}."
    )


def warn_of_doses(condition: PerturbationSet, frame: pd.DataFrame, training: pd.DataFrame) -> None:
    """Warn of doses above those at which training cells have the same perturbation.

    Parameters
    ----------
    condition
        The perturbation.
    frame, training
        Conditions of the cells to make, and of the training cells.
    """
    if condition.dose is None:
        return
    highest: dict[str, float] = {}
    for part, dose in _members(condition, training):
        highest[part] = max(dose, highest.get(part, dose))
    for part, dose in _members(condition, frame):
        most = highest.get(part, max(highest.values(), default=np.inf))
        if dose > most * (1 + _ROUNDING):
            warn(
                f"`dose` has {dose:.6g} of {part!r}, above the highest that training cells have, "
                f"{most:.6g}. {BEYOND}."
            )
            return


def _members(condition: PerturbationSet, frame: pd.DataFrame) -> list[tuple[str, float]]:
    """Return each member and a dose of it, as they occur."""
    pairs = frame[["perturbation", "dose"]].dropna().drop_duplicates()
    return [
        (part, float(dose))
        for label, level in pairs.itertuples(index=False)
        for part, dose in condition.doses_of(str(label), level).items()
    ]
