"""Guidance: a denoiser that wraps a denoiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ._denoisers import Denoiser

__all__ = ["GuidedDenoiser"]


class GuidedDenoiser(Denoiser):
    r"""Classifier-free guidance.

    .. math:: \hat x_0 = \hat x_0(\varnothing) + w (\hat x_0(c) - \hat x_0(\varnothing))

    A scale ``w`` of 1 is the conditional model, 0 the unconditional one, and above 1 cells
    become more typical of their condition at the price of diversity. Both estimates come from
    one pass over a doubled batch. As clean estimate, noise and velocity are affine in each other
    for a given :math:`x_t`, the rule is the same in each.

    Parameters
    ----------
    denoiser
        The denoiser to guide; it must have been trained with dropped conditions.
    scale
        The guidance scale w.
    drop
        Takes the conditions and returns them with every condition dropped.

    References
    ----------
    Ho and Salimans (2022), *Classifier-free diffusion guidance*, equation 6 (their weight is
    w - 1).
    """

    def __init__(
        self,
        denoiser: Denoiser,
        scale: float,
        drop: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    ) -> None:
        super().__init__(denoiser.schedule)
        self.denoiser = denoiser
        self.scale = scale
        self.drop = drop

    def forward(
        self, x_t: Tensor, t: Tensor, conditions: Mapping[str, Any] | None = None
    ) -> Tensor:
        if not conditions or self.scale == 1:
            return self.denoiser(x_t, t, conditions)
        dropped = self.drop(conditions)
        both = {name: torch.cat([dropped[name], conditions[name]]) for name in conditions}
        doubled_t = t if t.ndim == 0 else torch.cat([t, t])
        without, given = self.denoiser(torch.cat([x_t, x_t]), doubled_t, both).chunk(2)
        return without + self.scale * (given - without)
