r"""Distributions of the counts of a modality, from the outputs of a decoder's heads.

Where a modality has a *size*, its total count, means are shares of it,
:math:`\mu_{ng} = l_n \, \mathrm{softmax}(f(z_n))_g`, and the size is known apart from the latents. Proteins
have none: a few of them make up nearly all of a cell's total, so that shares of it say little.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from scvi.distributions import (
    NegativeBinomial,
    NegativeBinomialMixture,
    ZeroInflatedNegativeBinomial,
)
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Poisson

from ._autoencoder import bounded_log_theta

__all__ = ["LIKELIHOODS", "Likelihood", "ProteinMixture"]

_LARGEST_LOG_RATE = 14.0
_RARELY = -3.0
"""Logit of what need not be there to begin with."""


class Likelihood(ABC):
    """What the counts of one modality are drawn from.

    Attributes
    ----------
    heads
        Names of the decoder's outputs, each one number for each cell and feature.
    sized
        Whether cells have a size.
    largest
        The largest count that can be.
    dispersion_heads
        Those among ``heads`` that set the dispersion.
    """

    heads: tuple[str, ...]
    sized: bool
    largest: float = float("inf")
    dispersion_heads: tuple[str, ...] = ("log_theta",)

    def log_size(self, x: Tensor) -> Tensor:
        """Return the log size of cells with counts ``x``, ``(n, 1)``, or ``(n, 0)`` without one."""
        if not self.sized:
            return x.new_zeros(len(x), 0)
        return x.sum(1, keepdim=True).clamp_min(1.0).log()

    @abstractmethod
    def distribution(self, outputs: Mapping[str, Tensor], log_size: Tensor) -> Distribution:
        """Return the distribution of counts, ``(n, n_features)``.

        Parameters
        ----------
        outputs
            Of the heads, each ``(n, n_features)``.
        log_size
            As :meth:`log_size` returns it.
        """

    @abstractmethod
    def start(self, heads: Mapping[str, nn.Linear], mean: Tensor, theta: Tensor) -> None:
        """Set the biases of the heads to what features are on average.

        Parameters
        ----------
        heads
            Linear layers.
        mean
            Mean count of each feature, ``(n_features,)``.
        theta
            Inverse dispersion of each.
        """


def _set_bias(heads: Mapping[str, nn.Linear], name: str, value: Tensor | float) -> None:
    with torch.no_grad():
        heads[name].bias.copy_(torch.as_tensor(value).expand_as(heads[name].bias))


def _log(x: Tensor) -> Tensor:
    return x.clamp_min(1e-7).log()


def _theta(outputs: Mapping[str, Tensor]) -> Tensor:
    return bounded_log_theta(outputs["log_theta"]).exp()


class _Sized(Likelihood):
    """Counts whose means are shares of the cell's size."""

    sized = True

    def _log_mean(self, outputs: Mapping[str, Tensor], log_size: Tensor) -> Tensor:
        return log_size + outputs["scale"].log_softmax(1)

    def start(self, heads: Mapping[str, nn.Linear], mean: Tensor, theta: Tensor) -> None:
        _set_bias(heads, "scale", _log(mean / mean.sum()))
        for name in self.dispersion_heads:
            _set_bias(heads, name, theta.log())


class NegativeBinomialCounts(_Sized):
    r""":math:`\mathrm{NB}(\mu, \theta)`, of variance :math:`\mu + \mu^2 / \theta`."""

    heads = ("scale", "log_theta")

    def distribution(self, outputs: Mapping[str, Tensor], log_size: Tensor) -> Distribution:
        mu = self._log_mean(outputs, log_size).exp()
        return NegativeBinomial(mu=mu, theta=_theta(outputs))


class ZeroInflatedCounts(_Sized):
    """A negative binomial with further zeros."""

    heads = ("scale", "log_theta", "zero_logit")

    def distribution(self, outputs: Mapping[str, Tensor], log_size: Tensor) -> Distribution:
        mu = self._log_mean(outputs, log_size).exp()
        theta = _theta(outputs)
        return ZeroInflatedNegativeBinomial(mu=mu, theta=theta, zi_logits=outputs["zero_logit"])

    def start(self, heads: Mapping[str, nn.Linear], mean: Tensor, theta: Tensor) -> None:
        super().start(heads, mean, theta)
        _set_bias(heads, "zero_logit", _RARELY)


