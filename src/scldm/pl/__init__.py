"""Figures, in scanpy's manner: ``show``, ``save``, and the figure back."""

from scldm.pl._compare import compare
from scldm.pl._history import history

__all__ = ["compare", "history"]
