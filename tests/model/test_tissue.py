"""Which cells lie around a place: against brute force, and what holes take away."""

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.spatial.distance import cdist

from scldm.model._plain import from_plain, to_plain
from scldm.model._spatial_training import Surroundings
from scldm.model._tissue import Places, Tissue, measured

K = 8


def scattered(n=300, n_dims=2, n_sections=2, seed=0):
    rng = np.random.default_rng(seed)
    return Places(rng.uniform(0, 20, (n, n_dims)), rng.integers(0, n_sections, n))


def grid(side=20, step=1.0, depths=None):
    x = step * np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2)
    if depths is not None:
        x = np.concatenate([np.column_stack([x, np.full(len(x), z)]) for z in depths])
    return Places(x.astype(float), np.zeros(len(x), dtype=int))


def brute_force(tissue, observed, asked, own=None):
    """The definition, place by place."""
    distance = cdist(asked.coordinates / tissue.spacing, observed.coordinates / tissue.spacing)
    found = np.full((len(asked), tissue.n_neighbors), -1)
    for i, row in enumerate(distance):
        cells = np.flatnonzero(observed.section == asked.section[i])
        if own is not None:
            cells = cells[cells != own[i]]
        cells = cells[np.argsort(row[cells], kind="stable")][: tissue.n_neighbors]
        if len(cells) and row[cells[0]] <= tissue.reach:
            found[i, : len(cells)] = cells
    return found


@pytest.mark.parametrize("n_dims", [2, 3])
@pytest.mark.parametrize("n_sections", [1, 2])
def test_nearest_cells_are_those_of_brute_force(n_dims, n_sections):
    observed = scattered(n_dims=n_dims, n_sections=n_sections)
    tissue = Tissue.fit(observed, K, 8.0)
    own = np.arange(len(observed))
    found = tissue.among(observed).around(observed, own)
    np.testing.assert_array_equal(found, brute_force(tissue, observed, observed, own))
    assert (observed.section[found] == observed.section[:, None]).all()
    assert not (found == own[:, None]).any()
    # without a cell of their own, places see the cell that stands there
    assert (tissue.among(observed).around(observed)[:, 0] == own).all()
    asked = scattered(50, n_dims, n_sections, seed=1)
    expected = brute_force(tissue, observed, asked)
    np.testing.assert_array_equal(tissue.among(observed).around(asked), expected)
    distance, nearest = tissue.among(observed).nearest(asked, 3)
    np.testing.assert_array_equal(nearest, expected[:, :3])
    steps = (observed.coordinates[nearest] - asked.coordinates[:, None]) / tissue.spacing
    np.testing.assert_allclose(distance, np.linalg.norm(steps, axis=2))


def test_more_places_than_are_looked_at_at_a_time(monkeypatch):
    observed = scattered()
    tissue = Tissue.fit(observed, K, 8.0)
    own = np.arange(len(observed))
    whole = tissue.among(observed).around(observed, own)
    monkeypatch.setattr("scldm.model._tissue._PLACES_AT_A_TIME", 37)
    np.testing.assert_array_equal(tissue.among(observed).around(observed, own), whole)


def test_no_places_have_no_neighbours():
    observed = scattered()
    tissue = Tissue.fit(observed, K, 8.0)
    none = observed.at(np.arange(0))
    assert tissue.among(observed).around(none).shape == (0, K)


@pytest.mark.parametrize("n_twins", [2, 12])
def test_a_cell_at_the_same_place_is_a_neighbour_and_the_cell_itself_is_not(n_twins):
    observed = scattered(n_sections=1)
    observed.coordinates[:n_twins] = observed.coordinates[0]
    tissue = Tissue.fit(observed, K, 8.0)
    own = np.arange(len(observed))
    found = tissue.among(observed).around(observed, own)
    assert not (found == own[:, None]).any()
    n = min(n_twins - 1, K)
    for i in range(n_twins):
        assert (found[i, :n] < n_twins).all()
        assert len(set(found[i])) == K
    rng = np.random.default_rng(0)
    drawn = tissue.among(observed).some_neighbourhoods(5, rng)
    assert not (drawn == own[:, None]).any()


