"""Simple predictions that every model has to be measured against.

Each learns from arrays of cells (genes, components or latents) with ``fit`` and answers with
``predict``, so that it works on the data of any model; those that translate modalities also draw
with ``sample``. They are good: on the means of perturbed cells most published networks do not beat
them (Ahlmann-Eltze, Huber and Anders 2025, *Deep-learning-based gene perturbation effect prediction
does not yet outperform simple linear baselines*, Nature Methods).
"""

from ._perturbation import (
    Additive,
    MatchingMean,
    NearestPerturbation,
    NoChange,
    PerturbationBaseline,
    PerturbedMean,
    Ridge,
)
from ._translation import (
    FeatureMean,
    KernelRidgeTranslation,
    NearestCells,
    RidgeTranslation,
    TranslationBaseline,
)

__all__ = [
    "Additive",
    "FeatureMean",
    "KernelRidgeTranslation",
    "MatchingMean",
    "NearestCells",
    "NearestPerturbation",
    "NoChange",
    "PerturbationBaseline",
    "PerturbedMean",
    "Ridge",
    "RidgeTranslation",
    "TranslationBaseline",
]
