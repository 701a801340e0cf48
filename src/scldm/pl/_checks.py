"""What figures ask of their arguments."""

from collections.abc import Iterable, Sequence

import pandas as pd

__all__ = ["require_at_least", "require_columns", "require_known"]


def require_at_least(name: str, value: int, least: int) -> None:
    """Check a whole number.

    Raises
    ------
    ValueError
        If ``value`` is below ``least``.
    """
    if value < least:
        raise ValueError(f"`{name}={value!r}` must be a whole number of {least} or more.")


def require_known(name: str, values: Iterable[object], known: Sequence[object]) -> None:
    """Check that there are values and that all are known.

    Raises
    ------
    ValueError
        If there is none, or one is not in ``known``.
    """
    values = list(values)
    if not values:
        raise ValueError(f"`{name}` is empty; at least one is needed.")
    if unknown := [value for value in values if value not in known]:
        shown = ", ".join(map(repr, known[:30])) + (", ..." if len(known) > 30 else "")
        raise ValueError(f"`{name}` has {unknown}. Known: [{shown}].")


def require_columns(frame: pd.DataFrame, name: str, columns: Sequence[str], maker: str) -> None:
    """Check that a table is one that ``maker`` returns.

    Raises
    ------
    ValueError
        If a column is missing or the table is empty.
    """
    missing = [column for column in columns if column not in frame]
    if missing:
        raise ValueError(f"`{name}` has no column {missing}; it comes from `{maker}()`.")
    if frame.empty:
        raise ValueError(f"`{name}` is empty; it comes from `{maker}()`.")
