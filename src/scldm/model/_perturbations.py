"""Perturbations: sets with doses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from torch import nn

from scldm.nn import SetEmbedder

from ._conditions import Condition, Number, one_dimensional
from ._fields import shortened

__all__ = ["PerturbationSet"]


class PerturbationSet(Condition):
    """A set of perturbations, written ``"A+B"``, with a dose; the control is the empty set.

    Parameters
    ----------
    column
        The user's column of ``obs``.
    labels
        Labels that cells have, in the user's order.
    control
        The label of the control.
    dose
        The dose, if registered.
    separator
        Stands between the members of a combination.
    """

    def __init__(
        self,
        column: str,
        labels: Sequence[str],
        control: str,
        dose: Number | None = None,
        separator: str = "+",
    ) -> None:
        super().__init__("perturbation")
        self.column = column
        self.originals = {str(label): label for label in labels}
        self.labels = list(self.originals)
        self.control = str(control)
        self.dose = dose
        self.separator = separator
        self.items = sorted({part for label in self.labels for part in self._split(label)})
        self._known_sets = {frozenset(self._split(label)): label for label in self.labels[::-1]}

    @property
    def arguments(self) -> tuple[str, ...]:
        return ("perturbation",) if self.dose is None else ("perturbation", "dose")

    def _split(self, label: str) -> list[str]:
        """Return the members; a name such as ``"CD4+"`` is one, not a combination."""
        if label == self.control:
            return []
        parts = label.split(self.separator)
        return [label] if "" in parts else [part for part in parts if part != self.control]

    def _canonical(self, label: Any) -> str:
        """Return the label as the data spell it; combinations may be new, their parts not."""
        parts = self._split(str(label))
        unknown = [part for part in parts if part not in self.items]
        if unknown or (not parts and str(label) != self.control):
            raise ValueError(
                f"`perturbation={label!r}` is not known, nor a combination of known ones. "
                f"Known: {shortened([self.control, *self.items])}."
            )
        return self._known_sets.get(frozenset(parts), self.separator.join(sorted(set(parts))))

    def parse(self, argument: str, values: Any) -> pd.DataFrame:
        if argument == "dose" and self.dose is not None:
            return self.dose.parse(argument, values)
        given = one_dimensional(argument, values)
        spelt = {label: self._canonical(label) for label in pd.unique(given)}
        return pd.DataFrame({argument: pd.Categorical([spelt[label] for label in given])})

    def read(self, adata: AnnData) -> pd.DataFrame:
        frame = self.parse("perturbation", adata.obs[self.column])
        return frame if self.dose is None else frame.join(self.dose.read(adata))

    def write(self, frame: pd.DataFrame, adata: AnnData) -> None:
        labels = frame["perturbation"]
        new = [label for label in pd.unique(labels.dropna()) if label not in self.originals]
        values = labels.astype(object).map(lambda label: self.originals.get(label, label))
        categories = [*self.originals.values(), *new]
        adata.obs[self.column] = pd.Categorical(values, categories=categories)
        if self.dose is not None:
            self.dose.write(frame, adata)

    def encode(self, frame: pd.DataFrame) -> np.ndarray:
        labels = pd.Categorical(frame["perturbation"])
        members = [self._split(str(label)) for label in labels.categories]
        size = max([1, *map(len, members)])
        code = {item: i for i, item in enumerate(self.items)}
        table = np.full((len(members) + 1, size), -1.0)
        for row, parts in zip(table, members, strict=False):
            row[: len(parts)] = [code[part] for part in parts]
        # code -1, a missing label, takes the table's last row
        table[-1] = np.nan
        codes = table[labels.codes]
        dose = np.zeros((len(frame), 1))
        if self.dose is not None:
            dose = self.dose.standardise(frame[["dose"]].to_numpy(float))
        doses = np.broadcast_to(dose, codes.shape)
        return np.concatenate([codes, doses], axis=1).astype(np.float32)

    def embedder(self, width: int) -> nn.Module:
        return SetEmbedder(max(len(self.items), 1), width)

    def plausible(self, training: pd.DataFrame, wanted: pd.Series) -> np.ndarray:
        """A new combination gets the doses of perturbed cells, not the control's."""
        if "perturbation" not in wanted or wanted["perturbation"] == self.control:
            return super().plausible(training, wanted)
        return (training["perturbation"] != self.control).to_numpy()
