"""Conditions: each kind of thing that cells depend on, in one class.

A condition knows the arguments it is asked for by, how a user's values are checked, how they are
encoded for the network, what embeds them, and how they go back under the user's own names. In
between, conditions of cells stand in a data frame with one row for each cell and one column for
each argument (several for coordinates), holding the user's values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import nn

from scldm.nn import CategoryEmbedder, FourierEmbedder, SetEmbedder

from ._fields import shortened
from ._keys import KEYS

__all__ = [
    "Category",
    "Condition",
    "Coordinates",
    "Number",
    "PerturbationSet",
    "conditions_from_registry",
]


class Condition(ABC):
    """One kind of thing that cells depend on.

    Parameters
    ----------
    name
        Its name, which is its first argument in ``generate``.
    in_decoder
        Whether the decoder depends on it too, so that it needs a value in any case.
    """

    def __init__(self, name: str, in_decoder: bool = False) -> None:
        self.name = name
        self.in_decoder = in_decoder

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names of the arguments by which it is asked for."""
        return (self.name,)

    def columns(self, argument: str) -> list[str]:
        """Return the columns of the frame that hold an argument's values."""
        return [argument]

    @abstractmethod
    def parse(self, argument: str, values: Any) -> pd.DataFrame:
        """Check a user's values and return them as columns of the frame.

        One row where ``values`` holds for all cells, else one for each. Raises ``ValueError``
        naming the argument where a value is not allowed.
        """

    @abstractmethod
    def read(self, adata: AnnData) -> pd.DataFrame:
        """Return its columns of the frame for registered data."""

    @abstractmethod
    def write(self, frame: pd.DataFrame, adata: AnnData) -> None:
        """Put its columns of the frame where the user's data have them."""

    @abstractmethod
    def encode(self, frame: pd.DataFrame) -> np.ndarray:
        """Return the network's input, float32 ``(n, k)``; rows of NaN where there is no value."""

    @abstractmethod
    def embedder(self, width: int) -> nn.Module:
        """Return the module that embeds the encoded values."""

    def plausible(self, training: pd.DataFrame, wanted: pd.Series) -> np.ndarray:
        """Say which training cells may lend values where none has the wanted ones."""
        return np.ones(len(training), dtype=bool)


def _one_dimensional(argument: str, values: Any) -> np.ndarray:
    if pd.api.types.is_scalar(values):
        return np.array([values], dtype=object)
    column = np.empty(len(values), dtype=object)
    column[:] = list(values)
    if any(not pd.api.types.is_scalar(value) for value in column):
        raise ValueError(f"`{argument}` is nested; give one value for all cells or one for each.")
    return column


class Category(Condition):
    """One of a known list of categories: cell type, batch, a categorical covariate.

    Parameters
    ----------
    name
        Its argument.
    column
        The user's column of ``obs``.
    categories
        What is known, in the user's order.
    in_decoder
        Whether the decoder depends on it too.
    """

    def __init__(
        self, name: str, column: str, categories: Sequence[Any], in_decoder: bool = False
    ) -> None:
        super().__init__(name, in_decoder)
        self.column = column
        self.categories = list(categories)

    def parse(self, argument: str, values: Any) -> pd.DataFrame:
        given = _one_dimensional(argument, values)
        known = pd.Categorical(given, categories=self.categories)
        if (known.codes < 0).any():
            unknown = given[known.codes < 0][0]
            raise ValueError(
                f"`{argument}={unknown!r}` is not a known {argument.replace('_', ' ')}. "
                f"Known: {shortened(self.categories)}."
            )
        return pd.DataFrame({argument: known})

    def read(self, adata: AnnData) -> pd.DataFrame:
        return self.parse(self.name, adata.obs[self.column])

    def write(self, frame: pd.DataFrame, adata: AnnData) -> None:
        adata.obs[self.column] = pd.Categorical(frame[self.name], categories=self.categories)

    def encode(self, frame: pd.DataFrame) -> np.ndarray:
        codes = pd.Categorical(frame[self.name], categories=self.categories).codes
        return np.where(codes < 0, np.nan, codes).astype(np.float32)[:, None]

    def embedder(self, width: int) -> nn.Module:
        return CategoryEmbedder(len(self.categories), width)


