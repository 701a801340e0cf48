"""Figures, in scanpy's manner: ``show``, ``save``, ``ax``, and the axes back."""

from scldm.pl._compare import compare
from scldm.pl._correlation import correlation
from scldm.pl._distributions import library_size, mean_variance, zeros
from scldm.pl._dose_response import dose_response
from scldm.pl._dotplot import dotplot
from scldm.pl._fates import fates
from scldm.pl._history import history
from scldm.pl._reading import attention, condition_effects, gene_loadings
from scldm.pl._report import report
from scldm.pl._scores import scores, steps
from scldm.pl._spatial import spatial_compare
from scldm.pl._trajectory import trajectory
from scldm.pl._umap import umap

__all__ = [
    "attention",
    "compare",
    "condition_effects",
    "correlation",
    "dose_response",
    "dotplot",
    "fates",
    "gene_loadings",
    "history",
    "library_size",
    "mean_variance",
    "report",
    "scores",
    "spatial_compare",
    "steps",
    "trajectory",
    "umap",
    "zeros",
]
