import numpy as np
import pytest
from scipy.sparse import csr_matrix

from scldm.metrics import Projection


@pytest.fixture
def counts():
    return np.random.default_rng(0).poisson(2.0, size=(50, 20)).astype(np.float32)


def test_log_normalize_is_its_equation(counts):
    projection = Projection(3).fit(counts)
    depth = counts.sum(axis=1, dtype=np.float64)
    expected = np.log1p(np.median(depth) * counts / depth[:, None])
    result = projection.log_normalize(csr_matrix(counts))
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_transform_is_the_projection_on_singular_vectors(counts):
    projection = Projection(5).fit(counts)
    logs = projection.log_normalize(counts).astype(np.float64)
    centre = logs.mean(axis=0)
    _, _, right = np.linalg.svd(logs - centre)
    other = np.random.default_rng(1).poisson(3.0, size=(7, 20))
    expected = (projection.log_normalize(other) - centre) @ right[:5].T
    result = projection.transform(csr_matrix(other))
    assert result.dtype == np.float32
    # A singular vector is known up to its sign.
    np.testing.assert_allclose(np.abs(result), np.abs(expected), rtol=1e-3, atol=1e-4)


def test_nothing_is_learned_from_cells_that_are_transformed(counts):
    projection = Projection(5).fit(counts[:30])
    before = projection.transform(counts[:30])
    projection.transform(10 * counts)
    projection.log_normalize(10 * counts)
    assert projection.target_sum_ == np.median(counts[:30].sum(axis=1))
    np.testing.assert_array_equal(projection.transform(counts[:30]), before)


def test_depth_is_divided_out(counts):
    projection = Projection(5).fit(counts)
    np.testing.assert_allclose(
        projection.transform(3 * counts), projection.transform(counts), atol=1e-5
    )


def test_target_sum_can_be_given(counts):
    result = Projection(3, target_sum=1e4).fit(counts).log_normalize(counts)
    np.testing.assert_allclose(np.expm1(result).sum(axis=1), 1e4, rtol=1e-5)


def test_an_empty_cell_stays_zero(counts):
    counts[0] = 0
    projection = Projection(3).fit(counts)
    assert not projection.log_normalize(counts)[0].any()
    assert np.isfinite(projection.transform(counts)).all()


def test_the_same_seed_gives_the_same_components(counts):
    first, second = (Projection(5, seed=3).fit(counts).transform(counts) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_errors(counts):
    with pytest.raises(ValueError, match="`n_components=20` needs more cells and more genes"):
        Projection(20).fit(counts)
    with pytest.raises(ValueError, match="All cells are empty"):
        Projection(3).fit(np.zeros((10, 10)))
    with pytest.raises(ValueError, match="negative"):
        Projection(3).fit(counts - 1)
    with pytest.raises(ValueError, match="not finite"):
        Projection(3).fit(np.where(counts == 0, np.nan, counts))
    with pytest.raises(ValueError, match="2|dimensions"):
        Projection(3).fit(counts[0])
