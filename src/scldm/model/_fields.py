"""scvi-tools' fields with checks that speak before any compute.

scvi-tools warns about data that are not counts and looks at a few values only; a generator that
is trained on them fails later and less clearly. The fields here look at everything, name the
argument, say what is wrong and what is allowed. They also keep the numbers that conditions are
standardised with, so that a model can be rebuilt from its registry alone.
"""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scvi.data.fields import (
    CategoricalJointObsField,
    CategoricalObsField,
    LayerField,
    NumericalJointObsField,
    NumericalObsField,
)

from ._storage import chunks_of, refuse_columns

__all__ = [
    "CategoricalCovariatesField",
    "CategoryField",
    "ContinuousCovariatesField",
    "CountsField",
    "LibrarySizeField",
    "NumberField",
    "as_numbers",
    "check_counts",
    "moments",
    "require_column",
    "shortened",
]


def shortened(values: Any, limit: int = 20) -> str:
    """Write a list of known values, cut where it gets long."""
    values = list(values)
    shown = ", ".join(
        repr(getattr(value, "item", lambda v=value: v)()) for value in values[:limit]
    )
    return f"[{shown}{f', ... {len(values) - limit} more' if len(values) > limit else ''}]"


def require_column(adata: AnnData, argument: str, column: str) -> pd.Series:
    if column not in adata.obs:
        raise KeyError(
            f"`{argument}={column!r}` is not a column of `adata.obs`. "
            f"Known: {shortened(adata.obs.columns)}."
        )
    return adata.obs[column]


def _require_category(adata: AnnData, argument: str, column: str) -> pd.Series:
    values = require_column(adata, argument, column)
    missing = int(values.isna().sum())
    if missing:
        raise ValueError(
            f"`{argument}={column!r}` has no value (NaN) in {missing} of {adata.n_obs} cells. "
            "Give them a category of their own or leave them out."
        )
    known = values.unique()
    if not (all(isinstance(x, str) for x in known) or all(isinstance(x, Real) for x in known)):
        kinds = sorted({type(x).__name__ for x in known})
        raise ValueError(
            f"`{argument}={column!r}` holds categories of type {', '.join(kinds)}; they must be "
            "all text or all numbers."
        )
    return values


def _observed(values: pd.Series) -> list:
    """Return the categories that occur, in the order of the column's own."""
    return list(values.astype("category").cat.remove_unused_categories().cat.categories)


def _joined(before: list | None, own: list, extend: bool) -> list:
    """Return the categories that cells of a model have, those of new cells after them on request.

    The registry of an scvi-tools model does not say which cells had; then it is the new ones'.
    """
    if before is None:
        return own
    return [*before, *(c for c in own if c not in before)] if extend else before


def _refuse_unknown(argument: str, column: str, values: pd.Series, known: list) -> None:
    unknown = sorted(set(values.unique()) - set(known), key=str)
    if unknown:
        raise ValueError(
            f"`{argument}={column!r}` holds {shortened(unknown)}, unknown to the model. "
            f"Known: {shortened(known)}."
        )


def _require_numbers(adata: AnnData, argument: str, column: str) -> np.ndarray:
    return as_numbers(require_column(adata, argument, column), argument, column)


def as_numbers(values: pd.Series, argument: str, column: str) -> np.ndarray:
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        raise ValueError(
            f"`{argument}={column!r}` holds {values.dtype} values, but must hold numbers."
        )
    bad = ~np.isfinite(values.to_numpy(dtype=float, na_value=np.nan))
    if bad.any():
        raise ValueError(
            f"`{argument}={column!r}` is NaN or infinite in {int(bad.sum())} of {len(values)} "
            "cells; every cell needs a finite number."
        )
    return values.to_numpy(dtype=float)


def moments(values: np.ndarray) -> tuple[float, float]:
    """Return mean and spread; a constant has spread 1, so that dividing by it is harmless."""
    return float(values.mean()), float(values.std()) or 1.0


