r"""Diffusion over the latents of several modalities together, some of them given.

The diffused vector holds the latents and log sizes of all modalities. Of each cell some modalities are
*asked* for and noised, some are *given* and steer the network as conditions do, the others are left
out. One network so learns :math:`p(x_A | x_G)` for all sets A and G without a member in common: cells
from noise, any modality from any others, and what of these cells that lack a modality have to teach.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from scldm.diffusion import Denoiser, GuidedDenoiser
from scldm.nn import Backbone, ConditionEmbedder, drop_all

from ._latent_diffusion import LatentDiffusion

__all__ = ["ASKED", "JointDiffusion", "JointNetwork", "given_key"]

ASKED = "asked"
"""Key among the conditions under which stands which modalities are asked for, ``(n, m)`` of 0 and 1."""
_NOTHING_GIVEN = 1 / 3
"""Share of cells of which nothing is given in training."""


def given_key(modality: str) -> str:
    """Return the name of the condition that a given modality is."""
    return f"given:{modality}"


class JointNetwork(nn.Module):
    """A backbone that sees, and answers for, those dimensions only that are asked for.

    Parameters
    ----------
    backbone
        On ``n_dims + n_modalities`` dimensions.
    owner
        The modality of each of the ``n_dims`` dimensions.
    """

    owner: Tensor

    def __init__(self, backbone: Backbone, owner: Sequence[int]) -> None:
        super().__init__()
        self.backbone = backbone
        self.register_buffer("owner", torch.as_tensor(owner, dtype=torch.long))

    @property
    def conditions(self) -> ConditionEmbedder:
        """The embedder of all conditions."""
        return self.backbone.conditions

    def forward(self, x: Tensor, t: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """Map noisy data ``(n, n_dims)`` at times ``(n,)`` to the prediction, 0 where not asked."""
        others = {name: value for name, value in conditions.items() if name != ASKED}
        asked = conditions[ASKED]
        mask = asked[:, self.owner]
        h = self.backbone(torch.cat([x * mask, asked], dim=1), t, others)
        return h[:, : x.shape[1]] * mask


class JointDiffusion(LatentDiffusion):
    """Diffusion of several modalities.

    Parameters
    ----------
    network
        The network.
    n_latent
        Number of latent dimensions of all modalities together; their log sizes come after them.
    modalities
        Their names.
    **kwargs
        Of :class:`LatentDiffusion`.

    References
    ----------
    Bao et al. (2023), *One transformer fits all distributions in multi-modal diffusion at scale*,
    ICML (one network for all marginals and conditionals).
    """

    def __init__(
        self,
        network: JointNetwork,
        n_latent: int,
        modalities: Sequence[str],
        **kwargs: Any,
    ) -> None:
        super().__init__(network, n_latent, n_sizes=len(network.owner) - n_latent, **kwargs)
        self.modalities = list(modalities)

    @property
    def owner(self) -> Tensor:
        """The modality of each dimension."""
        return cast(JointNetwork, self.averaged.network).owner

    def given(self, mean: Tensor, log_library: Tensor) -> dict[str, Tensor]:
        """Return modalities as conditions, rows of NaN for cells that lack them.

        Parameters
        ----------
        mean, log_library
            Latents and log sizes of all modalities, ``(n, n_latent)`` and ``(n, n_sizes)``.
        """
        x = self.standardise(mean.to(self.shift), log_library.to(self.shift))
        return {
            given_key(name): x[:, self.owner == m].cpu() for m, name in enumerate(self.modalities)
        }

    def loss(
        self,
        x_0: Tensor,
        conditions: Mapping[str, Tensor],
        generator: torch.Generator | None = None,
        start: Tensor | None = None,
    ) -> Tensor:
        """Return the training loss with random modalities given and the others asked for, ``(n,)``.

        Parameters
        ----------
        x_0
            Standardised cells, ``(n, n_dims)``, NaN where a cell lacks a modality.
        conditions
            Encoded conditions, those of :meth:`given` among them.
        generator
            Source of all that is random.
        start
            Not used; the paths start from noise.
        """
        present = self._present(x_0)
        given = self._draw_given(present, generator)
        known = self._drop_given(self.drop_at_random(conditions, generator), given)
        known[ASKED] = (present & ~given).to(x_0)
        return self._loss(self.trained, x_0, known, generator)

    @torch.no_grad()
    def validation_loss(
        self, x_0: Tensor, conditions: Mapping[str, Tensor], generator: torch.Generator
    ) -> Tensor:
        """Return the loss of the averaged weights, with no other condition dropped, ``(n,)``."""
        present = self._present(x_0)
        given = self._draw_given(present, generator)
        known = self._drop_given(conditions, given)
        known[ASKED] = (present & ~given).to(x_0)
        return self._loss(self.averaged, x_0, known, generator)

    def _loss(
        self,
        denoiser: Any,
        x_0: Tensor,
        conditions: Mapping[str, Tensor],
        generator: torch.Generator | None,
    ) -> Tensor:
        t, noise = self._draw(x_0, generator)
        mask = conditions[ASKED][:, self.owner]
        # what is not asked for has no error: network and target are zero there
        x_0, noise = x_0.nan_to_num() * mask, noise * mask
        share = mask.mean(1).clamp_min(1 / mask.shape[1])
        return denoiser.loss(x_0, t, noise, conditions) / share

    def _present(self, x_0: Tensor) -> Tensor:
        """Return which modalities cells have, ``(n, n_modalities)``."""
        missing = x_0.isnan()
        columns = [missing[:, self.owner == m].any(1) for m in range(len(self.modalities))]
        return ~torch.stack(columns, dim=1)

    def _draw_given(self, present: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw which modalities are given, never all that a cell has."""

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, device=present.device, generator=generator)

        n, m = present.shape
        # a random number of them, from one to all but one, in random order
        order = uniform(n, m).masked_fill(~present, torch.inf).argsort(dim=1).argsort(dim=1)
        most = present.sum(1, keepdim=True) - 1
        number = 1 + (uniform(n, 1) * most).long().clamp(max=(most - 1).clamp_min(0))
        some = (order < number) & present & (most > 0)
        return some & (uniform(n, 1) >= _NOTHING_GIVEN)

    def _drop_given(self, conditions: Mapping[str, Tensor], given: Tensor) -> dict[str, Tensor]:
        """Drop the modalities that are not given."""
        known = dict(conditions)
        for m, name in enumerate(self.modalities):
            key = given_key(name)
            known[key] = known[key].masked_fill(~given[:, m : m + 1], torch.nan)
        return known

    def denoiser(self, **guidance: Any) -> Denoiser:
        """Return the denoiser that samples, see :meth:`LatentDiffusion.denoiser`.

        Guidance drops what is given with all other conditions, and keeps what is asked for.
        """
        if guidance.get("scale", 1.0) == 1.0:
            return self.averaged
        return GuidedDenoiser(self.averaged, drop=_drop_all_but_asked, **guidance)


def _drop_all_but_asked(
    conditions: Mapping[str, Tensor], names: Collection[str]
) -> dict[str, Tensor]:
    return drop_all(conditions, set(names) - {ASKED})
