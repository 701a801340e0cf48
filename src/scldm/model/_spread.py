"""How far predictions of a modality are spread, set by cells that were not trained on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scldm.metrics.translation import coverage

from ._blocks import resolved_seed
from ._choices import positive
from ._joint_generation import joint_sampler
from ._modalities import FEATURES, Joined
from ._tasks import Task, TasksMixin, dense, direction

__all__ = ["SpreadMixin"]

Array = NDArray[np.float64]

_LEVELS = (0.5, 0.9)
_TRIED = (0.8, 1.0, 1.2)
_NARROWEST, _WIDEST = 0.75, 1.25
_INERTIA, _AS_GOOD_AS_KNOWN = 0.05, 50
"""Weight of staying at 1, and the cells at which it counts twice."""
_VALUES_AT_A_TIME = 2**24


class SpreadMixin(TasksMixin):
    """``calibrate``."""

    def calibrate(
        self,
        data: Any = None,
        *,
        n_cells: int = 200,
        n_samples: int = 16,
        seed: int | None = 0,
    ) -> pd.DataFrame:
        r"""Set how far predictions are spread, so that their intervals hold nearer to what they should.

        A flow that is fitted by least squares sees conditional distributions a little blurred, and its
        predictions are then spread too far; trained for long, it is too sure of itself. Predictions of a
        modality start from noise of :math:`N(0, \tau^2)`. For each set of modalities that can be given,
        cells that were not trained on are predicted with three values of :math:`\tau`, lines are fitted to
        the shares :math:`c_l(\tau)` of measured counts in central 50 % and 90 % intervals, means over
        features, and

        .. math:: \tau = \arg\min_\tau \sum_l (c_l(\tau) - l)^2 + \lambda (\tau - 1)^2

        is taken, between 0.75 and 1.25, where that brings intervals nearer when they are drawn once more,
        else 1. The second term, which counts more with fewer cells, keeps it near 1 where the noise of
        counting leaves it little say.

        :meth:`translate` and :meth:`impute` use it with rules that add no noise of their own, and without
        guidance; :meth:`generate` does not, as it has no modality given. :meth:`train_diffusion` does this at
        its end, on validation cells, where there are any.

        Parameters
        ----------
        data
            Cells that were not trained on, as :meth:`translate` takes them; ``None`` takes the validation
            cells.
        n_cells
            How many of them are looked at, at most.
        n_samples
            Draws for each of them.
        seed
            Of the choice of cells and of the draws.

        Returns
        -------
        A row for each direction, such as ``"rna to protein"``: ``spread``, the factor; ``n_cells``;
        ``coverage_50`` and ``coverage_90`` without it, and with it ``calibrated_50`` and
        ``calibrated_90``, NaN where there is no cell to look at.

        Raises
        ------
        ValueError
            If a number is not one of things, or no such cell has two modalities.
        RuntimeError
            If the model is not trained, or has not the data that it was trained on and none are given.
        """
        self._require("diffusion")
        n_cells, n_samples = positive("n_cells", n_cells), positive("n_samples", n_samples)
        seed = resolved_seed(seed)
        table, aside = self._cells_aside(data)
        order = np.random.default_rng(seed).permutation(aside)
        has = {
            name: table.present(name)
            if name in table.adata.uns[FEATURES]
            else np.zeros(table.adata.n_obs, dtype=bool)
            for name in self.modalities
        }
        rows = {}
        for sources, target in self._directions():
            has_all = np.all([has[name] for name in (*sources, target)], axis=0)
            cells = np.sort(order[has_all[order]][:n_cells])
            spread, before, after = 1.0, np.full(2, np.nan), np.full(2, np.nan)
            if len(cells):
                own = Joined(table.adata[cells].copy(), table.missing)
                spread, before, after = self._spread(own, sources, target, n_samples, seed)
            rows[direction(sources, target)] = (spread, len(cells), *before, *after)
        names = ["spread", "n_cells", *_named("coverage"), *_named("calibrated")]
        found = pd.DataFrame.from_dict(rows, orient="index", columns=names)
        if data is not None and not found["n_cells"].any():
            raise ValueError(
                "`data` have no cell with two modalities, one to predict of the other."
            )
        self.spreads_ = {str(name): float(factor) for name, factor in found["spread"].items()}
        return found

    def _cells_aside(self, data: Any) -> tuple[Joined, np.ndarray]:
        """Return cells, and which of them were not trained on."""
        if data is not None:
            table = self._joined(data, self.modalities)
            return table, np.arange(table.adata.n_obs)
        table = Joined(self._adata_manager_or_raise().adata)
        parts = [self.train_indices, self.validation_indices, self.test_indices]
        if sum(0 if part is None else len(part) for part in parts) != table.adata.n_obs:
            raise RuntimeError(
                "The model has other data than those it was trained on. Give `data=`, cells that it was "
                "not trained on."
            )
        aside = np.asarray(self.validation_indices, dtype=np.int64)
        if not len(aside):
            raise ValueError(
                "There are no validation cells. Give `data=`, cells that the model was not trained on."
            )
        return table, aside

    def _directions(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Yield each set of modalities that can be given, and one that can be asked."""
        for target in self.modalities:
            others = [name for name in self.modalities if name != target]
            sizes = range(1, len(others) + 1)
            for sources in chain.from_iterable(combinations(others, n) for n in sizes):
                yield sources, target

    def _spread(
        self, cells: Joined, sources: tuple[str, ...], target: str, n_samples: int, seed: int
    ) -> tuple[float, Array, Array]:
        """Return the factor of a direction, and shares in intervals without and with it."""
        task = self._task(cells, sources, [target], {})

        def inside(factor: float) -> Array:
            return self._inside(task, direction(sources, target), target, n_samples, seed, factor)

        as_is = inside(1.0)
        if self.module.autoencoder[target].likelihood.largest <= 1:
            # of what is there or not, any mean has intervals that hold what they should
            return 1.0, as_is, as_is
        shares = {factor: as_is if factor == 1 else inside(factor) for factor in _TRIED}
        factor = best_factor(shares, len(task.frame))
        then = inside(factor)
        if _off(then) >= _off(as_is):
            return 1.0, as_is, as_is
        return factor, as_is, then

    def _inside(
        self, task: Task, name: str, target: str, n_samples: int, seed: int, factor: float
    ) -> Array:
        """Return the shares of measured counts in intervals of predictions that are spread so far."""
        counts = task.cells.adata.obsm[target]
        rule, steps = joint_sampler("heun", None)
        n, n_features = counts.shape
        total = np.zeros(len(_LEVELS))
        step = max(1, _VALUES_AT_A_TIME // (n_samples * n_features))
        for start in range(0, n, step):
            own = np.arange(start, min(start + step, n))
            rows = np.repeat(own, n_samples)
            frame, latents_of = self._sampling(
                task, rows, seed + start, rule, steps, spreads={name: factor}
            )
            drawn, _ = self._counts_of(frame, latents_of, [target], seed + start, 1024)
            draws = dense(drawn[target]).reshape(len(own), n_samples, -1).swapaxes(0, 1)
            true = dense(counts[own]).astype(draws.dtype)
            total += [
                coverage(true, draws, level, seed=start).mean() * len(own) for level in _LEVELS
            ]
        return total / n


def best_factor(shares: dict[float, Array], n_cells: int) -> float:
    """Return the factor that brings the shares in intervals nearest to their levels.

    Parameters
    ----------
    shares
        By factor, 1 among them, the shares in the intervals of each level.
    n_cells
        How many cells they are the shares of.
    """
    factors, found = np.array(list(shares)), np.stack(list(shares.values()))
    off = factors - factors.mean()
    slope = off @ found / np.square(off).sum()
    inertia = _INERTIA * (1 + _AS_GOOD_AS_KNOWN / n_cells)
    change = slope @ (np.array(_LEVELS) - shares[1.0]) / (np.square(slope).sum() + inertia)
    return float(np.clip(1 + change, _NARROWEST, _WIDEST))


def _off(shares: Array) -> float:
    return float(np.square(shares - np.array(_LEVELS)).sum())


def _named(what: str) -> list[str]:
    return [f"{what}_{round(100 * level)}" for level in _LEVELS]