def test_where_there_are_fewer_cells_the_rest_is_none():
    observed = Places(np.random.default_rng(0).uniform(size=(6, 2)), np.array([0, 0, 0, 0, 1, 1]))
    tissue = Tissue.fit(observed, K, 8.0)
    found = tissue.among(observed).around(observed, np.arange(6))
    assert (found >= 0).sum(axis=1).tolist() == [3, 3, 3, 3, 1, 1]
    assert (found[:4, :3] >= 0).all() and found[4:, 0].tolist() == [5, 4]
    # a section without cells
    asked = Places(np.zeros((2, 2)), np.array([0, 2]))
    assert (tissue.among(observed).around(asked) >= 0).sum(axis=1).tolist() == [4, 0]
    distance, nearest = tissue.among(observed).nearest(asked, 5)
    assert (np.isinf(distance) == (nearest < 0)).all()
    assert (nearest >= 0).sum(axis=1).tolist() == [4, 0]


def test_beyond_reach_nothing_is_looked_at():
    observed = grid(10, 2.0)
    tissue = Tissue.fit(observed, K, 3.0)
    x = np.array([[-5.9, 4.0], [-6.1, 4.0], [9.0, 23.9], [9.0, 24.3]])
    found = tissue.among(observed).around(Places(x, np.zeros(4, dtype=int)))
    assert (found >= 0).all(axis=1).tolist() == [True, False, True, False]
    assert (found < 0).all(axis=1).tolist() == [False, True, False, True]


@pytest.mark.parametrize("step", [0.25, 1.0, 300.0])
def test_spacing_of_a_grid_is_its_step(step):
    tissue = Tissue.fit(grid(12, step), K, 8.0)
    np.testing.assert_allclose(tissue.spacing, step)
    assert tissue.centre.shape == (1, 2)
    np.testing.assert_allclose(tissue.centre, 5.5 * step)
    # a discrete uniform distribution
    np.testing.assert_allclose(tissue.spread, step * np.sqrt((12**2 - 1) / 12))
    assert not tissue.stacked
    # twins, which lie at no distance, do not count
    observed = grid(12, step)
    twice = Places(*(np.concatenate([x, x]) for x in observed))
    np.testing.assert_allclose(Tissue.fit(twice, K, 8.0).spacing, step)
    # nor do cells at the same place of another section
    twice.section[len(observed) :] = 1
    twice.coordinates[len(observed) :] += step / 10
    np.testing.assert_allclose(Tissue.fit(twice, K, 8.0).spacing, step)


def test_one_spread_keeps_distances_in_the_plane():
    observed = scattered(n_sections=1)
    observed.coordinates[:, 0] *= 9
    tissue = Tissue.fit(observed, K, 8.0)
    assert tissue.spread[0] == tissue.spread[1] and tissue.spacing[0] == tissue.spacing[1]
    x = tissue.standardised(observed)
    assert x.dtype == np.float32
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-5)
    assert x.var(axis=0).mean() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("kind", ["plane", "stack"])
@pytest.mark.parametrize("unit", [1e-3, 7.3, 1e6])
def test_no_unit_and_no_origin_changes_a_neighbourhood(unit, kind):
    observed = scattered(n_sections=2)
    if kind == "stack":
        depth = np.arange(300) % 3 * 5.0
        observed = Places(np.column_stack([observed.coordinates, depth]), np.zeros(300, dtype=int))
    moved = Places(
        unit * (observed.coordinates + [3.0, -70.0, 11.0][: 2 + (kind == "stack")]),
        observed.section,
    )
    own = np.arange(300)
    found = []
    for places in (observed, moved):
        tissue = Tissue.fit(places, K, 8.0)
        assert tissue.stacked == (kind == "stack")
        around = tissue.among(places).around(places, own)
        drawn = tissue.among(places).some_neighbourhoods(3, np.random.default_rng(0))
        offsets = tissue.offsets(places.coordinates, places.coordinates[around])
        found.append((around, drawn, offsets, tissue.standardised(places)))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])
    np.testing.assert_allclose(found[0][2], found[1][2], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[0][3], found[1][3], rtol=1e-4, atol=1e-4)


def test_in_a_stack_one_section_is_one_step():
    depths = [0.0, 30.0, 60.0, 100.0]
    observed = grid(10, 2.0, depths)
    tissue = Tissue.fit(observed, 6, 8.0)
    assert tissue.stacked
    np.testing.assert_allclose(tissue.spacing, [2, 2, 30])
    assert tissue.spread[0] == tissue.spread[1]
    assert tissue.spread[2] == pytest.approx(np.std(depths))
    row = np.flatnonzero((observed.coordinates == [8, 8, 30]).all(axis=1))
    found = tissue.among(observed).around(observed.at(row), row)[0]
    steps = tissue.offsets(observed.coordinates[row], observed.coordinates[found][None])[0]
    expected = {(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)}
    assert {tuple(step) for step in steps.round(6)} == expected


