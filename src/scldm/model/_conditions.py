"""Conditions: each kind of thing that cells depend on, in one class.

A condition knows the arguments it is asked for by, how a user's values are checked, how they are
encoded for the network, what embeds them, and how they go back under the user's own names. In
between, conditions of cells stand in a data frame with one row for each cell and one column for
each argument (several for coordinates), holding the user's values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import nn

from scldm.nn import CategoryEmbedder, FourierEmbedder

from ._doses import as_text, levels, written
from ._embeddings import Embeddings
from ._fields import shortened

__all__ = [
    "STEPS",
    "Category",
    "Condition",
    "Dose",
    "Number",
    "one_dimensional",
    "refuse_far",
]


_FARTHEST = 1e6

STEPS = ("-1 SD", "+1 SD")
"""Labels of examples of continuous values."""


class Condition(ABC):
    """One kind of thing that cells depend on.

    Parameters
    ----------
    name
        Its name, which is its first argument in ``generate``.
    in_decoder
        Whether the decoder depends on it too, so that it needs a value in any case.

    Attributes
    ----------
    stays_free
        Whether cells have no value of it unless one is asked for, in place of one that is drawn
        from the training cells.
    entries
        Names that have a vector each in its embedder, in the order of the vectors.
    items
        Names of parts that its values may have, each of which guidance can strengthen by itself.
    """

    stays_free = False
    entries: Sequence[Any] = ()
    items: Sequence[str] = ()

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

    def only(self, encoded: np.ndarray, named: Collection[str], kept: str | None) -> np.ndarray:
        """Return encoded values without the parts that are named, but for one that is kept.

        NaN, no value, where nothing is left of what was there; a value without parts stays as it is.
        """
        return encoded

    @abstractmethod
    def embedder(self, width: int) -> nn.Module:
        """Return the module that embeds the encoded values."""

    def per_cell(self, argument: str, values: Any) -> bool:
        """Say whether a user's values of length one are meant for one cell and not for all."""
        return not pd.api.types.is_scalar(values) and getattr(values, "ndim", 1) > 0

    def describe(self, values: pd.DataFrame) -> str:
        """Say in words what was asked for, given an argument's parsed values."""
        if len(values) != 1:
            return "given for each cell"
        return ", ".join(str(value) for value in values.iloc[0])

    def together(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the user gives, by argument, where one argument says how to read another."""
        return dict(given)

    def settle(
        self, wanted: pd.DataFrame, training: pd.DataFrame, rng: np.random.Generator
    ) -> pd.DataFrame:
        """Return what is asked for, with values that do not go together set right."""
        return wanted

    @abstractmethod
    def examples(self, training: pd.DataFrame) -> tuple[list[str], pd.DataFrame]:
        """Return labels of values that show what it does, and the values as rows of its frame."""

    def plausible(self, training: pd.DataFrame, wanted: pd.Series) -> np.ndarray:
        """Say which training cells may lend values where none has the wanted ones."""
        return np.ones(len(training), dtype=bool)


def one_dimensional(argument: str, values: Any) -> np.ndarray:
    """Return a user's values as an array, of length one where one holds for all cells."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    if isinstance(values, np.ndarray) and values.ndim == 0:
        values = values.item()
    if pd.api.types.is_scalar(values):
        return np.array([values], dtype=object)
    if isinstance(values, set | frozenset | dict) or not isinstance(values, Iterable):
        raise ValueError(
            f"`{argument}` is a {type(values).__name__}; give one value for all cells, or a list "
            "or array with one for each."
        )
    values = list(values)
    column = np.empty(len(values), dtype=object)
    column[:] = values
    if any(not pd.api.types.is_scalar(value) for value in column):
        raise ValueError(f"`{argument}` is nested; give one value for all cells or one for each.")
    return column


def refuse_far(argument: str, values: np.ndarray, standardised: np.ndarray) -> None:
    """Refuse values so far from those of the training cells that networks give no number for them.

    Raises
    ------
    ValueError
        If one is more than a million standard deviations away.
    """
    far = np.abs(standardised) > _FARTHEST
    if far.any():
        raise ValueError(
            f"`{argument}` has {values[far][0]:g}, which is {np.abs(standardised).max():.3g} standard "
            f"deviations from the training cells; {_FARTHEST:g} is the most."
        )


class Category(Condition):
    """One of a known list of categories: cell type, batch, a categorical covariate.

    Parameters
    ----------
    name
        Its argument.
    column
        The user's column of ``obs``.
    categories
        The categories of the column, in the user's order.
    observed
        Those that cells have; only they, and those with an embedding, can be asked for.
    in_decoder
        Whether the decoder depends on it too; then only observed ones can be asked for.
    embeddings
        Vectors for the categories from elsewhere.
    """

    def __init__(
        self,
        name: str,
        column: str,
        categories: Sequence[Any],
        observed: Sequence[Any] | None = None,
        in_decoder: bool = False,
        embeddings: Embeddings | None = None,
    ) -> None:
        super().__init__(name, in_decoder)
        self.column = column
        self.embeddings = embeddings
        self.registered = list(categories)
        self.observed = self.registered if observed is None else list(observed)
        further = [] if in_decoder else self._with_vectors_only()
        self.allowed = [*self.observed, *further]
        # those of the data come first, so that their codes are the registry's
        self.categories = [*self.registered, *(c for c in further if c not in self.registered)]
        self.entries = self.categories

    def _with_vectors_only(self) -> list[str]:
        """Return names that have a vector and no cell; a column of numbers has no such names."""
        if self.embeddings is None or not all(isinstance(c, str) for c in self.registered):
            return []
        observed = set(self.observed)
        return [name for name in self.embeddings.names if name not in observed]

    def parse(self, argument: str, values: Any) -> pd.DataFrame:
        given = one_dimensional(argument, values)
        known = pd.Categorical(given, categories=self.allowed)
        if (known.codes < 0).any():
            unknown = given[known.codes < 0][0]
            advice = "" if self.embeddings is None or self.in_decoder else self.embeddings.advice
            raise ValueError(
                f"`{argument}={unknown!r}` is not a known {argument.replace('_', ' ')}. "
                f"Known: {shortened(self.allowed)}.{advice}"
            )
        return pd.DataFrame({argument: known.set_categories(self.categories)})

    def read(self, adata: AnnData) -> pd.DataFrame:
        return self.parse(self.name, adata.obs[self.column])

    def write(self, frame: pd.DataFrame, adata: AnnData) -> None:
        present = set(frame[self.name].dropna().unique())
        new = [c for c in self.categories[len(self.registered) :] if c in present]
        categories = [*self.registered, *new]
        adata.obs[self.column] = pd.Categorical(frame[self.name], categories=categories)

    def encode(self, frame: pd.DataFrame) -> np.ndarray:
        codes = pd.Categorical(frame[self.name], categories=self.categories).codes
        return np.where(codes < 0, np.nan, codes).astype(np.float32)[:, None]

    def examples(self, training: pd.DataFrame) -> tuple[list[str], pd.DataFrame]:
        values = pd.Categorical(self.observed, categories=self.categories)
        return [str(value) for value in values], pd.DataFrame({self.name: values})

    def embedder(self, width: int) -> nn.Module:
        table = None if self.embeddings is None else self.embeddings.table(self.categories)
        return CategoryEmbedder(len(self.categories), width, table)


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
        given = one_dimensional(argument, values)
        try:
            numbers = given.astype(float)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"`{argument}={values!r}` is not a number.") from None
        if not np.isfinite(numbers).all():
            raise ValueError(f"`{argument}` has NaN or infinite values; finite ones are allowed.")
        refuse_far(argument, numbers, self.standardise(numbers))
        return pd.DataFrame({argument: numbers})

    def read(self, adata: AnnData) -> pd.DataFrame:
        return self.parse(self.name, adata.obs[self.column])

    def write(self, frame: pd.DataFrame, adata: AnnData) -> None:
        numbers = frame[self.name].to_numpy(dtype=float)
        as_typed = numbers.astype(self.dtype) if np.isfinite(numbers).all() else numbers
        # a time of 1.5 is kept where the data have whole days
        same = np.array_equal if self.dtype.kind in "iu" else np.allclose
        adata.obs[self.column] = as_typed if same(as_typed, numbers) else numbers

    def encode(self, frame: pd.DataFrame) -> np.ndarray:
        return self.standardise(frame[[self.name]].to_numpy(dtype=float)).astype(np.float32)

    def standardise(self, values: np.ndarray) -> np.ndarray:
        """Subtract the mean and divide by the spread, before precision is given up."""
        return (values - self.mean) / self.spread

    def examples(self, training: pd.DataFrame) -> tuple[list[str], pd.DataFrame]:
        values = [self.mean - self.spread, self.mean + self.spread]
        return list(STEPS), pd.DataFrame({self.name: values})

    def embedder(self, width: int) -> nn.Module:
        return FourierEmbedder(1, width)


