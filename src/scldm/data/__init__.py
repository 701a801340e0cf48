"""Data that a first try needs, without a download, and gene sets."""

from scldm.data._gene_sets import add_gene_sets, read_gmt
from scldm.data._pbmc68k import pbmc68k

__all__ = ["add_gene_sets", "pbmc68k", "read_gmt"]
