"""The times of a trajectory, and pairs of cells of neighbouring times."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import beta as beta_distribution

from scldm._warnings import warn
from scldm.diffusion import Transport
from scldm.metrics import energy_distance

from ._fields import shortened

__all__ = [
    "CLOCKS",
    "Population",
    "Timeline",
    "clock_shares",
    "coupled",
    "fitted_clock",
    "grouped",
]

_MOST_KNOTS, _QUANTILES = 20, 10
_FEWEST_CELLS = 5
_MOST_CELLS = 2000
_MOST_ROUNDS = 25
_DRAWN = 1000

CLOCKS = (4.0, 16.0, 64.0)
"""How well cells may keep time, see :func:`clock_shares`."""
_USUAL_CLOCK = 4.0


@dataclass(frozen=True)
class Timeline:
    """The knots of time between which trajectories are learned.

    Parameters
    ----------
    knots
        Times in rising order, ``(k,)``. A cell belongs to the nearest.
    """

    knots: np.ndarray

    @classmethod
    def fit(cls, times: np.ndarray, given: Sequence[float] | None = None) -> Timeline:
        """Take the times that cells have; where they are many, means of ten quantiles.

        Parameters
        ----------
        times
            The time of each cell.
        given
            Knots that the user chose.

        Raises
        ------
        ValueError
            If there is but one time, or a knot has less than five cells.
        """
        try:
            knots = np.unique(times if given is None else np.asarray(given, dtype=float))
        except (TypeError, ValueError):
            raise ValueError(f"`time_points={given!r}` must be a list of numbers.") from None
        if given is None and len(knots) > _MOST_KNOTS:
            edges = np.unique(np.quantile(times, np.linspace(0, 1, _QUANTILES + 1)))
            part = np.clip(np.searchsorted(edges, times, side="right") - 1, 0, len(edges) - 2)
            knots = np.unique([times[part == i].mean() for i in np.unique(part)])
            # where most cells share one time, quantiles fall together
            knots = knots if len(knots) > 1 else np.array([times.min(), times.max()])
        if len(knots) < 2 or not np.isfinite(knots).all():
            name = "`time_points`" if given is not None else "The registered time"
            raise ValueError(
                f"{name} has {shortened(knots.tolist())}; a trajectory needs two or more times."
            )
        line = cls(knots)
        cells = np.bincount(line.of(times), minlength=len(knots))
        if (cells < _FEWEST_CELLS).any():
            few = {
                float(t): int(n) for t, n in zip(knots, cells, strict=True) if n < _FEWEST_CELLS
            }
            raise ValueError(
                f"Times {few} (with their numbers of training cells) have less than "
                f"{_FEWEST_CELLS} cells to learn from. Leave them out or join them by "
                "`time_points`."
            )
        return line

    def of(self, times: np.ndarray) -> np.ndarray:
        """Return the knot of each time, by number."""
        return np.searchsorted((self.knots[1:] + self.knots[:-1]) / 2, times, side="right")


@dataclass
class Population:
    """Cells of a trajectory.

    Parameters
    ----------
    x
        Where they are in expression, ``(n, d)``, see :class:`ExpressionSpace`.
    knot
        The knot of each.
    group
        Cells are paired within groups only.
    growth
        Growth rates per unit of time; NaN where they are not known.
    """

    x: np.ndarray
    knot: np.ndarray
    group: np.ndarray
    growth: np.ndarray


def coupled(
    cells: Population, line: Timeline, rule: Transport, n_pairs: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw pairs of cells of neighbouring knots.

    Every cell of the earlier knot comes up as often as any other: its descendants are what the
    plan says of it, however many they are.

    Parameters
    ----------
    cells, line, rule
        The cells, their times, and how to couple them.
    n_pairs
        Pairs of each interval.
    rng
        Source of all that is random.

    Returns
    -------
    Places of the pairs, ``(n, 2)``; the interval of each; and the log growth of each cell over the
    interval that follows its knot, relative to the mean of the knot, NaN where unknown.
    """
    pairs, intervals = [], []
    log_growth = np.full(len(cells.x), np.nan)
    for before, length in enumerate(np.diff(line.knots)):
        # scatter the pairs of an interval over groups by their cells
        early = np.flatnonzero(cells.knot == before)
        later = np.flatnonzero(cells.knot == before + 1)
        shared = np.intersect1d(cells.group[early], cells.group[later])
        if missing := int((~np.isin(cells.group[early], shared)).sum()):
            warn(
                f"{missing} cells of time {line.knots[before]:g} have none like them, in what cells are "
                f"coupled `within`, at time {line.knots[before + 1]:g}; what becomes of them is guessed "
                "from others."
            )
        early = early[np.isin(cells.group[early], shared)]
        if not len(early):
            raise ValueError(
                f"No group of cells has both time {line.knots[before]:g} and time "
                f"{line.knots[before + 1]:g}. Couple within fewer conditions."
            )
        for group in shared:
            sides = [side[cells.group[side] == group] for side in (early, later)]
            n = max(1, round(n_pairs * len(sides[0]) / len(early)))
            drawn, grown = _pairs_of(cells, sides, length, rule, n, rng)
            pairs.append(drawn)
            intervals.append(np.full(len(drawn), before))
            log_growth[sides[0]] = grown
        own = log_growth[cells.knot == before]
        if np.isfinite(own).any():
            log_growth[cells.knot == before] = own - np.log(np.nanmean(np.exp(own)))
    return np.concatenate(pairs), np.concatenate(intervals), log_growth


