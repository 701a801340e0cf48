"""Training cells that lend what is not said of a new one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

__all__ = ["Lenders"]

_NEAREST = 50


class Lenders:
    """Training cells that lend what was not asked for.

    Parameters
    ----------
    training
        Frame of the training cells.
    asked
        Columns that are asked for.
    """

    def __init__(self, training: pd.DataFrame, asked: Sequence[str]) -> None:
        self.training = training
        self.categories = [c for c in asked if isinstance(training[c].dtype, pd.CategoricalDtype)]
        self.numbers = [c for c in asked if c not in self.categories]
        values = training[self.numbers].apply(pd.to_numeric, errors="coerce")
        self.values = values.to_numpy(float)
        spread = values.std(ddof=0).to_numpy(float)
        self.spread = np.where(spread > 0, spread, 1.0)

    def matching(self, wanted: pd.Series) -> np.ndarray:
        """Return the cells with the wanted categories and the nearest numbers.

        Cells with exactly the wanted numbers, if there are any, else the nearest fifty. Numbers
        that are NaN are not asked for, nor are several in one text if no cell has that text.
        """
        keep = np.ones(len(self.training), dtype=bool)
        for column in self.categories:
            keep &= (self.training[column] == wanted[column]).to_numpy(dtype=bool)
        for column in self.numbers:
            same = keep & (self.training[column] == wanted[column]).to_numpy(dtype=bool)
            keep = same if isinstance(wanted[column], str) and same.any() else keep
        candidates = np.flatnonzero(keep)
        numbers = pd.to_numeric(wanted[self.numbers], errors="coerce").to_numpy(float)
        given = ~np.isnan(numbers)
        if not given.any() or not len(candidates):
            return candidates
        off = (self.values[candidates][:, given] - numbers[given]) / self.spread[given]
        distance = np.nan_to_num(np.square(off), nan=np.inf).sum(axis=1)
        if (distance == 0).any():
            return candidates[distance == 0]
        k = min(_NEAREST, len(candidates)) - 1
        return candidates[np.argpartition(distance, k)[: k + 1]]
