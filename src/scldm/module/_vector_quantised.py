r"""The vector-quantised autoencoder of counts.

The encoder's output :math:`z_e` is replaced by the nearest codes :math:`e`, and the loss is

.. math:: -\log p(x \mid e) + \beta \lVert z_e - \mathrm{sg}(e) \rVert^2

(van den Oord et al. 2017, *Neural discrete representation learning*, equation 3, with codes that
follow running means). Under a uniform prior over K codes in each of G groups the KL term is the
constant :math:`G \log K`; it is reported, so that the ELBO is one, and has no gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from scvi import REGISTRY_KEYS
from scvi.module._constants import MODULE_KEYS
from scvi.module.base import LossOutput
from torch import Tensor
from torch.distributions import Distribution, Normal

from ._autoencoder import CountAutoencoder
from ._quantiser import ProductQuantiser

__all__ = ["VectorQuantisedAutoencoder"]

_ENCODED = "encoded"


class VectorQuantisedAutoencoder(CountAutoencoder):
    """Autoencoder of counts whose latents are codes.

    To scvi-tools' methods its posterior is a normal distribution of no variance at the codes.

    Parameters
    ----------
    *args, **kwargs
        Of :class:`scvi.module.VAE`.
    n_codes, code_dims
        Codes in each codebook and their dimensions, see :class:`scldm.module.ProductQuantiser`.
    """

    def __init__(self, *args: Any, n_codes: int = 64, code_dims: int = 2, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.quantiser = ProductQuantiser(self.n_latent, n_codes, code_dims)

    def _regular_inference(self, *args: Any, n_samples: int = 1, **kwargs: Any) -> dict[str, Any]:
        outputs = super()._regular_inference(*args, n_samples=n_samples, **kwargs)
        encoded = outputs[MODULE_KEYS.QZ_KEY].loc
        z = self.quantiser(encoded)
        posterior = Normal(z, torch.zeros_like(z), validate_args=False)
        z = z if n_samples == 1 else z.expand(n_samples, *z.shape)
        return outputs | {
            _ENCODED: encoded,
            MODULE_KEYS.QZ_KEY: posterior,
            MODULE_KEYS.Z_KEY: z,
        }

    def loss(
        self,
        tensors: dict[str, Tensor],
        inference_outputs: dict[str, Any],
        generative_outputs: dict[str, Any],
        kl_weight: Tensor | float = 1.0,
    ) -> LossOutput:
        """Return reconstruction and commitment; ``kl_weight`` is the weight of the latter."""
        px: Distribution = generative_outputs[MODULE_KEYS.PX_KEY]
        reconstruction = -px.log_prob(tensors[REGISTRY_KEYS.X_KEY]).sum(-1)
        codes = inference_outputs[MODULE_KEYS.QZ_KEY].loc.detach()
        commitment = (inference_outputs[_ENCODED] - codes).square().sum(-1)
        n_codes = torch.full_like(reconstruction, self.quantiser.n_codes)
        return LossOutput(
            loss=(reconstruction + kl_weight * commitment).mean(),
            reconstruction_loss=reconstruction,
            kl_local={MODULE_KEYS.KL_Z_KEY: self.quantiser.n_groups * n_codes.log()},
            extra_metrics={"commitment": commitment.mean().detach()},
        )

    def allowed(self, z: Tensor) -> Tensor:
        """Return the codes nearest to ``z``."""
        return self.quantiser.lookup(self.quantiser.nearest(z))

    def decode(self, z: Tensor, *args: Any, **kwargs: Any) -> Distribution:
        """Return the distribution of counts given the codes nearest to ``z``.

        The arguments are those of :meth:`CountAutoencoder.decode`.
        """
        return super().decode(self.allowed(z), *args, **kwargs)

    def marginal_ll(self, *args: Any, **kwargs: Any) -> Tensor:
        """Refuse: a posterior of no variance has no importance weights.

        Raises
        ------
        NotImplementedError
            Always.
        """
        raise NotImplementedError(
            "A vector-quantised autoencoder gives no marginal likelihood: its posterior is a "
            "single point. `get_elbo()` returns the lower bound."
        )
