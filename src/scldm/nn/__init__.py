"""Networks: the denoiser's backbone and the embedders of its conditions. Pure torch."""

from ._adaln_mlp import AdaLNMLP
from ._embedders import (
    CategoryEmbedder,
    ConditionEmbedder,
    FourierEmbedder,
    SetEmbedder,
    drop_all,
    drop_at_random,
)
from ._fourier import FourierFeatures

__all__ = [
    "AdaLNMLP",
    "CategoryEmbedder",
    "ConditionEmbedder",
    "FourierEmbedder",
    "FourierFeatures",
    "SetEmbedder",
    "drop_all",
    "drop_at_random",
]
