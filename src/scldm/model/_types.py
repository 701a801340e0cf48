"""What type a cell is of, by its latent."""

from __future__ import annotations

from typing import Self

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

__all__ = ["TypesByLatent"]

_MOST_CELLS = 20_000
_ROUNDS = 500


class TypesByLatent:
    """Draws types from their probabilities given what the network sees of cells.

    A vote of the nearest cells makes common types more common than they are; a draw keeps their shares.

    Attributes
    ----------
    categories
        The types, in the user's order.
    """

    categories: pd.Index

    def fit(self, features: np.ndarray, types: pd.Series, rng: np.random.Generator) -> Self:
        """Learn from observed cells.

        Parameters
        ----------
        features
            ``(n, n_latent + 1)``.
        types
            Categories, of which some may be missing.
        rng
            Source of the choice of cells, where they are many.
        """
        self.categories = types.cat.categories
        codes = types.cat.codes.to_numpy()
        rows = np.flatnonzero(codes >= 0)
        if len(rows) > _MOST_CELLS:
            rows = rng.choice(rows, _MOST_CELLS, replace=False)
        self._only = codes[rows[0]] if len(np.unique(codes[rows])) == 1 else None
        if self._only is None:
            self._rule = LogisticRegression(max_iter=_ROUNDS).fit(features[rows], codes[rows])
        return self

    def draw(self, features: np.ndarray, rng: np.random.Generator) -> pd.Categorical:
        """Return a type for each cell."""
        if self._only is not None:
            codes = np.full(len(features), self._only)
        else:
            upto = self._rule.predict_proba(features).cumsum(axis=1)
            point = rng.uniform(size=(len(features), 1)) * upto[:, -1:]
            codes = self._rule.classes_[(upto <= point).sum(axis=1)]
        return pd.Categorical.from_codes(codes, categories=self.categories)