class Number(Condition):
    """A continuous value: time, dose, a continuous covariate.

    Parameters
    ----------
    name
        Its argument.
    column
        The user's column of ``obs``.
    mean, spread
        Mean and standard deviation in the training data.
    dtype
        Type of the user's column.
    in_decoder
        Whether the decoder depends on it too.
    """

    def __init__(
        self,
        name: str,
        column: str,
        mean: float,
        spread: float,
        dtype: str,
        in_decoder: bool = False,
    ) -> None:
        super().__init__(name, in_decoder)
        self.column = column
        self.mean = mean
        self.spread = spread
        self.dtype = np.dtype(dtype.lower())

    def parse(self, argument: str, values: Any) -> pd.DataFrame:
        given = _one_dimensional(argument, values)
        try:
            numbers = given.astype(float)
        except (TypeError, ValueError):
            raise ValueError(f"`{argument}={values!r}` is not a number.") from None
        if not np.isfinite(numbers).all():
            raise ValueError(f"`{argument}` has NaN or infinite values; finite ones are allowed.")
        return pd.DataFrame({argument: numbers})

    def read(self, adata: AnnData) -> pd.DataFrame:
        return self.parse(self.name, adata.obs[self.column])

    def write(self, frame: pd.DataFrame, adata: AnnData) -> None:
        numbers = frame[self.name].to_numpy(dtype=float)
        as_typed = numbers.astype(self.dtype) if np.isfinite(numbers).all() else numbers
        # a time of 1.5 is kept where the data have whole days
        adata.obs[self.column] = as_typed if np.allclose(as_typed, numbers) else numbers

    def encode(self, frame: pd.DataFrame) -> np.ndarray:
        return frame[[self.name]].to_numpy(dtype=np.float32)

    def embedder(self, width: int) -> nn.Module:
        return FourierEmbedder(torch.tensor([self.mean]), torch.tensor([self.spread]), width)


class Coordinates(Condition):
    """A place in two or three dimensions.

    Parameters
    ----------
    name
        Its argument.
    column
        The user's array in ``obsm``.
    mean
        Centre of the training data.
    spread
        Their spread, the same for all axes.
    """

    def __init__(self, name: str, column: str, mean: Sequence[float], spread: float) -> None:
        super().__init__(name)
        self.column = column
        self.mean = list(mean)
        self.spread = spread

    def columns(self, argument: str) -> list[str]:
        return [f"{argument}_{axis}" for axis in range(len(self.mean))]

    def parse(self, argument: str, values: Any) -> pd.DataFrame:
        try:
            places = np.atleast_2d(np.asarray(values, dtype=float))
        except (TypeError, ValueError):
            raise ValueError(f"`{argument}` does not hold numbers.") from None
        if places.ndim != 2 or places.shape[1] != len(self.mean):
            raise ValueError(
                f"`{argument}` has shape {np.shape(values)}, but must be (n_cells, "
                f"{len(self.mean)}), or ({len(self.mean)},) for one place."
            )
        if not np.isfinite(places).all():
            raise ValueError(f"`{argument}` has NaN or infinite values; finite ones are allowed.")
        return pd.DataFrame(places, columns=self.columns(argument))

    def read(self, adata: AnnData) -> pd.DataFrame:
        return self.parse(self.name, adata.obsm[self.column])

    def write(self, frame: pd.DataFrame, adata: AnnData) -> None:
        adata.obsm[self.column] = frame[self.columns(self.name)].to_numpy()

    def encode(self, frame: pd.DataFrame) -> np.ndarray:
        return frame[self.columns(self.name)].to_numpy(dtype=np.float32)

    def embedder(self, width: int) -> nn.Module:
        shift = torch.tensor(self.mean)
        return FourierEmbedder(shift, torch.full_like(shift, self.spread), width, n_octaves=7)


