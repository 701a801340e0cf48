r"""The count autoencoder: scvi-tools' VAE, started where its dispersions can be learned.

.. math:: x_{ng} \sim \mathrm{NB}(\mu_{ng}, \theta_{ng}), \qquad
          \mu_{ng} = l_n f_g(z_n, s_n), \qquad \mathrm{Var} = \mu + \mu^2 / \theta

With an optimiser step of 1e-3 a log-dispersion moves by about one in a thousand steps, while
genes differ by more than five: started at random, most are never reached, and sampled counts are
far too noisy. So each gene starts at its moment estimate, and dispersions get a learning rate of
their own in training.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from scvi import REGISTRY_KEYS
from scvi.module import VAE
from scvi.module._constants import MODULE_KEYS
from scvi.module.base import LossOutput
from torch import Tensor, nn
from torch.distributions import Distribution, kl_divergence

__all__ = ["CountAutoencoder", "bounded_log_theta", "moment_dispersion"]

_LARGEST_LOG_THETA = 10.0
"""There a mean of 100 has half a percent more variance than a Poisson's; far beyond, numbers overflow."""


def moment_dispersion(
    scale: Tensor, sum_x2: Tensor, sum_xl: Tensor, sum_l: float, sum_l2: float
) -> Tensor:
    r"""Estimate each gene's inverse dispersion by moments, given the library sizes.

    With :math:`\mu_{ng} = l_n p_g`, setting
    :math:`\sum_n (x_{ng} - \mu_{ng})^2 = \sum_n \mu_{ng} + \mu_{ng}^2 / \theta_g` gives

    .. math:: \theta_g = \frac{p_g^2 \sum_n l_n^2}
              {\sum_n x_{ng}^2 - 2 p_g \sum_n l_n x_{ng} + p_g^2 \sum_n l_n^2 - p_g \sum_n l_n}

    Genes no more variable than a Poisson get the upper bound.

    Parameters
    ----------
    scale
        Share p of each gene in the library, ``(n_genes,)``.
    sum_x2, sum_xl
        Sums over cells of squared counts and of counts times library size, ``(n_genes,)``.
    sum_l, sum_l2
        Sums over cells of library sizes and of their squares.

    Returns
    -------
    Inverse dispersions between 0.01 and 1000, ``(n_genes,)``.
    """
    mean_square = scale.square() * sum_l2
    excess = sum_x2 - 2 * scale * sum_xl + mean_square - scale * sum_l
    theta = mean_square / excess
    return torch.where((excess <= 0) | ~theta.isfinite(), torch.inf, theta).clamp(1e-2, 1e3)


def bounded_log_theta(log_theta: Tensor) -> Tensor:
    """Keep a decoder's log inverse dispersions where likelihoods are finite in single precision.

    Where one gene makes up nearly all of a cell, its count is known from the cell's total, and nothing
    else keeps its inverse dispersion from growing.
    """
    return log_theta.clamp(-_LARGEST_LOG_THETA, _LARGEST_LOG_THETA)


def _bound_output(module: nn.Module, inputs: tuple[Any, ...], log_theta: Tensor) -> Tensor:
    return bounded_log_theta(log_theta)


