"""Baselines in space on tissue with a known pattern."""

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsRegressor

from scldm.baselines import (
    CoordinateRidge,
    GaussianKernel,
    GaussianProcess,
    InverseDistance,
    NearestPlace,
    NearestSection,
    NeighbourMean,
    RegionMean,
    SectionBlend,
)
from scldm.metrics import spatial, translation

PLAIN = [
    NearestPlace,
    NeighbourMean,
    InverseDistance,
    GaussianKernel,
    GaussianProcess,
    CoordinateRidge,
]
STACKED = [NearestSection, SectionBlend]
WITH_DRAWS_OF_CELLS = [NearestPlace, NeighbourMean, InverseDistance, GaussianKernel, RegionMean]


def pattern(where):
    return np.stack(
        [np.sin(3 * where[:, 0]), np.cos(2 * where[:, 1]), where[:, 0] * where[:, 1]], axis=1
    )


@pytest.fixture(scope="module")
def tissue():
    """Three genes with a pattern and one without, on a square of side 2."""
    rng = np.random.default_rng(0)
    where = rng.uniform(-1, 1, size=(400, 2))
    mean = np.hstack([pattern(where), np.zeros((400, 1))])
    x = 2 + mean + 0.3 * rng.normal(size=mean.shape)
    return where[:300], x[:300], where[300:], x[300:], 2 + mean[300:]


@pytest.fixture(scope="module")
def fitted(tissue):
    where, x, *_ = tissue
    labels = np.where(where[:, 0] > 0, "right", "left")
    return {
        kind: kind().fit(where, x, labels=labels if kind is RegionMean else None)
        for kind in [*PLAIN, RegionMean]
    }


def regions(where):
    return np.where(where[:, 0] > 0, "right", "left")


@pytest.mark.parametrize("kind", [*PLAIN, RegionMean])
def test_predictions_and_draws_agree(kind, fitted, tissue):
    new = tissue[2]
    mean = fitted[kind].predict(new, labels=regions(new))
    draws = fitted[kind].sample(new, 300, seed=1, labels=regions(new))
    assert mean.shape == (100, 4) and draws.shape == (300, 100, 4)
    spread = draws.std(axis=0) / np.sqrt(300)
    assert (np.abs(draws.mean(axis=0) - mean) < 5 * spread + 0.05).all()
    again = fitted[kind].sample(new, 300, seed=1, labels=regions(new))
    np.testing.assert_array_equal(draws, again)
    if kind is not NearestPlace:
        other = fitted[kind].sample(new, 300, seed=2, labels=regions(new))
        assert not np.array_equal(draws, other)


@pytest.mark.parametrize("kind", WITH_DRAWS_OF_CELLS)
def test_draws_are_measured_places(kind, fitted, tissue):
    _, x, new, *_ = tissue
    draws = fitted[kind].sample(new, 5, labels=regions(new)).reshape(-1, 4)
    assert set(map(tuple, draws)) <= set(map(tuple, x))


@pytest.mark.parametrize("kind", [GaussianKernel, GaussianProcess, CoordinateRidge])
def test_smooth_ones_find_the_pattern_and_how_sure_they_are(kind, fitted, tissue):
    *_, new, true, mean = tissue
    predicted = fitted[kind].predict(new)
    assert translation.rmse(mean, predicted) < 0.14
    assert translation.rmse(mean, predicted) < 0.6 * translation.rmse(
        mean, fitted[NearestPlace].predict(new)
    )
    draws = fitted[kind].sample(new, 200)
    assert translation.coverage(true, draws, 0.9).mean() == pytest.approx(0.9, abs=0.06)
    row = spatial.compare(true, predicted, new, samples=draws)
    assert row["variance_ratio"] == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("kind", [GaussianProcess, CoordinateRidge])
def test_a_gene_without_a_pattern_is_predicted_by_its_mean(kind, fitted, tissue):
    where, x, new, *_ = tissue
    assert np.abs(fitted[kind].predict(new)[:, 3] - x[:, 3].mean()).max() < 0.1


