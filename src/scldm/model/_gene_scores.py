r"""Scores of gene sets in cells.

With counts :math:`c_{ng}` and the median library size :math:`L` of the training cells, the
expression of gene g in cell n is

.. math:: x_{ng} = \log\left(1 + L\, c_{ng} / \textstyle\sum_h c_{nh}\right),

and the score of a set with weights :math:`w_g`, which sum to one, is

.. math:: \sum_g w_g \left(x_{ng} - \bar x_{n, b(g)}\right),

in which :math:`\bar x_{n, b(g)}` is the mean in the same cell over the other genes of about the
same mean expression: those of the bin of g that are not in the set, or of the nearest bin that
has such genes. Sampling makes the mean of
logarithms depend on depth, the more so the lower a gene is expressed; comparison with like genes
takes that out. This is the score of Tirosh et al. (2016), Science 352:189, as in Seurat's
``AddModuleScore`` and scanpy's ``score_genes``, with all genes of a bin as controls in place of a
random draw. That makes it linear in x, the same every time, and one sparse matrix product.

Scores are in standard deviations of the training cells around their mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
from scipy import sparse

from ._fields import shortened

__all__ = ["GeneSetScores"]

_ROWS_AT_A_TIME = 4096
_MOST_BINS = 25
_FEWEST_GENES_IN_A_BIN = 20


class GeneSetScores:
    """How to score cells, fitted to the training cells.

    Parameters
    ----------
    names
        Names of the sets.
    membership
        Weights of genes in sets, ``(n_genes, n_sets)``.
    bins
        For each gene, the bin of genes of about the same mean expression.
    target
        Library size that counts are scaled to.
    mean, spread
        Moments of the sets' scores over the training cells.
    """

    def __init__(
        self,
        names: Sequence[str],
        membership: np.ndarray,
        bins: np.ndarray,
        target: float,
        mean: np.ndarray,
        spread: np.ndarray,
    ) -> None:
        self.names = list(names)
        self.membership = membership
        self.bins = bins
        self.target = target
        self.mean = mean
        self.spread = spread

    @classmethod
    def fit(cls, counts: Any, names: Sequence[str], membership: np.ndarray, argument: str) -> Self:
        """Fit to counts, ``(n_cells, n_genes)``.

        Raises
        ------
        ValueError
            If a set has no score, as its genes are constant or all there are.
        """
        target = float(np.median(np.asarray(counts.sum(axis=1)).ravel()))
        total, squares = np.zeros(counts.shape[1]), np.zeros(counts.shape[1])
        for x in _expression(counts, target):
            total = total + np.asarray(x.sum(axis=0)).ravel()
            squares = squares + np.asarray(x.multiply(x).sum(axis=0)).ravel()
        expression = total / counts.shape[0]
        varies = squares / counts.shape[0] - np.square(expression) > 1e-8
        constant = ~(membership[varies] > 0).any(axis=0)
        if constant.any():
            raise ValueError(
                f"`{argument}` has sets of genes whose expression is the same in all cells: "
                f"{shortened(np.array(names)[constant])}. Leave them out."
            )
        zeros, ones = np.zeros(len(names)), np.ones(len(names))
        scores = cls(names, membership, _bins(expression), target, zeros, ones)
        raw = scores(counts)
        scores.mean, scores.spread = raw.mean(axis=0), raw.std(axis=0)
        if (flat := scores.spread < 1e-6).any():
            raise ValueError(
                f"`{argument}` has sets whose score is the same in all cells: "
                f"{shortened(np.array(names)[flat])}. A set is scored against genes outside it; "
                "one that has all genes has no score."
            )
        return scores

    @property
    def state(self) -> dict[str, Any]:
        """What it is made from, as plain data and arrays."""
        return {
            "names": self.names,
            "membership": self.membership,
            "bins": self.bins,
            "target": self.target,
            "mean": self.mean,
            "spread": self.spread,
        }

    @cached_property
    def contrast(self) -> np.ndarray:
        """Weights of genes in scores, ``(n_genes, n_sets)``; they sum to zero for each set."""
        contrast = self.membership.astype(float) / self.membership.sum(axis=0, dtype=float)
        n_bins = int(self.bins.max()) + 1
        for weight in contrast.T:
            other = weight == 0
            if not other.any():
                # without other genes there is nothing to compare with
                weight[:] = 0
                continue
            n_other = np.bincount(self.bins[other], minlength=n_bins)
            with_others = np.flatnonzero(n_other)
            # the bin itself, or the nearest that has other genes
            nearest = np.abs(with_others - np.arange(n_bins)[:, None]).argmin(axis=1)
            inside = np.bincount(self.bins, weight, n_bins)
            moved = np.bincount(with_others[nearest], inside, n_bins) / np.maximum(n_other, 1)
            weight[other] -= moved[self.bins[other]]
        return contrast

    def __call__(self, counts: Any) -> np.ndarray:
        """Return the scores of cells, ``(n_cells, n_sets)``."""
        parts = [x @ self.contrast for x in _expression(counts, self.target)]
        return (np.concatenate(parts) - self.mean) / self.spread


def _expression(counts: Any, target: float) -> Iterator[sparse.csr_matrix]:
    """Yield log-normalised expression, some rows at a time; zeros where a cell has no count."""
    for start in range(0, counts.shape[0], _ROWS_AT_A_TIME):
        x = sparse.csr_matrix(counts[start : start + _ROWS_AT_A_TIME], dtype=float, copy=True)
        library = np.asarray(x.sum(axis=1)).ravel()
        x.data *= np.repeat(target / np.where(library > 0, library, 1), np.diff(x.indptr))
        yield x.log1p()


def _bins(expression: np.ndarray) -> np.ndarray:
    """Return bins of as many genes each, by rank of their mean expression."""
    n_bins = int(np.clip(len(expression) // _FEWEST_GENES_IN_A_BIN, 1, _MOST_BINS))
    rank = np.empty(len(expression), dtype=int)
    rank[np.argsort(expression, kind="stable")] = np.arange(len(expression))
    return rank * n_bins // len(expression)