def test_what_is_no_stack():
    # depths of single cells
    assert not Tissue.fit(scattered(n_dims=3), K, 8.0).stacked
    # one section only
    flat = grid(10, 1.0, [5.0])
    tissue = Tissue.fit(flat, K, 8.0)
    assert not tissue.stacked and (tissue.spread > 0).all() and (tissue.spacing > 0).all()


def separable(inside, outside):
    """Say whether a disc holds the one set of points and none of the other.

    A point x is in it where 2 c x - |x|^2 + d > 0, which is linear in c and d.
    """
    lifted = np.concatenate([np.column_stack([-2 * inside, -np.ones(len(inside))]),
                             np.column_stack([2 * outside, np.ones(len(outside))])])  # fmt: skip
    bound = np.concatenate([-np.square(inside).sum(axis=1), np.square(outside).sum(axis=1)])
    found = linprog(np.zeros(lifted.shape[1]), lifted, bound + 1e-9, bounds=(None, None))
    return found.status == 0


def test_half_of_neighbourhoods_are_whole_and_half_have_a_hole():
    observed = grid(26)
    tissue = Tissue.fit(observed, 24, 8.0)
    # in the middle, and no two distances alike
    observed = Places(
        observed.coordinates + np.random.default_rng(1).uniform(-0.05, 0.05, (676, 2)),
        observed.section,
    )
    row = np.argmin(np.square(observed.coordinates - 12.5).sum(axis=1), keepdims=True)
    place = observed.at(row)
    plain = tissue.among(observed).around(place, row)[0]
    drawn = tissue.among(observed).some_neighbourhoods(300, np.random.default_rng(0))
    assert drawn.shape == (300, len(observed), 24) and drawn.dtype == np.int32
    drawn = drawn[:, row]
    x, here = observed.coordinates, place.coordinates[0]
    distance = np.linalg.norm(x - here, axis=1)
    whole = (drawn[:, 0] == plain).all(axis=1)
    # the smallest holes have no cell in them
    assert 0.45 < whole.mean() < 0.62
    holes = drawn[~whole, 0]
    near = distance[holes]
    assert (near >= distance[plain] - 1e-12).all() and (np.diff(near, axis=1) >= 0).all()
    assert (near[:, 0] <= 8).all()
    # some holes reach far
    assert (near[:, 0] > 2).mean() > 0.1
    for chosen in holes[:80]:
        missing = np.setdiff1d(
            np.flatnonzero(distance <= distance[chosen].max()), [*chosen, row[0]]
        )
        assert len(missing)
        assert separable(np.vstack([x[missing], here]), x[chosen])
        assert cdist(x[missing], x[missing]).max() < 16


def test_holes_follow_the_source_and_differ_between_draws():
    observed = grid(20)
    tissue = Tissue.fit(observed, 24, 8.0)

    def draw(seed):
        rng = np.random.default_rng(seed)
        return tissue.among(observed).some_neighbourhoods(3, rng)

    np.testing.assert_array_equal(draw(0), draw(0))
    assert (draw(0) != draw(1)).any()
    assert (draw(0)[0] != draw(0)[1]).any()


def test_where_a_hole_leaves_nothing_near_nothing_is_looked_at():
    # two groups of cells, farther apart than the reach
    observed = grid(3)
    observed = Places(
        np.concatenate([observed.coordinates, observed.coordinates + 50]), np.zeros(18, dtype=int)
    )
    tissue = Tissue.fit(observed, 24, 6.0)
    drawn = tissue.among(observed).some_neighbourhoods(400, np.random.default_rng(0))[:, 4]
    none = (drawn < 0).all(axis=1)
    assert 0.05 < none.mean() < 0.5
    # those that are left are near, and 24 are not there
    assert (drawn[~none, 0] < 9).all()
    assert ((drawn >= 0).sum(axis=1) <= 17).all()


