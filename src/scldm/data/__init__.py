"""Data that a first try needs, without a download, gene sets, and simulated cells."""

from scldm.data._branching import simulate_branching, true_fate_probability
from scldm.data._gene_sets import add_gene_sets, read_gmt
from scldm.data._multiome import simulate_multiome
from scldm.data._on_disk import read_on_disk
from scldm.data._pbmc68k import pbmc68k
from scldm.data._simulated import simulate_dose_response, simulate_responders, true_log_change
from scldm.data._tissue import layer_at, simulate_tissue, true_expression

__all__ = [
    "add_gene_sets",
    "layer_at",
    "pbmc68k",
    "read_gmt",
    "read_on_disk",
    "simulate_branching",
    "simulate_dose_response",
    "simulate_multiome",
    "simulate_responders",
    "simulate_tissue",
    "true_expression",
    "true_fate_probability",
    "true_log_change",
]
