r"""Product quantisation with codebooks that follow the encoder.

A latent is cut into groups of few dimensions, and each group takes the nearest code of a codebook
of its own, so that few codes name many cells (Jégou et al. 2011):

.. math:: k_{ng} = \arg\min_k \lVert z_{ng} - e_{gk} \rVert

No gradient trains the codes. Each is the running mean of what it was chosen for (van den Oord et
al. 2017, appendix A.1), here with shares of the minibatch in place of counts:

.. math:: N_{gk} \leftarrow \gamma N_{gk} + \frac{1 - \gamma}{n} \sum_n [k_{ng} = k], \qquad
          m_{gk} \leftarrow \gamma m_{gk} + \frac{1 - \gamma}{n} \sum_n [k_{ng} = k] z_{ng}, \qquad
          e_{gk} = m_{gk} / N_{gk}

A code that is hardly chosen gets no mean worth having. It is put where a random cell of the
minibatch lies (Dhariwal et al. 2020, *Jukebox*). At the start no code has been chosen, so all of
them begin at cells.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

__all__ = ["ProductQuantiser"]


class ProductQuantiser(nn.Module):
    """Codebooks, one for each group of latent dimensions.

    Like the statistics of batch norm, codes move when the module runs in training mode and only
    then.

    Parameters
    ----------
    n_latent
        Number of latent dimensions.
    n_codes
        Codes in each codebook.
    code_dims
        Dimensions of a code, a divisor of ``n_latent``.
    decay
        Of the running means, per step.
    revive_below
        A code is dead when its running share of cells is below this part of an equal share.

    Raises
    ------
    ValueError
        If ``code_dims`` does not divide ``n_latent``.
    """

    codes: Tensor
    usage: Tensor
    sums: Tensor

    def __init__(
        self,
        n_latent: int,
        n_codes: int = 64,
        code_dims: int = 2,
        decay: float = 0.99,
        revive_below: float = 0.1,
    ) -> None:
        super().__init__()
        if n_latent % code_dims:
            raise ValueError(f"`code_dims={code_dims}` does not divide `n_latent={n_latent}`.")
        self.n_codes = n_codes
        self.decay = decay
        self.revive_below = revive_below
        shape = (n_latent // code_dims, n_codes)
        self.register_buffer("codes", torch.zeros(*shape, code_dims))
        self.register_buffer("usage", torch.zeros(shape))
        self.register_buffer("sums", torch.zeros(*shape, code_dims))

    @property
    def n_groups(self) -> int:
        """Number of codebooks."""
        return len(self.codes)

    def forward(self, z: Tensor) -> Tensor:
        r"""Replace latents by their codes, ``(n, n_latent)``, and learn from them in training.

        The gradient passes straight through, :math:`\partial e / \partial z = 1`.
        """
        if self.training:
            self._revive(z)
        chosen = self.nearest(z)
        # adds exactly nothing, so that the values are the codes to the last bit
        quantised = self.lookup(chosen) + (z - z.detach())
        if self.training:
            self._follow(z, chosen)
        return quantised

    def nearest(self, z: Tensor) -> Tensor:
        """Return the nearest code of each group, ``(n, n_groups)``; the first one in a tie."""
        # not by the inner product, whose rounding could pass a code over
        distance = (self._groups(z).unsqueeze(2) - self.codes).square().sum(-1)
        return distance.argmin(-1)

    def lookup(self, chosen: Tensor) -> Tensor:
        """Return the latents that the codes stand for, ``(n, n_latent)``."""
        return self.codes[torch.arange(self.n_groups, device=chosen.device), chosen].flatten(1)

    def _groups(self, z: Tensor) -> Tensor:
        return z.detach().to(self.codes).unflatten(1, (self.n_groups, -1))

    @torch.no_grad()
    def _follow(self, z: Tensor, chosen: Tensor) -> None:
        """Move the running means towards this minibatch."""
        group = torch.arange(self.n_groups, device=z.device).expand_as(chosen)
        sums = torch.zeros_like(self.sums)
        sums.index_put_((group, chosen), self._groups(z), accumulate=True)
        share = one_hot(chosen, self.n_codes).to(self.usage).mean(0)
        self.usage.lerp_(share, 1 - self.decay)
        self.sums.lerp_(sums / len(z), 1 - self.decay)
        self.codes.copy_(self.sums / self.usage.unsqueeze(-1))

    @torch.no_grad()
    def _revive(self, z: Tensor) -> None:
        """Put dead codes where random cells lie, with an equal share of cells to begin with."""
        dead = self.usage < self.revive_below / self.n_codes
        cells = torch.randint(len(z), self.usage.shape, device=z.device)
        groups = torch.arange(self.n_groups, device=z.device).unsqueeze(1)
        drawn = self._groups(z)[cells, groups]
        self.usage.masked_fill_(dead, 1 / self.n_codes)
        dead = dead.unsqueeze(-1)
        self.codes.copy_(torch.where(dead, drawn, self.codes))
        self.sums.copy_(torch.where(dead, drawn / self.n_codes, self.sums))