def check_counts(values: np.ndarray, where: str) -> None:
    """Check that values are whole, finite and not negative, or raise a ``ValueError``."""
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{where} has values of type {values.dtype}, but must hold counts.")
    for bad, problem in (
        (np.isnan(values), "NaN"),
        (np.isinf(values), "infinite values"),
        (values < 0, "negative values"),
        (values != np.floor(values), "fractions"),
    ):
        if bad.any():
            raise ValueError(
                f"{where} has {problem} (for example {values[bad].flat[0]}), but must hold "
                "raw counts: whole numbers, 0 or more. Counts often stand in "
                "`adata.layers['counts']` or `adata.raw`; name theirs with `layer=`."
            )


class CountsField(LayerField):
    """Counts: whole, finite, not negative, and at least one in each cell."""

    def validate_field(self, adata: AnnData) -> None:
        where = "`adata.X`" if self.attr_key is None else f"`adata.layers[{self.attr_key!r}]`"
        if self.attr_key is not None and self.attr_key not in adata.layers:
            raise KeyError(
                f"`layer={self.attr_key!r}` is not in `adata.layers`. "
                f"Known: {shortened(adata.layers)}."
            )
        if adata.n_obs == 0 or adata.n_vars == 0:
            raise ValueError(f"`adata` has shape {adata.shape}; cells and genes are needed.")
        x = self.get_field_data(adata)
        if x is None:
            raise ValueError(f"{where} is empty; raw counts are needed.")
        refuse_columns(x, where)
        n_empty = 0
        for rows in chunks_of(x):
            check_counts(rows.data if sparse.issparse(rows) else np.asarray(rows), where)
            n_empty += int((np.asarray(rows.sum(axis=1)).ravel() == 0).sum())
        if n_empty:
            raise ValueError(
                f"{where} has {n_empty} cells without any count, which have no library size. "
                "Remove them first: `sc.pp.filter_cells(adata, min_counts=1)`."
            )

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        known = pd.Index(state_registry[self.COLUMN_NAMES_KEY])
        names = adata_target.var_names
        missing = known.difference(names, sort=False)
        if len(missing):
            raise ValueError(
                f"`adata` lacks {len(missing)} of the {len(known)} genes of the model: "
                f"{shortened(missing, 5)}."
            )
        if not names.equals(known):
            raise ValueError(
                "`adata` has the genes of the model among others or in another order. "
                "Take them in the model's: `adata[:, model.var_names].copy()`."
            )
        return super().transfer_field(state_registry, adata_target, **kwargs)


class CategoryField(CategoricalObsField):
    """A column of categories without gaps.

    Parameters
    ----------
    argument
        The argument of ``setup_anndata`` that named the column.
    required_category
        A category that has to occur when the field is first registered.
    open_ended
        Whether new data may have categories that the model has not seen.
    """

    def __init__(
        self,
        registry_key: str,
        attr_key: str | None,
        argument: str,
        required_category: Any = None,
        open_ended: bool = False,
    ) -> None:
        super().__init__(registry_key, attr_key)
        self.argument = argument
        self.open_ended = open_ended
        self.required_category = required_category
        self.user_key = attr_key

    def validate_field(self, adata: AnnData) -> None:
        if self.user_key is not None:
            _require_category(adata, self.argument, self.user_key)
        super().validate_field(adata)

    def register_field(self, adata: AnnData) -> dict:
        if self.user_key is not None and self.required_category is not None:
            known = _require_category(adata, self.argument, self.user_key).unique()
            if self.required_category not in known:
                raise ValueError(
                    f"`control_label={self.required_category!r}` does not occur in "
                    f"`{self.argument}={self.user_key!r}`. Known: {shortened(known)}."
                )
        state = super().register_field(adata)
        return state | {"observed": _observed(adata.obs[self._original_attr_key])}

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        extend = kwargs.get("extend_categories", False)
        kwargs["extend_categories"] = self.open_ended or extend
        if self.user_key is not None and not kwargs["extend_categories"]:
            values = _require_category(adata_target, self.argument, self.user_key)
            known = list(state_registry[self.CATEGORICAL_MAPPING_KEY])
            _refuse_unknown(self.argument, self.user_key, values, known)
        state = super().transfer_field(state_registry, adata_target, **kwargs)
        own = _observed(adata_target.obs[self._original_attr_key])
        return state | {"observed": _joined(state_registry.get("observed"), own, extend)}


