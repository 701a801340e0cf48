"""The registry's field of doses, which may be text with a number for each member of a combination."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from ._doses import levels, parts
from ._fields import NumberField, as_numbers, moments, require_column

__all__ = ["DoseField"]


class DoseField(NumberField):
    """A column of doses; keeps the smallest that is not zero, and moments on its scale.

    Text with a number for each member of a combination, ``"1+10"``, is allowed. Minibatches are of
    numbers; for them a column of its own holds the mean over members.

    Parameters
    ----------
    separator
        Stands between the doses of members; ``None`` where no perturbation is registered.
    labels_key
        Column with the perturbations that the doses are of.
    check
        Raises ``ValueError`` where a dose does not go with a perturbation.
    """

    def __init__(
        self,
        registry_key: str,
        attr_key: str | None,
        argument: str,
        separator: str | None,
        labels_key: str | None,
        check: Callable[[str, Any], object],
    ) -> None:
        super().__init__(registry_key, attr_key and f"_scvi_{registry_key}", argument)
        self.user_key = attr_key
        self.separator = separator
        self.labels_key = labels_key
        self.check = check

    def _column(self, adata: AnnData) -> pd.Series:
        """Return the user's column, of numbers where it holds nothing else."""
        assert self.user_key is not None
        values = require_column(adata, self.argument, self.user_key)
        return pd.Series(np.asarray(values), index=values.index).infer_objects()

    def _texts(self, values: pd.Series) -> dict[str, tuple[float, ...]]:
        """Return the doses of members that each text says."""
        where = f"{self.argument}={self.user_key!r}"
        texts = {value: levels(where, value, self.separator) for value in values.unique()}
        if not np.isfinite([dose for doses in texts.values() for dose in doses]).all():
            raise ValueError(
                f"`{where}` is NaN or infinite in some cells; every cell needs a dose."
            )
        return texts

    def validate_field(self, adata: AnnData) -> None:
        values = self._column(adata)
        if not _is_text(values):
            numbers = as_numbers(values, self.argument, str(self.user_key))
        else:
            means = {text: np.mean(doses) for text, doses in self._texts(values).items()}
            numbers = values.map(means).to_numpy(float)
            if self.labels_key is not None:
                labels = require_column(adata, "perturbation_key", self.labels_key).astype(str)
                for label, value in dict.fromkeys(zip(labels, values, strict=True)):
                    self.check(label, value)
        adata.obs[self.attr_key] = numbers
        super().validate_field(adata)

    def register_field(self, adata: AnnData) -> dict:
        state = super().register_field(adata)
        values = self._column(adata)
        if not _is_text(values):
            doses = values.to_numpy(float)
            state["dtype"] = str(values.dtype)
        else:
            texts, counts = self._texts(values), values.value_counts()
            doses = np.repeat(
                np.concatenate(list(texts.values())),
                [counts[text] for text, own in texts.items() for _ in own],
            )
            spellings = {part for text in map(str, texts) for part in parts(text, self.separator)}
            alike = any(len(own) > 1 and len(set(own)) == 1 for own in texts.values())
            state |= {"dtype": "str", "spellings": sorted(spellings), "repeated": alike}
        sizes = np.abs(doses[doses != 0])
        unit = float(sizes.min()) if sizes.size else 1.0
        mean, spread = moments(np.arcsinh(doses / unit))
        return state | {"mean": mean, "spread": spread, "unit": unit}


def _is_text(values: pd.Series) -> bool:
    return values.dtype == object and any(isinstance(value, str) for value in values.unique())
