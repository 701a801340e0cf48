"""Generate single cells by latent diffusion."""

from . import baselines, data, diffusion, metrics, nn, pl
from ._version import __version__
from .model import SCLDM, MultiLDM

__all__ = [
    "SCLDM",
    "MultiLDM",
    "__version__",
    "baselines",
    "data",
    "diffusion",
    "metrics",
    "nn",
    "pl",
]
