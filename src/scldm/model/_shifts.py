r"""Latent arithmetic: by how much each perturbation moves cells, on average.

The change of a perturbation is the mean difference of its cells from the control cells of their
context. Over doses it is a smooth curve through what was seen; combinations that were not seen are sums;
perturbations that no cell has are predicted from their embeddings.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from scipy.interpolate import PchipInterpolator

from scldm.baselines import Ridge

from ._conditions import Dose
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
    """

    def __init__(
        self,
        perturbation: PerturbationSet,
        curves: Mapping[str, Curve],
        interaction: float = 1.0,
    ) -> None:
        self.perturbation = perturbation
        self.curves = dict(curves)
        self.interaction = interaction

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
            # as a key, one NaN is not another, but this one is itself
            dose = np.nan if np.isnan(group.dose) else group.dose
            found[group.label][group.context, dose] = (n / (n + _SMALL), change)
        curves = {label: _curve(seen) for label, seen in found.items()}
        return cls(perturbation, curves, _interaction(found, perturbation))

    def at(self, label: str, dose: float = np.nan) -> np.ndarray:
        """Return the change by a perturbation, ``(d,)``.

        Parameters
        ----------
        label
            One perturbation or combination.
        dose
            Its dose; not a number where none is registered.

        Raises
        ------
        ValueError
            If nothing is known of it, or the dose is below 0 where all others are not.
        """
        label = self.perturbation.key(label)
        if label == self.perturbation.control:
            return np.zeros(next(iter(self.curves.values()))[1].shape[1])
        if label in self.curves:
            return self._on_curve(*self.curves[label], dose)
        parts = self.perturbation.members_of(label)
        factor = self.interaction if len(parts) > 1 else 1.0
        missing = [part for part in parts if part not in self.curves]
        embeddings = self.perturbation.embeddings
        if missing and embeddings is None:
            raise ValueError(
                f"`perturbation={label!r}` cannot be predicted: {shortened(missing)} never stand "
                "alone among the cells that could be compared, nor have they an embedding."
            )
        changes = [
            self._guess(part, dose, embeddings) if part in missing else self.at(part, dose)
            for part in parts
        ]
        return factor * np.sum(changes, axis=0)

    def known_share(self, label: str, dose: float = np.nan) -> float:
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
        if np.isnan(lowest) or np.isnan(dose) or lowest <= 0:
            return 1.0
        return float(np.clip(self._scaled(dose) / self._scaled(lowest), 0, 1))

    def _lowest(self, label: str) -> float:
        """Return the lowest dose that cells of a perturbation have, or of all that it consists of."""
        if label in self.curves:
            return self.curves[label][0][0]
        parts = self.perturbation.members_of(label)
        if len(parts) > 1:
            return max(map(self._lowest, parts))
        return min(doses[0] for doses, _ in self.curves.values())

    def _scaled(self, dose: Any) -> Any:
        """Return doses on the scale on which the network sees them."""
        scale = self.perturbation.dose
        return np.arcsinh(dose / (scale.unit if isinstance(scale, Dose) else 1.0))

    def to_plain(self) -> dict[str, Any]:
        """Return what :meth:`from_plain` takes."""
        curves = {
            label: {"dose": doses, "change": changes}
            for label, (doses, changes) in self.curves.items()
        }
        return {"curves": curves, "interaction": self.interaction}

    @classmethod
    def from_plain(cls, perturbation: PerturbationSet, plain: Mapping[str, Any]) -> Self:
        """Return what was taken apart."""
        curves = {
            label: (curve["dose"], curve["change"]) for label, curve in plain["curves"].items()
        }
        return cls(perturbation, curves, plain["interaction"])

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
                sums.append(np.sum([own.at(part, dose) for part in parts], axis=0))
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
    r"""Return doses and the mean change at each over contexts.

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