class PerturbationSet(Condition):
    """A set of perturbations, written ``"A+B"``, with a dose; the control is the empty set.

    Parameters
    ----------
    column
        The user's column of ``obs``.
    labels
        Labels of the training data, in the user's order.
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
        self.labels = [str(label) for label in labels]
        self.control = str(control)
        self.dose = dose
        self.separator = separator
        self.items = sorted({part for label in self.labels for part in self._split(label)})
        self._known_sets = {frozenset(self._split(label)): label for label in self.labels[::-1]}

    @property
    def arguments(self) -> tuple[str, ...]:
        return ("perturbation",) if self.dose is None else ("perturbation", "dose")

    def _split(self, label: str) -> list[str]:
        return [part for part in label.split(self.separator) if part not in (self.control, "")]

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
        given = _one_dimensional(argument, values)
        spelt = {label: self._canonical(label) for label in pd.unique(given)}
        return pd.DataFrame({argument: pd.Categorical([spelt[label] for label in given])})

    def read(self, adata: AnnData) -> pd.DataFrame:
        frame = self.parse("perturbation", adata.obs[self.column])
        return frame if self.dose is None else frame.join(self.dose.read(adata))

    def write(self, frame: pd.DataFrame, adata: AnnData) -> None:
        labels = frame["perturbation"]
        new = [label for label in pd.unique(labels.dropna()) if label not in self.labels]
        adata.obs[self.column] = pd.Categorical(labels, categories=[*self.labels, *new])
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
        dose = np.ones(len(frame)) if self.dose is None else frame["dose"].to_numpy(float)
        doses = np.broadcast_to(dose[:, None], codes.shape)
        return np.concatenate([codes, doses], axis=1).astype(np.float32)

    def embedder(self, width: int) -> nn.Module:
        mean, spread = (1.0, 1.0) if self.dose is None else (self.dose.mean, self.dose.spread)
        return SetEmbedder(max(len(self.items), 1), width, mean, spread)

    def plausible(self, training: pd.DataFrame, wanted: pd.Series) -> np.ndarray:
        """A new combination gets the doses of perturbed cells, not the control's."""
        if "perturbation" not in wanted or wanted["perturbation"] == self.control:
            return super().plausible(training, wanted)
        return (training["perturbation"] != self.control).to_numpy()


def _number(name: str, field: Mapping[str, Any], in_decoder: bool = False) -> Number:
    state = field["state_registry"]
    column = field["data_registry"]["attr_key"]
    return Number(name, column, state["mean"], state["spread"], state["dtype"], in_decoder)


def conditions_from_registry(registry: Mapping[str, Any]) -> list[Condition]:
    """Return the conditions that a setup registered, in a fixed order.

    Parameters
    ----------
    registry
        The registry of scvi-tools' data manager, as it stands in a saved model.
    """
    fields = registry["field_registries"]
    setup = registry["setup_args"]
    return [
        *_categories(fields, setup),
        *_perturbation_and_dose(fields, setup),
        *([_number("time", fields[KEYS.TIME])] if setup["time_key"] else []),
        *_coordinates(fields, setup),
        *_covariates(fields, setup),
    ]


def _categories(fields: Mapping[str, Any], setup: Mapping[str, Any]) -> Iterable[Condition]:
    for name, key, in_decoder in (
        ("cell_type", KEYS.CELL_TYPE, False),
        ("batch", KEYS.BATCH, True),
    ):
        if setup[f"{name}_key"]:
            known = fields[key]["state_registry"]["categorical_mapping"]
            yield Category(name, setup[f"{name}_key"], list(known), in_decoder)


def _perturbation_and_dose(
    fields: Mapping[str, Any], setup: Mapping[str, Any]
) -> Iterable[Condition]:
    dose = _number("dose", fields[KEYS.DOSE]) if setup["dose_key"] else None
    if setup["perturbation_key"]:
        known = fields[KEYS.PERTURBATION]["state_registry"]["categorical_mapping"]
        yield PerturbationSet(setup["perturbation_key"], list(known), setup["control_label"], dose)
    elif dose is not None:
        yield dose


def _coordinates(fields: Mapping[str, Any], setup: Mapping[str, Any]) -> Iterable[Condition]:
    if setup["spatial_key"]:
        state = fields[KEYS.SPATIAL]["state_registry"]
        yield Coordinates("spatial", setup["spatial_key"], state["mean"], state["spread"])


def _covariates(fields: Mapping[str, Any], setup: Mapping[str, Any]) -> Iterable[Condition]:
    for column in setup["categorical_covariate_keys"] or []:
        known = fields[KEYS.CATEGORICAL]["state_registry"]["mappings"][column]
        yield Category(column, column, list(known), in_decoder=True)
    for column in setup["continuous_covariate_keys"] or []:
        state = fields[KEYS.CONTINUOUS]["state_registry"]
        moments = (state[what][column] for what in ("mean", "spread", "dtype"))
        yield Number(column, column, *moments, in_decoder=True)
