r"""Latent arithmetic: by how much each perturbation moves cells, on average.

The change of a perturbation is the mean difference of its cells from the control cells of their
context. Over doses it is a smooth curve through what was seen; combinations that were not seen are sums;
perturbations that no cell has are predicted from their embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from scipy.interpolate import PchipInterpolator

from scldm.baselines import Ridge

from ._embeddings import Embeddings
from ._fields import shortened
from ._pairing import Group
from ._perturbations import PerturbationSet

__all__ = ["Shifts"]

_SMALL = 20
"""Cells at which a context counts half as much as one with very many."""


class Shifts:
    r"""Mean changes by perturbation and dose.

    Parameters
    ----------
    perturbation
        The condition.
    curves
        By label, the doses that were seen, ``(k,)`` in rising order (one NaN where doses are not
        registered), and the change at each, ``(k, d)``.
    interaction
        :math:`w` of an unseen combination's change, :math:`w \sum_p \delta_p`: the least squares
        fit to the combinations that were seen with all of their members, drawn towards 1 as by one
        more combination that is exactly additive.
    """

    def __init__(
        self,
        perturbation: PerturbationSet,
        curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
        interaction: float = 1.0,
    ) -> None:
        self.perturbation = perturbation
        self.curves = dict(curves)
        self.interaction = interaction

    @classmethod
    def fit(cls, x: np.ndarray, groups: Sequence[Group], perturbation: PerturbationSet) -> Self:
        """Learn from cells.

        Parameters
        ----------
        x
            Cells, ``(n_cells, d)``.
        groups
            Which are to be compared.
        perturbation
            The condition.
        """
        found: dict[str, dict[float, list[tuple[float, np.ndarray]]]] = {}
        for group in groups:
            change = x[group.perturbed].mean(axis=0) - x[group.control].mean(axis=0)
            n = 1 / (1 / len(group.perturbed) + 1 / len(group.control))
            at = found.setdefault(group.label, {}).setdefault(group.dose, [])
            at.append((n / (n + _SMALL), change))
        curves = {}
        for label, by_dose in found.items():
            doses = np.array(sorted(by_dose))
            changes = [
                np.average([c for _, c in by_dose[d]], axis=0, weights=[w for w, _ in by_dose[d]])
                for d in by_dose
            ]
            order = np.argsort(list(by_dose))
            curves[label] = doses, np.stack(changes)[order]
        shifts = cls(perturbation, curves)
        shifts.interaction = shifts._fitted_interaction()
        return shifts

    def at(self, label: str, dose: float = np.nan) -> np.ndarray:
        """Return the change by a perturbation, ``(d,)``.

        Parameters
        ----------
        label
            One perturbation or combination, as the condition spells it.
        dose
            Its dose; not a number where none is registered.

        Raises
        ------
        ValueError
            If nothing is known of it.
        """
        if label == self.perturbation.control:
            return np.zeros(next(iter(self.curves.values()))[1].shape[1])
        if label in self.curves:
            return _on_curve(*self.curves[label], dose)
        parts = self.perturbation.members_of(label)
        if len(parts) > 1 and all(part in self.curves for part in parts):
            return self.interaction * np.sum([self.at(part, dose) for part in parts], axis=0)
        embeddings = self.perturbation.embeddings
        if embeddings is not None:
            own = [self.at(part, dose) for part in parts if part in self.curves]
            new = [part for part in parts if part not in self.curves]
            guessed = [self._guess(part, dose, embeddings) for part in new]
            return (self.interaction if len(parts) > 1 else 1.0) * np.sum(own + guessed, axis=0)
        missing = [part for part in parts if part not in self.curves]
        raise ValueError(
            f"`perturbation={label!r}` cannot be predicted: {shortened(missing)} never stand alone in "
            "the training data, nor have they an embedding."
        )

    def knows(self, label: str) -> bool:
        """Say whether something is known of a perturbation."""
        parts = self.perturbation.members_of(label)
        seen = label in self.curves or all(part in self.curves for part in parts)
        return seen or self.perturbation.embeddings is not None

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

    def _fitted_interaction(self) -> float:
        alone, sums, seen = [], [], []
        for label, (doses, changes) in self.curves.items():
            parts = self.perturbation.members_of(label)
            if len(parts) > 1 and all(part in self.curves for part in parts):
                for dose, change in zip(doses, changes, strict=True):
                    sums.append(np.sum([self.at(part, dose) for part in parts], axis=0))
                    seen.append(change)
            elif len(parts) == 1:
                alone.append((changes**2).sum(axis=1).mean())
        if not sums:
            return 1.0
        prior = np.mean([(total**2).sum() for total in sums])
        top = np.sum([total @ change for total, change in zip(sums, seen, strict=True)]) + prior
        return float(top / (np.sum([total @ total for total in sums]) + prior))

    def _guess(self, item: str, dose: float, embeddings: Embeddings) -> np.ndarray:
        """Return the change by a perturbation that no cell has alone, from its embedding."""
        condition = self.perturbation
        vectors = dict(
            zip(condition.items, embeddings.table(condition.items).numpy(), strict=True)
        )
        ridge = Ridge(vectors, control=condition.control, separator=condition.separator)
        return ridge.fit_shifts({seen: self.at(seen, dose) for seen in self.curves}).shift(item)


def _on_curve(doses: np.ndarray, changes: np.ndarray, dose: float) -> np.ndarray:
    """Return the change at a dose.

    Between doses that were seen, a monotone cubic in the logarithm of the dose (Fritsch and Carlson
    1980), so that no dimension overshoots; below them, in proportion to the dose; above them, that
    of the highest.
    """
    if np.isnan(doses).all() or np.isnan(dose):
        return changes.mean(axis=0)
    low, high = doses[0], doses[-1]
    if dose >= high:
        return changes[-1]
    if dose <= low:
        return changes[0] * (dose / low if low > 0 else 1.0)
    if low <= 0:
        return PchipInterpolator(doses, changes)(dose)
    return PchipInterpolator(np.log(doses), changes)(np.log(dose))
