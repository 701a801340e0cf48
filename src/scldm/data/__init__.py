"""Data that a first try needs, without a download."""

from scldm.data._pbmc68k import pbmc68k

__all__ = ["pbmc68k"]
