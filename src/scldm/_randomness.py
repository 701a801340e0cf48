"""The user's random state, left as it was."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["kept_choices"]


@contextmanager
def kept_choices() -> Iterator[None]:
    """Put the state of Python's own random numbers back afterwards.

    Making a ``MuData`` draws names of columns from them.
    """
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)
