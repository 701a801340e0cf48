"""The autoencoder of one modality."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from scvi.nn import Encoder, FCLayers
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from ._likelihoods import Likelihood

__all__ = ["ModalityAutoencoder"]


class ModalityAutoencoder(nn.Module):
    r"""A variational autoencoder of the counts of one modality, built of scvi-tools' layers.

    .. math:: q(z | x) = N(m(\log(1 + x)), \mathrm{diag}(s^2)), \qquad x \sim p(x | z, l, s)

    Parameters
    ----------
    n_features
        Number of genes, proteins or peaks.
    likelihood
        What counts are drawn from.
    n_latent
        Number of latent dimensions.
    n_categories
        Numbers of categories of batch and further covariates, on which the decoder depends.
    n_continuous
        Number of continuous covariates, on which it depends too.
    n_hidden, n_layers, dropout_rate
        Of the networks.
    """

    def __init__(
        self,
        n_features: int,
        likelihood: Likelihood,
        n_latent: int,
        *,
        n_categories: Sequence[int] = (),
        n_continuous: int = 0,
        n_hidden: int = 128,
        n_layers: int = 1,
        dropout_rate: float = 0.1,
    ) -> None:
        super().__init__()
        self.n_features = n_features
        self.n_latent = n_latent
        self.likelihood = likelihood
        self.encoder = Encoder(
            n_features,
            n_latent,
            n_layers=n_layers,
            n_hidden=n_hidden,
            dropout_rate=dropout_rate,
            return_dist=True,
        )
        self.decoder = FCLayers(
            n_latent + n_continuous,
            n_hidden,
            n_cat_list=list(n_categories),
            n_layers=n_layers,
            n_hidden=n_hidden,
            dropout_rate=0.0,
        )
        self.heads = nn.ModuleDict(
            {name: nn.Linear(n_hidden, n_features) for name in likelihood.heads}
        )

    def _heads(self) -> dict[str, nn.Linear]:
        return {name: cast(nn.Linear, head) for name, head in self.heads.items()}

    @property
    def n_sizes(self) -> int:
        """1 where cells have a size, else 0."""
        return int(self.likelihood.sized)

    def start_from_moments(self, mean: Tensor, theta: Tensor) -> None:
        """Start the decoder at mean counts and inverse dispersions, ``(n_features,)`` each."""
        heads = self._heads()
        self.likelihood.start(heads, mean, theta)
        with torch.no_grad():
            for name in self.likelihood.dispersion_heads:
                heads[name].weight.mul_(0.1)

    def dispersion_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters that set the dispersion."""
        for name in self.likelihood.dispersion_heads:
            yield from self.heads[name].parameters()

    def encode(self, x: Tensor) -> tuple[Normal, Tensor]:
        """Return the posterior of the latents and the log size of cells.

        Parameters
        ----------
        x
            Counts, ``(n, n_features)``.

        Returns
        -------
        A distribution over ``(n, n_latent)``, and ``(n, 1)`` or ``(n, 0)``.
        """
        posterior, _ = self.encoder(x.log1p())
        return posterior, self.likelihood.log_size(x)

    def decode(
        self,
        z: Tensor,
        log_size: Tensor,
        categories: Sequence[Tensor] = (),
        continuous: Tensor | None = None,
    ) -> Distribution:
        """Return the distribution of counts.

        Parameters
        ----------
        z
            Latents, ``(n, n_latent)``.
        log_size
            As :meth:`encode` returns it.
        categories
            Codes of batch and covariates, ``(n, 1)`` each.
        continuous
            Continuous covariates, ``(n, n_continuous)``.
        """
        inputs = z if continuous is None else torch.cat([z, continuous], dim=1)
        h = self.decoder(inputs, *categories)
        return self.likelihood.distribution(
            {name: head(h) for name, head in self.heads.items()}, log_size
        )