@pytest.mark.parametrize("kind", PLAIN)
def test_order_and_shift_do_not_matter(kind, fitted, tissue):
    where, x, new, *_ = tissue
    order = np.random.default_rng(3).permutation(len(x))
    expected = fitted[kind].predict(new)
    shifted = kind().fit(where + [70, -5], x).predict(new + [70, -5])
    np.testing.assert_allclose(shifted, expected, atol=1e-4)
    reordered = kind().fit(where[order], x[order]).predict(new)
    np.testing.assert_allclose(reordered, expected, atol=1e-4)
    backwards = fitted[kind].predict(new[::-1])[::-1]
    np.testing.assert_allclose(backwards, expected, atol=1e-9)


@pytest.mark.parametrize("kind", [NearestPlace, NeighbourMean, InverseDistance, GaussianKernel])
def test_rotation_does_not_matter(kind, fitted, tissue):
    where, x, new, *_ = tissue
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    np.testing.assert_allclose(
        kind().fit(where @ turn, x).predict(new @ turn), fitted[kind].predict(new)
    )


@pytest.mark.parametrize(
    ("baseline", "reference"),
    [
        (NearestPlace(), KNeighborsRegressor(1)),
        (NeighbourMean(7), KNeighborsRegressor(7)),
        (InverseDistance(4, 1.0), KNeighborsRegressor(4, weights="distance")),
        (InverseDistance(), KNeighborsRegressor(3, weights="distance")),
        (InverseDistance(3, 2.0), KNeighborsRegressor(3, weights=lambda d: d**-2.0)),
        (
            GaussianKernel(0.2),
            KNeighborsRegressor(300, weights=lambda d: np.exp(-(d**2) / (2 * 0.2**2))),
        ),
    ],
)
def test_weighted_means_are_those_of_scikit_learn(baseline, reference, tissue):
    where, x, new, *_ = tissue
    expected = reference.fit(where, x).predict(new)
    np.testing.assert_allclose(baseline.fit(where, x).predict(new), expected)


def test_draws_come_by_weight():
    where = np.array([[0.0, 0.0], [3.0, 0.0], [50.0, 0.0]])
    fitted = InverseDistance(2, 1.0).fit(where, [[0.0], [1.0], [2.0]])
    draws = fitted.sample([[1.0, 0.0]], 4000)
    assert draws.mean() == pytest.approx(1 / 3, abs=0.03) and set(np.unique(draws)) == {0, 1}
    # at a measured place it is that place, and one of it alone
    np.testing.assert_array_equal(fitted.sample([[3.0, 0.0]], 50), 1)


def test_bandwidth_is_that_of_least_error_left_out():
    rng = np.random.default_rng(0)
    where = rng.uniform(size=(120, 2))
    x = np.sin(5 * where[:, :1]) + 0.3 * rng.normal(size=(120, 1))
    chosen = GaussianKernel().fit(where, x).parts_[""].bandwidth
    spacing = [np.sort(np.linalg.norm(where - w, axis=1))[1] for w in where]
    grid = np.median(spacing) * np.array(GaussianKernel.multiples)

    def error(width):
        off = [
            x[i]
            - GaussianKernel(width)
            .fit(np.delete(where, i, 0), np.delete(x, i, 0))
            .predict(where[[i]])[0]
            for i in range(120)
        ]
        return np.square(off).sum()

    assert chosen == pytest.approx(min(grid, key=error))
    assert grid[0] < chosen < grid[-1]


def test_far_from_all_places_the_kernel_takes_the_nearest():
    fitted = GaussianKernel(0.1).fit([[0.0, 0.0], [1.0, 0.0]], [[1.0], [2.0]])
    np.testing.assert_allclose(fitted.predict([[500.0, 0.0]]), 2)


def test_gaussian_process_is_that_of_scikit_learn(tissue):
    where, x, new, *_ = tissue
    fitted = GaussianProcess().fit(where, x)
    part = fitted.parts_[""]
    for g in range(4):
        r, s2 = part.noise[g], part.spread[g] ** 2
        kernel = ConstantKernel(s2) * RBF(part.scales) + WhiteKernel(s2 * r)
        reference = GaussianProcessRegressor(kernel, optimizer=None)
        reference.fit(where, x[:, g] - x[:, g].mean())
        mean, sd = reference.predict(new, return_std=True)
        np.testing.assert_allclose(fitted.predict(new)[:, g] - x[:, g].mean(), mean, atol=1e-6)
        # errors are standardised, so draws have the predicted spread; that of sd in the draws
        draws = fitted.sample(new, 1000)[:, :, g].std(axis=0)
        np.testing.assert_allclose(draws, sd * part.errors[:, g].std(), rtol=0.12)
        # its likelihood is no better with other noise
        best = reference.log_marginal_likelihood_value_
        for other in (r / 2, r * 2):
            kernel = ConstantKernel(s2) * RBF(part.scales) + WhiteKernel(s2 * other)
            less = GaussianProcessRegressor(kernel, optimizer=None)
            less.fit(where, x[:, g] - x[:, g].mean())
            assert less.log_marginal_likelihood_value_ < best + 0.05


