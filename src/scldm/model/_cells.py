"""Registered cells, as the methods that take cells see them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from scldm.train import Latents

__all__ = [
    "Cells",
    "checked_rows",
    "encoded",
    "kept_randomness",
    "selected",
    "without_scores",
]


_ONE_AT_A_TIME = threading.RLock()


class Cells(NamedTuple):
    """Some cells of registered data.

    ``rows`` are their places in ``adata``, ``frame`` their conditions in the same order.
    """

    adata: AnnData
    rows: np.ndarray
    frame: pd.DataFrame

    @property
    def names(self) -> pd.Index:
        """Their names."""
        return self.adata.obs_names[self.rows]

    def at(self, places: np.ndarray) -> Cells:
        """Return some of these cells."""
        return Cells(self.adata, self.rows[places], self.frame.iloc[places].reset_index(drop=True))

    def groups(self, groupby: str | None) -> pd.Categorical:
        """Return the group of each cell, one for all where ``groupby`` is ``None``.

        Raises
        ------
        ValueError
            If ``groupby`` is not a column of ``obs`` or says nothing of the cells.
        """
        if groupby is None:
            return pd.Categorical(np.zeros(len(self.rows), dtype=int))
        obs = self.adata.obs
        if groupby not in obs:
            raise ValueError(
                f"`groupby={groupby!r}` is not a column of `adata.obs`. Known: {list(obs)}."
            )
        groups = pd.Categorical(obs[groupby].iloc[self.rows]).remove_unused_categories()
        if not len(groups.categories):
            raise ValueError(f"`groupby={groupby!r}` has no value for any of the cells.")
        return groups


def selected(model: Any, adata: AnnData | None, indices: Sequence[int] | None) -> Cells:
    """Check what cells a user names.

    Parameters
    ----------
    model
        The model.
    adata
        Registered cells; ``None`` takes the training data.
    indices
        Which of them; ``None`` takes all.

    Raises
    ------
    ValueError
        If ``indices`` does not name cells.
    TypeError
        If ``adata`` is not an AnnData.
    RuntimeError
        If the model has no data and none are given.
    """
    if adata is None:
        adata = model._adata_manager_or_raise().adata
    if not isinstance(adata, AnnData):
        raise TypeError(
            f"`adata` is a {type(adata).__name__}, not an AnnData. Give other arguments by name."
        )
    adata = model._validate_anndata(adata)
    rows = checked_rows(indices, adata.n_obs)
    frame = model._read_conditions(adata).iloc[rows].reset_index(drop=True)
    return Cells(adata, rows, frame)


def encoded(model: Any, cells: Cells) -> Latents:
    """Return what stage 2 knows of cells, as tensors that gradients may pass."""
    with kept_randomness(model.device):
        latents = model._encode(cells.adata, cells.rows)
    # indexing makes tensors that are not bound to inference mode
    return latents[np.arange(len(latents))]


def without_scores(model: Any, latents: Latents) -> Latents:
    """Return cells without the conditions that are functions of their own counts.

    A cell's scores of gene sets would hold it where it is, and its counts given them are not its
    counts given what is known of it.
    """
    free = {
        c.name: torch.full_like(latents.conditions[c.name], torch.nan)
        for c in model.conditions
        if c.stays_free
    }
    return replace(latents, conditions=latents.conditions | free)


@contextmanager
def kept_randomness(device: torch.device) -> Iterator[None]:
    """Put torch's global random state back afterwards.

    The encoder draws a latent that is not used here, and a loader a seed for its workers. The state is
    one for all threads, so that one thread at a time may take it.
    """
    with _ONE_AT_A_TIME, torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


def checked_rows(indices: Sequence[int] | None, n: int) -> np.ndarray:
    """Return places in data of n cells.

    Parameters
    ----------
    indices
        Places from 0 to n - 1, or one boolean for each cell; ``None`` is all.
    n
        Number of cells.

    Raises
    ------
    ValueError
        If they are none, not whole numbers, or outside the data.
    """
    if indices is None:
        return np.arange(n)
    try:
        rows = np.asarray(indices)
    except ValueError:
        # what numpy can make no array of is refused below
        rows = np.empty((0, 0))
    if rows.dtype == bool and rows.shape == (n,):
        rows = np.flatnonzero(rows)
    if rows.ndim != 1 or (rows.size and not np.issubdtype(rows.dtype, np.integer)):
        raise ValueError(
            f"`indices` must be a list of places of cells, from 0 to {n - 1}, or one boolean for "
            f"each of the {n} cells."
        )
    if not len(rows):
        raise ValueError("`indices` is empty; at least one cell is needed.")
    if rows.min() < 0 or rows.max() >= n:
        odd = rows[(rows < 0) | (rows >= n)][0]
        raise ValueError(f"`indices` has {odd}, but the cells are numbered from 0 to {n - 1}.")
    return rows
