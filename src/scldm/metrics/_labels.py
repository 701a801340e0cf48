"""Whether a generated cell is of the type it was generated for."""

from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

__all__ = ["LabelFidelity"]


class LabelFidelity:
    """Macro-averaged F1 of a classifier that learned the labels from real cells.

    Fit on real training cells, then score generated cells against the labels they were generated
    for. The score of real test cells is the ceiling; a generator that hands out copies of training
    cells, or cells more typical than real ones, lies above it.

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
            Real cells, shape (n_cells, d).
        labels
            One label per cell.

        Raises
        ------
        ValueError
            If there are less than two labels.
        """
        truth = np.asarray(labels).astype(str)
        if len(np.unique(truth)) < 2:
            raise ValueError(
                f"There is one label only, {str(truth[0])!r}, and nothing to tell apart."
            )
        model = LogisticRegression(max_iter=1000, random_state=self.seed)
        self.classifier_ = make_pipeline(StandardScaler(), model).fit(x, truth)
        self.labels_ = self.classifier_.classes_.tolist()
        return self

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
        truth = np.asarray(labels).astype(str)
        unknown = sorted(set(truth.tolist()) - set(self.labels_))
        if unknown:
            raise ValueError(f"{unknown[0]!r} is not a known label. Known: {self.labels_}.")
        predicted = self.classifier_.predict(x)
        # Without `labels`, a single cell taken for a type that was not asked for would add a
        # whole class with a score of zero.
        present = np.unique(truth)
        return float(f1_score(truth, predicted, labels=present, average="macro", zero_division=0))
