"""Networks: the denoiser's backbones and the embedders of its conditions. Pure torch.

Every backbone works with every way of conditioning and every embedder.
"""

from ._backbone import Backbone
from ._conditioning import (
    CONDITIONINGS,
    AdaLN,
    Concatenation,
    CrossAttention,
    FiLM,
    Signal,
    Steered,
)
from ._conditions import ConditionEmbedder
from ._dit import DiT
from ._dropping import drop_all
from ._embedders import (
    CategoryEmbedder,
    Embedder,
    FourierEmbedder,
    SetEmbedder,
    VectorEmbedder,
)
from ._fourier import FourierFeatures
from ._gene_sets import GeneSetEmbedder
from ._mlp import MLP
from ._neighbourhood import NeighbourhoodEmbedder
from ._sharing import keeping_signals
from ._unet import UNet
from ._vectors import TableVectors, standardised

BACKBONES: dict[str, type[Backbone]] = {"mlp": MLP, "dit": DiT, "unet": UNet}
"""Backbones by name."""

__all__ = [
    "BACKBONES",
    "CONDITIONINGS",
    "MLP",
    "AdaLN",
    "Backbone",
    "CategoryEmbedder",
    "Concatenation",
    "ConditionEmbedder",
    "CrossAttention",
    "DiT",
    "Embedder",
    "FiLM",
    "FourierEmbedder",
    "FourierFeatures",
    "GeneSetEmbedder",
    "NeighbourhoodEmbedder",
    "SetEmbedder",
    "Signal",
    "Steered",
    "TableVectors",
    "UNet",
    "VectorEmbedder",
    "drop_all",
    "keeping_signals",
    "standardised",
]
