import numpy as np
import pytest
from scipy.sparse import csr_matrix

from scldm.metrics import cell_zeros, cell_zeros_w1, library_size_w1, library_sizes

COUNTS = np.array([[0, 1, 2, 0], [3, 0, 0, 0], [1, 1, 1, 1]])


def test_numbers_of_a_cell():
    for counts in (COUNTS, csr_matrix(COUNTS)):
        np.testing.assert_array_equal(library_sizes(counts), [3, 3, 4])
        np.testing.assert_array_equal(cell_zeros(counts), [0.5, 0.75, 0.0])


def test_stored_zeros_are_zeros():
    stored = csr_matrix(COUNTS)
    stored.data[0] = 0
    assert cell_zeros(stored)[0] == 0.75


def test_library_size_w1_is_the_missing_depth():
    deeper = COUNTS + np.array([2, 0, 0, 0])
    assert library_size_w1(COUNTS, deeper) == pytest.approx(2)
    assert library_size_w1(COUNTS, COUNTS[::-1]) == 0


def test_cell_zeros_w1_by_hand():
    assert cell_zeros_w1(COUNTS, np.ones((5, 4))) == pytest.approx((0.5 + 0.75 + 0.0) / 3)


def test_equals_the_difference_of_sorted_values():
    rng = np.random.default_rng(0)
    x, y = rng.poisson(2.0, size=(90, 30)), rng.poisson(3.0, size=(90, 30))
    expected = np.abs(np.sort(x.sum(axis=1)) - np.sort(y.sum(axis=1))).mean()
    assert library_size_w1(x, y) == pytest.approx(expected)