def test_errors_of_the_process_are_those_of_places_left_out():
    rng = np.random.default_rng(0)
    where = rng.uniform(size=(30, 2))
    x = np.sin(4 * where[:, :1]) + 0.1 * rng.normal(size=(30, 1))
    part = GaussianProcess().fit(where, x).parts_[""]
    s2 = part.spread[0] ** 2
    kernel = ConstantKernel(s2) * RBF(part.scales) + WhiteKernel(s2 * part.noise[0])
    y = x[:, 0] - x.mean()
    order = [int(np.flatnonzero((where == p).all(axis=1))[0]) for p in part.places]
    for at, i in list(enumerate(order))[:6]:
        model = GaussianProcessRegressor(kernel, optimizer=None)
        model.fit(np.delete(where, i, 0), np.delete(y, i))
        mean, sd = model.predict(where[[i]], return_std=True)
        assert part.errors[at, 0] == pytest.approx((y[i] - mean[0]) / sd[0], rel=1e-4)


def test_length_scales_are_found_for_each_axis():
    rng = np.random.default_rng(1)
    where = rng.uniform(size=(250, 2)) * [1, 10]
    distance = np.square((where[:, None] - where[None]) / [0.15, 4.0]).sum(axis=-1)
    root = np.linalg.cholesky(np.exp(-distance / 2) + 1e-8 * np.eye(250))
    x = root @ rng.normal(size=(250, 6)) + 0.2 * rng.normal(size=(250, 6))
    scales = GaussianProcess().fit(where, x).parts_[""].scales
    np.testing.assert_allclose(scales, [0.15, 4.0], rtol=0.35)


def test_process_takes_no_more_places_than_it_may(tissue):
    where, x, new, *_ = tissue
    fitted = GaussianProcess(most_places=50).fit(where, x)
    assert len(fitted.parts_[""].places) == 50
    assert np.isfinite(fitted.predict(new)).all()


def test_coordinate_ridge_is_that_of_scikit_learn(tissue):
    where, x, new, *_ = tissue
    fitted = CoordinateRidge(n_frequencies=2).fit(where, x)
    low, extent = where.min(axis=0), np.ptp(where, axis=0)
    box = [fitted.features((2 * (w - low) / extent - 1).clip(-1, 1)) for w in (where, new)]
    given, asked = ((f - box[0].mean(axis=0)) / box[0].std(axis=0) for f in box)
    reference = RidgeCV(alphas=fitted.penalties, alpha_per_target=True).fit(given, x)
    part = fitted.parts_[""]
    np.testing.assert_allclose(part.alpha, reference.alpha_)
    np.testing.assert_allclose(fitted.predict(new), reference.predict(asked), rtol=1e-6)


def test_errors_of_the_ridge_are_those_of_places_left_out():
    rng = np.random.default_rng(0)
    features = np.linspace(-1, 1, 20)
    where = np.stack([features, rng.permutation(features)], axis=1)
    x = features[:, None] + 0.1 * rng.normal(size=(20, 1))
    fitted = CoordinateRidge(1, 1).fit(where, x)
    part = fitted.parts_[""]
    raw = (fitted.features(where) - part.shift) / part.scale
    raw -= raw.mean(axis=0)
    left_out = cross_val_predict(RidgeCV(alphas=part.alpha), raw, x[:, 0], cv=LeaveOneOut())
    np.testing.assert_allclose(part.errors[:, 0], x[:, 0] - left_out, rtol=1e-6)


def test_outside_the_box_the_ridge_stays_at_its_edge(tissue):
    where, x, *_ = tissue
    fitted = CoordinateRidge().fit(where, x)
    np.testing.assert_allclose(
        fitted.predict([[99.0, 0.1]]), fitted.predict([[where[:, 0].max(), 0.1]])
    )


