import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score

from scldm.metrics import memorisation
from scldm.metrics._memory import memory_statistics


def cells(n, seed):
    return np.random.default_rng(seed).normal(size=(n, 5))


def test_copies_of_training_cells_are_caught_by_all_three():
    seen, unseen = cells(300, 0), cells(300, 1)
    memory = memorisation(seen, seen, unseen)
    assert memory == pytest.approx((0, 1, 1), abs=1e-9)


def test_copies_in_part_are_counted():
    seen, unseen = cells(300, 0), cells(300, 1)
    memory = memorisation(np.vstack([seen[:90], cells(210, 2)]), seen, unseen)
    assert memory.near_copies == pytest.approx(0.3, abs=0.03)
    assert memory.nn_ratio == pytest.approx(0.7, abs=0.05)
    assert memory.membership_auc == pytest.approx(0.5 + 0.3 / 2, abs=0.06)


def test_cells_that_are_new_give_one_a_hundredth_and_a_half():
    values = np.array(
        [memorisation(*(cells(300, 3 * s + i) for i in range(3))) for s in range(60)]
    )
    error = values.std(axis=0) / np.sqrt(len(values))
    # The 1% quantile of 300 distances leaves (0.01 * 299 + 1) / 301 below it in the mean.
    truth = np.array([1, (0.01 * 299 + 1) / 301, 0.5])
    assert (np.abs(values.mean(axis=0) - truth) < 4 * error).all()
    assert (error < [0.01, 0.002, 0.01]).all()


def test_cells_that_avoid_those_of_the_training_lie_above_one():
    seen, unseen = cells(300, 0), cells(300, 1)
    memory = memorisation(unseen + 0.01, seen, unseen)
    assert memory.nn_ratio > 10 and memory.near_copies < 0.03 and memory.membership_auc == 0


def test_noisy_copies_are_caught():
    seen, unseen = cells(300, 0), cells(300, 1)
    memory = memorisation(seen + 0.1 * cells(300, 2), seen, unseen)
    assert memory.nn_ratio < 0.3 and memory.near_copies > 0.5 and memory.membership_auc > 0.95


def test_equals_its_definition_and_repeated_cells_are_weights(multiplicities):
    seen, unseen = cells(60, 1), 2 * cells(60, 2)
    # Many cells of the training at one held-out cell: the quantile is of the latter's distances.
    seen[40:] = unseen[0] + 0.01 * cells(20, 3)
    generated = seen[:40] + np.linspace(0, 1, 40)[:, None] * cells(40, 0)
    c, d = multiplicities(60, 3, 1), multiplicities(40, 3, 2)
    to_seen, to_unseen = cdist(generated, seen).min(axis=1), cdist(generated, unseen).min(axis=1)
    between = cdist(unseen, seen).min(axis=1)
    assert 0 < (to_seen <= between.min()).mean() < 0.9
    attack = -np.concatenate([cdist(x, generated).min(axis=1) for x in (unseen, seen)])
    statistics = memory_statistics(generated, seen, unseen)
    values = {name: statistic(c / 60, d / 40) for name, statistic in statistics.items()}
    for row, (i, j) in enumerate(zip(c, d, strict=True)):
        expected = {
            "nn_ratio": np.repeat(to_seen, j).mean() / np.repeat(to_unseen, j).mean(),
            "near_copies": np.repeat(to_seen <= np.repeat(between, i).min(), j).mean(),
            "membership_auc": roc_auc_score(
                np.repeat([0, 1], 60), attack, sample_weight=np.tile(i, 2)
            ),
        }
        assert {name: value[row] for name, value in values.items()} == pytest.approx(expected)
    plain = memorisation(generated, seen, unseen)
    assert plain.nn_ratio == pytest.approx(to_seen.mean() / to_unseen.mean())
    assert plain.membership_auc == pytest.approx(roc_auc_score(np.repeat([0, 1], 60), attack))


def test_seen_and_unseen_cells_must_be_as_many():
    with pytest.raises(ValueError, match="`seen` and `unseen` must have the same number .* 9 and"):
        memorisation(cells(5, 0), cells(9, 1), cells(8, 2))
