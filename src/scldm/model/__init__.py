"""Models: AnnData in, AnnData out; MuData too."""

from ._branches import BranchPoints
from ._multi import MultiLDM
from ._perturbation_methods import PERTURBATION_METHODS, PerturbationJob, PerturbationMethod
from ._scldm import SCLDM
from ._trajectory_methods import (
    TRAJECTORY_METHODS,
    FlowThroughTime,
    Rollout,
    TrajectoryJob,
    TrajectoryMethod,
)

__all__ = [
    "PERTURBATION_METHODS",
    "SCLDM",
    "TRAJECTORY_METHODS",
    "BranchPoints",
    "FlowThroughTime",
    "MultiLDM",
    "PerturbationJob",
    "PerturbationMethod",
    "Rollout",
    "TrajectoryJob",
    "TrajectoryMethod",
]