def test_features_have_each_wave_once():
    scaled = np.random.default_rng(0).uniform(-1, 1, size=(200, 2))
    features = CoordinateRidge(degree=3, n_frequencies=2).features(scaled)
    # 2 + 3 + 4 monomials; 12 whole vectors but for the sign
    assert features.shape == (200, 9 + 2 * 12)
    assert len(np.unique(features.round(9), axis=1).T) == features.shape[1]
    assert CoordinateRidge(1, 1).features(np.zeros((4, 3))).shape == (4, 3 + 2 * 13)


@pytest.mark.parametrize("kind", [*PLAIN, RegionMean])
def test_sections_are_learned_by_themselves(kind, tissue):
    where, x, new, *_ = tissue
    where, x, new = where[:80], x[:80], new[:20]
    labels, asked = regions(where), regions(new)
    groups = np.repeat(["one", "two"], 80)
    both = kind().fit(
        np.vstack([where, where]), np.vstack([x, 50 + x]), groups, np.tile(labels, 2)
    )
    alone = kind().fit(where, x, labels=labels)
    for name, shift in (("one", 0), ("two", 50)):
        found = both.predict(new, [name] * 20, asked)
        np.testing.assert_allclose(found, shift + alone.predict(new, labels=asked), rtol=1e-6)
    draws = both.sample(new, 4, ["one"] * 10 + ["two"] * 10, labels=asked)
    assert draws[:, :10].max() < 25 < draws[:, 10:].min()


def test_region_mean_is_that_of_the_section_and_else_of_all():
    where = np.zeros((5, 2))
    x = np.array([[1.0], [3.0], [10.0], [20.0], [7.0]])
    groups, labels = list("aabbb"), ["l1", "l1", "l1", "l1", "l2"]
    fitted = RegionMean().fit(where, x, groups, labels)
    asked = {"groups": ["a", "b", "a"], "labels": ["l1", "l1", "l2"]}
    np.testing.assert_allclose(fitted.predict(np.zeros((3, 2)), **asked), [[2], [15], [7]])
    draws = fitted.sample(np.zeros((3, 2)), 60, **asked)
    assert [set(d.ravel()) for d in draws.transpose(1, 0, 2)] == [{1, 3}, {10, 20}, {7}]


@pytest.fixture(scope="module")
def stack():
    rng = np.random.default_rng(0)
    xy = rng.uniform(size=(3, 40, 2))
    where = np.vstack([np.column_stack([xy[i], np.full(40, 10.0 * i)]) for i in range(3)])
    return where, np.column_stack([where[:, 2], np.arange(120)])


def test_nearest_section_takes_the_nearest_place_of_it(stack):
    where, x = stack
    asked = np.array([[0.3, 0.4, 4.0], [0.3, 0.4, 16.0], [0.8, 0.1, -99.0], [0.8, 0.1, 5.0]])
    found = NearestSection().fit(where, x).predict(asked)
    np.testing.assert_array_equal(found[:, 0], [0, 20, 0, 0])
    for row, z, values in zip(asked, (0, 20, 0, 0), found, strict=True):
        rows = np.flatnonzero(where[:, 2] == z)
        nearest = rows[np.linalg.norm(where[rows, :2] - row[:2], axis=1).argmin()]
        assert values[1] == nearest
    three = NearestSection(3).fit(where, x)
    expected = KNeighborsRegressor(3).fit(where[:40, :2], x[:40]).predict(asked[:1, :2])
    np.testing.assert_allclose(three.predict(asked[:1]), expected)
    assert len(np.unique(three.sample(asked[:1], 60)[:, 0, 1])) == 3


def test_section_blend_is_linear_in_depth(stack):
    where, x = stack
    depths = np.array([-5.0, 0.0, 2.5, 7.0, 10.0, 13.0, 20.0, 31.0])
    asked = np.column_stack([np.full((8, 2), 0.4), depths])
    fitted = SectionBlend().fit(where, x)
    np.testing.assert_allclose(fitted.predict(asked)[:, 0], depths.clip(0, 20))
    draws = fitted.sample(asked, 2000)[:, :, 0]
    assert set(draws[:, 2]) == {0, 10} and set(draws[:, 4]) == {10} and set(draws[:, 7]) == {20}
    assert (draws[:, 2] == 10).mean() == pytest.approx(0.25, abs=0.04)
    # places come from both sections, nearest by (x, y)
    first, second = (
        KNeighborsRegressor(2).fit(where[r, :2], x[r]).predict([[0.4, 0.4]])
        for r in (slice(40), slice(40, 80))
    )
    found = SectionBlend(2).fit(where, x).predict(asked[[2]])
    np.testing.assert_allclose(found, 0.75 * first + 0.25 * second)