def test_a_quarter_of_a_stack_does_not_see_the_own_section():
    observed = grid(16, 2.0, [0.0, 30.0, 60.0])
    # holes are too small to take the section away
    tissue = Tissue.fit(observed, 24, 1.5)
    middle = np.flatnonzero(
        (observed.coordinates[:, 2] == 30)
        & (np.abs(observed.coordinates[:, :2] - 15) < 10).all(axis=1)
    )
    drawn = tissue.among(observed).some_neighbourhoods(10, np.random.default_rng(0))[:, middle]
    assert (drawn >= 0).all()
    own = (observed.coordinates[drawn, 2] == 30).any(axis=2)
    assert 1 - own.mean() == pytest.approx(0.25, abs=0.04)
    # in a plane the section always is its own
    plane = grid(16)
    finder = Tissue.fit(plane, 24, 1.5).among(plane)
    assert (finder.some_neighbourhoods(50, np.random.default_rng(0))[:, 136] >= 0).all()


@pytest.mark.parametrize("places", [scattered(), grid(8, 2.0, [0.0, 3.0])], ids=["plane", "stack"])
def test_there_and_back_as_plain_data(places):
    tissue = Tissue.fit(places, K, 8.0)
    again = Tissue.from_plain(from_plain(to_plain(tissue.to_plain())))
    assert again.stacked is tissue.stacked
    assert (again.n_neighbors, again.reach) == (K, 8.0)
    for name in ("centre", "spread", "spacing"):
        np.testing.assert_array_equal(getattr(again, name), getattr(tissue, name))
    np.testing.assert_array_equal(
        again.among(places).around(places), tissue.among(places).around(places)
    )


def test_the_network_sees_offsets_in_steps_and_features():
    observed = grid(10, 2.0, [0.0, 30.0])
    tissue = Tissue.fit(observed, 3, 8.0)
    features = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    known = Surroundings(tissue, tissue.among(observed), features)
    asked = np.array([[1.0, 0.0, 0.0], [8.0, 8.0, 15.0]])
    neighbours = np.array([[0, 11, -1], [144, -1, 199]])
    seen = known.encode(asked, neighbours).numpy().reshape(2, 3, 7)
    np.testing.assert_allclose(seen[0, :2, :3], [[-0.5, 0, 0], [0.5, 1, 0]])
    np.testing.assert_allclose(seen[1, [0, 2], :3], [[0, 0, 0.5], [5, 5, 0.5]])
    np.testing.assert_array_equal(seen[0, :2, 3:], features[[0, 11]])
    np.testing.assert_array_equal(seen[1, [0, 2], 3:], features[[144, 199]])
    assert np.isnan(seen[0, 2]).all() and np.isnan(seen[1, 1]).all()


# sections


def test_each_section_has_a_centre_of_its_own():
    observed = scattered(n_sections=2)
    tissue = Tissue.fit(observed, K, 8.0)
    for code in (0, 1):
        own = observed.coordinates[observed.section == code]
        np.testing.assert_allclose(tissue.centre[code], own.mean(axis=0))
        seen = tissue.standardised(observed)[observed.section == code]
        np.testing.assert_allclose(seen.mean(axis=0), 0, atol=1e-5)
    within = observed.coordinates - tissue.centre[observed.section]
    np.testing.assert_allclose(tissue.spread, np.sqrt(np.square(within).mean()))
    # a section without cells between others with them
    observed.section[observed.section == 1] = 3
    gaps = Tissue.fit(observed, K, 8.0)
    np.testing.assert_allclose(gaps.centre[[0, 3]], tissue.centre)
    assert np.isnan(gaps.centre[1:3]).all()


