import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, silhouette_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scldm.metrics import augmentation, batch_mixing, lisi


def cells(n, centre, seed, spread=1.0):
    return np.asarray(centre) + spread * np.random.default_rng(seed).normal(size=(n, 2))


@pytest.fixture
def rare():
    """Two common types and a rare one that is seen at the edge of its place only."""
    train = np.vstack([cells(200, (0, 0), 0), cells(200, (6, 0), 1), cells(4, (0.5, 1.0), 2, 0.1)])
    test = np.vstack([cells(200, (0, 0), 3), cells(200, (6, 0), 4), cells(60, (3, 3), 5)])
    labels = np.repeat(["a", "b", "rare"], [200, 200, 4])
    return train, labels, test, np.repeat(["a", "b", "rare"], [200, 200, 60])


def test_cells_of_the_true_distribution_help_and_useless_ones_do_not(rare):
    train, labels, test, truth = rare
    good = augmentation(train, labels, cells(200, (3, 3), 6), test, truth, label="rare")
    assert good.augmented > max(good.real, good.oversampled) + 0.1
    bad = augmentation(train, labels, cells(200, (0, 0), 6), test, truth, label="rare")
    assert bad.augmented < bad.oversampled - 0.1
    assert (bad.real, bad.oversampled) == (good.real, good.oversampled)


def test_copies_of_the_rare_cells_are_worth_what_drawing_them_again_is(rare):
    train, labels, test, truth = rare
    copies = np.tile(train[labels == "rare"], (50, 1))
    value = augmentation(train, labels, copies, test, truth, label="rare")
    assert value.augmented == pytest.approx(value.oversampled, abs=0.05)


def test_augmentation_equals_the_classifiers_of_sklearn(rare):
    train, labels, test, truth = rare
    new = cells(30, (3, 3), 6)

    def f1(x, y):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x, y)
        return f1_score(truth, model.predict(test), labels=["rare"], average="macro")

    value = augmentation(train, labels, new, test, truth, label="rare")
    assert value.real == pytest.approx(f1(train, labels))
    both = np.vstack([train, new]), np.append(labels, ["rare"] * 30)
    assert value.augmented == pytest.approx(f1(*both))
    assert value.oversampled > value.real


def test_augmentation_with_a_seed_and_without_its_label(rare):
    train, labels, test, truth = rare
    new = cells(3, (3, 3), 6)
    first, again = (
        augmentation(train, labels, new, test, truth, label="rare", seed=1) for _ in range(2)
    )
    assert first == again
    with pytest.raises(ValueError, match=r"`label='z'` does not occur in `train_labels`. Known: "):
        augmentation(train, labels, new, test, truth, label="z")
    with pytest.raises(ValueError, match="`label='rare'` does not occur in `test_labels`"):
        augmentation(train, labels, new, test[:400], truth[:400], label="rare")


@pytest.fixture
def atlas():
    """Two types in two batches, as they are and after corrections of three kinds."""
    n = 150
    batch, kind = np.tile([0, 1], 2 * n), np.repeat(["a", "b"], 2 * n)
    x = cells(4 * n, (0, 0), 0) + np.where(kind == "a", 0, 12)[:, None] * [1, 0]
    apart = x + np.where(batch == 0, 0, 12)[:, None] * [0, 1]
    return x, apart, cells(4 * n, (0, 0), 1), batch, kind


def test_batch_mixing_of_a_good_a_missing_and_an_overdone_correction(atlas):
    good, apart, erased, batch, kind = atlas
    value = batch_mixing(good, batch, kind)
    assert value.batch_lisi > 0.85 and value.label_lisi == pytest.approx(1)
    assert value.label_silhouette > 0.85
    value = batch_mixing(apart, batch, kind)
    assert value.batch_lisi == pytest.approx(0, abs=1e-6)
    assert value.label_lisi == pytest.approx(1)
    value = batch_mixing(erased, batch, kind)
    assert value.batch_lisi > 0.85 and value.label_lisi < 0.15
    assert value.label_silhouette == pytest.approx(0.5, abs=0.02)


def test_batch_mixing_is_scaled_from_lisi_and_silhouette():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(150, 3))
    batch, kind = rng.choice([5, 6, 7], 150), rng.choice(["a", "b", "c", "d"], 150)
    value = batch_mixing(x, batch, kind)
    assert value.batch_lisi == pytest.approx((np.median(lisi(x, batch)) - 1) / 2)
    assert value.label_lisi == pytest.approx((4 - np.median(lisi(x, kind))) / 3)
    assert value.label_silhouette == pytest.approx((silhouette_score(x, kind) + 1) / 2)
    assert all(0 <= v <= 1 for v in value)


def test_one_batch_or_one_type_leaves_nothing_to_compare(atlas):
    x, _, _, batch, kind = atlas
    with pytest.raises(ValueError, match="`batch` has one value only"):
        batch_mixing(x, np.zeros(len(x)), kind)
    with pytest.raises(ValueError, match="`labels` has one value only"):
        batch_mixing(x, batch, np.zeros(len(x)))