def _pairs_of(
    cells: Population,
    sides: Sequence[np.ndarray],
    length: float,
    rule: Transport,
    n_pairs: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw pairs of one interval and group, in rounds of at most 2,000 cells a side.

    Every cell comes up in one round, but for what is more than 25 rounds.
    """
    rounds = min(_MOST_ROUNDS, -(-max(map(len, sides)) // _MOST_CELLS))
    parts = [_dealt(side, rounds, rng) for side in sides]
    pairs, log_growth = [], np.full(len(cells.x), np.nan)
    for early, later in zip(*parts, strict=True):
        growth = cells.growth[early] * length
        known = np.isfinite(growth).all()
        mass = np.exp(growth - growth.max()) if known else None
        plan = rule.plan(cells.x[early], cells.x[later], mass)
        total = plan.sum(axis=1)
        if known or rule.estimates_growth:
            own = np.log(np.maximum(total, 1e-12) / total.mean())
            # how groups grow against each other only growth that is given says
            log_growth[early] = own + (np.log(np.mean(np.exp(growth))) if known else 0.0)
        rows = rng.choice(np.flatnonzero(total > 0), -(-n_pairs // rounds))
        steps = plan[rows].cumsum(axis=1)
        at = (rng.random((len(rows), 1)) * steps[:, -1:] >= steps).sum(axis=1)
        pairs.append(np.stack([early[rows], later[np.minimum(at, len(later) - 1)]], axis=1))
    return np.concatenate(pairs), log_growth[sides[0]]


def _dealt(side: np.ndarray, rounds: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Deal cells out to rounds, at most 2,000 to each; all of a small side to every one."""
    if len(side) <= _MOST_CELLS:
        return [side] * rounds
    hands = np.array_split(rng.permutation(side), rounds)
    return [hand[:_MOST_CELLS] for hand in hands]


def clock_shares(share: np.ndarray | float, clock: float, quantile: np.ndarray) -> np.ndarray:
    r"""Return how far cells have come at a share of the time between two knots.

    Cells do not keep the same time. The way that one has gone is drawn from
    :math:`\mathrm{Beta}(\kappa s, \kappa (1 - s))`, whose mean is the share s: at small
    :math:`\kappa` cells have either gone all of it or not begun, at large ones all are on time.

    Parameters
    ----------
    share
        Share of the time, 0 to 1.
    clock
        The clock :math:`\kappa`; infinite where all are on time.
    quantile
        Where in that distribution each cell is; a cell that keeps its quantile never turns back.
    """
    share = np.broadcast_to(share, np.shape(quantile))
    if np.isinf(clock):
        return share.copy()
    inside = np.clip(share, 1e-6, 1 - 1e-6)
    gone = beta_distribution.ppf(quantile, clock * inside, clock * (1 - inside))
    return np.where(share <= 0, 0.0, np.where(share >= 1, 1.0, gone))


def fitted_clock(
    cells: Population, line: Timeline, rule: Transport, rng: np.random.Generator
) -> float:
    """Choose the clock by leaving out each inner knot in turn and predicting it from its neighbours.

    Where there is none, 4.

    Parameters
    ----------
    cells, line, rule, rng
        As in :func:`coupled`.
    """
    errors = []
    for knot in range(1, len(line.knots) - 1):
        outer = np.isin(cells.knot, (knot - 1, knot + 1))
        truth = cells.x[cells.knot == knot]
        truth = truth[rng.permutation(len(truth))[:_DRAWN]]
        around = Population(
            cells.x[outer], np.where(cells.knot[outer] < knot, 0, 1), cells.group[outer],
            cells.growth[outer],
        )  # fmt: skip
        wide = Timeline(line.knots[[knot - 1, knot + 1]])
        if (
            len(np.intersect1d(around.group[around.knot == 0], around.group[around.knot == 1]))
            == 0
        ):
            continue
        with warnings.catch_warnings():
            # whom groups leave without a future was said of the knots themselves
            warnings.simplefilter("ignore")
            pairs = coupled(around, wide, rule, _DRAWN, rng)[0]
        start, end = around.x[pairs[:, 0]], around.x[pairs[:, 1]]
        share = (line.knots[knot] - wide.knots[0]) / np.ptp(wide.knots)
        quantile = rng.random(len(pairs))
        row = []
        for clock in CLOCKS:
            gone = clock_shares(share, clock, quantile)[:, None]
            row.append(energy_distance((1 - gone) * start + gone * end, truth))
        errors.append(row)
    return CLOCKS[int(np.mean(errors, axis=0).argmin())] if errors else _USUAL_CLOCK


def grouped(frame: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
    """Return the group of each cell, one for all where there are no columns."""
    if not columns:
        return np.zeros(len(frame), dtype=int)
    return frame.groupby(list(columns), observed=True, dropna=False).ngroup().to_numpy()
