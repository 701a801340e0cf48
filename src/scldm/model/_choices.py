"""Checks of plain arguments."""

from __future__ import annotations

from collections.abc import Collection
from numbers import Real
from typing import Any

import numpy as np

from ._fields import shortened

__all__ = ["chosen", "positive", "share", "weight"]


def chosen(argument: str, name: Any, known: Collection[str]) -> Any:
    """Return what a name stands for, or the name itself where ``known`` is not a mapping.

    Raises
    ------
    ValueError
        If the name is not known.
    """
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"`{argument}={name!r}` is not known. Known: {shortened(known)}.")
    return known[name] if isinstance(known, dict) else name


def share(argument: str, value: Any, default: float | None = None) -> float:
    """Return a number from 0 up to, but not including, 1; the default for ``None``.

    Raises
    ------
    ValueError
        If it is not one.
    """
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"`{argument}={value!r}` must be a number of at least 0 and below 1.")
    return float(value)


def positive(argument: str, value: Any, default: int | None = None) -> int:
    """Return a whole number of 1 or more; the default for ``None``.

    Raises
    ------
    ValueError
        If it is not one.
    """
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"`{argument}={value!r}` must be a whole number of 1 or more.")
    return int(value)


def weight(argument: str, value: Any, default: float | None = None) -> float:
    """Return a finite number of 0 or more; the default for ``None``.

    Raises
    ------
    ValueError
        If it is not one.
    """
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < np.inf:
        raise ValueError(f"`{argument}={value!r}` must be a finite number of 0 or more.")
    return float(value)
