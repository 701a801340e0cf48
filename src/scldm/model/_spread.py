"""How far predictions of a modality are spread, set by cells that were not trained on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, combinations
from typing import NamedTuple

import numpy as np
import pandas as pd

from scldm.metrics.translation import coverage

from ._blocks import resolved_seed
from ._choices import positive
from ._joint_generation import joint_sampler
from ._modalities import Joined
from ._tasks import TasksMixin, dense, direction

__all__ = ["SpreadMixin"]

_LEVELS = (0.5, 0.9)
_STEP, _FLATTEST = 0.1, 0.1
_NARROWEST, _WIDEST = 0.75, 1.25
_AS_GOOD_AS_KNOWN = 50
"""Cells that count as much as the belief that nothing need be changed."""


class _Interval(NamedTuple):
    """Shares of values in central intervals, by level."""

    inside: tuple[float, ...]

    @property
    def excess(self) -> float:
        """By how much intervals are too wide, summed over levels; below 0 where they are too narrow."""
        return sum(self.inside) - sum(_LEVELS)


class SpreadMixin(TasksMixin):
    """``calibrate``."""

    def calibrate(
        self, *, n_cells: int = 256, n_samples: int = 20, seed: int | None = 0
    ) -> pd.DataFrame:
        r"""Set how far predictions are spread, so that their intervals hold what they should.

        A flow that is fitted by least squares sees conditional distributions a little blurred, and its
        predictions are then spread too far. Predictions of a modality start from noise of
        :math:`N(0, \tau^2)`, and :math:`\tau` is chosen, for each set of modalities that can be given, so
        that central 50 % and 90 % intervals of validation cells hold, in sum, as many of the measured
        counts as they should. With few cells it stays near 1, and it is 1 where the noise of counting
        leaves it no say. :meth:`translate` and :meth:`impute` use it; :meth:`generate` does not, as it has
        no modality given.

        :meth:`train_diffusion` does this at its end.

        Parameters
        ----------
        n_cells
            How many validation cells are looked at, at most.
        n_samples
            Draws for each of them.
        seed
            Of the choice of cells and of the draws.

        Returns
        -------
        A row for each direction, such as ``"rna to protein"``: ``spread``, the factor; ``n_cells``;
        ``coverage_50`` and ``coverage_90`` of predictions without it.

        Raises
        ------
        ValueError
            If a number is not one of things.
        RuntimeError
            If the model is not trained or has no data.
        """
        self._require("diffusion")
        n_cells, n_samples = positive("n_cells", n_cells), positive("n_samples", n_samples)
        seed = resolved_seed(seed)
        table = Joined(self._adata_manager_or_raise().adata)
        rng = np.random.default_rng(seed)
        left_out = rng.permutation(np.asarray(self.validation_indices, dtype=np.int64))
        spreads, rows = {}, {}
        for sources, target in self._directions():
            has_all = np.all([table.present(name) for name in (*sources, target)], axis=0)
            cells = np.sort(left_out[has_all[left_out]][:n_cells])
            if not len(cells):
                continue
            as_is = self._interval(cells, sources, target, n_samples, seed, 1.0)
            narrower = self._interval(cells, sources, target, n_samples, seed, 1.0 - _STEP)
            name = direction(sources, target)
            spreads[name] = _factor(as_is, narrower, len(cells))
            inside = dict(zip(("coverage_50", "coverage_90"), as_is.inside, strict=True))
            rows[name] = {"spread": spreads[name], "n_cells": len(cells), **inside}
        self.spreads_ = spreads
        return pd.DataFrame.from_dict(rows, orient="index")

    def _directions(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Yield each set of modalities that can be given, and one that can be asked."""
        for target in self.modalities:
            others = [name for name in self.modalities if name != target]
            sizes = range(1, len(others) + 1)
            for sources in chain.from_iterable(combinations(others, n) for n in sizes):
                yield sources, target

    def _interval(
        self,
        cells: np.ndarray,
        sources: tuple[str, ...],
        target: str,
        n_samples: int,
        seed: int,
        factor: float,
    ) -> _Interval:
        """Return how many measured counts lie in intervals of predictions that are spread so far."""
        joined = Joined(self._adata_manager_or_raise().adata[cells])
        task = self._task(joined, sources, [target], {})
        rule, steps = joint_sampler("heun", None)
        rows = np.repeat(np.arange(len(cells)), n_samples)
        spreads = {direction(sources, target): factor}
        frame, latents_of = self._sampling(task, rows, seed, rule, steps, spreads=spreads)
        drawn, _ = self._counts_of(frame, latents_of, [target], seed, len(rows))
        draws = dense(drawn[target]).reshape(len(cells), n_samples, -1).swapaxes(0, 1)
        true = dense(joined.adata.obsm[target])
        return _Interval(
            tuple(float(coverage(true, draws, level, seed=seed).mean()) for level in _LEVELS)
        )


def _factor(as_is: _Interval, narrower: _Interval, n_cells: int) -> float:
    """Return the factor at which intervals hold what they should, on a line through two of them."""
    slope = (as_is.excess - narrower.excess) / _STEP
    if slope < _FLATTEST:
        return 1.0
    certainty = n_cells / (n_cells + _AS_GOOD_AS_KNOWN)
    return float(np.clip(1 - certainty * as_is.excess / slope, _NARROWEST, _WIDEST))
