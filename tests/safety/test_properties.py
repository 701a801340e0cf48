"""What holds for any values: of conditions, of generated cells and of metrics."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from scldm import metrics
from scldm.model._array_conditions import Coordinates, Vector
from scldm.model._conditions import Category, Dose, Number
from scldm.model._perturbations import PerturbationSet

LABELS = ["control", "A", "B", "A+B", "CD4+"]
number = st.floats(-1e4, 1e4)
CONDITIONS = {
    "category": (
        Category("cell_type", "type", ["T", "NK", "B"]),
        st.sampled_from(["T", "NK", "B"]),
    ),
    "batch of numbers": (Category("batch", "donor", [0, 1, 7]), st.sampled_from([0, 1, 7])),
    "number": (Number("time", "day", 2.0, 3.0, "float64"), number),
    "dose": (Dose("dose", "uM", 1.0, 2.0, "float64", unit=0.1), st.floats(0, 1e4)),
    "perturbation": (PerturbationSet("guide", LABELS, "control"), st.sampled_from(LABELS)),
    "place": (
        Coordinates("spatial", "X_place", [0.0, 5.0], [9.0, 9.0], [0.1, 0.1]),
        st.tuples(number, number),
    ),
    "vector": (
        Vector("source", "X_from", [0.0] * 3, [1.0, 2.0, 3.0]),
        st.tuples(number, number, number),
    ),
}


def some(values, *, at_least=1):
    return st.lists(values, min_size=at_least, max_size=12)


@pytest.mark.parametrize(("condition", "values"), CONDITIONS.values(), ids=CONDITIONS)
@given(data=st.data())
def test_conditions_come_back_as_they_were_given(condition, values, data):
    frame = condition.parse(condition.name, data.draw(some(values)))
    adata = ad.AnnData(obs=pd.DataFrame(index=[f"cell_{i}" for i in range(len(frame))]))
    condition.write(frame, adata)
    back = condition.read(adata).reset_index(drop=True)
    for name in frame:
        assert back[name].tolist() == frame[name].tolist()


@pytest.mark.parametrize(("condition", "values"), CONDITIONS.values(), ids=CONDITIONS)
@given(data=st.data())
def test_no_legal_value_is_encoded_as_none_or_as_another(condition, values, data):
    given_values = data.draw(some(values))
    frame = condition.parse(condition.name, given_values)
    encoded = condition.encode(frame)
    assert encoded.dtype == np.float32 and np.isfinite(encoded).all()
    none = frame.copy()
    none[:] = np.nan
    assert np.isnan(condition.encode(none)).any(axis=1).all()
    for i, value in enumerate(given_values):
        for j in range(i):
            far = not isinstance(value, str) and np.allclose(value, given_values[j], atol=1e-2)
            assert far or value == given_values[j] or (encoded[i] != encoded[j]).any()


@pytest.mark.parametrize(("condition", "values"), CONDITIONS.values(), ids=CONDITIONS)
@given(data=st.data())
def test_each_cell_is_encoded_by_itself(condition, values, data):
    frame = condition.parse(condition.name, data.draw(some(values)))
    order = data.draw(st.permutations(range(len(frame))))
    shuffled = condition.encode(frame.iloc[order].reset_index(drop=True))
    np.testing.assert_array_equal(shuffled, condition.encode(frame)[order])


@given(
    n=st.integers(1, 600),
    seed=st.integers(0, 2**63 - 1),
    batch_size=st.integers(1, 2000),
    asked=st.fixed_dictionaries(
        {},
        optional={
            "cell_type": st.sampled_from(["B", "T", "NK", None]),
            "batch": st.sampled_from([0, 1]),
            "perturbation": st.sampled_from(["control", "KLF1", "KLF1+TP53"]),
            "time": st.floats(-10, 10),
            "age": st.floats(0, 100),
        },
    ),
)
@pytest.mark.filterwarnings("ignore:No training cell has")
def test_generated_cells(model, n, seed, batch_size, asked):
    cells = model.generate(n, seed=seed, steps=1, sampler="euler", **asked)
    again = model.generate(n, seed=seed, steps=1, sampler="euler", batch_size=batch_size, **asked)
    assert (cells.X != again.X).nnz == 0
    pd.testing.assert_frame_equal(cells.obs, again.obs)
    assert cells.shape == (n, 10) and cells.obs_names.is_unique
    assert np.isfinite(cells.X.data).all() and (cells.X.data >= 0).all()
    assert (cells.X.data == np.round(cells.X.data)).all()
    open_ones = {"type"} if asked.get("cell_type", "") is None else set()
    assert set(cells.obs) == {
        "type",
        "donor",
        "guide",
        "concentration",
        "day",
        "sex",
        "age",
        "size",
    }
    assert not cells.obs.drop(columns=list(open_ones)).isna().any(axis=None)
    assert np.isfinite(cells.obsm["X_scldm"]).all()


def samples(n_min=3):
    """Two samples of points of two to four dimensions."""
    values = st.floats(-100, 100, width=32)
    return st.integers(2, 4).flatmap(
        lambda d: st.tuples(
            *[
                st.integers(n_min, 12).flatmap(
                    lambda n: hnp.arrays(np.float64, (n, d), elements=values)
                )
            ]
            * 2
        )
    )


def counts(n_min=3):
    whole = st.integers(0, 50)
    one = st.integers(n_min, 10).flatmap(
        lambda n: hnp.arrays(np.float64, (n, 4), elements=whole).map(lambda x: x + np.eye(n, 4))
    )
    return st.tuples(one, one)


def mmd2(x, y):
    return metrics.mmd2(x, y, bandwidths=[1.0, 10.0])


DISTANCES = {
    "wasserstein2": metrics.wasserstein2,
    "sliced_wasserstein2": metrics.sliced_wasserstein2,
    "frechet_distance": metrics.frechet_distance,
}
UNBIASED = {"energy_distance": metrics.energy_distance, "mmd2": mmd2}
OF_COUNTS = {
    "gene_w1": metrics.gene_w1,
    "gene_zeros_rmse": metrics.gene_zeros_rmse,
    "library_size_w1": metrics.library_size_w1,
    "cell_zeros_w1": metrics.cell_zeros_w1,
}
ANY = [
    *((f, samples()) for f in [*DISTANCES.values(), *UNBIASED.values()]),
    *((f, counts()) for f in OF_COUNTS.values()),
]
NAMES = [*DISTANCES, *UNBIASED, *OF_COUNTS]


@pytest.mark.parametrize(("metric", "pairs"), ANY, ids=NAMES)
@given(data=st.data())
def test_metrics_do_not_depend_on_the_order_of_cells_or_samples(metric, pairs, data):
    x, y = data.draw(pairs)
    value = metric(x, y)
    assert np.isfinite(value)
    order = data.draw(st.permutations(range(len(x))))
    assert metric(x[order], y) == pytest.approx(value, rel=1e-6, abs=1e-6 * (1 + np.abs(x).max()))
    # rounding of roots of squares, which is larger near zero
    assert metric(y, x) == pytest.approx(value, rel=1e-4, abs=1e-4 * (1 + np.abs(x).max()))


@pytest.mark.parametrize(
    ("metric", "pairs", "biased"),
    [(f, pairs, name not in UNBIASED) for name, (f, pairs) in zip(NAMES, ANY, strict=True)],
    ids=NAMES,
)
@given(data=st.data())
def test_metrics_are_zero_for_a_sample_and_itself(metric, pairs, biased, data):
    """Those without bias leave out pairs of a cell with itself, and lie at zero or below."""
    x, y = data.draw(pairs)
    slack = 1e-4 * (1 + np.abs(x).max() + np.abs(y).max())
    if biased:
        assert metric(x, y) >= -slack
        assert metric(x, x.copy()) == pytest.approx(0, abs=slack)
    else:
        assert metric(x, x.copy()) <= slack


MOVED = [*DISTANCES.values(), metrics.energy_distance]


@pytest.mark.parametrize("metric", MOVED, ids=[*DISTANCES, "energy_distance"])
@given(pair=samples(), steps=st.lists(st.floats(0.1, 10), min_size=2, max_size=4))
def test_metrics_grow_with_a_shift(metric, pair, steps):
    x = pair[0]
    values = [metric(x, x + at) for at in [0.0, *np.cumsum(steps)]]
    assert (np.diff(values) > -1e-4 * (1 + np.abs(values).max())).all()
    assert values[-1] > values[0]


@pytest.mark.parametrize("metric", list(UNBIASED.values()), ids=UNBIASED)
@given(seed=st.integers(0, 10_000))
def test_unbiased_metrics_are_zero_in_the_mean(metric, seed):
    rng = np.random.default_rng(seed)
    values = [metric(rng.normal(size=(8, 2)), rng.normal(size=(8, 2))) for _ in range(200)]
    assert abs(np.mean(values)) < 4.5 * np.std(values) / np.sqrt(200)
