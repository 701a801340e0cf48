"""From latents at places to what a user gets of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from ._blocks import blocks
from ._generation import from_array, to_csr

__all__ = ["means_of"]


def means_of(
    model: Any,
    own: pd.DataFrame,
    frame: pd.DataFrame,
    flat: np.ndarray,
    seed: int,
    n_samples: int,
) -> tuple[AnnData, np.ndarray]:
    """Return expected counts at each place, their spread, and one draw.

    The spread is by the law of total variance: what counting adds, and what cells there differ in.

    Parameters
    ----------
    model
        The model.
    own
        Conditions of the places.
    frame
        Those of all draws, by place.
    flat
        Their latents and log library sizes.
    seed
        Of the one draw.
    n_samples
        Draws at each place.
    """
    n = len(frame) // n_samples
    mean, second = (np.zeros((n, len(model.var_names)), np.float32) for _ in range(2))
    inputs = model._decoder_inputs(frame)
    latents_of = from_array(flat, model.device)
    for block, rows, padded in blocks(len(frame)):
        cut = {name: values[padded] for name, values in inputs.items()}
        dist = model._distribution(*latents_of(block, padded), cut)
        n_rows = rows.stop - rows.start
        m, v = (x[:n_rows].cpu().numpy() for x in (dist.mean, dist.variance))
        at = np.arange(rows.start, rows.stop) // n_samples
        np.add.at(mean, at, m / n_samples)
        np.add.at(second, at, (v + m**2) / n_samples)
    first = np.arange(n) * n_samples
    if "cell_type" in own:
        categories = frame["cell_type"].cat.categories
        codes = frame["cell_type"].cat.codes.to_numpy().reshape(n, n_samples)
        votes = (codes[..., None] == np.arange(len(categories))).sum(axis=1)
        own = own.assign(cell_type=pd.Categorical.from_codes(votes.argmax(axis=1), categories))
    by_place = flat.reshape(n, n_samples, -1)
    sizes = np.exp(by_place[..., -1]).mean(axis=1)
    new = model._as_anndata(own, mean, by_place[..., :-1].mean(axis=1), sizes)
    draws = []
    inputs = {name: values[first] for name, values in inputs.items()}
    latents_of = from_array(flat[first], model.device)
    for block, rows, padded in blocks(n):
        cut = {name: values[padded] for name, values in inputs.items()}
        x = model._count_block(*latents_of(block, padded), cut, seed, block)
        draws.append(x[: rows.stop - rows.start])
    new.layers["sample"] = to_csr(torch.cat(draws))
    new.layers["spread"] = np.sqrt(np.maximum(second - mean**2, 0))
    return new, np.arange(n)
