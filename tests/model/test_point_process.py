"""Points in a polygon that keep their distance, against closed forms."""

import numpy as np
import pytest
from matplotlib.path import Path
from scipy.spatial.distance import pdist

from scldm.model._point_process import area_of, inside, spread_out

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
    rng = np.random.default_rng(0)
    spacing = np.array([1.0, 1, 10])[:n_dims]
    draw = rng.uniform(0, 10, (2000, n_dims)) * spacing
    kept = spread_out(draw, 5000, 1.5, spacing)
    assert pdist(kept / spacing).min() > 1.5
    # candidates all, in their order, and each that is left out is too near to one that is kept
    rows = [np.flatnonzero((draw == x).all(axis=1))[0] for x in kept]
    assert rows == sorted(rows) and rows[0] == 0
    gap = np.linalg.norm((draw[:, None] - kept) / spacing, axis=2).min(axis=1)
    assert (gap <= 1.5).all()
    few = spread_out(draw, 7, 1.5, spacing)
    np.testing.assert_array_equal(few, kept[:7])


def test_without_a_distance_all_are_kept_but_twins():
    draw = np.random.default_rng(0).uniform(size=(30, 2))
    np.testing.assert_array_equal(spread_out(draw, 30, 0.0, np.ones(2)), draw)
    assert len(spread_out(np.zeros((4, 2)), 4, 0.0, np.ones(2))) == 1
    assert spread_out(np.zeros((0, 2)), 4, 1.0, np.ones(2)).shape == (0, 2)
