"""Warnings that point at the user's own line."""

import sys
import warnings
from types import FrameType

__all__ = ["warn"]

_PACKAGE = __name__.partition(".")[0]


def warn(message: str) -> None:
    """Warn of what a call to this package met, at the line outside of it that called.

    Parameters
    ----------
    message
        What is odd.
    """
    frame: FrameType | None = sys._getframe(1)
    level = outermost = 1
    while frame is not None:
        # other packages may stand between two functions of this one
        if frame.f_globals.get("__name__", "").partition(".")[0] == _PACKAGE:
            outermost = level
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=outermost + 2)
