"""The generators that are compared: families of one trained model each, with named ways to draw."""

from .base import Generator, Method
from .ddpm import DDPMOnAutoencoder
from .flow import FlowOnAutoencoder
from .gene_space import GeneSpaceDiffusion
from .independent import IndependentGenes
from .ours import Ours
from .variational import SCVI

__all__ = ["DEFAULT", "FAMILIES", "Generator", "Method"]

FAMILIES: dict[str, Generator] = {
    # the others' training times are measured against it, so it comes first
    "scldm": Ours(),
    "independent": IndependentGenes(),
    "scvi": SCVI(),
    "flow": FlowOnAutoencoder(),
    "ddpm": DDPMOnAutoencoder(),
    "genes": GeneSpaceDiffusion(),
    "genes_10x": GeneSpaceDiffusion(10.0, ", 10x time"),
    "vq": Ours("scldm, vector-quantised", autoencoder="vq"),
    "adversarial": Ours("scldm, adversarial term", adversarial_weight=1.0),
    "no_thinning": Ours("scldm, no thinning", thinning=0.0),
    "one_layer": Ours("scldm, one layer, no thinning", n_layers=1, thinning=0.0),
    "fine_tuned": Ours("scldm, fine-tuned jointly", fine_tuned=True),
}
"""Families by short name."""

DEFAULT = ("scldm", "independent", "scvi", "flow", "ddpm", "genes")
"""Those that are run unless others are named."""
