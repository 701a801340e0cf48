"""What made some cells: the call, and the versions of what it rests on."""

from __future__ import annotations

import functools
import inspect
import os
import platform
from collections.abc import Callable
from contextvars import ContextVar
from importlib.metadata import version
from typing import Any, ParamSpec, TypeVar

import numpy as np

from scldm._version import __version__

__all__ = ["provenance", "recorded"]

_PACKAGES = ("anndata", "numpy", "scvi-tools", "torch")
_MOST_SHOWN = 10

P = ParamSpec("P")
R = TypeVar("R")

# each thread has its own
_call: ContextVar[str | None] = ContextVar("call", default=None)


def recorded(method: Callable[P, R]) -> Callable[P, R]:
    """Let what a method makes know the call; of methods that call each other, the user's own."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def recording(*args: P.args, **kwargs: P.kwargs) -> R:
        if _call.get() is not None:
            return method(*args, **kwargs)
        token = _call.set(_as_text(method.__name__, signature, args, kwargs))
        try:
            return method(*args, **kwargs)
        finally:
            _call.reset(token)

    return recording


def provenance() -> dict[str, Any]:
    """Return what to write beside cells, whatever made them."""
    record = {"version": __version__, "versions": dict(_versions())}
    call = _call.get()
    return record if call is None else {**record, "call": call}


@functools.cache
def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def _as_text(name: str, signature: inspect.Signature, args: tuple, kwargs: dict[str, Any]) -> str:
    given = list(signature.parameters)[1 : len(args)]
    arguments = {**dict(zip(given, args[1:], strict=False)), **kwargs}
    shown = ", ".join(f"{key}={_shown(value)}" for key, value in arguments.items())
    return f"{type(args[0]).__name__}.{name}({shown})"


def _shown(value: Any) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str | os.PathLike):
        return repr(os.fspath(value) if isinstance(value, os.PathLike) else value)
    kind = type(value).__name__
    if isinstance(value, dict) and len(value) <= _MOST_SHOWN:
        return "{" + ", ".join(f"{key!r}: {_shown(x)}" for key, x in value.items()) + "}"
    if isinstance(value, list | tuple) and len(value) <= _MOST_SHOWN:
        ends = "[]" if isinstance(value, list) else "()"
        return ends[0] + ", ".join(map(_shown, value)) + ends[1]
    if hasattr(value, "shape"):
        return f"<{kind} {' x '.join(map(str, value.shape))}>"
    return f"<{kind} of {len(value)}>" if hasattr(value, "__len__") else f"<{kind}>"
