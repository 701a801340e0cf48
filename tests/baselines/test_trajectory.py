"""Baselines of trajectories on populations that move in known ways."""

import numpy as np
import pytest
from scipy import sparse

from scldm.baselines import (
    OTCFM,
    IndependentMidpoint,
    McCann,
    Mixture,
    NextTime,
    PreviousTime,
)

ALL = (PreviousTime, NextTime, Mixture, IndependentMidpoint, McCann, OTCFM)
TIMES = (0.0, 1.0, 3.0)


@pytest.fixture(scope="module")
def cells():
    """Two clusters that move along the first axis, at one unit per unit of time."""
    rng = np.random.default_rng(0)
    x, time = [], []
    for t in TIMES:
        side = np.repeat([-5.0, 5.0], 100)
        x.append(np.stack([t + 0.1 * rng.standard_normal(200), side], axis=1))
        time.append(np.full(200, t))
    return np.concatenate(x), np.concatenate(time)


@pytest.mark.parametrize("kind", ALL)
def test_seed_decides_and_size_is_as_asked(kind, cells):
    model = kind(steps=20).fit(*cells) if kind is OTCFM else kind().fit(*cells)
    first = model.predict(2.0, 301, seed=1)
    assert first.shape == (301, 2)
    assert np.array_equal(first, model.predict(2.0, 301, seed=1))
    assert not np.array_equal(first, model.predict(2.0, 301, seed=2))


def test_copies_are_cells_of_the_neighbouring_times(cells):
    x, time = cells
    for kind, t in ((PreviousTime, 1.0), (NextTime, 3.0)):
        new = kind().fit(x, time).predict(2.5, 50)
        known = {tuple(cell) for cell in x[time == t]}
        assert all(tuple(cell) in known for cell in new)


@pytest.mark.parametrize("kind", [PreviousTime, NextTime, Mixture])
def test_at_a_measured_time_copies_are_of_that_time(kind, cells):
    x, time = cells
    new = kind().fit(x, time).predict(1.0, 100)
    known = {tuple(cell) for cell in x[time == 1.0]}
    assert all(tuple(cell) in known for cell in new)


def test_past_the_end_copies_are_of_the_last_time(cells):
    new = PreviousTime().fit(*cells).predict(5.0)
    assert abs(new[:, 0].mean() - 3) < 0.05


def test_mixture_has_shares_by_nearness(cells):
    new = Mixture().fit(*cells).predict(1.5, 400)
    assert (new[:, 0] > 2).mean() == pytest.approx(0.25, abs=0.01)


def test_random_pairs_mix_clusters_and_transport_does_not(cells):
    mixed = IndependentMidpoint().fit(*cells).predict(2.0)
    moved = McCann().fit(*cells).predict(2.0)
    assert (np.abs(mixed[:, 1]) < 1).mean() > 0.4
    assert (np.abs(np.abs(moved[:, 1]) - 5) < 1e-9).all()
    assert moved[:, 0].mean() == pytest.approx(2, abs=0.05)


def test_transport_carries_on_past_the_last_time(cells):
    assert McCann().fit(*cells).predict(5.0)[:, 0].mean() == pytest.approx(5, abs=0.05)


def test_flow_follows_the_clusters(cells):
    new = OTCFM(steps=600).fit(*cells).predict(2.0)
    assert new[:, 0].mean() == pytest.approx(2, abs=0.15)
    assert (np.abs(np.abs(new[:, 1]) - 5) < 1).mean() > 0.95


def test_sparse_cells_are_cells(cells):
    x, time = cells
    dense = McCann().fit(x, time).predict(2.0, 20)
    np.testing.assert_allclose(dense, McCann().fit(sparse.csr_matrix(x), time).predict(2.0, 20))


def test_training_leaves_the_global_stream_alone(cells):
    import torch

    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    OTCFM(steps=3).fit(*cells)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, t: (x, t[:-1]), "`time`"),
        (lambda x, t: (x, np.zeros_like(t)), "two or more"),
        (lambda x, t: (np.where(x > 4, np.nan, x), t), "not finite"),
    ],
)
def test_odd_cells_are_refused(change, words, cells):
    with pytest.raises(ValueError, match=words):
        McCann().fit(*change(*cells))


def test_odd_requests_are_refused(cells):
    with pytest.raises(RuntimeError, match="`fit` first"):
        McCann().predict(1.0)
    for n in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="`n_cells="):
            Mixture().fit(*cells).predict(1.0, n)


@pytest.mark.parametrize("time", [-1.0, np.nan, "late"])
def test_times_before_the_first_are_refused(time, cells):
    with pytest.raises(ValueError, match="`time="):
        McCann().fit(*cells).predict(time)
