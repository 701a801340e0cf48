"""Training plans, latent data and callbacks for Lightning."""

from ._adversarial import AdversarialPlan
from ._callbacks import FiniteLoss, RestoreBest, StageProgressBar
from ._distillation import DistillationPlan
from ._fine_tuning import FineTuningPlan, JointDataModule
from ._latents import LatentDataModule, Latents
from ._plans import AutoencoderPlan, DiffusionPlan
from ._runner import StageRunner
from ._spatial import ContextDataModule
from ._transition import CellGroup, GroupDataModule, PairDataModule, TransitionPlan

__all__ = [
    "AdversarialPlan",
    "AutoencoderPlan",
    "CellGroup",
    "ContextDataModule",
    "DiffusionPlan",
    "DistillationPlan",
    "FineTuningPlan",
    "FiniteLoss",
    "GroupDataModule",
    "JointDataModule",
    "LatentDataModule",
    "Latents",
    "PairDataModule",
    "RestoreBest",
    "StageProgressBar",
    "StageRunner",
    "TransitionPlan",
]
