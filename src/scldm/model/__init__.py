"""Models: AnnData in, AnnData out; MuData too."""

from ._multi import MultiLDM
from ._perturbation_methods import PERTURBATION_METHODS, PerturbationJob, PerturbationMethod
from ._scldm import SCLDM

__all__ = ["PERTURBATION_METHODS", "SCLDM", "MultiLDM", "PerturbationJob", "PerturbationMethod"]
