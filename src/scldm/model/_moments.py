"""Moments of counts, of which decoders start."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from scldm.module import moment_dispersion

from ._storage import read_rows

__all__ = ["count_moments"]

_ROWS_AT_A_TIME = 4096


def count_moments(
    counts: Any, rows: np.ndarray, sizes: np.ndarray | None = None
) -> tuple[Tensor, Tensor]:
    """Return each feature's share of the library and its moment estimate of the dispersion.

    Parameters
    ----------
    counts
        Counts of all cells, dense or sparse, ``(n_cells, n_features)``.
    rows
        Which cells to take.
    sizes
        Library sizes of all cells; ``None`` takes totals. With ones, shares are mean counts.

    Returns
    -------
    ``(n_features,)`` each.
    """
    rows = np.sort(rows)
    sum_x, sum_x2, sum_xl, sum_l, sum_l2 = 0.0, 0.0, 0.0, 0.0, 0.0
    for start in range(0, len(rows), _ROWS_AT_A_TIME):
        some = rows[start : start + _ROWS_AT_A_TIME]
        x = read_rows(counts, some)
        x = x.toarray() if hasattr(x, "toarray") else np.asarray(x)
        x = x.astype(float)
        library = x.sum(axis=1) if sizes is None else sizes[some]
        sum_x = sum_x + x.sum(axis=0)
        sum_x2 = sum_x2 + np.square(x).sum(axis=0)
        sum_xl = sum_xl + library @ x
        sum_l += float(library.sum())
        sum_l2 += float(np.square(library).sum())
    scale = torch.as_tensor(sum_x) / sum_l
    theta = moment_dispersion(
        scale, torch.as_tensor(sum_x2), torch.as_tensor(sum_xl), sum_l, sum_l2
    )
    return scale.float(), theta.float()
