"""Training plans, latent data and callbacks for Lightning."""

from ._callbacks import RestoreBest, StageProgressBar
from ._latents import LatentDataModule, Latents
from ._plans import AutoencoderPlan, DiffusionPlan
from ._runner import StageRunner

__all__ = [
    "AutoencoderPlan",
    "DiffusionPlan",
    "LatentDataModule",
    "Latents",
    "RestoreBest",
    "StageProgressBar",
    "StageRunner",
]
