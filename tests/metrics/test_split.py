import numpy as np
import pytest

from scldm.metrics._split import split_held_out, split_one


def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("sizes", "n"),
    [
        ((100, 400, 90, 1000), 90),
        ((100, 400, 500, 1000), 100),
        ((100, 150, 500, 1000), 75),
        ((100, 400, 500, 50), 50),
    ],
)
def test_all_sides_have_the_size_of_the_smallest(sizes, n):
    split = split_held_out(*sizes, rng())
    assert len(split.test) == len(split.floor) == n
    assert len(split.projection) == sizes[1] - n


def test_no_training_cell_is_used_twice():
    split = split_held_out(100, 400, 500, 1000, rng())
    rows = np.concatenate([split.floor, split.projection])
    assert sorted(rows) == list(range(400))


def test_one_matrix_gives_three_disjoint_parts():
    split = split_one(101, 500, 1000, rng())
    assert [len(part) for part in split] == [33, 33, 35]
    assert sorted(np.concatenate(split)) == list(range(101))


def test_errors():
    with pytest.raises(ValueError, match="With 100 test, 38 training and 50 generated cells, 19"):
        split_held_out(100, 38, 50, 1000, rng())
    with pytest.raises(ValueError, match="With 59 real and 500 generated cells, 19"):
        split_one(59, 500, 1000, rng())
