"""Doses as users write them: one number for all members of a set, or ``"1+10"``, one for each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["Doses", "as_text", "levels", "parts", "written"]

Doses = float | tuple[float, ...]
"""One dose for all members of a set, or one for each."""

_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)")
_PART_OF_NUMBER = re.compile(r"[\d.eE]+")


def levels(argument: str, value: Any, separator: str | None) -> tuple[float, ...]:
    """Return the numbers that a dose consists of.

    Parameters
    ----------
    argument
        What the user calls it.
    value
        A number, or text.
    separator
        What stands between the doses of members; ``None`` where there are no sets.

    Raises
    ------
    ValueError
        If it is neither a number nor several with the separator between them.
    """
    if not isinstance(value, str):
        try:
            return (float(value),)
        except (TypeError, ValueError, OverflowError):
            pass
    elif separator is not None and _PART_OF_NUMBER.fullmatch(separator):
        raise ValueError(
            f"`{argument}` has {value!r}, in which `perturbation_separator={separator!r}` may stand within "
            "a number as well as between two. Give numbers, or another separator."
        )
    elif found := parts(value, separator):
        return tuple(map(float, found))
    advice = "."
    if separator is not None:
        advice = (
            f', nor text such as "1{separator}10" with a number for each member of a combination.'
        )
    raise ValueError(f"`{argument}` has {value!r}, which is not a number{advice}")


def parts(text: str, separator: str | None) -> tuple[str, ...]:
    """Return the numbers in a text, of which "1e+10" has one; none if there is anything else.

    Parameters
    ----------
    text
        What the user wrote.
    separator
        As in :func:`levels`.
    """
    between = None if separator is None else separator.strip() or separator
    found: list[str] = []
    at = 0
    while (number := _NUMBER.match(text, at)) is not None:
        found.append(number[1])
        at = number.end()
        while text[at : at + 1].isspace() and not (between and text.startswith(between, at)):
            at += 1
        if at == len(text):
            return tuple(found)
        if between is None or not text.startswith(between, at):
            break
        at += len(between)
    return ()


def written(doses: Sequence[float], separator: str) -> float | str:
    """Return doses as one value: a number where they are all the same, else text."""
    if len(set(doses)) == 1:
        return float(doses[0])
    return separator.join(map(as_text, doses))


def as_text(dose: float) -> str:
    """Return a number as text without an exponent, from which the same number is read."""
    return np.format_float_positional(dose, trim="-")
