"""Models: AnnData in, AnnData out."""

from ._perturbation_methods import PERTURBATION_METHODS, PerturbationJob, PerturbationMethod
from ._scldm import SCLDM

__all__ = ["PERTURBATION_METHODS", "SCLDM", "PerturbationJob", "PerturbationMethod"]