class NumberField(NumericalObsField):
    """A column of finite numbers; keeps their mean, spread and type.

    Parameters
    ----------
    argument
        The argument of ``setup_anndata`` that named the column.
    """

    def __init__(self, registry_key: str, attr_key: str | None, argument: str) -> None:
        super().__init__(registry_key, attr_key, required=False)
        self.argument = argument

    def validate_field(self, adata: AnnData) -> None:
        _require_numbers(adata, self.argument, self.attr_key)
        super().validate_field(adata)

    def register_field(self, adata: AnnData) -> dict:
        super().register_field(adata)
        values = _require_numbers(adata, self.argument, self.attr_key)
        mean, spread = moments(values)
        return {"mean": mean, "spread": spread, "dtype": str(adata.obs[self.attr_key].dtype)}

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        self.validate_field(adata_target)
        return dict(state_registry)


class LibrarySizeField(NumberField):
    """Library sizes: finite and above zero."""

    def validate_field(self, adata: AnnData) -> None:
        super().validate_field(adata)
        if (adata.obs[self.attr_key] <= 0).any():
            raise ValueError(
                f"`{self.argument}={self.attr_key!r}` has values of 0 or less; a library size is "
                "the total count of a cell and above 0."
            )


class CategoricalCovariatesField(CategoricalJointObsField):
    """Further columns of categories without gaps."""

    def validate_field(self, adata: AnnData) -> None:
        for key in self.attr_keys:
            _require_category(adata, "categorical_covariate_keys", key)
        super().validate_field(adata)

    def register_field(self, adata: AnnData) -> dict:
        state = super().register_field(adata)
        return state | {"observed": {key: _observed(adata.obs[key]) for key in self.attr_keys}}

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        self.validate_field(adata_target)
        for key in [] if kwargs.get("extend_categories") else self.attr_keys:
            _refuse_unknown(
                "categorical_covariate_keys",
                key,
                adata_target.obs[key],
                list(state_registry[self.MAPPINGS_KEY][key]),
            )
        state = super().transfer_field(state_registry, adata_target, **kwargs)
        before = state_registry.get("observed") or {}
        extend = kwargs.get("extend_categories", False)
        observed = {
            key: _joined(before.get(key), _observed(adata_target.obs[key]), extend)
            for key in self.attr_keys
        }
        return state | {"observed": observed}


class ContinuousCovariatesField(NumericalJointObsField):
    """Further columns of finite numbers; keeps their means, spreads and types."""

    def validate_field(self, adata: AnnData) -> None:
        for key in self.attr_keys:
            _require_numbers(adata, "continuous_covariate_keys", key)
        super().validate_field(adata)

    def register_field(self, adata: AnnData) -> dict:
        found = {
            key: moments(_require_numbers(adata, "continuous_covariate_keys", key))
            for key in self.attr_keys
        }
        return super().register_field(adata) | {
            "mean": {key: mean for key, (mean, _) in found.items()},
            "spread": {key: spread for key, (_, spread) in found.items()},
            "dtype": {key: str(adata.obs[key].dtype) for key in self.attr_keys},
        }

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        kept = {name: state_registry[name] for name in ("mean", "spread", "dtype")}
        return super().transfer_field(state_registry, adata_target, **kwargs) | kept
