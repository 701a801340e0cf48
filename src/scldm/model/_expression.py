"""Where latents are in expression, without the noise of counting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from ._blocks import blocks

__all__ = ["ExpressionSpace"]

_COMPONENTS = 30
_MOST_CELLS = 5000
_LIBRARY_SIZE = 1e4


class ExpressionSpace:
    """Principal components of the log expression that latents decode to.

    Distances of latents say little: a dimension that moves no gene counts as much as one that moves a
    hundred. Here a step is as long as it changes expected log expression, of a cell of one library size
    and batch.

    Parameters
    ----------
    centre, axes
        Mean log expression, ``(n_genes,)``, and components, ``(n_components, n_genes)``.
    reference
        The conditions under which all latents are decoded, one row.
    """

    def __init__(self, centre: np.ndarray, axes: np.ndarray, reference: pd.DataFrame) -> None:
        self.centre = np.asarray(centre, dtype=np.float32)
        self.axes = np.asarray(axes, dtype=np.float32)
        self.reference = reference

    @classmethod
    def fit(cls, model: Any, z: Tensor, frame: pd.DataFrame) -> Self:
        """Find components from the latents of training cells.

        Parameters
        ----------
        model
            The model.
        z
            Latents, ``(n, n_latent)``.
        frame
            Conditions of the same cells; the first of them is the reference.
        """
        reference = frame.iloc[[0]].reset_index(drop=True)
        chosen = np.linspace(0, len(z) - 1, min(len(z), _MOST_CELLS)).astype(int)
        x = np.concatenate(list(_decoded(model, z[chosen], reference)))
        pca = PCA(min(_COMPONENTS, *x.shape), random_state=0).fit(x)
        return cls(pca.mean_, pca.components_, reference)

    def coordinates(self, model: Any, z: Tensor) -> np.ndarray:
        """Return coordinates of latents, ``(n, n_components)``."""
        parts = [(x - self.centre) @ self.axes.T for x in _decoded(model, z, self.reference)]
        return np.concatenate(parts).astype(np.float64)

    def to_plain(self) -> dict[str, Any]:
        """Return what :meth:`from_plain` takes."""
        return {"centre": self.centre, "axes": self.axes, "reference": self.reference}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """Return what was taken apart."""
        return cls(plain["centre"], plain["axes"], plain["reference"])


def _decoded(model: Any, z: Tensor, reference: pd.DataFrame) -> Any:
    """Yield expected log expression block by block."""
    size = torch.full((1, 1), float(np.log(_LIBRARY_SIZE)))
    for _, rows, padded in blocks(len(z)):
        inputs = model._decoder_inputs(reference.iloc[np.zeros(len(padded), int)])
        allowed = model.module.autoencoder.allowed(z[padded].to(model.device))
        mean = model._distribution(allowed, size.expand(len(padded), 1), inputs).mean
        yield torch.log1p(mean[: rows.stop - rows.start]).cpu().numpy()
