import math

import pytest
import torch
from scipy import stats

from scldm.diffusion import (
    SCHEDULES,
    TIME_DISTRIBUTIONS,
    LogitNormalTimes,
    LogNormalNoise,
    RectifiedFlow,
    UniformTimes,
)

N = 2000


def _draw(distribution, schedule, n=N, seed=0):
    return distribution.draw(n, schedule, "cpu", torch.Generator().manual_seed(seed))


def _distance(values, cdf):
    """Return the Kolmogorov distance, which for stratified draws is less than 1 / n."""
    return stats.kstest(values.numpy(), cdf).statistic


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", TIME_DISTRIBUTIONS)
def test_draws_lie_between_data_and_noise(name, schedule):
    t = _draw(TIME_DISTRIBUTIONS[name](), SCHEDULES[schedule]())
    assert t.shape == (N,)
    assert t.dtype == torch.float64
    assert ((t > 0) & (t <= 1)).all()


@pytest.mark.parametrize("name", TIME_DISTRIBUTIONS)
def test_draws_follow_the_generator_alone(name):
    distribution, schedule = TIME_DISTRIBUTIONS[name](), RectifiedFlow()
    before = torch.random.get_rng_state()
    first = _draw(distribution, schedule)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(_draw(distribution, schedule), first)
    assert not torch.equal(_draw(distribution, schedule, seed=1), first)


def test_uniform_draws_are_stratified():
    t = _draw(UniformTimes(), RectifiedFlow(), 100)
    assert torch.equal((t * 100).floor().long().sort().values, torch.arange(100))
    # and free within their strata
    assert _distance((t * 100) % 1, "uniform") < 1.6 / 100**0.5


def test_times_do_not_follow_the_order_of_the_cells():
    t = torch.stack([_draw(UniformTimes(), RectifiedFlow(), 50, seed) for seed in range(400)])
    assert (t.mean(0) - 0.5).abs().max() < 5 * (1 / 12 / 400) ** 0.5


def test_one_draw_covers_the_whole_range():
    t = torch.cat([_draw(UniformTimes(), RectifiedFlow(), 1, seed) for seed in range(200)])
    assert _distance(t, "uniform") < 1.6 / 200**0.5


@pytest.mark.parametrize(("location", "scale"), [(0.0, 1.0), (0.5, 2.0)])
def test_logits_of_times_are_normal(location, scale):
    t = _draw(LogitNormalTimes(location, scale), RectifiedFlow())
    assert _distance(torch.logit(t), stats.norm(location, scale).cdf) < 1.001 / N


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("options", "location", "scale"),
    [({}, -1.2 + math.log(2), 1.2), ({"location": -0.3, "scale": 0.7}, -0.3, 0.7)],
)
def test_noise_levels_are_log_normal_on_every_schedule(schedule, options, location, scale):
    schedule = SCHEDULES[schedule]()
    alpha, sigma = schedule(_draw(LogNormalNoise(**options), schedule))
    assert _distance((sigma / alpha).log(), stats.norm(location, scale).cdf) < 1.001 / N


@pytest.mark.parametrize("name", TIME_DISTRIBUTIONS)
def test_quantiles_grow_and_keep_their_shape(name):
    u = torch.linspace(0.01, 0.99, 20, dtype=torch.float64).reshape(4, 5)
    t = TIME_DISTRIBUTIONS[name]().quantile(u, SCHEDULES["vp_linear"]())
    assert t.shape == (4, 5)
    assert (t.flatten().diff() > 0).all()