class PoissonCounts(_Sized):
    """Fragments in peaks (Martens et al. 2024, *Modeling fragment counts*, Nature Methods 21:28)."""

    heads = ("scale",)
    dispersion_heads = ()

    def distribution(self, outputs: Mapping[str, Tensor], log_size: Tensor) -> Distribution:
        return Poisson(self._log_mean(outputs, log_size).exp(), validate_args=False)


class BernoulliCounts(_Sized):
    r"""Peaks that are open or not: whether a Poisson of mean :math:`\mu` is above zero.

    :math:`P(x = 1) = 1 - e^{-\mu}`. The size of a cell with k of n peaks open is
    :math:`-n \log(1 - k/n)`, the mean total at which peaks that are alike would be open in k.
    """

    heads = ("scale",)
    dispersion_heads = ()
    largest = 1.0

    def log_size(self, x: Tensor) -> Tensor:
        share = x.mean(1, keepdim=True).clamp(0.5 / x.shape[1], 1 - 0.5 / x.shape[1])
        return (-x.shape[1] * torch.log1p(-share)).log()

    def distribution(self, outputs: Mapping[str, Tensor], log_size: Tensor) -> Distribution:
        mu = self._log_mean(outputs, log_size).exp()
        # away from 0 and 1, where a wrong peak would cost without bound
        return Bernoulli(-torch.expm1(-mu.clamp(1e-6, 12.0)), validate_args=False)


class ProteinCounts(Likelihood):
    """A negative binomial whose mean is free."""

    heads = ("log_rate", "log_theta")
    sized = False

    def distribution(self, outputs: Mapping[str, Tensor], log_size: Tensor) -> Distribution:
        mu = outputs["log_rate"].clamp(max=_LARGEST_LOG_RATE).exp()
        return NegativeBinomial(mu=mu, theta=_theta(outputs))

    def start(self, heads: Mapping[str, nn.Linear], mean: Tensor, theta: Tensor) -> None:
        _set_bias(heads, "log_rate", _log(mean))
        _set_bias(heads, "log_theta", theta.log())


class _Mixture(NegativeBinomialMixture):
    """With the variance that scvi-tools leaves out."""

    @property
    def variance(self) -> Tensor:
        """Return that of counts."""
        share = self.mixture_probs
        within = self.mean + (share * self.mu1**2 + (1 - share) * self.mu2**2) / self.theta1
        return within + share * (1 - share) * (self.mu2 - self.mu1) ** 2


class ProteinMixture(Likelihood):
    r"""A mixture of two negative binomials: antibodies that drift, and antibodies that bind.

    With background :math:`\beta`, foreground :math:`\beta (1 + \alpha)`, :math:`\alpha > 0`, and
    probability :math:`\pi` of the background (Gayoso et al. 2021, *Joint probabilistic modeling of
    single-cell multi-omic data with totalVI*, Nature Methods 18:272).
    """

    heads = ("log_background", "log_excess", "log_theta", "background_logit")
    sized = False

    def distribution(self, outputs: Mapping[str, Tensor], log_size: Tensor) -> Distribution:
        background = outputs["log_background"].clamp(max=_LARGEST_LOG_RATE).exp()
        excess = outputs["log_excess"].clamp(max=_LARGEST_LOG_RATE - 4).exp()
        return _Mixture(
            mu1=background,
            mu2=background * (1 + excess),
            theta1=_theta(outputs),
            mixture_logits=outputs["background_logit"],
        )

    def start(self, heads: Mapping[str, nn.Linear], mean: Tensor, theta: Tensor) -> None:
        # half of the cells a tenth of the mean, the others about twice the mean
        _set_bias(heads, "log_background", _log(mean / 10))
        _set_bias(heads, "log_excess", 3.0)
        _set_bias(heads, "background_logit", 0.0)
        _set_bias(heads, "log_theta", theta.clamp_min(1.0).log())


LIKELIHOODS: dict[str, dict[str, type[Likelihood]]] = {
    "rna": {
        "nb": NegativeBinomialCounts,
        "zinb": ZeroInflatedCounts,
        "poisson": PoissonCounts,
    },
    "protein": {"nb": ProteinCounts, "nb_mixture": ProteinMixture},
    "atac": {"bernoulli": BernoulliCounts, "poisson": PoissonCounts},
}
"""Likelihoods by kind of modality and name; the first of a kind is its default."""
