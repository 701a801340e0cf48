"""What perturbed cells look like, said without a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

__all__ = [
    "Additive",
    "Bilinear",
    "MatchingMean",
    "NearestPerturbation",
    "NoChange",
    "PerturbationBaseline",
    "PerturbedMean",
    "Ridge",
]

Array = NDArray[np.float64]


def _text(values: ArrayLike, name: str) -> NDArray[np.str_]:
    """Return values as text; none may be missing."""
    missing = int(pd.isna(np.asarray(values)).sum())
    if missing:
        raise ValueError(f"`{name}` has {missing} missing values. Leave these cells out.")
    return np.asarray(values).astype(str)


def _dense(x: Any) -> Array:
    cells = x.toarray() if sparse.issparse(x) else x
    return np.atleast_2d(np.asarray(cells, dtype=np.float64))


class PerturbationBaseline(ABC):
    """Learns from control and perturbed cells, and changes control cells.

    Parameters
    ----------
    control
        The label of unperturbed cells.
    separator
        Stands between the members of a combination, as in ``"A+B"``.

    Attributes
    ----------
    shifts_
        By perturbation, the mean difference of its cells from the control cells of their context,
        each context with equal weight; contexts without control cells are left out.
    means_
        By perturbation, the mean of its cells.
    """

    def __init__(self, *, control: str = "control", separator: str = "+") -> None:
        self.control = control
        self.separator = separator

    def fit(self, x: ArrayLike, perturbation: ArrayLike, context: ArrayLike | None = None) -> Self:
        """Learn from cells.

        Parameters
        ----------
        x
            Cells, ``(n_cells, n_features)``.
        perturbation
            The perturbation of each cell.
        context
            What control cells and perturbed cells must share to be compared: the type, the batch.

        Raises
        ------
        ValueError
            If lengths differ, a value is missing or not finite, or no context has both control and
            perturbed cells.
        """
        cells = _dense(x)
        if not np.isfinite(cells).all():
            raise ValueError("`x` has values that are not finite.")
        named = _text(perturbation, "perturbation")
        contexts = np.full(len(cells), "")
        if context is not None:
            contexts = _text(context, "context")
        for name, values in (("perturbation", named), ("context", contexts)):
            if values.shape != (len(cells),):
                raise ValueError(
                    f"`{name}` has shape {values.shape}; it needs one value for each of "
                    f"{len(cells)} cells. Join columns to one of text."
                )
        labels = np.array([self._canonical(label) for label in named])
        found: dict[str, list[Array]] = {}
        for where in np.unique(contexts):
            here = contexts == where
            unperturbed = here & (labels == self.control)
            for label in np.unique(labels[here]).tolist() if unperturbed.any() else []:
                if label != self.control:
                    own = cells[here & (labels == label)].mean(axis=0)
                    found.setdefault(label, []).append(own - cells[unperturbed].mean(axis=0))
        if not found:
            raise ValueError(
                f"No context has cells of the control {self.control!r} and perturbed cells. Known: "
                f"{np.unique(labels).tolist()}."
            )
        self.shifts_ = {label: np.mean(shifts, axis=0) for label, shifts in found.items()}
        self.means_ = {
            label: cells[labels == label].mean(axis=0)
            for label in np.unique(labels).tolist()
            if label != self.control
        }
        return self

    def predict(self, x: ArrayLike, perturbation: str) -> Array:
        """Control cells as they would be under a perturbation.

        Parameters
        ----------
        x
            Control cells, ``(n_cells, n_features)``.
        perturbation
            One perturbation or combination, its members in any order. Under the control, cells
            stay as they are.

        Returns
        -------
        ``(n_cells, n_features)``.

        Raises
        ------
        ValueError
            If the perturbation cannot be predicted from what was learned.
        RuntimeError
            If nothing was learned.
        """
        if not hasattr(self, "shifts_"):
            raise RuntimeError("Nothing has been learned yet: call `fit` first.")
        cells, label = _dense(x), self._canonical(str(perturbation))
        n_features = len(next(iter(self.shifts_.values())))
        if cells.shape[1] != n_features:
            raise ValueError(f"`x` has {cells.shape[1]} features; {n_features} were learned from.")
        return cells.copy() if label == self.control else self._change(cells, label)

    @abstractmethod
    def _change(self, cells: Array, perturbation: str) -> Array:
        """Change control cells."""

    def _members(self, perturbation: str) -> list[str]:
        """The members of a combination, the control not counted."""
        parts = perturbation.split(self.separator)
        parts = parts if all(parts) else [perturbation]
        return [part for part in parts if part != self.control]

    def _canonical(self, perturbation: str) -> str:
        """One spelling of a combination, whatever the order of its members."""
        return self.separator.join(sorted(set(self._members(perturbation)))) or self.control

    def _known(self, perturbation: str, table: Mapping[str, Array]) -> Array:
        if perturbation not in table:
            raise ValueError(
                f"`perturbation={perturbation!r}` is not known. Known: {sorted(table)}."
            )
        return table[perturbation]


class NoChange(PerturbationBaseline):
    """Control cells stay as they are."""

    def _change(self, cells: Array, perturbation: str) -> Array:
        return cells.copy()


class PerturbedMean(PerturbationBaseline):
    """Every cell becomes the mean of all perturbed cells, each perturbation with equal weight.

    References
    ----------
    Viñas Torné et al. (2025). Systema: a framework for evaluating genetic perturbation response
    prediction beyond systematic variation. Nature Biotechnology.
    """

    def _change(self, cells: Array, perturbation: str) -> Array:
        return np.tile(np.mean(list(self.means_.values()), axis=0), (len(cells), 1))


class MatchingMean(PerturbationBaseline):
    """Every cell becomes the mean of the perturbation's cells, or of its members' means.

    References
    ----------
    As for :class:`PerturbedMean`.
    """

    def _change(self, cells: Array, perturbation: str) -> Array:
        if perturbation in self.means_:
            return np.tile(self.means_[perturbation], (len(cells), 1))
        parts = [self._known(part, self.means_) for part in self._members(perturbation)]
        return np.tile(np.mean(parts, axis=0), (len(cells), 1))


class Additive(PerturbationBaseline):
    r"""Every cell moves by the mean shift of the perturbation, or the sum of its members' shifts.

    .. math:: \hat x = x + \sum_{p \in P} (\bar x_p - \bar x_0)

    On latents this is latent arithmetic.

    References
    ----------
    Lotfollahi, Wolf and Theis (2019). scGen predicts single-cell perturbation responses. Nature
    Methods 16:715 (latent arithmetic).
    """

    def _change(self, cells: Array, perturbation: str) -> Array:
        return cells + self.shift(perturbation)

    def shift(self, perturbation: str) -> Array:
        """The shift that all cells get, ``(n_features,)``.

        Parameters
        ----------
        perturbation
            One perturbation or combination; a combination that was seen has its own shift.

        Raises
        ------
        ValueError
            If it was not seen, nor all of its members.
        """
        perturbation = self._canonical(perturbation)
        if perturbation in self.shifts_:
            return self.shifts_[perturbation]
        parts = [self._known(part, self.shifts_) for part in self._members(perturbation)]
        return np.sum(parts, axis=0)


class _Embedded(PerturbationBaseline):
    """A baseline that knows perturbations by their vectors; a combination is the sum of them."""

    def __init__(
        self,
        embeddings: Mapping[str, ArrayLike],
        *,
        control: str = "control",
        separator: str = "+",
    ) -> None:
        super().__init__(control=control, separator=separator)
        self.embeddings = {
            str(name): np.asarray(vector, dtype=np.float64) for name, vector in embeddings.items()
        }

    def _vector(self, perturbation: str) -> Array:
        parts = [self._known(part, self.embeddings) for part in self._members(perturbation)]
        return np.sum(parts, axis=0)


class NearestPerturbation(_Embedded):
    """Every cell moves by the shift of the perturbation whose vector is nearest.

    Parameters
    ----------
    embeddings
        A vector for each perturbation; those of combinations are sums.
    control, separator
        As for :class:`PerturbationBaseline`.
    """

    def _change(self, cells: Array, perturbation: str) -> Array:
        wanted = self._vector(perturbation)
        distance = {label: np.linalg.norm(self._vector(label) - wanted) for label in self.shifts_}
        return cells + self.shifts_[min(distance, key=distance.__getitem__)]


class Ridge(_Embedded):
    r"""Shifts are linear in the vectors of perturbations.

    .. math:: \hat x = x + W e_P, \qquad W = \arg\min_W \sum_p \lVert \bar x_p - \bar x_0 - W e_p
        \rVert^2 + \lambda \lVert W \rVert^2

    There is no intercept: no perturbation, no shift.

    Parameters
    ----------
    embeddings
        A vector for each perturbation; those of combinations are sums.
    penalty
        :math:`\lambda`, relative to the mean squared length of the vectors.
    control, separator
        As for :class:`PerturbationBaseline`.

    References
    ----------
    Ahlmann-Eltze, Huber and Anders (2025). Deep-learning-based gene perturbation effect prediction
    does not yet outperform simple linear baselines. Nature Methods.
    """

    def __init__(
        self,
        embeddings: Mapping[str, ArrayLike],
        *,
        penalty: float = 0.1,
        control: str = "control",
        separator: str = "+",
    ) -> None:
        super().__init__(embeddings, control=control, separator=separator)
        if penalty < 0:
            raise ValueError(f"`penalty={penalty}` must not be below 0.")
        self.penalty = penalty

    def fit(self, x: ArrayLike, perturbation: ArrayLike, context: ArrayLike | None = None) -> Self:
        super().fit(x, perturbation, context)
        return self.fit_shifts(self.shifts_)

    def fit_shifts(self, shifts: Mapping[str, ArrayLike]) -> Self:
        """Learn from shifts in the place of cells.

        Parameters
        ----------
        shifts
            By perturbation, ``(n_features,)`` each.
        """
        self.shifts_ = {label: np.asarray(shift) for label, shift in shifts.items()}
        vectors = np.stack([self._vector(label) for label in self.shifts_])
        target = np.stack(list(self.shifts_.values()))
        strength = self.penalty * (vectors**2).sum(axis=1).mean()
        # in the space of perturbations, of which there are few
        gram = vectors @ vectors.T + strength * np.eye(len(vectors))
        self.weights_ = vectors.T @ np.linalg.lstsq(gram, target, rcond=None)[0]
        return self

    def shift(self, perturbation: str) -> Array:
        """The shift that all cells get, ``(n_features,)``.

        Parameters
        ----------
        perturbation
            One perturbation or combination.

        Raises
        ------
        ValueError
            If it has no vector.
        """
        return self._vector(self._canonical(perturbation)) @ self.weights_

    def _change(self, cells: Array, perturbation: str) -> Array:
        return cells + self.shift(perturbation)


class Bilinear(Ridge):
    r"""As :class:`Ridge`, with changes along the few directions that explain most of those seen.

    .. math:: \hat x = x + V V^\top W e_P

    with the first right singular vectors V of the matrix of shifts. This is the least squares fit of
    :math:`V A e_p` to the shifts, A between factors of features and vectors of perturbations.

    Parameters
    ----------
    embeddings
        A vector for each perturbation; those of combinations are sums.
    n_components
        Number of directions; fewer where fewer perturbations were seen.
    penalty, control, separator
        As for :class:`Ridge`.

    References
    ----------
    Ahlmann-Eltze, Huber and Anders (2025), as for :class:`Ridge` (their linear model, here without
    an intercept).
    """

    def __init__(
        self,
        embeddings: Mapping[str, ArrayLike],
        *,
        n_components: int = 10,
        penalty: float = 0.1,
        control: str = "control",
        separator: str = "+",
    ) -> None:
        super().__init__(embeddings, penalty=penalty, control=control, separator=separator)
        if n_components < 1:
            raise ValueError(f"`n_components={n_components}` must be at least 1.")
        self.n_components = n_components

    def fit_shifts(self, shifts: Mapping[str, ArrayLike]) -> Self:
        super().fit_shifts(shifts)
        matrix = np.stack(list(self.shifts_.values()))
        directions = np.linalg.svd(matrix, full_matrices=False)[2][: self.n_components]
        self.weights_ = self.weights_ @ directions.T @ directions
        return self
