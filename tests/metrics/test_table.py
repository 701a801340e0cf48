import numpy as np
import pytest
from sklearn.metrics import f1_score

from scldm.metrics import LabelFidelity, Projection
from scldm.metrics._table import METRICS, Cells, Comparison, Reference


@pytest.fixture(scope="module")
def comparison(simulate):
    """Cells whose labels are partly wrong, and in the sample partly unknown."""
    rng = np.random.default_rng(0)
    train = simulate(200, 1)
    projection = Projection(4).fit(train.X)

    def cells(n, seed, names):
        adata = simulate(n, seed)
        labels = adata.obs["cell_type"].to_numpy(dtype=str)
        return Cells.of(
            adata.X, projection, np.where(rng.random(n) < 0.6, labels, rng.choice(names, n))
        )

    classifier = LabelFidelity()
    classifier.fit(projection.transform(train.X), train.obs["cell_type"].to_numpy(dtype=str))
    reference = Reference(
        test=cells(60, 2, ["a", "b", "c"]),
        seen=cells(60, 3, ["a", "b", "c"]),
        fresh=cells(60, 4, ["a", "b", "c"]),
        projection=projection,
        classifier=classifier,
        seed=0,
        n_jobs=None,
    )
    return Comparison(reference, cells(60, 5, ["a", "b", "unheard of"]))


@pytest.fixture
def weights(multiplicities):
    return multiplicities(60, 4, 1) / 60, multiplicities(60, 4, 2) / 60


def macro(truth, predicted, weights):
    names = np.unique(truth)
    return [
        f1_score(truth, predicted, labels=names, average="macro", sample_weight=row)
        for row in weights
    ]


def test_label_f1_weighs_the_sample_and_leaves_unknown_labels_out(comparison, weights):
    w, v = weights
    labels = comparison.cells.labels
    known = labels != "unheard of"
    assert 30 < known.sum() < 57
    predicted = comparison.reference.classifier.predict(comparison.cells.pcs)
    expected = macro(labels[known], predicted[known], v[:, known])
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(METRICS["label_f1"].statistic(comparison)(w, v), expected)


def test_train_on_generated_f1_weighs_the_test_cells(comparison, weights):
    w, v = weights
    learner = LabelFidelity().fit(comparison.cells.pcs, comparison.cells.labels)
    expected = macro(comparison.test.labels, learner.predict(comparison.test.pcs), w)
    assert np.ptp(expected) > 0.01
    statistic = METRICS["train_on_generated_f1"].statistic(comparison)
    np.testing.assert_allclose(statistic(w, v), expected)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_takes_many_rows_of_weights_at_once(comparison, weights, name):
    statistic = METRICS[name].statistic(comparison)
    together = statistic(*weights)
    assert together.shape == (4,) and np.isfinite(together).all()
    alone = [statistic(w[None], v[None])[0] for w, v in zip(*weights, strict=True)]
    np.testing.assert_allclose(together, alone)
