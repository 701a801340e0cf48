"""Guidance: a denoiser that wraps a denoiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ._denoisers import Denoiser

__all__ = ["GuidedDenoiser"]

Conditions = Mapping[str, Any]


class GuidedDenoiser(Denoiser):
    r"""Classifier-free guidance, with one scale for all conditions or one for each.

    .. math:: \hat x_0 = \hat x_0(b) + \sum_i w_i \, (\hat x_0(b \cup c_i) - \hat x_0(b))

    With one scale, :math:`c_1` is all of the conditions and the base b is none of them. A scale of
    1 is the conditional model, 0 the unconditional one, and above 1 cells become more typical of
    their condition at the price of diversity. With a scale for each of several conditions, b has
    the others and each term adds one: with scales of 1 the product of the conditions'
    distributions, their intersection, also where the data have no cell with both. Parts of one
    condition, such as the members of a combination, can be terms too. With negative
    conditions, b is what the cells should move away from. All estimates come from one pass over a
    larger batch. As clean estimate, noise and velocity are affine in each other for a given
    :math:`x_t`, the rule is the same in each.

    Parameters
    ----------
    denoiser
        The denoiser to guide; it must have been trained with dropped conditions.
    scale
        The scale w, or scales by name of the condition.
    drop
        Takes conditions and names, and returns the conditions with those dropped.
    interval
        First and last time at which to guide; at others the conditional estimate stands alone.
        Guidance at high noise costs most of the diversity, at low noise it does little.
    rescale
        Share, from 0 to 1, of the way back to the spread that the conditional estimate has over
        the dimensions, which large scales widen.
    negative
        Conditions, encoded as the positive ones, that take the place of dropped ones in b.
    parts
        By names in ``scale`` that are not conditions, what their terms have in place of b's.

    References
    ----------
    Ho and Salimans (2022), *Classifier-free diffusion guidance*, equation 6 (their weight is
    w - 1); Liu et al. (2022), *Compositional visual generation with composable diffusion models*,
    equation 11; Kynkäänniemi et al. (2024), *Applying guidance in a limited interval*; Lin et al.
    (2024), *Common diffusion noise schedules and sample steps are flawed*, section 3.4.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        scale: float | Mapping[str, float],
        drop: Callable[[Conditions, list[str]], Conditions],
        interval: tuple[float, float] = (0.0, 1.0),
        rescale: float = 0.0,
        negative: Conditions | None = None,
        parts: Mapping[str, Conditions] | None = None,
    ) -> None:
        super().__init__(denoiser.schedule)
        self.denoiser = denoiser
        self.scale = scale
        self.drop = drop
        self.interval = interval
        self.rescale = rescale
        self.negative = dict(negative or {})
        self.parts = dict(parts or {})

    def forward(self, x_t: Tensor, t: Tensor, conditions: Conditions | None = None) -> Tensor:
        low, high = self.interval
        if not conditions or not bool(((t >= low) & (t <= high)).all()):
            return self.denoiser(x_t, t, conditions)
        base, terms, weights = self._terms(conditions)
        alone = weights == [1.0] and len(terms) == 1
        if alone and not self.rescale:
            return self.denoiser(x_t, t, terms[0])
        sets = [base, *terms] + ([dict(conditions)] if self.rescale else [])
        estimates = self._estimate(x_t, t, sets)
        guided = estimates[0]
        for weight, estimate in zip(weights, estimates[1:], strict=False):
            guided = guided + weight * (estimate - estimates[0])
        return self._rescaled(guided, estimates[-1]) if self.rescale else guided

    def _terms(self, conditions: Conditions) -> tuple[Conditions, list[Conditions], list[float]]:
        """Return the base, the conditions of each term, and its weight."""
        if not isinstance(self.scale, Mapping):
            return self._base(conditions, list(conditions)), [conditions], [float(self.scale)]
        own = {name: self.parts.get(name) or {name: conditions[name]} for name in self.scale}
        base = self._base(conditions, list({name for term in own.values() for name in term}))
        terms: list[Conditions] = [{**base, **term} for term in own.values()]
        return base, terms, [float(weight) for weight in self.scale.values()]

    def _base(self, conditions: Conditions, names: list[str]) -> Conditions:
        dropped = self.drop(conditions, names)
        return {**dropped, **{name: v for name, v in self.negative.items() if name in names}}

    def _estimate(self, x_t: Tensor, t: Tensor, sets: list[Conditions]) -> tuple[Tensor, ...]:
        """Return the estimate under each set of conditions, from one pass."""
        k = len(sets)
        together = {name: torch.cat([given[name] for given in sets]) for name in sets[0]}
        repeated_t = t if t.ndim == 0 else t.repeat(k)
        return self.denoiser(x_t.repeat(k, 1), repeated_t, together).chunk(k)

    def _rescaled(self, guided: Tensor, given: Tensor) -> Tensor:
        ratio = given.std(1, keepdim=True) / guided.std(1, keepdim=True).clamp_min(1e-6)
        return guided * (1 + self.rescale * (ratio - 1))
