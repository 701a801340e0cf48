"""What generated or corrected cells are good for."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import f1_score, silhouette_samples

from scldm.metrics._checks import as_dense, labels_as_text
from scldm.metrics._labels import LabelFidelity
from scldm.metrics._neighbours import lisi

__all__ = ["Augmentation", "BatchMixing", "augmentation", "batch_mixing"]


class Augmentation(NamedTuple):
    """F1 of a rare label on real test cells, by what the classifier was trained on."""

    real: float
    oversampled: float
    augmented: float


def augmentation(
    train: ArrayLike,
    train_labels: ArrayLike,
    generated: ArrayLike,
    test: ArrayLike,
    test_labels: ArrayLike,
    *,
    label: str,
    seed: int = 0,
) -> Augmentation:
    """Whether generated cells of a rare type help to recognise it.

    One classifier is trained on the real training cells; one on these with cells of the rare type
    drawn again at random, which costs nothing and is the control; and one with generated cells in
    their place, of the same number.

    Parameters
    ----------
    train, train_labels
        Real training cells, shape (n, d), and their types.
    generated
        Generated cells of the rare type, shape (m, d).
    test, test_labels
        Real cells that neither generator nor classifier has seen.
    label
        The rare type.
    seed
        Seed of the draws and of the classifier.

    Raises
    ------
    ValueError
        If no training or test cell has that type.
    """
    x, y = as_dense(train), labels_as_text(train_labels, "train_labels")
    extra, truth = as_dense(generated), labels_as_text(test_labels, "test_labels")
    for name, labels in (("train_labels", y), ("test_labels", truth)):
        if label not in labels:
            raise ValueError(
                f"`label={label!r}` does not occur in `{name}`. Known: {sorted(set(labels))}."
            )
    rng = np.random.default_rng(seed)
    again = x[rng.choice(np.flatnonzero(y == label), len(extra))]

    def rare_f1(added: NDArray[np.float64]) -> float:
        cells = np.concatenate([x, added])
        labels = np.concatenate([y, np.full(len(added), label)])
        predicted = LabelFidelity(seed=seed).fit(cells, labels).predict(as_dense(test))
        return float(f1_score(truth == label, predicted == label, zero_division=0))

    return Augmentation(rare_f1(x[:0]), rare_f1(again), rare_f1(extra))


class BatchMixing(NamedTuple):
    """Each from 0 to 1, the higher the better."""

    batch_lisi: float
    label_lisi: float
    label_silhouette: float


def batch_mixing(x: ArrayLike, batch: ArrayLike, labels: ArrayLike) -> BatchMixing:
    r"""Mixing of batches against separation of types, in an embedding or after correction.

    *Batch LISI* is 1 where every neighbourhood holds all batches in equal shares, *label LISI* is
    1 where it holds one type only (medians of :func:`lisi`, scaled), and the *label silhouette* is
    the mean silhouette width of types, moved from [-1, 1] to [0, 1]. A correction that erases
    biology raises the first and lowers the others.

    Parameters
    ----------
    x
        Cells, shape (n_cells, d).
    batch, labels
        The batch and the type of each cell.

    Raises
    ------
    ValueError
        If there is one batch or one type only, one is missing, or there are not as many as cells.

    References
    ----------
    Luecken et al. (2022). Benchmarking atlas-level data integration in single-cell genomics.
    Nature Methods 19:41.
    """
    points = as_dense(x)
    batch, labels = labels_as_text(batch, "batch"), labels_as_text(labels, "labels")
    n_batches, n_labels = (len(np.unique(values)) for values in (batch, labels))
    for name, values, n in (("batch", batch, n_batches), ("labels", labels, n_labels)):
        if len(values) != len(points):
            raise ValueError(f"`{name}` has {len(values)} values for {len(points)} cells.")
        if n < 2:
            raise ValueError(f"`{name}` has one value only, so there is nothing to compare.")
    mixed, pure = np.median(lisi(points, batch)), np.median(lisi(points, labels))
    widths = silhouette_samples(points, labels)
    return BatchMixing(
        batch_lisi=float((mixed - 1) / (n_batches - 1)),
        label_lisi=float((n_labels - pure) / (n_labels - 1)),
        label_silhouette=float((widths.mean() + 1) / 2),
    )
