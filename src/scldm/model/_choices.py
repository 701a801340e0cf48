"""Checks of plain arguments."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from ._fields import shortened

__all__ = ["chosen", "flag", "listed", "names_by", "place", "positive", "share", "text", "weight"]

_MOST = 2**31 - 1
"""The largest whole number that is taken; sparse matrices and tensors count rows in 31 bits."""


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
    if value > _MOST:
        raise ValueError(f"`{argument}={value!r}` is too large; {_MOST} is the most.")
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


def flag(argument: str, value: Any) -> bool:
    """Return True or False; what merely counts as one of them is likely meant otherwise.

    Raises
    ------
    ValueError
        If it is neither.
    """
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"`{argument}={value!r}` must be True or False.")
    return bool(value)


def listed(argument: str, names: Any) -> list[Any]:
    """Return one name, or several, as a list.

    Raises
    ------
    TypeError
        If it is neither text nor a list of things.
    """
    if isinstance(names, str):
        return [names]
    if not isinstance(names, Iterable) or getattr(names, "ndim", 1) != 1:
        raise TypeError(
            f"`{argument}` is a {type(names).__name__}, but must be a name or a list of names."
        )
    return list(names)


def text(argument: str, value: Any, required: bool = False) -> str | None:
    """Return a name, or ``None`` where none is required.

    Raises
    ------
    TypeError
        If it is neither.
    """
    if isinstance(value, str) or (value is None and not required):
        return value
    raise TypeError(
        f"`{argument}` is a {type(value).__name__}, but must be text{'' if required else ' or None'}."
    )


def names_by(argument: str, value: Any) -> dict[str, Any]:
    """Return a mapping from names to names, some of them ``None``; an empty one for ``None``.

    Raises
    ------
    TypeError
        If it is none.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"`{argument}` is a {type(value).__name__}, but must map names to names.")
    for name, other in value.items():
        if not isinstance(name, str) or not isinstance(other, str | None):
            raise TypeError(f"`{argument}` has {name!r}: {other!r}, but must map names to names.")
    return dict(value)


def place(argument: str, value: Any) -> Path:
    """Return a path.

    Raises
    ------
    TypeError
        If it is neither text nor a path.
    ValueError
        If no file can have that name.
    """
    if not isinstance(value, str | os.PathLike) or isinstance(os.fspath(value), bytes):
        raise TypeError(f"`{argument}` is a {type(value).__name__}, but must be text or a path.")
    if "\0" in os.fspath(value):
        raise ValueError(f"`{argument}={value!r}` has a zero byte, which no name of a file can.")
    return Path(value).expanduser()
