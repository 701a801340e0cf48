"""Models' attributes as plain data and back.

A saved model holds tensors, numbers, text, lists and dictionaries, nothing else, so reading one
never runs code. Data frames and arrays are taken apart for that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

__all__ = ["from_plain", "to_plain"]

_FRAME = "__frame__"


def to_plain(value: Any) -> Any:
    """Take a value apart into plain data.

    Arrays of numbers become tensors, other arrays lists.

    Raises
    ------
    TypeError
        If the value is of a type that plain data cannot hold.
    """
    # first, as numpy's text and its double are text and a float too
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str | torch.Tensor):
        return value
    if isinstance(value, np.ndarray | pd.Index):
        array = np.asarray(value)
        if array.dtype.kind in "biuf":
            return torch.from_numpy(array.copy())
        return [to_plain(item) for item in array.tolist()]
    if isinstance(value, pd.DataFrame):
        columns = [[to_plain(name), _column_to_plain(value[name])] for name in value]
        return {_FRAME: columns, "index": to_plain(value.index), "name": value.index.name}
    if isinstance(value, Mapping):
        return {to_plain(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [to_plain(item) for item in value]
    raise TypeError(f"A {type(value).__name__} cannot be saved as plain data.")


def from_plain(value: Any) -> Any:
    """Put a value together again; lists stay lists, tensors become arrays."""
    if isinstance(value, torch.Tensor):
        return value.cpu().numpy()
    if isinstance(value, list):
        return [from_plain(item) for item in value]
    if isinstance(value, Mapping) and _FRAME in value:
        index = pd.Index(from_plain(value["index"]), name=value["name"])
        columns = {name: _column_from_plain(column) for name, column in value[_FRAME]}
        return pd.DataFrame(columns, index=index)
    if isinstance(value, Mapping):
        return {key: from_plain(item) for key, item in value.items()}
    return value


def _column_to_plain(column: pd.Series) -> Any:
    if isinstance(column.dtype, pd.CategoricalDtype):
        return {
            "codes": to_plain(column.cat.codes.to_numpy()),
            "categories": _as_values(column.cat.categories.astype(object)),
            "ordered": bool(column.cat.ordered),
        }
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "biuf":
        return to_plain(column.to_numpy())
    return {"values": _as_values(column.astype(object)), "dtype": str(column.dtype)}


def _as_values(items: pd.Series | pd.Index) -> list:
    """Return plain values; what is neither text nor a number is written as text."""
    plain = [item.item() if isinstance(item, np.generic) else item for item in items]
    return [
        None
        if pd.isna(item)
        else item
        if isinstance(item, bool | int | float | str)
        else str(item)
        for item in plain
    ]


def _column_from_plain(column: Any) -> Any:
    if isinstance(column, torch.Tensor):
        return from_plain(column)
    if "codes" in column:
        codes, categories = from_plain(column["codes"]), column["categories"]
        return pd.Categorical.from_codes(codes, categories, ordered=column["ordered"])
    values = pd.array(column["values"], dtype=object)
    try:
        return values.astype(column["dtype"])
    except (TypeError, ValueError):
        # a type that text does not lead back to
        return values
