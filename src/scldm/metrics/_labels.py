"""Whether a generated cell is of the type it was generated for."""

from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scldm.metrics._checks import as_dense, labels_as_text
from scldm.metrics._statistic import Weights

__all__ = ["LabelFidelity", "macro_f1"]


class LabelFidelity:
    """Macro-averaged F1 of a classifier that learned the labels from real cells.

    Fit on real training cells, then score generated cells against the labels they were generated
    for. The score of real test cells is the ceiling; a generator that hands out copies of training
    cells, or cells more typical than real ones, lies above it. Fit on generated cells and score
    real ones to learn what the generated cells are worth as training data.

    Parameters
    ----------
    seed
        Seed of the solver.

    Attributes
    ----------
    labels_
        The labels that were learned.

    Notes
    -----
    The classifier is a logistic regression on standardised columns.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, x: ArrayLike, labels: ArrayLike) -> Self:
        """Learn the labels.

        Parameters
        ----------
        x
            Cells, shape (n_cells, d).
        labels
            One label per cell.

        Raises
        ------
        ValueError
            If there are less than two labels, or one is missing.
        """
        truth = labels_as_text(labels, "labels")
        if len(np.unique(truth)) < 2:
            raise ValueError(
                f"There is one label only, {str(truth[0])!r}, and nothing to tell apart."
            )
        model = LogisticRegression(max_iter=1000, random_state=self.seed)
        self.classifier_ = make_pipeline(StandardScaler(), model).fit(as_dense(x), truth)
        self.labels_ = self.classifier_.classes_.tolist()
        return self

    def predict(self, x: ArrayLike) -> NDArray[np.str_]:
        """The label of each cell.

        Parameters
        ----------
        x
            Cells, shape (n_cells, d).
        """
        return self.classifier_.predict(as_dense(x))

    def score(self, x: ArrayLike, labels: ArrayLike) -> float:
        """Mean of the F1 scores of the labels that occur in ``labels``, each with equal weight.

        Parameters
        ----------
        x
            Cells, shape (n_cells, d).
        labels
            For each cell the label it should have.

        Raises
        ------
        ValueError
            If a label was not among those learned.
        """
        truth = labels_as_text(labels, "labels")
        unknown = sorted(set(truth.tolist()) - set(self.labels_))
        if unknown:
            raise ValueError(f"{unknown[0]!r} is not a known label. Known: {self.labels_}.")
        weights = np.full((1, len(truth)), 1 / len(truth))
        return float(macro_f1(truth, self.predict(x), weights)[0])


def macro_f1(
    truth: NDArray[np.str_], predicted: NDArray[np.str_], weights: Weights
) -> NDArray[np.float64]:
    """Mean F1 over the labels in ``truth``, for each row of weights.

    A label that no weighted cell has counts in no mean.

    Parameters
    ----------
    truth, predicted
        One label per cell.
    weights
        Shape (n_rows, n_cells).
    """
    # Without that limit to the labels in `truth`, a single cell taken for a type that was not
    # asked for would add a whole class with a score of zero.
    scores = []
    for label in np.unique(truth):
        is_true, is_predicted = truth == label, predicted == label
        both = weights[:, is_true & is_predicted].sum(axis=1)
        asked, given = weights[:, is_true].sum(axis=1), weights[:, is_predicted].sum(axis=1)
        score = np.divide(2 * both, asked + given, out=np.zeros_like(both), where=asked > 0)
        scores.append(np.where(asked > 0, score, np.nan))
    return np.nanmean(scores, axis=0)
