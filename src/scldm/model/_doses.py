"""Doses as users write them: one number for all members of a set, or ``"1+10"``, one for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["Doses", "levels", "written"]

Doses = float | tuple[float, ...]
"""One dose for all members of a set, or one for each."""


def levels(argument: str, value: Any, separator: str) -> tuple[float, ...]:
    """Return the numbers that a dose consists of.

    Parameters
    ----------
    argument
        What the user calls it.
    value
        A number, or text.
    separator
        What stands between the doses of members.

    Raises
    ------
    ValueError
        If it is neither a number nor several with the separator between them.
    """
    ways = [[value]]
    if isinstance(value, str):
        # as a whole first: the sign in "1e+10" separates nothing
        ways.append(value.split(separator))
    for parts in ways:
        try:
            return tuple(float(part) for part in parts)
        except (TypeError, ValueError, OverflowError):
            continue
    raise ValueError(
        f'`{argument}` has {value!r}, which is not a number, nor text such as "1{separator}10" with a '
        "number for each member of a combination."
    )


def written(doses: Sequence[float], separator: str) -> float | str:
    """Return doses as one value: a number where they are all the same, else text."""
    if len(set(doses)) == 1:
        return float(doses[0])
    return separator.join(f"{dose:.12g}" for dose in doses)
