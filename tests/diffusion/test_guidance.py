import pytest
import torch

from scldm.diffusion import (
    SCHEDULES,
    Denoiser,
    DPMSolver,
    Euler,
    GaussianMixtureDenoiser,
    GuidedDenoiser,
    Heun,
    NetworkDenoiser,
    RectifiedFlow,
)
from scldm.diffusion import Data as DataParametrisation

HALF = torch.tensor(0.5, dtype=torch.float64)


def _drop(conditions, names):
    return {
        name: torch.full_like(value, torch.nan) if name in names else value
        for name, value in conditions.items()
    }


class Counted(torch.nn.Module):
    """A fixed function of all its inputs that counts how often it is asked."""

    calls = rows = 0

    def forward(self, x, t, conditions):
        self.calls += 1
        self.rows += len(x)
        shift = torch.zeros_like(x)
        for i, name in enumerate(sorted(conditions)):
            known = conditions[name]
            shift = shift + torch.sin((i + 1) * known.nan_to_num(-1.0) + x.flip(1))
        return x * t.unsqueeze(1) + shift


@pytest.fixture
def denoiser():
    return NetworkDenoiser(Counted(), RectifiedFlow(), DataParametrisation())


@pytest.fixture
def x(draw_noise):
    return draw_noise(6, 4)


@pytest.fixture
def conditions(draw_noise):
    return {name: draw_noise(6, 1, seed=seed) for name, seed in [("a", 1), ("b", 2), ("c", 3)]}


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
def test_one_scale_extrapolates_from_no_conditions(denoiser, x, conditions, scale):
    base = denoiser(x, HALF, _drop(conditions, ["a", "b", "c"]))
    given = denoiser(x, HALF, conditions)
    guided = GuidedDenoiser(denoiser, scale, _drop)(x, HALF, conditions)
    torch.testing.assert_close(guided, (1 - scale) * base + scale * given)


def test_each_condition_has_its_scale(denoiser, x, conditions):
    """Conditions without a scale stay in all terms."""
    base = denoiser(x, HALF, _drop(conditions, ["a", "b"]))
    with_a = denoiser(x, HALF, _drop(conditions, ["b"]))
    with_b = denoiser(x, HALF, _drop(conditions, ["a"]))
    expected = base + 2.0 * (with_a - base) - 0.5 * (with_b - base)
    guided = GuidedDenoiser(denoiser, {"a": 2.0, "b": -0.5}, _drop)(x, HALF, conditions)
    torch.testing.assert_close(guided, expected)


def test_one_named_condition_of_scale_one_is_conditional(denoiser, x, conditions):
    guided = GuidedDenoiser(denoiser, {"b": 1.0}, _drop)(x, HALF, conditions)
    torch.testing.assert_close(guided, denoiser(x, HALF, conditions))


def test_negative_conditions_take_the_place_of_dropped_ones(denoiser, x, conditions, draw_noise):
    away = {"a": draw_noise(6, 1, seed=9)}
    base = denoiser(x, HALF, _drop(conditions, ["a", "b", "c"]) | away)
    expected = base + 1.7 * (denoiser(x, HALF, conditions) - base)
    guided = GuidedDenoiser(denoiser, 1.7, _drop, negative=away)(x, HALF, conditions)
    torch.testing.assert_close(guided, expected)


def test_negative_conditions_with_a_scale_for_each(denoiser, x, conditions, draw_noise):
    """Each term puts one condition in the place of what the base moves away from."""
    away = {"a": draw_noise(6, 1, seed=9)}
    base_conditions = _drop(conditions, ["a", "b"]) | away
    base = denoiser(x, HALF, base_conditions)
    with_a = denoiser(x, HALF, {**base_conditions, "a": conditions["a"]})
    with_b = denoiser(x, HALF, {**base_conditions, "b": conditions["b"]})
    expected = base + 1.5 * (with_a - base) + 2.5 * (with_b - base)
    guided = GuidedDenoiser(denoiser, {"a": 1.5, "b": 2.5}, _drop, negative=away)
    torch.testing.assert_close(guided(x, HALF, conditions), expected)


