"""Transport plans against closed forms and against each other."""

import numpy as np
import pytest

from scldm.diffusion import (
    TRANSPORTS,
    EntropicTransport,
    ExactTransport,
    MoscotTransport,
    Transport,
    UnbalancedTransport,
    _transport,
)


@pytest.fixture(scope="module")
def points():
    rng = np.random.default_rng(0)
    return rng.standard_normal((60, 3)), rng.standard_normal((50, 3)) + 1


@pytest.mark.parametrize("name", [name for name in TRANSPORTS if name != "moscot"])
def test_later_marginal_holds(name, points):
    plan = TRANSPORTS[name]().plan(*points)
    assert plan.shape == (60, 50) and plan.min() >= 0
    np.testing.assert_allclose(plan.sum(axis=0), 1 / 50, atol=1e-4)


@pytest.mark.parametrize("rule", [ExactTransport(), EntropicTransport()])
def test_masses_are_those_given(rule, points):
    mass = np.linspace(1, 3, 60)
    plan = rule.plan(*points, mass)
    np.testing.assert_allclose(plan.sum(axis=1), mass / mass.sum(), atol=1e-4)


def test_exact_transport_sorts_points_on_a_line():
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((30, 1)), rng.standard_normal((30, 1))
    plan = ExactTransport().plan(x, y)
    expected = np.zeros((30, 30))
    expected[np.argsort(x[:, 0]), np.argsort(y[:, 0])] = 1 / 30
    np.testing.assert_allclose(plan, expected, atol=1e-12)


def test_small_entropy_is_nearly_exact_and_large_is_nearly_independent(points):
    def cost(plan):
        return (plan * np.square(points[0][:, None] - points[1]).sum(axis=2)).sum()

    exact = cost(ExactTransport().plan(*points))
    assert cost(EntropicTransport(0.002).plan(*points)) == pytest.approx(exact, rel=0.02)
    assert exact < cost(EntropicTransport(0.1).plan(*points))
    np.testing.assert_allclose(EntropicTransport(100.0).plan(*points), 1 / 3000, rtol=0.1)


def test_shifting_a_population_changes_nothing(points):
    x, y = points
    plan = EntropicTransport(0.5).plan(x, y)

    # costs are relative to their mean, which a shift changes
    def ratio(y):
        return np.square(x[:, None] - y).sum(axis=2).mean()

    moved = EntropicTransport(0.5 * ratio(y) / ratio(y + 2)).plan(x, y + 2)
    np.testing.assert_allclose(plan, moved, atol=1e-6)


def test_unbalanced_transport_finds_what_has_grown():
    rng = np.random.default_rng(2)
    x = np.repeat([[-5.0], [5.0]], 50, axis=0) + 0.3 * rng.standard_normal((100, 1))
    y = np.concatenate([x[:25], np.repeat(x[50:], 3, axis=0)[:75]])
    rows = UnbalancedTransport(slack=0.1).plan(x, y).sum(axis=1)
    assert UnbalancedTransport.estimates_growth
    assert rows[50:].sum() == pytest.approx(0.75, abs=0.02)
    assert ExactTransport().plan(x, y).sum(axis=1)[50:].sum() == pytest.approx(0.5)


def test_cells_without_ancestors_need_not_come_from_any():
    rng = np.random.default_rng(3)
    x = 0.3 * rng.standard_normal((60, 1))
    y = np.concatenate([x[:30], 20 + 0.3 * rng.standard_normal((30, 1))])
    held, free = (
        UnbalancedTransport(later_slack=slack).plan(x, y).sum(axis=0) for slack in (np.inf, 0.1)
    )
    assert held[30:].sum() == pytest.approx(0.5, abs=1e-3)
    assert free[30:].sum() < 0.05


def test_a_few_cells_far_from_all_others_are_no_obstacle():
    """The kernel underflows for them; the plan of the others is what it is without them."""
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(80, 3)), rng.normal(size=(90, 3))
    far = y.copy()
    far[:2] += 40
    for slack in (np.inf, 0.5):
        plan = UnbalancedTransport(later_slack=slack).plan(x, far)
        assert np.isfinite(plan).all() and plan.sum() == pytest.approx(1)
        assert np.log(plan.sum(axis=1)).std() < 0.5
    held = UnbalancedTransport().plan(x, far).sum(axis=0)
    np.testing.assert_allclose(held, 1 / 90, atol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"slack": 0.1}, {"later_slack": 0.3}, {"epsilon": 0.3}])
def test_logarithms_are_another_way_to_the_same_plan(points, settings, monkeypatch):
    mass = np.linspace(1, 3, len(points[0]))
    expected = UnbalancedTransport(**settings).plan(*points, mass)
    monkeypatch.setattr(_transport, "_LARGEST_EXPONENT", 0)
    np.testing.assert_allclose(
        UnbalancedTransport(**settings).plan(*points, mass), expected, rtol=1e-3, atol=1e-9
    )


@pytest.mark.parametrize("slack", [0.5, 0.02])
def test_growth_that_is_given_counts_in_full(slack):
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(300, 4)), rng.normal(size=(300, 4))
    grown = np.arange(300) % 2 == 1
    rows = UnbalancedTransport(slack=slack).plan(x, y, np.exp(1.5 * grown)).sum(axis=1)
    found = np.log(rows[grown]).mean() - np.log(rows[~grown]).mean()
    assert found == pytest.approx(1.5, abs=0.25)


def test_a_plan_that_does_not_hold_is_refused(points):
    class Lost(Transport):
        def _solve(self, a, b, cost):
            return np.outer(a, np.arange(len(b)))

    with pytest.raises(RuntimeError, match="Lost found no plan.*raise its `epsilon`"):
        Lost().plan(*points)


def test_one_place_is_no_obstacle():
    plan = EntropicTransport().plan(np.zeros((3, 2)), np.zeros((4, 2)))
    np.testing.assert_allclose(plan, 1 / 12)


@pytest.mark.parametrize("value", [0, -1, np.nan, np.inf, True, "a"])
def test_odd_weights_are_refused(value):
    with pytest.raises(ValueError, match="`epsilon="):
        EntropicTransport(value)
    with pytest.raises(ValueError, match="`slack="):
        UnbalancedTransport(slack=value)
    if value != np.inf:
        with pytest.raises(ValueError, match="`later_slack="):
            UnbalancedTransport(later_slack=value)


def test_moscot_finds_the_same_plans(points):
    pytest.importorskip("moscot")
    mass = np.linspace(1, 3, 60)
    expected = EntropicTransport(0.05).plan(*points, mass)
    np.testing.assert_allclose(MoscotTransport(0.05).plan(*points, mass), expected, atol=2e-4)
    free = MoscotTransport(0.05, tau_a=0.9)
    assert free.estimates_growth
    # tau = slack / (slack + epsilon)
    expected = UnbalancedTransport(0.05, slack=0.45).plan(*points)
    np.testing.assert_allclose(free.plan(*points), expected, atol=1e-5)


def test_without_moscot_its_transport_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "moscot.backends.ott", None)
    with pytest.raises(ImportError, match=r"scldm-tools\[moscot\]"):
        MoscotTransport()
