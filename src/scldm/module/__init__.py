"""Torch modules: the count autoencoder, the latent diffusion, and the two together."""

from ._adversary import Discriminator, log_normalised, sampled_expression
from ._autoencoder import CountAutoencoder, moment_dispersion
from ._carried import carried_counts
from ._counts import sample_counts
from ._joint_diffusion import ASKED, JointDiffusion, JointNetwork, given_key
from ._latent_diffusion import LatentDiffusion
from ._likelihoods import LIKELIHOODS, Likelihood, ProteinMixture
from ._modality import ModalityAutoencoder
from ._multimodal import PRESENT, MultimodalAutoencoder, counts_key, decoder_inputs
from ._quantiser import ProductQuantiser
from ._scldm import SCLDMModule
from ._spatial import NEIGHBOURS, PLACE, spatial_diffusion
from ._transition import SOURCE, TransitionDiffusion
from ._vector_quantised import VectorQuantisedAutoencoder

AUTOENCODERS = {"vae": CountAutoencoder, "vq": VectorQuantisedAutoencoder}
"""Autoencoders by name."""

__all__ = [
    "ASKED",
    "AUTOENCODERS",
    "LIKELIHOODS",
    "NEIGHBOURS",
    "PLACE",
    "PRESENT",
    "JointDiffusion",
    "JointNetwork",
    "Likelihood",
    "ModalityAutoencoder",
    "MultimodalAutoencoder",
    "carried_counts",
    "counts_key",
    "decoder_inputs",
    "given_key",
    "SOURCE",
    "CountAutoencoder",
    "Discriminator",
    "LatentDiffusion",
    "ProductQuantiser",
    "ProteinMixture",
    "SCLDMModule",
    "TransitionDiffusion",
    "VectorQuantisedAutoencoder",
    "log_normalised",
    "moment_dispersion",
    "sampled_expression",
    "sample_counts",
    "spatial_diffusion",
]
