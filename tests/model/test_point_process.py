"""Points in a polygon that keep their distance, against closed forms."""

import numpy as np
import pytest
from matplotlib.path import Path
from scipy.spatial.distance import pdist

from scldm.model._point_process import (
    area_of,
    area_of_a_cell,
    inside,
    least_distance,
    spread_out,
)

SQUARE = np.array([[0.0, 0], [2, 0], [2, 2], [0, 2]])
L = np.array([[0.0, 0], [3, 0], [3, 1], [1, 1], [1, 3], [0, 3]])


def regular(n, radius=2.0, centre=(1.0, -3.0)):
    angle = 2 * np.pi * np.arange(n) / n
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1) + centre


@pytest.mark.parametrize(
    ("corners", "expected"),
    [
        (SQUARE, 4),
        (SQUARE[::-1], 4),
        (L, 5),
        (np.array([[0.0, 0], [4, 0], [1, 3]]), 6),
        (np.array([[0.0, 0], [1, 1], [2, 2]]), 0),
        *((regular(n), n / 2 * 4 * np.sin(2 * np.pi / n)) for n in (3, 6, 50)),
    ],
)
def test_area_is_that_of_closed_forms(corners, expected):
    assert area_of(corners) == pytest.approx(expected)
    assert area_of(corners + 1000) == pytest.approx(expected)
    assert area_of(np.roll(corners, 2, axis=0)) == pytest.approx(expected)
    assert area_of(3 * corners) == pytest.approx(9 * expected)


def test_inside_is_inside():
    assert inside(SQUARE, np.array([[1, 1], [3, 1], [-1, 1], [1, 3], [1, -1]])).tolist() == [
        True,
        False,
        False,
        False,
        False,
    ]
    # the hollow of an L, and level with its corners
    assert inside(L, np.array([[2, 2], [0.5, 2], [2, 0.5], [-1, 1], [5, 1]])).tolist() == [
        False,
        True,
        True,
        False,
        False,
    ]
    # the middle of a star is crossed twice
    star = regular(5)[[0, 2, 4, 1, 3]]
    assert inside(star, np.array([[1.0, -3], [2.5, -3], [1.0, 3]])).tolist() == [
        False,
        True,
        False,
    ]


@pytest.mark.parametrize("corners", [SQUARE, L, regular(3), regular(7)])
def test_inside_agrees_with_another_implementation(corners):
    x = np.random.default_rng(0).uniform(corners.min(0) - 1, corners.max(0) + 1, (5000, 2))
    ours = inside(corners, x)
    np.testing.assert_array_equal(ours, Path(corners).contains_points(x))
    np.testing.assert_array_equal(ours, inside(corners[::-1], x))
    np.testing.assert_array_equal(ours, inside(np.roll(corners, 1, axis=0), x))
    box = np.prod(np.ptp(corners, axis=0) + 2)
    assert ours.mean() * box == pytest.approx(area_of(corners), rel=0.1)


@pytest.mark.parametrize("n_dims", [2, 3])
def test_places_keep_their_distance(n_dims):
    draw = np.random.default_rng(0).uniform(0, 10, (2000, n_dims))
    kept = spread_out(lambda: draw, 5000, 1.5)
    assert pdist(kept).min() > 1.5
    # candidates all, in their order, and each that is left out is too near to one that is kept
    rows = [np.flatnonzero((draw == x).all(axis=1))[0] for x in kept]
    assert rows == sorted(rows) and rows[0] == 0
    gap = np.linalg.norm(draw[:, None] - kept, axis=2).min(axis=1)
    assert (gap <= 1.5).all()
    few = spread_out(lambda: draw, 7, 1.5)
    np.testing.assert_array_equal(few, kept[:7])


def test_candidates_are_drawn_until_there_are_enough():
    rng = np.random.default_rng(0)
    drawn = []

    def draw():
        drawn.append(rng.uniform(0, 10, (20, 2)))
        return drawn[-1]

    kept = spread_out(draw, 40, 0.5)
    assert kept.shape == (40, 2) and pdist(kept).min() > 0.5
    assert 2 < len(drawn) < 20
    candidates = np.concatenate(drawn)
    rows = [np.flatnonzero((candidates == x).all(axis=1))[0] for x in kept]
    assert rows == sorted(rows)
    # what finds no room is given up
    drawn.clear()
    crowded = spread_out(draw, 10_000, 2.0)
    assert len(crowded) < 40 and pdist(crowded).min() > 2 and len(drawn) <= 41


def test_without_a_distance_all_are_kept_but_twins():
    draw = np.random.default_rng(0).uniform(size=(30, 2))
    np.testing.assert_array_equal(spread_out(lambda: draw, 30, 0.0), draw)
    assert len(spread_out(lambda: np.zeros((4, 2)), 4, 0.0)) == 1
    assert spread_out(lambda: np.zeros((0, 2)), 4, 1.0).shape == (0, 2)


def test_least_distance_is_that_of_one_in_twenty():
    # pairs at distances of their own, far from one another
    apart = np.arange(1, 101) / 100
    x = np.concatenate([np.column_stack([10.0 * np.arange(100), d * np.ones(100)])
                        for d in (np.zeros(100), apart)])  # fmt: skip
    assert least_distance(x) == pytest.approx(np.quantile(np.repeat(apart, 2), 0.05))
    # twins say nothing
    assert least_distance(np.concatenate([x, x])) == pytest.approx(least_distance(x))
    assert least_distance(7 * x) == pytest.approx(7 * least_distance(x))


@pytest.mark.parametrize("kind", ["square", "hexagonal"])
@pytest.mark.parametrize("step", [0.1, 30.0])
def test_area_of_a_cell_is_that_of_its_lattice(kind, step):
    i, j = (x.ravel() for x in np.meshgrid(np.arange(30), np.arange(30)))
    x = np.column_stack([i, j]).astype(float)
    if kind == "hexagonal":
        x = np.column_stack([i + 0.5 * (j % 2), np.sqrt(3) / 2 * j])
    expected = step**2 * (1 if kind == "square" else np.sqrt(3) / 2)
    assert area_of_a_cell(step * x) == pytest.approx(expected, rel=1e-6)
    assert area_of_a_cell(np.concatenate([step * x, step * x])) == pytest.approx(
        expected, rel=1e-6
    )
    # a little off the lattice, and a hole in it
    rng = np.random.default_rng(0)
    off = step * (x + rng.uniform(-0.2, 0.2, x.shape))
    off = off[np.linalg.norm(off - off.mean(axis=0), axis=1) > 5 * step]
    assert area_of_a_cell(off) == pytest.approx(expected, rel=0.05)
