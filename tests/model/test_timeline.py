"""Time points, pairs of cells, and how well cells keep time."""

import numpy as np
import pytest

from scldm.diffusion import EntropicTransport, ExactTransport, UnbalancedTransport
from scldm.model._timeline import (
    Population,
    Timeline,
    clock_shares,
    coupled,
    fitted_clock,
)


def population(n=40, times=(0, 1, 2), groups=1, seed=0, step=3.0):
    rng = np.random.default_rng(seed)
    knot = np.repeat(np.arange(len(times)), n)
    group = np.tile(np.arange(groups), len(knot) // groups + 1)[: len(knot)]
    x = np.stack([step * knot, 10.0 * group], axis=1) + 0.2 * rng.standard_normal((len(knot), 2))
    return Population(x, knot, group, np.full(len(knot), np.nan))


def test_few_times_are_knots_and_many_are_quantiles():
    assert Timeline.fit(np.repeat([0.0, 1.0, 3.0], 6)).knots.tolist() == [0, 1, 3]
    times = np.random.default_rng(0).gamma(2.0, size=500)
    line = Timeline.fit(times)
    assert len(line.knots) == 10
    assert (np.bincount(line.of(times)) > 20).all()


def test_cells_belong_to_the_nearest_knot():
    line = Timeline(np.array([0.0, 1.0, 3.0]))
    assert line.of(np.array([-5, 0.4, 0.6, 1.9, 2.1, 9])).tolist() == [0, 0, 1, 1, 2, 2]


def test_times_that_cannot_be_learned_from_are_refused():
    with pytest.raises(ValueError, match="two or more times"):
        Timeline.fit(np.zeros(20))
    with pytest.raises(ValueError, match="less than 5 cells"):
        Timeline.fit(np.r_[np.zeros(20), 1.0])
    with pytest.raises(ValueError, match="`time_points`"):
        Timeline.fit(np.repeat([0.0, 1.0], 10), [0.0])
    with pytest.raises(ValueError, match="`time_points=.*list of numbers"):
        Timeline.fit(np.repeat([0.0, 1.0], 10), ["early", "late"])


def test_mostly_one_time_is_two_knots():
    times = np.r_[np.zeros(500), np.linspace(1, 2, 30)]
    assert len(Timeline.fit(times).knots) >= 2


def test_pairs_join_neighbouring_knots_within_groups():
    cells = population(groups=2)
    line = Timeline(np.array([0.0, 1.0, 2.0]))
    pairs, interval, growth = coupled(
        cells, line, EntropicTransport(), 200, np.random.default_rng(0)
    )
    first, second = cells.knot[pairs].T
    assert (second == first + 1).all() and (interval == first).all()
    assert (cells.group[pairs[:, 0]] == cells.group[pairs[:, 1]]).all()
    assert np.isnan(growth).all()
    # every cell comes up about as often as any other
    assert np.bincount(pairs[:, 0][interval == 0]).max() < 20


def test_growth_that_is_given_is_kept_and_what_is_not_is_estimated():
    cells = population(n=100)
    line = Timeline(np.array([0.0, 2.0, 4.0]))
    fast = np.arange(len(cells.x)) % 2 == 0
    cells.growth[:] = np.where(fast, 0.3, 0.0)
    growth = coupled(cells, line, ExactTransport(), 50, np.random.default_rng(0))[2]
    earlier = cells.knot < 2
    gap = growth[earlier & fast].mean() - growth[earlier & ~fast].mean()
    assert gap == pytest.approx(0.6, abs=1e-3)
    assert np.isnan(growth[~earlier]).all()
    cells.growth[:] = np.nan
    growth = coupled(cells, line, UnbalancedTransport(), 50, np.random.default_rng(0))[2]
    assert np.isfinite(growth[earlier]).all()


def test_large_populations_are_coupled_in_rounds(monkeypatch):
    monkeypatch.setattr("scldm.model._timeline._MOST_CELLS", 15)
    cells = population(n=40)
    line = Timeline(np.array([0.0, 1.0, 2.0]))
    pairs, _, growth = coupled(cells, line, UnbalancedTransport(), 600, np.random.default_rng(0))
    assert len(np.unique(pairs[:, 0])) > 60
    assert np.isfinite(growth[cells.knot < 2]).all()


def test_groups_without_a_neighbour_are_an_error():
    cells = population(times=(0, 1))
    cells.group[:] = cells.knot
    with pytest.raises(ValueError, match="Couple within fewer conditions"):
        coupled(
            cells, Timeline(np.array([0.0, 1.0])), ExactTransport(), 9, np.random.default_rng(0)
        )


def test_growth_is_known_between_groups_where_it_is_given():
    cells = population(n=100, groups=2)
    line = Timeline(np.array([0.0, 1.0, 2.0]))
    cells.growth[:] = np.where(cells.group == 1, 0.5, 0.0)
    growth = coupled(cells, line, ExactTransport(), 50, np.random.default_rng(0))[2]
    earlier = cells.knot < 2
    gap = growth[earlier & (cells.group == 1)].mean() - growth[earlier & (cells.group == 0)].mean()
    assert gap == pytest.approx(0.5, abs=1e-6)
    assert np.exp(growth[cells.knot == 0]).mean() == pytest.approx(1)


def test_groups_that_end_are_named():
    cells = population(groups=2)
    cells.group[cells.knot == 2] = 0
    line = Timeline(np.array([0.0, 1.0, 2.0]))
    with pytest.warns(UserWarning, match="20 cells of time 1 have none like them"):
        coupled(cells, line, ExactTransport(), 50, np.random.default_rng(0))


def test_clock_shares_have_the_mean_and_are_monotone():
    q = (np.arange(2000) + 0.5) / 2000
    for clock in (4.0, 64.0, np.inf):
        early, late = (clock_shares(s, clock, q) for s in (0.3, 0.6))
        assert early.mean() == pytest.approx(0.3, abs=1e-3)
        assert (late >= early).all()
    assert clock_shares(0.3, 4.0, q).std() > clock_shares(0.3, 64.0, q).std()
    ends = clock_shares(np.repeat([0.0, 1.0], 1000), 4.0, q)
    assert ends.tolist() == [0.0] * 1000 + [1.0] * 1000


def test_the_clock_fits_how_well_cells_keep_time():
    rng = np.random.default_rng(0)
    line = Timeline(np.array([0.0, 1.0, 2.0]))
    for on_time, expected in ((True, 64.0), (False, 4.0)):
        cells = population(n=300)
        middle = cells.knot == 1
        gone = np.full(300, 0.5) if on_time else rng.beta(1, 1, 300)
        cells.x[middle, 0] = 6 * gone + 0.2 * rng.standard_normal(300)
        assert fitted_clock(cells, line, ExactTransport(), rng) == expected


def test_without_an_inner_knot_the_clock_is_the_usual_one():
    cells = population(times=(0, 1))
    line = Timeline(np.array([0.0, 1.0]))
    assert fitted_clock(cells, line, ExactTransport(), np.random.default_rng(0)) == 4.0