class Dose(Number):
    """A dose, on a scale that is linear about zero and logarithmic far from it.

    Doses of a series differ by factors: on their own scale all but the highest would be one to the
    network. Where members of a combination differ in theirs, the frame holds text, ``"1+10"``.

    Parameters
    ----------
    name, column
        As in :class:`Number`.
    mean, spread
        Of ``arcsinh(dose / unit)`` in the training data.
    dtype
        Type of the user's column.
    unit
        The smallest dose that is not zero.
    separator
        Stands between the doses of members; ``None`` where no perturbation is registered.
    spellings
        Numbers as the user's text has them.
    repeated
        Whether that text has a number for each member where they are all the same.
    """

    def __init__(
        self,
        name: str,
        column: str,
        mean: float,
        spread: float,
        dtype: str,
        unit: float = 1.0,
        separator: str | None = None,
        spellings: Sequence[str] = (),
        repeated: bool = False,
    ) -> None:
        super().__init__(name, column, mean, spread, dtype)
        self.unit = unit
        self.separator = separator
        self.repeated = repeated
        self._spelt = {float(text): text for text in reversed(spellings)}

    def parse(self, argument: str, values: Any) -> pd.DataFrame:
        given = one_dimensional(argument, values)
        if not any(isinstance(value, str) for value in given):
            return super().parse(argument, given)
        known = {value: levels(argument, value, self.separator) for value in pd.unique(given)}
        super().parse(argument, [dose for doses in known.values() for dose in doses])
        found = {value: written(doses, self.separator or "") for value, doses in known.items()}
        column = pd.Series([found[value] for value in given], dtype=object)
        return pd.DataFrame({argument: column.infer_objects()})

    def write(self, frame: pd.DataFrame, adata: AnnData) -> None:
        doses = frame[self.name]
        if self.dtype.kind != "U" and pd.api.types.is_numeric_dtype(doses):
            super().write(frame, adata)
        else:
            texts = {dose: self._text(dose) for dose in doses.dropna().unique()}
            adata.obs[self.column] = pd.Categorical([texts.get(dose) for dose in doses])

    def _text(self, dose: float | str) -> str:
        """Return a dose as the user's data spell it."""
        numbers = levels(self.name, dose, self.separator)
        return (self.separator or "").join(self._spelt.get(x) or as_text(x) for x in numbers)

    def standardise(self, values: np.ndarray) -> np.ndarray:
        return super().standardise(np.arcsinh(values / self.unit))

    def examples(self, training: pd.DataFrame) -> tuple[list[str], pd.DataFrame]:
        labels, frame = super().examples(training)
        return labels, np.sinh(frame) * self.unit
