"""Perturbations: sets with doses."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from torch import nn

from scldm.nn import SetEmbedder

from ._conditions import Condition, Dose, one_dimensional
from ._doses import Doses, as_text, levels, written
from ._embeddings import Embeddings
from ._fields import shortened

__all__ = ["PerturbationSet", "doses_of", "members"]


def members(label: str, control: str, separator: str) -> list[str]:
    """Return the members of a set; a name such as ``"CD4+"`` is one, not a combination."""
    if label == control:
        return []
    parts = label.split(separator)
    return [label] if "" in parts else [part for part in parts if part != control]


def doses_of(control: str, separator: str, label: str, dose: Any) -> dict[str, float]:
    """Return the dose of each member of a set.

    Parameters
    ----------
    control, separator
        As in :class:`PerturbationSet`.
    label, dose
        As the user writes them: one dose for all members, or one for each in their order.

    Raises
    ------
    ValueError
        If there are not as many doses as members, or one member has two.
    """
    parts = members(label, control, separator)
    given = levels("dose", dose, separator)
    if len(given) == 1:
        return dict.fromkeys(parts, given[0])
    named = label.split(separator)
    # the control, where a label names it, may have a dose too
    pairs = list(zip(named if len(given) == len(named) else parts, given, strict=False))
    doses = {part: own for part, own in pairs if part in parts}
    if (
        len(pairs) < len(given)
        or any(doses.get(part, own) != own for part, own in pairs)
        or not doses
    ):
        raise ValueError(
            f"`dose={dose!r}` does not go with `perturbation={label!r}`: give one number, or one for "
            f"each member with {separator!r} between them."
        )
    return doses


class PerturbationSet(Condition):
    """A set of perturbations, written ``"A+B"``, each with a dose; the control is the empty set.

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
        dose: Dose | None = None,
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

    def doses_of(self, label: str, dose: Any) -> dict[str, float]:
        """Return the dose of each member of a set, see :func:`doses_of`."""
        return doses_of(self.control, self.separator, label, dose)

    def keyed(self, label: str, dose: Any) -> tuple[str, Doses]:
        """Return the one spelling of a set, and its dose or those of its members in that order."""
        key = self.key(label)
        own = self.doses_of(label, dose)
        doses = [own[part] for part in self.members_of(key)] or [float(dose)]
        return key, doses[0] if len(set(doses)) == 1 else tuple(doses)

    def known_doses(self, label: str, training: pd.DataFrame) -> list[float | str]:
        """Return the doses that training cells of a perturbation have.

        A combination that none has takes those of its members, one with an embedding only those of all
        perturbed cells.
        """
        pairs = training[["perturbation", "dose"]].drop_duplicates().astype({"perturbation": str})
        own = pairs.loc[pairs["perturbation"] == label, "dose"]
        if len(own):
            return sorted(own, key=lambda dose: (isinstance(dose, str), dose))
        seen = [item for pair in pairs.to_numpy() for item in self.doses_of(*pair).items()]
        every = {dose for _, dose in seen}
        each = [
            {dose for part, dose in seen if part == member} or every
            for member in self.members_of(label)
        ]
        if each and all(len(doses) == 1 for doses in each):
            return [written([min(doses) for doses in each], self.separator)]
        return sorted(set().union(*(each or [every])))

    def together(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Doses of members stand in the order of the label that they came with."""
        if self.dose is None or given.get("dose") is None:
            return dict(given)
        if given.get("perturbation") is None:
            for dose in one_dimensional("dose", given["dose"]):
                if isinstance(dose, str) and len(levels("dose", dose, self.separator)) > 1:
                    raise ValueError(
                        f"`dose={dose!r}` needs a `perturbation` too: its numbers stand in the order of "
                        "the label."
                    )
            return dict(given)
        labels = one_dimensional("perturbation", given["perturbation"])
        doses = one_dimensional("dose", given["dose"])
        fits = len(labels) == len(doses) or 1 in (len(labels), len(doses))
        if not fits or not any(isinstance(dose, str) for dose in doses):
            return dict(given)
        pairs = list(np.broadcast(labels, doses))
        # a dose that is asked for of all cells is not the control's, whose own is settled later
        lenient = len(doses) == 1 < len(labels)
        found = {
            (label, dose): self._as_written(label, dose, lenient)
            for label, dose in dict.fromkeys(pairs)
        }
        alone = not any(self.per_cell(name, given[name]) for name in ("perturbation", "dose"))
        return {**given, "dose": found[pairs[0]] if alone else [found[pair] for pair in pairs]}

    def _as_written(self, label: Any, dose: Any, lenient: bool) -> float | str:
        """Return doses in the order in which the members of the set are written in the frame."""
        parts = self.members_of(self._canonical(label))
        if not parts and lenient:
            return levels("dose", dose, self.separator)[0]
        own = self.doses_of(str(label), dose)
        return written([own[part] for part in parts], self.separator) if parts else float(dose)

    def parse(self, argument: str, values: Any) -> pd.DataFrame:
        if argument == "dose" and self.dose is not None:
            return self.dose.parse(argument, values)
        given = one_dimensional(argument, values)
        spelt = {label: self._canonical(label) for label in pd.unique(given)}
        return pd.DataFrame({argument: pd.Categorical([spelt[label] for label in given])})

    def read(self, adata: AnnData) -> pd.DataFrame:
        given = {"perturbation": adata.obs[self.column]}
        if self.dose is not None:
            given = self.together(given | {"dose": adata.obs[self.dose.column]})
        return pd.concat([self.parse(*item) for item in given.items()], axis=1)

    def write(self, frame: pd.DataFrame, adata: AnnData) -> None:
        labels = frame["perturbation"]
        new = [label for label in pd.unique(labels.dropna()) if label not in self.originals]
        values = labels.astype(object).map(lambda label: self.originals.get(label, label))
        categories = [*self.originals.values(), *new]
        adata.obs[self.column] = pd.Categorical(values, categories=categories)
        if self.dose is None:
            return
        if self.dose.repeated:
            size = {label: len(self.members_of(str(label))) for label in labels.dropna().unique()}
            doses = [
                self.separator.join([as_text(dose)] * size[label])
                if isinstance(dose, float) and size.get(label, 0) > 1
                else dose
                for label, dose in zip(labels, frame["dose"], strict=True)
            ]
            frame = frame.assign(dose=pd.Series(doses, dtype=object, index=frame.index))
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
        doses = np.zeros_like(codes)
        if self.dose is not None:
            doses = self.dose.standardise(self._dose_table(frame, size))
        return np.concatenate([codes, doses], axis=1).astype(np.float32)

    def _dose_table(self, frame: pd.DataFrame, size: int) -> np.ndarray:
        """Return the doses of members, ``(n, size)``; unused places have the first one's."""
        if pd.api.types.is_numeric_dtype(frame["dose"]):
            return np.tile(frame[["dose"]].to_numpy(float), size)
        pairs = list(zip(frame["perturbation"].astype(str), frame["dose"], strict=True))
        rows = {}
        for label, dose in dict.fromkeys(pairs):
            own = self.doses_of(label, dose)
            doses = [own[part] for part in self.members_of(label)] or [float(dose)]
            rows[label, dose] = [*doses, *doses[:1] * (size - len(doses))]
        return np.array([rows[pair] for pair in pairs], dtype=float)

    def only(self, encoded: np.ndarray, named: Collection[str], kept: str | None) -> np.ndarray:
        codes, doses = np.split(encoded.copy(), 2, axis=1)
        gone = np.isin(codes, [self._codes[name] for name in named if name != kept])
        codes[gone] = -1
        emptied = gone.any(axis=1) & (codes < 0).all(axis=1)
        codes[emptied] = np.nan
        return np.concatenate([codes, doses], axis=1)

    def examples(self, training: pd.DataFrame) -> tuple[list[str], pd.DataFrame]:
        labels = training["perturbation"].astype(str)
        has = {label: self.members_of(label) for label in labels.unique()}
        known = {item for items in has.values() for item in items}
        names = [self.control, *(item for item in self.items if item in known)]
        if not (labels == self.control).any():
            names = names[1:]
        frame = self.parse("perturbation", names)
        if self.dose is not None:
            total, count = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)
            for (label, dose), n in (
                pd.Series(list(zip(labels, training["dose"], strict=True))).value_counts().items()
            ):
                for name, own in (self.doses_of(label, dose) or {self.control: dose}).items():
                    total[name] += n * own
                    count[name] += n
            frame["dose"] = [total[name] / count[name] for name in names]
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
