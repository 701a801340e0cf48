"""Populations between the times at which cells were measured, and after the last of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from numbers import Real
from typing import Any, Self

import numpy as np
import ot
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from torch import nn

__all__ = [
    "OTCFM",
    "IndependentMidpoint",
    "McCann",
    "Mixture",
    "NextTime",
    "PreviousTime",
    "TrajectoryBaseline",
]

Array = NDArray[np.float64]

_MOST_CELLS = 2000


class TrajectoryBaseline(ABC):
    """Learns from cells at several times, and draws a population at any other.

    Attributes
    ----------
    times_
        The times that cells have, in rising order.
    """

    def fit(self, x: ArrayLike, time: ArrayLike) -> Self:
        """Learn from cells.

        Parameters
        ----------
        x
            Cells, ``(n_cells, n_features)``: components, latents or expression.
        time
            The time of each cell.

        Raises
        ------
        ValueError
            If lengths differ, values are not finite, or there is but one time.
        """
        cells = _dense(x)
        when = np.asarray(time, dtype=np.float64)
        if cells.ndim != 2 or when.shape != (len(cells),):
            raise ValueError(
                f"`x` has shape {cells.shape} and `time` {when.shape}; give cells by features and one "
                "time for each cell."
            )
        if not (np.isfinite(cells).all() and np.isfinite(when).all()):
            raise ValueError("`x` or `time` holds values that are not finite.")
        self.times_ = np.unique(when)
        if len(self.times_) < 2:
            raise ValueError(
                f"`time` is {self.times_.tolist()} throughout; two or more are needed."
            )
        self._cells = [cells[when == t] for t in self.times_]
        self._learn()
        return self

    def predict(self, time: float, n_cells: int = 1000, *, seed: int = 0) -> Array:
        """Draw cells of the population at a time, ``(n_cells, n_features)``.

        Parameters
        ----------
        time
            From the first time on. Past the last, what is known of the last interval is carried on.
        n_cells
            How many.
        seed
            Of all that is random.

        Raises
        ------
        ValueError
            If the time is before the first or not a number, or the number of cells is below 1.
        RuntimeError
            If nothing was learned.
        """
        if not hasattr(self, "times_"):
            raise RuntimeError("Nothing is learned yet. Call `fit` first.")
        if isinstance(n_cells, bool) or not isinstance(n_cells, int | np.integer) or n_cells < 1:
            raise ValueError(f"`n_cells={n_cells!r}` must be a whole number of 1 or more.")
        if not (isinstance(time, Real) and np.isfinite(time) and time >= self.times_[0]):
            raise ValueError(
                f"`time={time!r}` must be a number from {self.times_[0]:g}, the first time, on."
            )
        before = int(np.searchsorted(self.times_, time, side="right")) - 1
        before = min(before, len(self.times_) - 2)
        start, end = self.times_[before : before + 2]
        share = float((time - start) / (end - start))
        return self._draw(before, share, n_cells, np.random.default_rng(seed))

    def _learn(self) -> None:  # noqa: B027
        """Learn from the cells of each time, where there is more to it than keeping them."""

    @abstractmethod
    def _draw(self, before: int, share: float, n: int, rng: np.random.Generator) -> Array:
        """Draw cells at a share of the way from one time to the next, above 1 past the last."""


def _dense(x: Any) -> Array:
    return np.asarray(x.toarray() if sparse.issparse(x) else x, dtype=np.float64)


def _some(cells: Array, n: int, rng: np.random.Generator) -> Array:
    """Return n cells, each at most once where there are enough."""
    return cells[rng.choice(len(cells), n, replace=n > len(cells))]


class PreviousTime(TrajectoryBaseline):
    """Copies of the cells of the last time that was measured before; past the end, "copy last"."""

    def _draw(self, before: int, share: float, n: int, rng: np.random.Generator) -> Array:
        return _some(self._cells[before + (share >= 1)], n, rng)


class NextTime(TrajectoryBaseline):
    """Copies of the cells of the next time that is measured."""

    def _draw(self, before: int, share: float, n: int, rng: np.random.Generator) -> Array:
        return _some(self._cells[before + (share > 0)], n, rng)


class Mixture(TrajectoryBaseline):
    """Cells of both times, in shares by nearness: no cell is in between."""

    def _draw(self, before: int, share: float, n: int, rng: np.random.Generator) -> Array:
        n_late = int(round(min(share, 1.0) * n))
        early, late = self._cells[before : before + 2]
        return np.concatenate([_some(early, n - n_late, rng), _some(late, n_late, rng)])


class IndependentMidpoint(TrajectoryBaseline):
    """Points on the straight lines between cells of both times that are paired at random."""

    def _draw(self, before: int, share: float, n: int, rng: np.random.Generator) -> Array:
        early, late = self._cells[before : before + 2]
        return (1 - share) * _some(early, n, rng) + share * _some(late, n, rng)


class McCann(TrajectoryBaseline):
    """Points on the straight lines between cells of both times that optimal transport pairs.

    Exact transport of squared distances, on 2,000 cells of each time at most. Past the last time the
    lines are carried on, which is linear extrapolation.

    References
    ----------
    McCann (1997), *A convexity principle for interacting gases*, Advances in Mathematics 128:153;
    Schiebinger et al. (2019), Cell 176:928 (on cells).
    """

    def _learn(self) -> None:
        self._plans: dict[int, tuple[Array, Array, Array]] = {}

    def _plan(self, before: int) -> tuple[Array, Array, Array]:
        if before not in self._plans:
            rng = np.random.default_rng(before)
            early, late = (
                cells if len(cells) <= _MOST_CELLS else _some(cells, _MOST_CELLS, rng)
                for cells in self._cells[before : before + 2]
            )
            plan = ot.emd([], [], ot.dist(early, late), numItermax=1_000_000)
            self._plans[before] = early, late, plan / plan.sum()
        return self._plans[before]

    def _draw(self, before: int, share: float, n: int, rng: np.random.Generator) -> Array:
        early, late, plan = self._plan(before)
        first, second = np.divmod(rng.choice(plan.size, n, p=plan.ravel()), len(late))
        return (1 - share) * early[first] + share * late[second]


class OTCFM(TrajectoryBaseline):
    r"""A flow through all times, trained on minibatches that optimal transport pairs.

    A network learns the velocity :math:`(x_1 - x_0) / (t_1 - t_0)` at points between pairs of
    neighbouring times; cells of the time before follow it, in steps of Euler.

    Parameters
    ----------
    width, steps, batch_size, lr
        Width of its three hidden layers, optimiser steps, pairs of each interval in a minibatch, and
        Adam's learning rate.

    References
    ----------
    Tong et al. (2024), *Improving and generalizing flow-based generative models with minibatch
    optimal transport*, TMLR, algorithm 3.
    """

    def __init__(
        self, width: int = 64, steps: int = 2000, batch_size: int = 128, lr: float = 1e-3
    ) -> None:
        self.width = width
        self.steps = steps
        self.batch_size = batch_size
        self.lr = lr

    def _learn(self) -> None:
        everything = np.concatenate(self._cells)
        self._shift, spread = everything.mean(axis=0), everything.std(axis=0)
        self._scale = np.where(spread > 0, spread, 1.0)
        cells = [(c - self._shift) / self._scale for c in self._cells]
        n_dims = everything.shape[1]
        rng = np.random.default_rng(0)
        with torch.random.fork_rng([]), torch.enable_grad():
            torch.manual_seed(0)
            self._network = _velocity_network(n_dims, self.width)
            optimizer = torch.optim.Adam(self._network.parameters(), lr=self.lr)
            for _ in range(self.steps):
                x, velocity = (
                    torch.cat(part) for part in zip(*self._pairs(cells, rng), strict=True)
                )
                loss = (self._network(x) - velocity).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    def _pairs(self, cells: list[Array], rng: np.random.Generator) -> Any:
        """Yield points between pairs with their times, and their velocities, by interval."""
        unit = self.times_[-1] - self.times_[0]
        for before in range(len(cells) - 1):
            early, late = (_some(c, self.batch_size, rng) for c in cells[before : before + 2])
            late = late[ot.emd([], [], ot.dist(early, late)).argmax(axis=1)]
            length = (self.times_[before + 1] - self.times_[before]) / unit
            share = rng.random((len(early), 1))
            begin = (self.times_[before] - self.times_[0]) / unit
            x = np.concatenate([early + share * (late - early), begin + share * length], axis=1)
            yield torch.from_numpy(x).float(), torch.from_numpy((late - early) / length).float()

    @torch.no_grad()
    def _draw(self, before: int, share: float, n: int, rng: np.random.Generator) -> Array:
        unit = self.times_[-1] - self.times_[0]
        begin, end = (self.times_[before : before + 2] - self.times_[0]) / unit
        x = torch.from_numpy((_some(self._cells[before], n, rng) - self._shift) / self._scale)
        x = x.float()
        n_steps = 50
        length = share * (end - begin) / n_steps
        for step in range(n_steps):
            time = x.new_full((n, 1), begin + step * length)
            x = x + length * self._network(torch.cat([x, time], dim=1))
        return x.double().numpy() * self._scale + self._shift


def _velocity_network(n_dims: int, width: int) -> nn.Module:
    sizes = [n_dims + 1, width, width, width]
    layers: list[nn.Module] = []
    for n_in, n_out in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(n_in, n_out), nn.SELU()]
    return nn.Sequential(*layers, nn.Linear(width, n_dims))
