"""Metrics in space against closed forms, invariances and independent implementations."""

import numpy as np
import pytest
from scanpy.metrics import morans_i as scanpy_morans_i
from scipy.sparse import csr_matrix
from scipy.spatial.distance import cdist, jensenshannon
from sklearn.neighbors import KNeighborsRegressor

from scldm.metrics import energy_distance, spatial, translation

N, GENES, DRAWS = 250, 5, 30


@pytest.fixture(scope="module")
def tissue():
    """Genes with waves of several lengths, noise of cells, and the true distribution's draws."""
    rng = np.random.default_rng(0)
    where = rng.uniform(size=(N, 2))
    lengths = np.linspace(1, 5, GENES)
    mean = 6 + np.sin(2 * np.pi * where[:, :1] * lengths) + np.cos(3 * where[:, 1:] * lengths)
    noise = 0.2 + 0.2 * np.arange(GENES)
    true = mean + noise * rng.normal(size=mean.shape)
    samples = mean + noise * rng.normal(size=(DRAWS, *mean.shape))
    return {"where": where, "mean": mean, "true": true, "samples": samples}


@pytest.fixture(scope="module")
def sections():
    return np.repeat(["a", "b"], [N // 2, N - N // 2])


def nearest(where, k):
    """Nearest others by brute force."""
    distance = cdist(where, where)
    np.fill_diagonal(distance, np.inf)
    return distance.argsort(axis=1)[:, :k]


def moved(where, angle=0.7, shift=(40.0, -3.0)):
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return 2.5 * where @ turn + np.array(shift)


def test_gene_pcc_equals_numpy(tissue):
    found = spatial.gene_pcc(tissue["true"], tissue["mean"])
    for g in range(GENES):
        expected = np.corrcoef(tissue["true"][:, g], tissue["mean"][:, g])[0, 1]
        assert found[g] == pytest.approx(expected)
    assert np.isnan(spatial.gene_pcc(tissue["true"], np.ones((N, GENES)))).all()


def test_smooth_equals_neighbours_of_scikit_learn(tissue):
    # there a place is its own nearest, so that it is one more
    reference = KNeighborsRegressor(8).fit(tissue["where"], tissue["true"])
    found = spatial.smooth(tissue["true"], tissue["where"], n_neighbors=7)
    np.testing.assert_allclose(found, reference.predict(tissue["where"]))


def test_smooth_keeps_to_the_section(tissue, sections):
    # sections lie on top of each other
    found = spatial.smooth(tissue["true"], tissue["where"], 5, sections)
    for name in "ab":
        rows = sections == name
        alone = spatial.smooth(tissue["true"][rows], tissue["where"][rows], 5)
        np.testing.assert_allclose(found[rows], alone)
    assert not np.allclose(found, spatial.smooth(tissue["true"], tissue["where"], 5))


def test_places_at_one_point_are_neighbours_but_not_of_themselves():
    where = np.repeat([[0.0, 0.0], [9.0, 9.0]], 3, axis=0)
    values = np.array([[0.0], [3.0], [6.0], [1.0], [1.0], [4.0]])
    np.testing.assert_allclose(spatial.smooth(values, where, 2).ravel(), [3, 3, 3, 2, 2, 2])


def test_smoothing_takes_away_noise(tissue):
    plain = spatial.gene_pcc(tissue["true"], tissue["mean"])
    smoothed = spatial.smoothed_pcc(tissue["true"], tissue["mean"], tissue["where"])
    assert (smoothed > plain).all() and smoothed.max() <= 1
    k = nearest(tissue["where"], 10)
    a, b = (
        np.array([np.vstack([x[[i]], x[k[i]]]).mean(axis=0) for i in range(N)])
        for x in (tissue["true"], tissue["mean"])
    )
    np.testing.assert_allclose(smoothed, spatial.gene_pcc(a, b))


def test_ssim_is_the_product_of_its_three_parts(tissue):
    # luminance, contrast and structure, as the benchmark of Li et al. computes it
    for g, found in enumerate(spatial.ssim(tissue["true"], tissue["mean"])):
        a, b = (tissue[side][:, g] / tissue[side][:, g].max() for side in ("true", "mean"))
        c1, c2 = 0.01**2, 0.03**2
        light = (2 * a.mean() * b.mean() + c1) / (a.mean() ** 2 + b.mean() ** 2 + c1)
        contrast = (2 * a.std() * b.std() + c2) / (a.var() + b.var() + c2)
        structure = (np.cov(a, b, bias=True)[0, 1] + c2 / 2) / (a.std() * b.std() + c2 / 2)
        assert found == pytest.approx(light * contrast * structure)


def test_ssim_does_not_see_the_scale_and_is_1_for_the_same(tissue):
    true, mean = tissue["true"], tissue["mean"]
    np.testing.assert_allclose(spatial.ssim(true, 7 * true), 1)
    np.testing.assert_allclose(spatial.ssim(true, 7 * mean), spatial.ssim(3 * true, mean))
    empty = np.zeros_like(true)
    assert np.isnan(spatial.ssim(empty, true)).all()
    assert (spatial.ssim(true, empty) < 0.1).all()


def test_jensen_shannon_equals_scipy(tissue):
    true, mean = tissue["true"].clip(min=0), tissue["mean"]
    np.testing.assert_allclose(
        spatial.jensen_shannon(true, mean), jensenshannon(true, mean, axis=0) ** 2
    )


def test_jensen_shannon_at_its_ends():
    true = np.array([[1.0, 1.0, 0.0, 2.0], [0.0, 3.0, 0.0, 1.0]])
    predicted = np.array([[0.0, 2.0, 1.0, -1.0], [5.0, 6.0, 1.0, 0.0]])
    found = spatial.jensen_shannon(true, predicted)
    np.testing.assert_allclose(found, [np.log(2), 0, np.nan, np.log(2)], atol=1e-12)


def test_variance_ratio_tells_means_from_draws(tissue):
    noise = 0.2 + 0.2 * np.arange(GENES)
    of_mean = spatial.variance_ratio(tissue["true"], tissue["mean"])
    np.testing.assert_allclose(of_mean, 1 - noise**2 / tissue["true"].var(axis=0), atol=0.15)
    assert (of_mean[2:] < 0.85).all()
    of_draws = spatial.variance_ratio(tissue["true"], tissue["samples"])
    np.testing.assert_allclose(of_draws, 1, atol=0.15)
    expected = tissue["samples"].var(axis=1).mean(axis=0) / tissue["true"].var(axis=0)
    np.testing.assert_allclose(of_draws, expected)
    assert np.isnan(spatial.variance_ratio(np.ones((N, GENES)), tissue["samples"])).all()


@pytest.mark.parametrize("with_groups", [False, True])
def test_morans_i_equals_scanpy(tissue, sections, with_groups):
    where = tissue["where"] + (100.0 * (sections == "b")[:, None] if with_groups else 0.0)
    graph = np.zeros((N, N))
    np.put_along_axis(graph, nearest(where, 6), 1 / 6, axis=1)
    expected = scanpy_morans_i(csr_matrix(graph), tissue["true"].T.copy())
    groups = sections if with_groups else None
    found = spatial.morans_i(tissue["true"], tissue["where"], 6, groups)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_morans_i_in_closed_form():
    # on a ring of alternating values both neighbours are the opposite, on one of halves mostly alike
    angle = 2 * np.pi * np.arange(12) / 12
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    values = np.stack([np.arange(12) % 2, np.arange(12) // 6, np.ones(12)], axis=1)
    np.testing.assert_allclose(spatial.morans_i(values, ring, 2), [-1, 2 / 3, np.nan])


def test_morans_agreement_averages_over_samples(tissue):
    true, draws, where = tissue["true"], tissue["samples"][:3], tissue["where"]
    expected = spatial.morans_i(true, where)
    each = [spatial.morans_i(d, where) for d in draws]
    found = spatial.morans_agreement(true, draws, where)
    assert found.correlation == pytest.approx(
        np.mean([np.corrcoef(expected, e)[0, 1] for e in each])
    )
    assert found.error == pytest.approx(np.abs(np.array(each) - expected).mean())
    of_mean = spatial.morans_agreement(true, tissue["mean"], where)
    assert found.error < 0.06 < of_mean.error
    flat = spatial.morans_agreement(true, np.ones_like(true), where)
    assert np.isnan(flat.correlation) and np.isnan(flat.error)


@pytest.mark.parametrize("change", ["moved", "permuted"])
def test_neither_motion_nor_order_matters(tissue, sections, change):
    order = np.random.default_rng(1).permutation(N) if change == "permuted" else np.arange(N)
    where = moved(tissue["where"]) if change == "moved" else tissue["where"]
    true, mean = tissue["true"], tissue["mean"]

    def scores(order, where):
        x, y, groups, kinds = true[order], mean[order], sections[order], (true[order, 0] > 6)
        return [
            *spatial.smoothed_pcc(x, y, where[order], 10, groups),
            *spatial.morans_i(x, where[order], 6, groups),
            *spatial.morans_agreement(x, y, where[order]),
            *spatial.ssim(x, y),
            spatial.neighbourhood_composition(kinds, y[:, 0] > 6, where[order]),
        ]

    np.testing.assert_allclose(
        scores(order, where), scores(np.arange(N), tissue["where"]), rtol=1e-6
    )


def test_neighbourhood_composition_from_the_same_to_none_in_common(tissue):
    where = tissue["where"]
    types = np.where(where[:, 0] < 0.5, "left", "right")
    score = spatial.neighbourhood_composition
    assert score(types, types, where) == 0
    assert score(types, np.full(N, "other"), where) == 1
    shuffled = np.random.default_rng(0).permutation(types)
    assert 0.3 < score(types, shuffled, where) < 0.6
    # types drawn anew by the true rule, elsewhere
    elsewhere = np.random.default_rng(1).uniform(size=(2 * N, 2))
    others = np.where(elsewhere[:, 0] < 0.5, "left", "right")
    assert score(types, others, where, elsewhere) < 0.1


def test_neighbourhood_composition_by_hand():
    where = np.array([[0.0, 0.0], [1.0, 0.0], [10.0, 0.0], [11.0, 0.0]])
    found = spatial.neighbourhood_composition(
        ["a", "b", "a", "a"], ["a", "a", "a", "c"], where, n_neighbors=2
    )
    assert found == pytest.approx(0.5)


def test_neighbourhoods_are_of_one_section():
    """Two sections at the same places, each of one type."""
    one = np.random.default_rng(0).uniform(size=(60, 2))
    where, types = np.tile(one, (2, 1)), np.repeat(["a", "b"], 60)
    section = np.repeat([1, 2], 60)
    score = spatial.neighbourhood_composition
    assert score(types, types, where, groups=section) == 0
    # predicted in the wrong section, which all places together do not show
    assert score(types, types[::-1], where, groups=section) == 1
    assert score(types, types[::-1], where) < 0.1
    swapped = score(
        types, types[::-1], where, where, groups=section, predicted_groups=section[::-1]
    )
    assert swapped == 0
    with pytest.raises(ValueError, match="must not exceed the cells of section '2', 60 and 0"):
        score(types, types, where, where, groups=section, predicted_groups=np.ones(120, int))
    with pytest.raises(ValueError, match="`predicted_groups` goes with `groups`"):
        score(types, types, where, predicted_groups=section)


def test_compare_shows_what_means_lose(tissue):
    true, mean, draws, where = (tissue[k] for k in ("true", "mean", "samples", "where"))
    sure = spatial.compare(true, mean, where)
    row = spatial.compare(true, mean, where, samples=draws)
    assert list(sure) == list(row)
    for name in ("pcc", "smoothed_pcc", "ssim", "js", "rmse"):
        assert sure[name] == row[name]
    assert sure["variance_ratio"] < 0.9 < row["variance_ratio"] < 1.1
    assert row["energy"] < sure["energy"] / 3
    assert row["crps"] < sure["crps"] and row["morans_error"] < sure["morans_error"]
    assert np.isnan(sure["coverage_50"]) and row["coverage_90"] == pytest.approx(0.9, abs=0.05)
    assert sure["crps"] == pytest.approx(translation.mae(true, mean))
    assert row["rmse"] == translation.rmse(true, mean)
    assert row["pcc"] == pytest.approx(spatial.gene_pcc(true, mean).mean())
    five = np.mean([energy_distance(true, d) for d in draws[:5]])
    assert row["energy"] == pytest.approx(five)


def test_cells_in_the_wrong_section_are_seen_within_sections_only():
    rng = np.random.default_rng(0)
    section = np.repeat(["one", "two"], 60)
    level = np.where(section == "one", 0.0, 3.0)[:, None]
    where = np.column_stack([np.tile(np.arange(60.0), 2), rng.uniform(size=120)])
    true = level + rng.normal(size=(120, 5))
    draws = level + rng.normal(size=(5, 120, 5))
    # each section's cells in the other's place
    swapped = draws[:, ::-1]
    right, wrong = (spatial.compare(true, x, where, groups=section) for x in (draws, swapped))
    assert wrong["energy"] == pytest.approx(right["energy"])
    assert abs(right["energy_within"]) < 0.3 < 2 < wrong["energy_within"]
    alone = spatial.compare(true, draws, where)
    assert alone["energy_within"] == alone["energy"]
    # labels of any kind, as elsewhere
    mixed = np.array([np.nan if name == "one" else name for name in section], dtype=object)
    assert np.isfinite(spatial.compare(true, draws, where, groups=mixed)["energy_within"])


def test_compare_takes_the_mean_of_samples(tissue, sections):
    true, draws, where = tissue["true"], tissue["samples"], tissue["where"]
    alone = spatial.compare(true, draws, where, groups=sections, most_cells=40)
    beside = spatial.compare(
        true, draws.mean(axis=0), where, samples=draws, groups=sections, most_cells=40
    )
    assert alone == beside
    assert alone["energy"] != spatial.compare(true, draws, where, groups=sections)["energy"]
    centred = spatial.compare(true - true.mean(axis=0), draws - true.mean(axis=0), where)
    assert np.isnan(centred["js"]) and centred["variance_ratio"] > 0.9


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x, s: spatial.gene_pcc(x, x[:, :2]), r"`predicted` has shape \(250, 2\)"),
        (lambda x, s: spatial.gene_pcc(x[0], x[0]), r"`true` has shape \(5,\)"),
        (lambda x, s: spatial.ssim(x[:1], x[:1]), "two places or more"),
        (lambda x, s: spatial.ssim(x, np.where(x > 6, np.nan, x)), "`predicted` .* not finite"),
        (lambda x, s: spatial.jensen_shannon(-x, x), "`true` has the value -.* not be below 0"),
        (lambda x, s: spatial.variance_ratio(x, np.ones((0, N, GENES))), "`samples` has shape"),
        (lambda x, s: spatial.smooth(x, x), r"`coordinates` .*\(n, 2\) or \(n, 3\)"),
        (lambda x, s: spatial.smooth(x, s[:9]), "`coordinates` has 9 places"),
        (lambda x, s: spatial.smooth(x, s, 0), "`n_neighbors=0` must be a whole number"),
        (lambda x, s: spatial.smooth(x[:5], s[:5], 5), "has 5 places; `n_neighbors=5` needs 6"),
        (lambda x, s: spatial.smooth(x, s, 3, ["a"]), r"`groups` has shape \(1,\)"),
        (
            lambda x, s: spatial.morans_i(x, s, 4, ["a"] * (N - 3) + ["b"] * 3),
            "3 places in group 'b'",
        ),
        (
            lambda x, s: spatial.neighbourhood_composition(["a"] * N, ["a"], s),
            r"`predicted_types` has shape \(1,\)",
        ),
        (
            lambda x, s: spatial.neighbourhood_composition(["a"] * 9, ["a"] * 9, s[:9]),
            "`n_neighbors=20` must not exceed the cells, 9 and 9",
        ),
        (lambda x, s: spatial.compare(x, x[None], s, samples=x[None]), "`samples` must be left"),
    ],
)
def test_what_does_not_fit_is_said(tissue, call, words):
    with pytest.raises(ValueError, match=words):
        call(tissue["true"], tissue["where"])