def test_outside_the_interval_the_conditional_estimate_stands_alone(denoiser, x, conditions):
    guided = GuidedDenoiser(denoiser, 3.0, _drop, interval=(0.2, 0.6))
    always = GuidedDenoiser(denoiser, 3.0, _drop)
    for t in (0.1, 0.19, 0.61, 1.0):
        time = torch.tensor(t, dtype=torch.float64)
        assert torch.equal(guided(x, time, conditions), denoiser(x, time, conditions))
    for t in (0.2, 0.4, 0.6):
        time = torch.tensor(t, dtype=torch.float64)
        assert torch.equal(guided(x, time, conditions), always(x, time, conditions))
        assert not torch.allclose(guided(x, time, conditions), denoiser(x, time, conditions))


@pytest.mark.parametrize("scale", [1.0, 4.0, {"a": 2.0, "b": 3.0}])
@pytest.mark.parametrize("rescale", [0.3, 1.0])
def test_rescaling_goes_back_to_the_spread_of_the_conditional_estimate(
    denoiser, x, conditions, scale, rescale
):
    """Equations 15 and 16 of Lin et al. (2024)."""
    given = denoiser(x, HALF, conditions)
    plain = GuidedDenoiser(denoiser, scale, _drop)(x, HALF, conditions)
    matched = plain * given.std(1, keepdim=True) / plain.std(1, keepdim=True)
    guided = GuidedDenoiser(denoiser, scale, _drop, rescale=rescale)(x, HALF, conditions)
    torch.testing.assert_close(guided, rescale * matched + (1 - rescale) * plain)
    if rescale == 1:
        torch.testing.assert_close(guided.std(1), given.std(1))


def test_times_of_each_cell_are_kept(denoiser, x, conditions):
    t = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    guided = GuidedDenoiser(denoiser, 2.5, _drop)
    together = guided(x, t, conditions)
    for i in range(6):
        row = slice(i, i + 1)
        one = guided(x[row], t[i], {name: value[row] for name, value in conditions.items()})
        torch.testing.assert_close(together[row], one)


@pytest.mark.parametrize("none", [None, {}])
def test_without_conditions_it_is_the_denoiser(x, none):
    network = torch.nn.Module()
    network.forward = lambda x, t, conditions: x * 0.5
    denoiser = NetworkDenoiser(network, RectifiedFlow(), DataParametrisation())
    guided = GuidedDenoiser(denoiser, 4.0, _drop)
    torch.testing.assert_close(guided(x, HALF, none), denoiser(x, HALF, none))


@pytest.mark.parametrize(
    ("options", "estimates"),
    [
        ({"scale": 1.0}, 8),
        ({"scale": 3.0}, 16),
        ({"scale": {"a": 1.0, "b": 2.0, "c": 3.0}}, 32),
        ({"scale": 3.0, "rescale": 0.5}, 24),
        # at 4 of the 8 times
        ({"scale": 3.0, "interval": (0.3, 0.8)}, 12),
    ],
)
def test_one_pass_a_step_and_no_needless_estimates(denoiser, x, conditions, options, estimates):
    guided = GuidedDenoiser(denoiser, drop=_drop, **options)
    Euler().sample(guided, x, 8, conditions)
    assert denoiser.network.calls == 8
    assert denoiser.network.rows == estimates * len(x)


class Labelled(Denoiser):
    """The exact denoiser of Gaussian groups with labels, of which any may be asked for.

    Parameters
    ----------
    groups
        Mean of the group of each combination of labels.
    names
        Names of the conditions, whose values are labels, or NaN where dropped.
    std
        Standard deviation of all groups.
    """

    def __init__(self, schedule, groups, names=("a", "b"), std=0.3):
        super().__init__(schedule)
        self.labels = torch.tensor(list(groups), dtype=torch.float64)
        self.means = torch.tensor(list(groups.values()), dtype=torch.float64)
        self.names, self.std = names, std

    def forward(self, x_t, t, conditions=None):
        alpha, sigma = self.scales(t, x_t)
        asked = torch.cat([conditions[name] for name in self.names], 1).unsqueeze(1)
        allowed = ((asked == self.labels) | asked.isnan()).all(-1)
        marginal = alpha**2 * self.std**2 + sigma**2
        deviation = x_t.unsqueeze(1) - alpha * self.means
        likelihood = -0.5 * deviation.square().sum(-1) / marginal
        share = likelihood.masked_fill(~allowed, -torch.inf).softmax(1)
        mean = (share.unsqueeze(-1) * self.means).sum(1)
        return mean + alpha * self.std**2 / marginal * (x_t - alpha * mean)


def _asked(n, **values):
    return {name: torch.full((n, 1), value).double() for name, value in values.items()}


