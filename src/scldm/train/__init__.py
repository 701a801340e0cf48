"""Training plans, latent data and callbacks for Lightning."""

from ._adversarial import AdversarialPlan
from ._callbacks import RestoreBest, StageProgressBar
from ._distillation import DistillationPlan
from ._fine_tuning import FineTuningPlan, JointDataModule
from ._latents import LatentDataModule, Latents
from ._perturbation import CellGroup, GroupDataModule, PerturbationPlan
from ._plans import AutoencoderPlan, DiffusionPlan
from ._runner import StageRunner

__all__ = [
    "AdversarialPlan",
    "AutoencoderPlan",
    "CellGroup",
    "DiffusionPlan",
    "DistillationPlan",
    "FineTuningPlan",
    "GroupDataModule",
    "JointDataModule",
    "LatentDataModule",
    "Latents",
    "PerturbationPlan",
    "RestoreBest",
    "StageProgressBar",
    "StageRunner",
]
