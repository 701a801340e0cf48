"""Simple predictions that every model has to be measured against.

Each learns from arrays of cells (genes, components or latents) with ``fit`` and answers with
``predict``, so that it works on the data of any model; those that translate modalities and those of
places in tissue also draw with ``sample``, and those of trajectories draw a population at a time. They
are good: on the means of perturbed cells most published networks do not beat them (Ahlmann-Eltze,
Huber and Anders 2025, *Deep-learning-based gene perturbation effect prediction does not yet outperform
simple linear baselines*, Nature Methods).
"""

from ._perturbation import (
    Additive,
    Bilinear,
    MatchingMean,
    NearestPerturbation,
    NoChange,
    PerturbationBaseline,
    PerturbedMean,
    Ridge,
)
from ._spatial import RegionMean, SpatialBaseline
from ._spatial_neighbours import (
    GaussianKernel,
    InverseDistance,
    NearestPlace,
    NeighbourMean,
)
from ._spatial_regression import CoordinateRidge, GaussianProcess
from ._spatial_sections import NearestSection, SectionBlend
from ._tangram import Tangram
from ._trajectory import (
    OTCFM,
    IndependentMidpoint,
    McCann,
    Mixture,
    NextTime,
    PreviousTime,
    TrajectoryBaseline,
)
from ._translation import (
    FeatureMean,
    KernelRidgeTranslation,
    NearestCells,
    RidgeTranslation,
    TranslationBaseline,
)

__all__ = [
    "OTCFM",
    "Additive",
    "Bilinear",
    "CoordinateRidge",
    "FeatureMean",
    "GaussianKernel",
    "GaussianProcess",
    "IndependentMidpoint",
    "InverseDistance",
    "KernelRidgeTranslation",
    "MatchingMean",
    "McCann",
    "Mixture",
    "NearestCells",
    "NearestPerturbation",
    "NearestPlace",
    "NearestSection",
    "NeighbourMean",
    "NextTime",
    "NoChange",
    "PerturbationBaseline",
    "PerturbedMean",
    "PreviousTime",
    "RegionMean",
    "Ridge",
    "RidgeTranslation",
    "SectionBlend",
    "SpatialBaseline",
    "Tangram",
    "TrajectoryBaseline",
    "TranslationBaseline",
]
