import numpy as np
import pytest

from scldm.metrics import median_heuristic, mmd2
from scldm.metrics._mmd import mmd2_statistic


def kernel_mean(shift: float, variance: float, width: float, d: int) -> float:
    """E k(X, Y) of Gaussians; ``variance`` is that of one column of X - Y."""
    total = width**2 + variance
    return (width**2 / total) ** (d / 2) * np.exp(-d * shift**2 / (2 * total))


def test_equals_the_sum_over_pairs():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 3)), rng.normal(size=(4, 3))
    widths = [0.7, 2.0]

    def k(a, b):
        return np.mean([np.exp(-((a - b) ** 2).sum() / (2 * h**2)) for h in widths])

    within = [
        np.mean([k(a[i], a[j]) for i in range(len(a)) for j in range(len(a)) if i != j])
        for a in (x, y)
    ]
    between = np.mean([k(a, b) for a in x for b in y])
    assert mmd2(x, y, bandwidths=widths) == pytest.approx(sum(within) - 2 * between)


def test_gaussians():
    rng = np.random.default_rng(0)
    d, width = 3, 1.5
    x, y = rng.normal(size=(3000, d)), 0.5 + 2 * rng.normal(size=(3000, d))
    truth = (
        kernel_mean(0, 2, width, d)
        + kernel_mean(0, 8, width, d)
        - 2 * kernel_mean(0.5, 5, width, d)
    )
    assert mmd2(x, y, bandwidths=[width]) == pytest.approx(truth, rel=0.05)


def test_zero_in_the_mean_for_one_distribution():
    rng = np.random.default_rng(0)
    values = [mmd2(*rng.normal(size=(2, 20, 5)), bandwidths=[2.0]) for _ in range(400)]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 4 * error
    # The biased estimate, with pairs of a cell with itself, would be seen.
    biased = 2 * (1 - kernel_mean(0, 2, 2.0, 5)) / 20
    assert biased > 10 * error


def test_the_reference_alone_sets_the_kernel():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 3)), 5 * rng.normal(size=(60, 3))
    widths = [scale * median_heuristic(x) for scale in (0.25, 0.5, 1, 2, 4)]
    assert mmd2(x, y) == mmd2(x, y, bandwidths=widths)
    assert mmd2(x, y) != mmd2(y, x)


def test_median_heuristic_is_the_median_of_the_distances():
    assert median_heuristic([[0.0], [1.0], [10.0]]) == 9.0


def test_errors():
    with pytest.raises(ValueError, match="pairs of cells are equal"):
        mmd2(np.zeros((5, 2)), np.ones((5, 2)))
    for widths in ([], [1.0, 0.0]):
        with pytest.raises(ValueError, match="`bandwidths="):
            mmd2(np.zeros((5, 2)), np.ones((5, 2)), bandwidths=widths)


def test_weighted_pairs_are_of_different_cells(multiplicities):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, 3)), rng.normal(size=(7, 3))
    w, v = multiplicities(9, 3, 1) / 9, multiplicities(7, 3, 2) / 7

    def mean(a, b, p, q, skip):
        pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if not (skip and i == j)]
        kernel = [np.exp(-((a[i] - b[j]) ** 2).sum() / (2 * 1.3**2)) for i, j in pairs]
        weights = [p[i] * q[j] for i, j in pairs]
        return np.dot(kernel, weights) / np.sum(weights)

    expected = [
        mean(x, x, p, p, True) + mean(y, y, q, q, True) - 2 * mean(x, y, p, q, False)
        for p, q in zip(w, v, strict=True)
    ]
    np.testing.assert_allclose(mmd2_statistic(x, y, [1.3])(w, v), expected)


def test_at_most_two():
    x = np.array([[0.0], [1e-6], [-1e-6]])
    assert mmd2(x, x + 100, bandwidths=[1.0]) == pytest.approx(2)