@pytest.mark.parametrize("n_dims", [2, 3])
def test_where_the_frame_of_a_section_begins_does_not_matter(n_dims):
    plain = scattered(n_dims=n_dims)
    moved = Places(plain.coordinates + 1e5 * plain.section[:, None], plain.section)
    found = []
    for places in (plain, moved):
        tissue = Tissue.fit(places, K, 8.0)
        finder = tissue.among(places)
        found.append(
            [
                tissue.standardised(places),
                tissue.spread,
                tissue.spacing,
                finder.around(places, np.arange(len(places))),
                finder.some_neighbourhoods(3, np.random.default_rng(0)),
            ]
        )
    for a, b in zip(*(x[:3] for x in found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    for a, b in zip(*(x[3:] for x in found), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_section_that_was_never_trained_on_has_no_place():
    tissue = Tissue.fit(scattered(n_sections=2), K, 8.0)
    asked = Places(np.ones((5, 2)), np.array([0, 1, 2, 7, -1]))
    seen = tissue.standardised(asked)
    assert np.isfinite(seen[:2]).all() and np.isnan(seen[2:]).all()
    # one among others that was not
    gaps = Tissue.fit(
        Places(np.random.default_rng(0).normal(size=(9, 2)), 2 * np.ones(9, int)), K, 8
    )
    assert np.isnan(gaps.standardised(asked)).any(axis=1).tolist() == [
        True,
        True,
        False,
        True,
        True,
    ]


# stacks


def in_depth(depths, n=400, seed=0):
    """Cells all over a square of twenty, each at one of some depths."""
    rng = np.random.default_rng(seed)
    x = np.column_stack([rng.uniform(0, 20, (n, 2)), rng.choice(depths, n)])
    return Places(x, np.zeros(n, dtype=int))


def test_depths_on_the_grid_of_a_microscope_are_no_stack():
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 150, (3000, 3))
    x[:, 2] = x[:, 2].round()
    places = Places(x, np.zeros(3000, dtype=int))
    assert len(np.unique(x[:, 2])) < 0.1 * len(x)
    tissue = Tissue.fit(places, K, 8.0)
    assert not tissue.stacked
    assert tissue.spacing[0] == tissue.spacing[2] and tissue.spread[0] == tissue.spread[2]
    # coarser steps than half a cell are sections, of these numbers at least
    for step, expected in ((0.5, False), (15.0, True)):
        other = places.coordinates.copy()
        other[:, 2] = step * np.round(rng.uniform(0, 150, 3000) / step)
        assert Tissue.fit(Places(other, places.section), K, 8.0).stacked is expected


def test_few_depths_that_lie_apart_are_a_stack():
    assert Tissue.fit(in_depth([0.0, 10.0, 20.0]), K, 8.0).stacked
    assert not Tissue.fit(in_depth([0.0, 0.1, 0.2]), K, 8.0).stacked
    # depths of many, though they lie apart
    many = in_depth(10.0 * np.arange(50))
    assert not Tissue.fit(many, K, 8.0).stacked
    # one that is apart among many that are close
    mixed = in_depth([0.0, 0.1, 0.2, 0.3, 50.0])
    assert not Tissue.fit(mixed, K, 8.0).stacked


@pytest.mark.parametrize("depths", [[0.0, 10.0, 20.0], [0.0, 0.1, 0.2]])
def test_what_is_said_of_a_stack_is_believed(depths):
    places = in_depth(depths)
    for stacked in (True, False):
        tissue = Tissue.fit(places, K, 8.0, stacked)
        assert tissue.stacked is stacked
        assert (tissue.spacing[2] == tissue.spacing[0]) == (not stacked)
        if stacked:
            assert tissue.spacing[2] == pytest.approx(depths[1])
            assert tissue.spread[2] == pytest.approx(places.coordinates[:, 2].std())


def test_measures_without_a_tissue():
    places = scattered()
    spread, spacing = measured(places)
    tissue = Tissue.fit(places, K, 8.0)
    np.testing.assert_array_equal(spread, tissue.spread)
    np.testing.assert_array_equal(spacing, tissue.spacing)
    # cells of other sections are no neighbours, nor is their distance a spread
    apart = Places(places.coordinates + 1e4 * places.section[:, None], places.section)
    np.testing.assert_allclose(measured(apart), (spread, spacing))
    one = Places(apart.coordinates, np.zeros(len(apart), dtype=int))
    assert measured(one)[0][0] > 1000 and measured(one)[1][0] < 2
    # by brute force
    distance = cdist(places.coordinates, places.coordinates)
    distance[(places.section[:, None] != places.section) | (distance == 0)] = np.inf
    np.testing.assert_allclose(spacing, np.median(distance.min(axis=1)))
    depths = [0.0, 30.0, 60.0, 100.0]
    stack = grid(10, 2.0, depths)
    assert measured(stack)[1].tolist() == [2, 2, 30]
    np.testing.assert_allclose(measured(stack, stacked=False)[1], 2)
    # where there is none, it is one
    point = Places(np.ones((5, 3)), np.zeros(5, dtype=int))
    np.testing.assert_array_equal(measured(point), np.ones((2, 3)))