GRID = {(a, b): (4.0 * a - 2, 4.0 * b - 2) for a in (0, 1) for b in (0, 1)}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("t", [0.05, 0.3, 0.6, 0.95])
def test_a_product_of_independent_conditions_is_their_intersection(schedule, t, draw_noise):
    """Columns given by a, rows by b: scores add up at every noise level."""
    denoiser = Labelled(SCHEDULES[schedule](), GRID)
    composed = GuidedDenoiser(denoiser, {"a": 1.0, "b": 1.0}, _drop)
    t = torch.tensor(t, dtype=torch.float64)
    x_t = draw_noise(50, 2) * torch.hypot(*denoiser.schedule(t)) * 2
    both = _asked(50, a=1.0, b=0.0)
    torch.testing.assert_close(composed(x_t, t, both), denoiser(x_t, t, both), rtol=0, atol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("sampler", [Heun(), DPMSolver()])
def test_composed_samples_lie_in_the_one_cell(schedule, sampler, draw_noise):
    denoiser, n = Labelled(SCHEDULES[schedule](), GRID), 2000
    composed = GuidedDenoiser(denoiser, {"a": 1.0, "b": 1.0}, _drop)
    both = _asked(n, a=1.0, b=0.0)
    x = sampler.sample(composed, draw_noise(n, 2), 40, both)
    cell = torch.tensor([2.0, -2.0], dtype=torch.float64)
    torch.testing.assert_close(x.mean(0), cell, rtol=0, atol=0.05)
    torch.testing.assert_close(x.std(0), torch.full((2,), 0.3).double(), rtol=0.1, atol=0)
    # each condition alone leaves the other one open
    alone = sampler.sample(denoiser, draw_noise(n, 2), 40, _drop(both, ["b"]))
    assert (alone[:, 0] > 0).all()
    assert 0.4 < (alone[:, 1] > 0).double().mean() < 0.6


@pytest.mark.parametrize("scales", [{"a": 1.0, "b": 1.0}, {"a": 2.0, "b": 0.5}])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_effects_add_up_where_no_cell_has_both(schedule, scales, draw_noise):
    """For Gaussians that differ by their means the product has the sum of the shifts.

    N(m + u) N(m + v) / N(m) is N(m + u + v), at every noise level.
    """
    schedule, n = SCHEDULES[schedule](), 500
    nothing, shift_a, shift_b = torch.tensor(
        [[0.5, -0.3], [1.0, 0.2], [-0.4, 0.8]], dtype=torch.float64
    )

    class Shifted(Denoiser):
        def forward(self, x_t, t, conditions=None):
            alpha, sigma = self.scales(t, x_t)
            given_a, given_b = (~conditions[name].isnan() for name in ("a", "b"))
            assert not (given_a & given_b).any(), "the model has seen no cell with both"
            mean = nothing + given_a * shift_a + given_b * shift_b
            gain = alpha * 0.36 / (alpha**2 * 0.36 + sigma**2)
            return mean + gain * (x_t - alpha * mean)

    composed = GuidedDenoiser(Shifted(schedule), scales, _drop)
    mean = nothing + scales["a"] * shift_a + scales["b"] * shift_b
    truth = GaussianMixtureDenoiser(schedule, mean, torch.full((2,), 0.6, dtype=torch.float64))
    conditions = _asked(n, a=1.0, b=1.0)
    for t in (0.1, 0.5, 0.9):
        time, x_t = torch.tensor(t, dtype=torch.float64), draw_noise(n, 2)
        torch.testing.assert_close(composed(x_t, time, conditions), truth(x_t, time))
    samples, expected = (
        Heun().sample(rule, draw_noise(n, 2), 10, conditions) for rule in (composed, truth)
    )
    torch.testing.assert_close(samples, expected)


def test_scales_above_one_make_cells_more_typical(draw_noise):
    denoiser, n = Labelled(RectifiedFlow(), {(0,): (-0.5, 0.0), (1,): (0.5, 0.0)}, ("a",)), 2000
    given = _asked(n, a=1.0)
    plain, guided = (
        Heun().sample(GuidedDenoiser(denoiser, scale, _drop), draw_noise(n, 2), 40, given)
        for scale in (1.0, 4.0)
    )
    assert guided[:, 0].mean() > plain[:, 0].mean() + 0.05
    # the dimension without meaning is as it was
    torch.testing.assert_close(guided[:, 1], plain[:, 1], rtol=0, atol=1e-6)
