"""Training plans, latent data and callbacks for Lightning."""

from ._adversarial import AdversarialPlan
from ._callbacks import FiniteLoss, OwnStreams, RestoreBest, StageProgressBar
from ._checkpoint import EpochCheckpoint, random_state, set_random_state
from ._disk import CellsOnDisk, DiskDataModule
from ._distillation import DistillationPlan
from ._fine_tuning import FineTuningPlan, JointDataModule
from ._holding import HoldWeights
from ._latents import LatentDataModule, Latents
from ._plans import AutoencoderPlan, DiffusionPlan
from ._rehearsal import Rehearsal
from ._runner import StageRunner
from ._spatial import ContextDataModule
from ._transition import CellGroup, GroupDataModule, PairDataModule, TransitionPlan

__all__ = [
    "AdversarialPlan",
    "AutoencoderPlan",
    "CellGroup",
    "CellsOnDisk",
    "ContextDataModule",
    "DiffusionPlan",
    "DiskDataModule",
    "DistillationPlan",
    "EpochCheckpoint",
    "FineTuningPlan",
    "FiniteLoss",
    "GroupDataModule",
    "HoldWeights",
    "JointDataModule",
    "LatentDataModule",
    "Latents",
    "OwnStreams",
    "PairDataModule",
    "Rehearsal",
    "RestoreBest",
    "StageProgressBar",
    "StageRunner",
    "TransitionPlan",
    "random_state",
    "set_random_state",
]
