"""Models: AnnData in, AnnData out."""

from ._scldm import SCLDM

__all__ = ["SCLDM"]