@pytest.mark.parametrize("kind", STACKED)
def test_a_small_section_gives_all_it_has(kind):
    where = [[0, 0, 0.0], [1, 0, 0], [0, 0, 5], [1, 1, 5], [2, 1, 5]]
    fitted = kind(3).fit(where, [[1.0], [2.0], [10.0], [20.0], [30.0]])
    np.testing.assert_allclose(fitted.predict([[0, 0, 0.0], [0, 0, 5.0]]), [[1.5], [20]])
    assert set(fitted.sample([[0, 0, 0.0]], 50).ravel()) == {1, 2}


@pytest.mark.parametrize("kind", STACKED)
def test_stacks_need_a_depth(kind, tissue):
    where, x, *_ = tissue
    with pytest.raises(ValueError, match="2 columns, but must have 3"):
        kind().fit(where, x)


@pytest.mark.parametrize("kind", [*PLAIN, RegionMean])
def test_three_axes_and_flat_data_are_taken(kind):
    rng = np.random.default_rng(0)
    where = np.column_stack([rng.uniform(size=(40, 2)), np.full(40, 3.0)])
    x = np.column_stack([np.full(40, 2.0), rng.normal(size=40)])
    fitted = kind().fit(where, x, labels=regions(where))
    found = fitted.predict(where[:5], labels=regions(where[:5]))
    draws = fitted.sample(where[:5], 3, labels=regions(where[:5]))
    np.testing.assert_allclose(found[:, 0], 2)
    np.testing.assert_allclose(draws[..., 0], 2)
    assert np.isfinite(draws).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda f, s, x: NearestPlace().fit(x, x), r"`coordinates` has shape \(300, 4\)"),
        (lambda f, s, x: NearestPlace().fit(s[:9], x), "9 places, but `x` has 300"),
        (lambda f, s, x: NearestPlace().fit(s * np.nan, x), "`coordinates` .* not finite"),
        (lambda f, s, x: NearestPlace().fit(s, x * np.nan), "`x` holds values"),
        (lambda f, s, x: NearestPlace().fit(s, x, ["a"]), r"`groups` has shape \(1,\)"),
        (lambda f, s, x: RegionMean().fit(s, x), "`labels` must be given"),
        (lambda f, s, x: GaussianProcess().fit(s[:2], x[:2]), "2 places .* needs 3 or more"),
        (lambda f, s, x: f.predict(s), "`groups` must be given as to `fit`"),
        (lambda f, s, x: f.predict(s, ["c"] * 300), r"\['c'\].*known are \['a', 'b'\]"),
        (lambda f, s, x: f.predict(np.ones((2, 3)), list("ab")), "3 columns; 2 were learned"),
        (lambda f, s, x: f.sample(s, 0, ["a"] * 300), "`n_samples=0` must be a whole number"),
        (lambda f, s, x: NearestPlace().fit(s, x).predict(s, ["a"] * 300), "must be left out"),
        (lambda f, s, x: NeighbourMean(0), "`n_neighbors=0`"),
        (lambda f, s, x: InverseDistance(power=-1), "`power=-1` must be a number above 0"),
        (lambda f, s, x: GaussianKernel(0.0), "`bandwidth=0.0`"),
        (
            lambda f, s, x: (
                RegionMean().fit(s, x, labels=["l"] * 300).predict(s, None, ["k"] * 300)
            ),
            r"`labels` has \['k'\].*known are \['l'\]",
        ),
    ],
)
def test_what_does_not_fit_is_said(tissue, call, words):
    where, x, *_ = tissue
    fitted = NearestPlace().fit(where, x, np.repeat(["a", "b"], 150))
    with pytest.raises(ValueError, match=words):
        call(fitted, where, x)


@pytest.mark.parametrize("kind", [*PLAIN, RegionMean, *STACKED])
def test_nothing_is_predicted_before_learning(kind):
    with pytest.raises(RuntimeError, match="call `fit` first"):
        kind().predict(np.zeros((2, 3)))
