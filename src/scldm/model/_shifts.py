r"""Latent arithmetic: by how much each perturbation moves cells, on average.

The change of a perturbation is the mean difference of its cells from the control cells of their
context. Over doses it is a smooth curve through what was seen; combinations that were not seen are sums,
whose members may have different doses; perturbations that no cell has are predicted from their
embeddings.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from scipy.interpolate import PchipInterpolator

from scldm.baselines import Ridge

from ._doses import Doses
from ._embeddings import Embeddings
from ._fields import shortened
from ._pairing import Group
from ._perturbations import PerturbationSet

__all__ = ["Shifts"]

_SMALL = 20
"""Cells at which a context counts half as much as one with very many."""
_SWEEPS, _LEAST_SCALE = 50, 0.05

Change = tuple[float, np.ndarray]
"""How much a mean difference counts, and the difference."""

Changes = dict[str, dict[tuple, Change]]
"""By perturbation, and by context and dose."""

Curve = tuple[np.ndarray, np.ndarray]
"""Doses, ``(k,)``, and the change at each, ``(k, d)``."""

Points = tuple[np.ndarray, np.ndarray]
"""Doses of the members of a combination, ``(k, m)``, and the change at each, ``(k, d)``."""


class Shifts:
    r"""Mean changes by perturbation and dose.

    Parameters
    ----------
    perturbation
        The condition.
    curves
        By perturbation, the doses that were seen, ``(k,)`` in rising order (one NaN where doses are
        not registered), and the change at each, ``(k, d)``.
    interaction
        :math:`w` of an unseen combination's change, :math:`w \sum_p \delta_p`.
    points
        By combination, what was seen of it with members at different doses.
    """

    def __init__(
        self,
        perturbation: PerturbationSet,
        curves: Mapping[str, Curve],
        interaction: float = 1.0,
        points: Mapping[str, Points] | None = None,
    ) -> None:
        self.perturbation = perturbation
        self.curves = dict(curves)
        self.interaction = interaction
        self.points = dict(points or {})

    @classmethod
    def fit(cls, x: np.ndarray, groups: Sequence[Group], perturbation: PerturbationSet) -> Self:
        """Learn from cells.

        Contexts count by their numbers of cells, up to a point: beyond some twenty, contexts differ
        more than samples of one do. A context in which a dose was not seen stands there with what its
        other doses say, or a curve would join means of different contexts.

        Parameters
        ----------
        x
            Cells, ``(n_cells, d)``.
        groups
            Which are to be compared.
        perturbation
            The condition.
        """
        found: Changes = defaultdict(dict)
        for group in groups:
            change = x[group.perturbed].mean(axis=0) - x[group.control].mean(axis=0)
            n = 1 / (1 / len(group.perturbed) + 1 / len(group.control))
            found[group.label][group.context, group.dose] = (n / (n + _SMALL), change)
        curves, points = {}, {}
        for label, seen in found.items():
            apart = {key: value for key, value in seen.items() if isinstance(key[1], tuple)}
            alike = {key: value for key, value in seen.items() if key not in apart}
            if alike:
                curves[label] = _curve(alike)
            if apart:
                points[label] = _curve(apart)
        return cls(perturbation, curves, _interaction(found, perturbation), points)

    def at(self, label: str, dose: Doses = np.nan) -> np.ndarray:
        """Return the change by a perturbation, ``(d,)``.

        Parameters
        ----------
        label
            One perturbation or combination.
        dose
            Its dose, or those of its members in the order of their names; not a number where none is
            registered.

        Raises
        ------
        ValueError
            If nothing is known of it, or the dose is below 0 where all others are not.
        """
        label = self.perturbation.key(label)
        if label == self.perturbation.control:
            known = next(iter((*self.curves.values(), *self.points.values())))
            return np.zeros(known[1].shape[1])
        if label in self.curves and label not in self.points and not isinstance(dose, tuple):
            return self._on_curve(*self.curves[label], dose)
        parts = self.perturbation.members_of(label)
        doses = np.broadcast_to(dose, len(parts)).astype(float)
        present = doses != 0
        if 0 < present.sum() < len(parts) and self._zero_is_none(parts):
            left = [part for part, own in zip(parts, present, strict=True) if own]
            return self.at(self.perturbation.separator.join(left), tuple(doses[present]))
        if label in self.points:
            return self._between_points(label, parts, doses)
        if label in self.curves:
            return self._beside_curve(label, parts, doses)
        missing = [part for part in parts if part not in self.curves]
        embeddings = self.perturbation.embeddings
        if missing and embeddings is None:
            raise ValueError(
                f"`perturbation={label!r}` cannot be predicted: {shortened(missing)} never stand "
                "alone among the cells that could be compared, nor have they an embedding."
            )
        changes = [
            self._guess(part, own, embeddings) if part in missing else self.at(part, own)
            for part, own in zip(parts, doses, strict=True)
        ]
        factor = self.interaction if len(parts) > 1 else 1.0
        evenness = self._evenness(doses)
        return (factor if evenness == 1 else 1 + evenness * (factor - 1)) * np.sum(changes, axis=0)

    def known_share(self, label: str, dose: Doses = np.nan) -> float:
        """Return how far a dose is from none, on the way to the lowest that was seen, from 0 to 1.

        What is learned from cells says nothing of doses that are lower still.

        Parameters
        ----------
        label, dose
            As for :meth:`at`.
        """
        label = self.perturbation.key(label)
        if label == self.perturbation.control:
            return 0.0
        lowest = self._lowest(label)
        doses = np.broadcast_to(dose, lowest.shape).astype(float)
        above = lowest > 0
        if np.isnan(doses).any() or not above.any():
            return 1.0
        share = self._scaled(doses[above]) / self._scaled(lowest[above])
        return float(np.clip(share.min(), 0, 1))

    def _lowest(self, label: str) -> np.ndarray:
        """Return the lowest dose of each member, ``(m,)``, among cells of the combination or of its own."""
        parts = self.perturbation.members_of(label)
        if label in self.curves or label in self.points:
            return self._seen(label, len(parts))[0].min(axis=0)
        if len(parts) > 1:
            return np.concatenate([self._lowest(part) for part in parts])
        every = (*self.curves.values(), *self.points.values())
        return np.array([min(doses.min() for doses, _ in every)])

    def _seen(self, label: str, n_members: int) -> Points:
        """Return all that was seen of a combination, with members at one dose or at several."""
        doses, changes = zip(
            *(
                (np.broadcast_to(doses.reshape(len(doses), -1), (len(doses), n_members)), changes)
                for doses, changes in (
                    found[label] for found in (self.curves, self.points) if label in found
                )
            ),
            strict=True,
        )
        return np.concatenate(doses), np.concatenate(changes)

    def _between_points(self, label: str, parts: list[str], doses: np.ndarray) -> np.ndarray:
        """Return the change by a combination that was seen with members at different doses.

        What it has beyond the sum of its members is averaged over what was seen, weighted by inverse
        squared distance of doses (Shepard 1968); with a member at dose zero it is nothing.
        """
        seen, changes = self._seen(label, len(parts))
        if np.isnan(doses).any():
            return changes.mean(axis=0)
        total = np.zeros(changes.shape[1])
        scaled, known = self._scaled(doses), self._scaled(seen)
        without = np.zeros((1, len(parts)))
        if self._all_alone(parts):
            total = self._sum(parts, doses)
            changes = changes - [self._sum(parts, own) for own in seen]
            without = np.where(np.eye(len(parts), dtype=bool), 0.0, scaled)
        if (seen > 0).all():
            known = np.concatenate([known, without])
            changes = np.concatenate([changes, np.zeros((len(without), changes.shape[1]))])
        distance = np.square(known - scaled).sum(axis=1)
        weight = distance == 0 if (distance == 0).any() else 1 / distance
        return total + np.average(changes, axis=0, weights=weight)

    def _beside_curve(self, label: str, parts: list[str], doses: np.ndarray) -> np.ndarray:
        """Return the change by a combination that was seen with members at the same doses only."""
        middle = float(self._unscaled(self._scaled(doses).mean()))
        change = self._on_curve(*self.curves[label], middle)
        if not self._all_alone(parts):
            return change
        beyond = change - self._sum(parts, np.full(len(parts), middle))
        return self._sum(parts, doses) + self._evenness(doses) * beyond

    def _evenness(self, doses: np.ndarray) -> float:
        """Return 1 where members have the same dose, and down to 0 where one has none."""
        scaled = np.abs(self._scaled(doses))
        same = np.isnan(doses).any() or np.ptp(doses) == 0
        return 1.0 if same else float(scaled.min() / scaled.mean())

    def _all_alone(self, parts: Sequence[str]) -> bool:
        """Say whether each member of a combination was seen alone."""
        return all(part in self.curves for part in parts)

    def _zero_is_none(self, parts: Sequence[str]) -> bool:
        """Say whether a dose of zero is none of a perturbation, which it is not on a scale of logarithms."""
        return all(self._lowest(part).min() > 0 for part in parts)

    def _sum(self, parts: Sequence[str], doses: np.ndarray) -> np.ndarray:
        """Return the sum of the changes by members, each at its dose."""
        return np.sum([self.at(part, own) for part, own in zip(parts, doses, strict=True)], axis=0)

    def _scaled(self, dose: Any) -> Any:
        """Return doses on the scale on which the network sees them."""
        scale = self.perturbation.dose
        return np.arcsinh(dose / (1.0 if scale is None else scale.unit))

    def _unscaled(self, value: Any) -> Any:
        """Return the doses of values on that scale."""
        scale = self.perturbation.dose
        return np.sinh(value) * (1.0 if scale is None else scale.unit)

    def to_plain(self) -> dict[str, Any]:
        """Return what :meth:`from_plain` takes."""
        curves, points = (
            {
                label: {"dose": doses, "change": changes}
                for label, (doses, changes) in found.items()
            }
            for found in (self.curves, self.points)
        )
        return {"curves": curves, "interaction": self.interaction, "points": points}

    @classmethod
    def from_plain(cls, perturbation: PerturbationSet, plain: Mapping[str, Any]) -> Self:
        """Return what was taken apart."""
        # older models have no points
        curves, points = (
            {label: (seen["dose"], seen["change"]) for label, seen in plain.get(what, {}).items()}
            for what in ("curves", "points")
        )
        return cls(perturbation, curves, plain["interaction"], points)

    def _guess(self, item: str, dose: float, embeddings: Embeddings | None) -> np.ndarray:
        """Return the change by a perturbation that no cell has alone, from its embedding."""
        assert embeddings is not None
        condition = self.perturbation
        vectors = dict(
            zip(condition.items, embeddings.table(condition.items).numpy(), strict=True)
        )
        ridge = Ridge(vectors, control=condition.control, separator=condition.separator)
        return ridge.fit_shifts({seen: self.at(seen, dose) for seen in self.curves}).shift(item)

    def _on_curve(self, doses: np.ndarray, changes: np.ndarray, dose: float) -> np.ndarray:
        """Return the change at a dose.

        Between doses that were seen, and zero where there is no change, a monotone cubic on the scale
        on which the network sees doses (Fritsch and Carlson 1980), so that no dimension overshoots;
        beyond them, that of the nearest.
        """
        if np.isnan(doses).all() or np.isnan(dose):
            return changes.mean(axis=0)
        if doses[0] > 0:
            doses = np.concatenate([[0.0], doses])
            changes = np.concatenate([np.zeros_like(changes[:1]), changes])
        if dose < 0 <= doses[0]:
            raise ValueError(
                f"`dose={dose:g}` is below 0, which no dose of the training cells is."
            )
        if len(doses) == 1:
            return changes[0]
        at = np.clip(dose, doses[0], doses[-1])
        return PchipInterpolator(self._scaled(doses), changes)(self._scaled(at))


def _interaction(found: Changes, perturbation: PerturbationSet) -> float:
    """Return by how much combinations that were seen differ from the sums of their members.

    The least squares fit, drawn towards 1 as by one more combination that is exactly additive. Sums are
    taken within contexts that have the combination and all of its members: contexts answer differently.
    """
    sums, seen, weights = [], [], []
    for label, changes in found.items():
        parts = perturbation.members_of(label)
        if len(parts) < 2 or not all(part in found for part in parts):
            continue
        here = []
        for (context, dose), (weight, change) in changes.items():
            alone = [{k: v for k, v in found[part].items() if k[0] == context} for part in parts]
            if all(alone):
                own = Shifts(perturbation, dict(zip(parts, map(_curve, alone), strict=True)))
                sums.append(own._sum(parts, np.broadcast_to(dose, len(parts)).astype(float)))
                seen.append(change)
                here.append(weight)
        # a combination counts once, in however many contexts and doses
        weights += [weight / np.sum(here) for weight in here]
    if not sums:
        return 1.0
    lengths = np.array([total @ total for total in sums])
    along = np.array([total @ change for total, change in zip(sums, seen, strict=True)])
    prior = weights @ lengths / np.sum(weights)
    return float((weights @ along + prior) / (weights @ lengths + prior))


def _curve(seen: Mapping[tuple, Change]) -> tuple[np.ndarray, np.ndarray]:
    r"""Return doses, of all members or of each, and the mean change at each over contexts.

    Changes that were not seen are those of :math:`\delta_{cd} = s_c u_d`, fitted to those that were by
    alternating least squares.

    Parameters
    ----------
    seen
        Weight and change by context and dose.
    """
    contexts = list(dict.fromkeys(context for context, _ in seen))
    # as the only dose, one that is not a number is equal to itself
    doses = sorted(dict.fromkeys(dose for _, dose in seen))
    n_dims = len(next(iter(seen.values()))[1])
    weight = np.zeros((len(contexts), len(doses)))
    change = np.zeros((*weight.shape, n_dims))
    for (context, dose), (own, value) in seen.items():
        at = contexts.index(context), doses.index(dose)
        weight[at], change[at] = own, value
    missing = weight == 0
    if missing.any():
        scale = np.ones(len(contexts))
        for _ in range(_SWEEPS):
            part = weight * scale[:, None]
            mean = np.einsum("cd,cdj->dj", part, change) / (part * scale[:, None]).sum(0)[:, None]
            along = np.einsum("cd,cdj,dj->c", weight, change, mean)
            size = np.einsum("cd,dj,dj->c", weight, mean, mean)
            # a context may answer little, but hardly the other way
            scale = np.divide(along, size, out=np.ones(len(contexts)), where=size > 0)
            scale = scale.clip(_LEAST_SCALE) / scale.clip(_LEAST_SCALE).mean()
        change[missing] = (scale[:, None, None] * mean)[missing]
        known = np.ma.array(weight, mask=missing).mean(axis=1).filled(0)
        weight = np.where(missing, known[:, None], weight)
    return np.array(doses), (weight[..., None] * change).sum(0) / weight.sum(0)[:, None]