class CountAutoencoder(VAE):
    r"""Variational autoencoder of counts.

    The weights have the names of those of :class:`scvi.module.VAE`, so the weights of a trained
    :class:`scvi.model.SCVI` fit.

    Parameters
    ----------
    *args, **kwargs
        Of :class:`scvi.module.VAE`.
    free_bits
        Nats below which the KL term of a latent dimension is not pushed: the loss has
        :math:`\sum_j \max(\lambda, E_n[\mathrm{KL}_{nj}])`, the mean taken over the minibatch.

    References
    ----------
    Lopez et al. (2018), *Deep generative modeling for single-cell transcriptomics*, Nature
    Methods 15:1053; Kingma et al. (2016), *Improving variational inference with inverse
    autoregressive flow*, equation 15 (free bits).
    """

    def __init__(self, *args: Any, free_bits: float = 0.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.free_bits = free_bits
        if self.dispersion == "gene-cell":
            # scvi-tools takes the exponential of what this head returns
            self.decoder.px_r_decoder.register_forward_hook(_bound_output)

    def _regular_inference(
        self, x: Tensor, *args: Any, thinning: float = 0.0, **kwargs: Any
    ) -> dict[str, Any]:
        """Encode as :meth:`scvi.module.VAE.inference` does, all counts or some of them.

        Parameters
        ----------
        thinning
            Largest share of a cell's counts that the encoder is not shown; drawn for each cell.
        """
        if not thinning:
            return super()._regular_inference(x, *args, **kwargs)
        shown = 1 - thinning * torch.rand(len(x), 1, device=x.device)
        seen = torch.binomial(x, shown.expand_as(x)) / shown
        outputs = super()._regular_inference(seen, *args, **kwargs)
        # the decoder is to make all counts, seen or not
        library = x.sum(1, keepdim=True).log().expand_as(outputs[MODULE_KEYS.LIBRARY_KEY])
        return outputs | {MODULE_KEYS.LIBRARY_KEY: library}

    def generative(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Decode as :meth:`scvi.module.VAE.generative` does."""
        if self.dispersion != "gene-cell":
            with torch.no_grad():
                self.px_r.copy_(bounded_log_theta(self.px_r))
        return super().generative(*args, **kwargs)

    def start_from_moments(self, scale: Tensor, theta: Tensor) -> None:
        """Start the decoder at the data's gene means and dispersions.

        Parameters
        ----------
        scale
            Share of each gene in the library, ``(n_genes,)``.
        theta
            Inverse dispersion of each gene, ``(n_genes,)``.
        """
        log_theta = theta.log()
        with torch.no_grad():
            self._scale_head.bias.copy_(scale.clamp_min(1e-7).log())
            if self.dispersion == "gene":
                self.px_r.copy_(log_theta)
            elif self.dispersion == "gene-cell":
                self.decoder.px_r_decoder.bias.copy_(log_theta)
                self.decoder.px_r_decoder.weight.mul_(0.1)
            else:
                self.px_r.copy_(log_theta.unsqueeze(1).expand_as(self.px_r))
            # a zero needs no inflation to begin with
            self.decoder.px_dropout_decoder.bias.fill_(-3.0)

    @property
    def _scale_head(self) -> nn.Linear:
        return self.decoder.px_scale_decoder[0]

    def dispersion_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters that set the dispersion."""
        if self.dispersion == "gene-cell":
            yield from self.decoder.px_r_decoder.parameters()
        else:
            yield self.px_r

    def loss(
        self,
        tensors: dict[str, Tensor],
        inference_outputs: dict[str, Any],
        generative_outputs: dict[str, Any],
        kl_weight: Tensor | float = 1.0,
    ) -> LossOutput:
        """Return the loss of :meth:`scvi.module.VAE.loss`, its KL term held up by free bits."""
        output = super().loss(tensors, inference_outputs, generative_outputs, kl_weight)
        if not self.free_bits:
            return output
        kl = kl_divergence(
            inference_outputs[MODULE_KEYS.QZ_KEY], generative_outputs[MODULE_KEYS.PZ_KEY]
        )
        # added to the KL term, it makes the larger of the two, with its gradient
        missing = (self.free_bits - kl.flatten(0, -2).mean(0)).clamp_min(0)
        return replace(output, loss=output.loss + kl_weight * missing.sum())

    def encode(self, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the posterior's mean and variance and the log library size of each cell.

        Parameters
        ----------
        tensors
            A minibatch of scvi-tools' loaders.

        Returns
        -------
        ``(n, n_latent)``, ``(n, n_latent)`` and ``(n, 1)``.
        """
        outputs = self.inference(**self._get_inference_input(tensors))
        posterior = outputs[MODULE_KEYS.QZ_KEY]
        return posterior.loc, posterior.scale.square(), self.log_library(tensors, outputs)

    def log_library(self, tensors: dict[str, Tensor], outputs: dict[str, Any]) -> Tensor:
        """Return the log library size that the decoder is given, ``(n, 1)``.

        Parameters
        ----------
        tensors
            A minibatch of scvi-tools' loaders.
        outputs
            What the encoder made of it.
        """
        library = outputs[MODULE_KEYS.LIBRARY_KEY]
        if not self.use_size_factor_key:
            return library
        return tensors[REGISTRY_KEYS.SIZE_FACTOR_KEY].to(library).log()

    def allowed(self, z: Tensor) -> Tensor:
        """Return the latents nearest to ``z`` that a cell can have."""
        return z

    def decode(
        self,
        z: Tensor,
        log_library: Tensor,
        batch_index: Tensor,
        cat_covs: Tensor | None = None,
        cont_covs: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Distribution:
        """Return the distribution of the counts of each cell.

        Parameters
        ----------
        z
            Latents, ``(n, n_latent)``.
        log_library
            Natural log of the library size, ``(n, 1)``.
        batch_index, labels
            Codes of batch and cell type, ``(n, 1)``; types matter only to ``"gene-label"``
            dispersions.
        cat_covs, cont_covs
            Codes and values of further covariates, ``(n, k)`` each.

        Returns
        -------
        A distribution with batch shape ``(n, n_genes)``.
        """
        outputs = self.generative(
            z=z,
            library=log_library,
            size_factor=log_library,
            batch_index=batch_index,
            cat_covs=cat_covs,
            cont_covs=cont_covs,
            y=labels,
        )
        return outputs[MODULE_KEYS.PX_KEY]
