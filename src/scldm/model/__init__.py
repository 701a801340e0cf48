"""Models: AnnData in, AnnData out; MuData too."""

from ._branches import BranchPoints
from ._multi import MultiLDM
from ._perturbation_methods import PERTURBATION_METHODS, PerturbationJob, PerturbationMethod
from ._scldm import SCLDM
from ._spatial_methods import (
    SPATIAL_METHODS,
    FromPlaces,
    InverseDistance,
    SpatialJob,
    SpatialMethod,
)
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
    "SPATIAL_METHODS",
    "TRAJECTORY_METHODS",
    "BranchPoints",
    "FlowThroughTime",
    "FromPlaces",
    "InverseDistance",
    "MultiLDM",
    "PerturbationJob",
    "PerturbationMethod",
    "Rollout",
    "SpatialJob",
    "SpatialMethod",
    "TrajectoryJob",
    "TrajectoryMethod",
]
