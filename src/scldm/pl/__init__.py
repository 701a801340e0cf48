"""Figures, in scanpy's manner: ``show``, ``save``, and the figure back."""

from scldm.pl._compare import compare
from scldm.pl._history import history
from scldm.pl._reading import attention, condition_effects, gene_loadings

__all__ = ["attention", "compare", "condition_effects", "gene_loadings", "history"]
