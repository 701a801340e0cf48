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
from ._embeddings import Embeddings
from ._fields import shortened

__all__ = ["PerturbationSet", "members"]


def members(label: str, control: str, separator: str) -> list[str]:
    """Return the members of a set; a name such as ``"CD4+"`` is one, not a combination."""
    if label == control:
        return []
    parts = label.split(separator)
    return [label] if "" in parts else [part for part in parts if part != control]


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
    embeddings
        Vectors for the members from elsewhere; those that no cell has can be asked for too.
    """

    def __init__(
        self,
        column: str,
        labels: Sequence[str],
        control: str,
        dose: Number | None = None,
        separator: str = "+",
        embeddings: Embeddings | None = None,
    ) -> None:
        super().__init__("perturbation")
        self.column = column
        self.originals = {str(label): label for label in labels}
        self.labels = list(self.originals)
        self.control = str(control)
        self.dose = dose
        self.separator = separator
        self.embeddings = embeddings
        items = {part for label in self.labels for part in self.members_of(label)}
        if embeddings is not None:
            # a name that reads as a combination cannot be told from one
            items |= {name for name in embeddings.names if self.members_of(name) == [name]}
        self.items = self.entries = sorted(items)
        self._codes = {item: i for i, item in enumerate(self.items)}
        self._known_sets = {
            frozenset(self.members_of(label)): label for label in self.labels[::-1]
        }

    @property
    def arguments(self) -> tuple[str, ...]:
        return ("perturbation",) if self.dose is None else ("perturbation", "dose")

    def members_of(self, label: str) -> list[str]:
        """Return the members of a set, none for the control."""
        return members(label, self.control, self.separator)

    def key(self, label: str) -> str:
        """Return one spelling of a set, however its members are ordered and the control named."""
        return self.separator.join(sorted(set(self.members_of(label)))) or self.control

    def _canonical(self, label: Any) -> str:
        """Return the label as the data spell it; combinations may be new, their parts not."""
        parts = self.members_of(str(label))
        unknown = [part for part in parts if part not in self._codes]
        if unknown or (not parts and str(label) != self.control):
            advice = "" if self.embeddings is None else self.embeddings.advice
            raise ValueError(
                f"`perturbation={label!r}` is not known, nor a combination of known ones. "
                f"Known: {shortened([self.control, *self.items])}.{advice}"
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
        sets = [self.members_of(str(label)) for label in labels.categories]
        size = max([1, *map(len, sets)])
        table = np.full((len(sets) + 1, size), -1.0)
        for row, parts in zip(table, sets, strict=False):
            row[: len(parts)] = [self._codes[part] for part in parts]
        # code -1, a missing label, takes the table's last row
        table[-1] = np.nan
        codes = table[labels.codes]
        dose = np.zeros((len(frame), 1))
        if self.dose is not None:
            dose = self.dose.standardise(frame[["dose"]].to_numpy(float))
        doses = np.broadcast_to(dose, codes.shape)
        return np.concatenate([codes, doses], axis=1).astype(np.float32)

    def examples(self, training: pd.DataFrame) -> tuple[list[str], pd.DataFrame]:
        labels = training["perturbation"].astype(str)
        has = {label: members(label, self.control, self.separator) for label in labels.unique()}
        known = {item for items in has.values() for item in items}
        names = [self.control, *(item for item in self.items if item in known)]
        if not (labels == self.control).any():
            names = names[1:]
        frame = self.parse("perturbation", names)
        if self.dose is not None:
            of = {item: labels.map(lambda label, i=item: i in has[label]) for item in names}
            of[self.control] = labels == self.control
            frame["dose"] = [training.loc[of[name], "dose"].mean() for name in names]
        return names, frame

    def embedder(self, width: int) -> nn.Module:
        table = None if self.embeddings is None else self.embeddings.table(self.items)
        return SetEmbedder(max(len(self.items), 1), width, table)

    def settle(
        self, wanted: pd.DataFrame, training: pd.DataFrame, rng: np.random.Generator
    ) -> pd.DataFrame:
        """A dose that no control cell has is not the control's, which gets one of its own."""
        if not {"perturbation", "dose"} <= set(wanted):
            return wanted
        own = training.loc[(training["perturbation"] == self.control).to_numpy(bool), "dose"]
        odd = (wanted["perturbation"] == self.control).to_numpy(bool) & ~wanted["dose"].isin(own)
        if not odd.any() or own.empty:
            return wanted
        dose = wanted["dose"].to_numpy(copy=True)
        dose[odd] = rng.choice(own.to_numpy(), size=odd.sum())
        return wanted.assign(dose=dose)

    def plausible(self, training: pd.DataFrame, wanted: pd.Series) -> np.ndarray:
        """A new combination gets the doses of perturbed cells, not the control's."""
        if "perturbation" not in wanted or wanted["perturbation"] == self.control:
            return super().plausible(training, wanted)
        return (training["perturbation"] != self.control).to_numpy()
