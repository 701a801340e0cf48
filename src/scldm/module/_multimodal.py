r"""The autoencoders of several modalities, trained together on cells that may lack some.

The loss of a minibatch is the sum over modalities of the mean, over the cells that have them, of

.. math:: -\log p_m(x_m | z_m, l_m) + \beta\, \mathrm{KL}(q(z_m | x_m)\,\|\,N(0, I)).

Latents are *separate* by default. *Aligned* ones lie in one space: for each pair of modalities of a cell
:math:`-\log p_{m'}(x_{m'} | z_m)`, what one modality's latent says of the other, and the squared
distance of the posteriors' means are added, so that the encoder of one serves the decoder of another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import permutations
from typing import Any, cast

import torch
from scvi import REGISTRY_KEYS
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from ._modality import ModalityAutoencoder

__all__ = ["PRESENT", "MultimodalAutoencoder", "counts_key", "decoder_inputs"]

PRESENT = "present"
"""Key of the minibatch under which stands which modalities cells have, ``(n, n_modalities)``."""

_FEWEST_ROWS = 2
"""Rows that batch normalisation needs."""


def counts_key(modality: str) -> str:
    """Return the key of the minibatch under which the counts of a modality stand."""
    return f"counts:{modality}"


def decoder_inputs(
    batch_index: Tensor,
    cat_covs: Tensor | None = None,
    cont_covs: Tensor | None = None,
    labels: Tensor | None = None,
) -> tuple[list[Tensor], Tensor | None]:
    """Return categories and continuous covariates as :meth:`ModalityAutoencoder.decode` takes them.

    Parameters
    ----------
    batch_index, cat_covs, cont_covs
        As in :meth:`scldm.module.CountAutoencoder.decode`.
    labels
        Not used.
    """
    further = [] if cat_covs is None else list(cat_covs.split(1, dim=1))
    return [batch_index, *further], cont_covs


class MultimodalAutoencoder(BaseModuleClass):
    """One autoencoder for each modality.

    A minibatch has the counts of each under :func:`counts_key`, and under :data:`PRESENT` which cells
    have it.

    Parameters
    ----------
    autoencoders
        By modality.
    alignment_weight
        Weight of the terms that align the latents; 0 leaves them separate.

    References
    ----------
    Gayoso et al. (2021), Nature Methods 18:272 (totalVI); Ashuach et al. (2023), *MultiVI*, Nature
    Methods 20:1222 (modalities that cells lack, means that are drawn to one another).
    """

    dispersion = "gene-cell"

    def __init__(
        self, autoencoders: Mapping[str, ModalityAutoencoder], alignment_weight: float = 0.0
    ) -> None:
        super().__init__()
        # a list, as a ModuleDict does not take every name
        self.names = list(autoencoders)
        self.autoencoders = nn.ModuleList(autoencoders.values())
        self.alignment_weight = alignment_weight
        if alignment_weight and len({a.n_latent for a in autoencoders.values()}) > 1:
            raise ValueError("Aligned latents must have the same number of dimensions.")

    def __getitem__(self, name: str) -> ModalityAutoencoder:
        return cast(ModalityAutoencoder, self.autoencoders[self.names.index(name)])

    def items(self) -> Iterator[tuple[str, ModalityAutoencoder]]:
        """Yield modalities and their autoencoders."""
        for name in self.names:
            yield name, self[name]

    @property
    def owner(self) -> list[int]:
        """The modality of each latent, then of each log size, in the order of :meth:`encode`."""
        parts = [part for _, part in self.items()]
        latents = [m for m, part in enumerate(parts) for _ in range(part.n_latent)]
        return latents + [m for m, part in enumerate(parts) for _ in range(part.n_sizes)]

    def dispersion_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters that set dispersions."""
        for _, autoencoder in self.items():
            yield from autoencoder.dispersion_parameters()

    def rows(self, present: Tensor) -> dict[str, Tensor]:
        """Return which cells of a minibatch have each modality, from ``(n, n_modalities)``."""
        return {name: present[:, m].nonzero()[:, 0] for m, name in enumerate(self.names)}

    def _get_inference_input(self, tensors: dict[str, Tensor], **kwargs: Any) -> dict[str, Any]:
        counts = {name: tensors[counts_key(name)] for name in self.names}
        return {"counts": counts, "rows": self.rows(tensors[PRESENT])}

    @auto_move_data
    def inference(self, counts: dict[str, Tensor], rows: dict[str, Tensor]) -> dict[str, Any]:
        """Encode each modality of the cells that have it.

        Parameters
        ----------
        counts
            By modality, ``(n, n_features)``.
        rows
            By modality, the cells that have it. A modality that less than two cells have is left
            out in training, as their spread is needed to normalise.
        """
        few = 2 if self.training else 1
        posteriors, log_sizes = {}, {}
        for name, autoencoder in self.items():
            if len(rows[name]) >= few:
                posteriors[name], log_sizes[name] = autoencoder.encode(counts[name][rows[name]])
        z = {name: posterior.rsample() for name, posterior in posteriors.items()}
        return {"posteriors": posteriors, "z": z, "log_sizes": log_sizes, "rows": rows}

    def _get_generative_input(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Any], **kwargs: Any
    ) -> dict[str, Any]:
        inputs = {
            "batch_index": tensors[REGISTRY_KEYS.BATCH_KEY],
            "cat_covs": tensors.get(REGISTRY_KEYS.CAT_COVS_KEY),
            "cont_covs": tensors.get(REGISTRY_KEYS.CONT_COVS_KEY),
        }
        return {**{k: inference_outputs[k] for k in ("z", "log_sizes", "rows")}, "inputs": inputs}

    @auto_move_data
    def generative(
        self,
        z: dict[str, Tensor],
        log_sizes: dict[str, Tensor],
        rows: dict[str, Tensor],
        inputs: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Decode each modality, from its own latents under ``"own"``.

        Under ``"crossed"``, where latents are aligned, it is decoded from those of the others, and
        ``"crossed_rows"`` has the cells.
        """
        own = {
            name: self[name].decode(z[name], log_sizes[name], **_at(inputs, rows[name]))
            for name in z
        }
        crossed, crossed_rows = {}, {}
        for source, target in permutations(z, 2) if self.alignment_weight else ():
            both, at_source, at_target = _common(rows[source], rows[target])
            if len(both) >= _FEWEST_ROWS or (len(both) and not self.training):
                size = log_sizes[target][at_target]
                crossed[source, target] = self[target].decode(
                    z[source][at_source], size, **_at(inputs, both)
                )
                crossed_rows[source, target] = (both, at_source, at_target)
        return {"own": own, "crossed": crossed, "crossed_rows": crossed_rows}

    def loss(
        self,
        tensors: dict[str, Tensor],
        inference_outputs: dict[str, Any],
        generative_outputs: dict[str, Any],
        kl_weight: Tensor | float = 1.0,
    ) -> LossOutput:
        """Return the loss; reconstruction and KL terms are sums over the modalities of a cell."""
        rows, posteriors = inference_outputs["rows"], inference_outputs["posteriors"]
        n = len(tensors[PRESENT])
        like = tensors[PRESENT].float()
        reconstruction, kl = like.new_zeros(n), like.new_zeros(n)
        # a minibatch too small to be normalised has no loss, but can be stepped on
        loss = like.new_zeros(()) if posteriors else sum(p.sum() * 0 for p in self.parameters())
        for name, posterior in posteriors.items():
            x = tensors[counts_key(name)][rows[name]]
            off = -generative_outputs["own"][name].log_prob(x).sum(1)
            prior = Normal(torch.zeros_like(posterior.loc), torch.ones_like(posterior.scale))
            divergence = kl_divergence(posterior, prior).sum(1)
            reconstruction = reconstruction.index_add(0, rows[name], off)
            kl = kl.index_add(0, rows[name], divergence)
            loss = loss + (off + kl_weight * divergence).mean()
        for (source, target), dist in generative_outputs["crossed"].items():
            both, at_source, at_target = generative_outputs["crossed_rows"][source, target]
            off = -dist.log_prob(tensors[counts_key(target)][both]).sum(1)
            apart = posteriors[source].loc[at_source] - posteriors[target].loc[at_target]
            loss = loss + self.alignment_weight * (off + 0.5 * apart.square().sum(1)).mean()
        return LossOutput(
            loss=loss, reconstruction_loss=reconstruction, kl_local=kl, n_obs_minibatch=n
        )

    def encode(self, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return posteriors and log sizes of the modalities side by side, NaN where a cell has none.

        Parameters
        ----------
        tensors
            A minibatch of scvi-tools' loaders.

        Returns
        -------
        Means and variances, ``(n, n_latent)`` each, with the latents of all modalities, and log sizes,
        ``(n, n_sizes)``, of those that have one.
        """
        outputs = self.inference(**self._get_inference_input(tensors))
        n = len(tensors[PRESENT])
        parts: list[list[Tensor]] = [[], [], []]
        for name, autoencoder in self.items():
            widths = (autoencoder.n_latent, autoencoder.n_latent, autoencoder.n_sizes)
            empty = [self._nothing(n, width) for width in widths]
            if name in outputs["posteriors"]:
                posterior, rows = outputs["posteriors"][name], outputs["rows"][name]
                known = (posterior.loc, posterior.scale.square(), outputs["log_sizes"][name])
                for whole, part in zip(empty, known, strict=True):
                    whole[rows] = part
            for collected, whole in zip(parts, empty, strict=True):
                collected.append(whole)
        mean, variance, log_size = (torch.cat(part, dim=1) for part in parts)
        return mean, variance, log_size

    def _nothing(self, n: int, width: int) -> Tensor:
        return torch.full((n, width), torch.nan, device=self.device)

    def allowed(self, z: Tensor) -> Tensor:
        """Return the latents nearest to ``z`` that a cell can have."""
        return z


def _at(inputs: Mapping[str, Any], rows: Tensor) -> dict[str, Any]:
    """Return what the decoder depends on besides latents, of some cells."""
    categories, continuous = decoder_inputs(**inputs)
    return {
        "categories": [codes[rows] for codes in categories],
        "continuous": None if continuous is None else continuous[rows],
    }


def _common(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what two sorted lists of rows share, and its places in each."""
    both = a[torch.isin(a, b)]
    return both, torch.searchsorted(a, both), torch.searchsorted(b, both)
