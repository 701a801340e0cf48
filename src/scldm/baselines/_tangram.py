"""Cells of a reference put onto the places of a tissue by Tangram."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ._translation import TranslationBaseline

__all__ = ["Tangram"]

Array = NDArray[np.float64]

_UNSEEDED = 0
_IN_ITS_PLACE = 2**31 - 1


class Tangram(TranslationBaseline):
    """Each cell of a reference is spread over places until the genes that both have agree there.

    Values are expression without logarithm, scaled to the same total in both. Learning only keeps the
    reference; the work is done for the places that are asked for, and grows with both. Draws are cells of
    the reference, each as often as it was put onto the place.

    Parameters
    ----------
    n_epochs
        Steps of its optimiser; its authors take 1,000.
    seed
        Of its start.

    Raises
    ------
    ImportError
        If its package is not installed.

    References
    ----------
    Biancalani et al. (2021), *Deep learning and alignment of spatially resolved single-cell
    transcriptomes with Tangram*, Nature Methods 18:1352.
    """

    def __init__(self, n_epochs: int = 500, *, seed: int = 0) -> None:
        self.n_epochs = n_epochs
        # the package takes this one for none
        self.seed = _IN_ITS_PLACE if seed == _UNSEEDED else seed
        self._mapper = _mapper()

    def _fit(self, x: Array, y: Array) -> None:
        self._given, self._asked = x, y

    def _predict(self, x: Array) -> Array:
        return self._mapped(x).T @ self._asked

    def _sample(self, x: Array, n_samples: int, rng: np.random.Generator) -> Array:
        share = self._mapped(x).cumsum(axis=0)
        at = rng.random((n_samples, len(x))) * share[-1]
        cells = [np.searchsorted(share[:, j], at[:, j]) for j in range(len(x))]
        return self._asked[np.stack(cells, axis=1)]

    def _mapped(self, x: Array) -> Array:
        """Return how much of each reference cell is put onto each place, ``(n_cells, n_places)``."""
        state = np.random.get_state()
        try:
            with torch.random.fork_rng():
                mapper = self._mapper(self._given, x, random_state=self.seed)
                found, _ = mapper.train(self.n_epochs, print_each=None)
        finally:
            np.random.set_state(state)
        return np.asarray(found, dtype=float)


def _mapper() -> Any:
    """Return the optimiser of Tangram's package."""
    try:
        from tangram.mapping_optimizer import Mapper
    except ImportError as error:
        raise ImportError(
            "`Tangram` needs its package: `pip install 'scldm-tools[tangram]'`."
        ) from error
    return Mapper
