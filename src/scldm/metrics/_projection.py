"""From counts to the space in which cells are compared."""

from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.decomposition import PCA

from scldm.metrics._checks import Counts, as_csr

__all__ = ["Projection"]


class Projection:
    r"""Normalise to a common depth, take logarithms, project on principal components.

    For a cell :math:`i` with counts :math:`x_{ig}` and library size :math:`l_i = \sum_g x_{ig}`,

    .. math:: y_{ig} = \log\left(1 + s\, x_{ig} / l_i\right), \qquad z_i = (y_i - \bar y) V,

    where the depth :math:`s`, the mean :math:`\bar y` and the components :math:`V` come from the
    cells given to :meth:`fit` and never from those compared. Fit on real cells that stand on
    neither side of the comparison: components fitted on one side describe that side best, and
    the two sides then differ even if their distributions do not.

    Parameters
    ----------
    n_components
        Number of principal components.
    target_sum
        The depth :math:`s`. The median library size of the fitted cells if ``None``.
    seed
        Seed of the starting vector of the iterative solver.

    Attributes
    ----------
    target_sum_
        The depth that is used.
    pca_
        The fitted :class:`sklearn.decomposition.PCA`.

    Notes
    -----
    Depth is divided out, so a generator with the wrong depth may look well here. See
    :func:`~scldm.metrics.library_size_w1` for the depth itself.
    """

    def __init__(
        self, n_components: int = 30, *, target_sum: float | None = None, seed: int = 0
    ) -> None:
        self.n_components = n_components
        self.target_sum = target_sum
        self.seed = seed

    def fit(self, counts: Counts) -> Self:
        """Learn depth and components from cells.

        Parameters
        ----------
        counts
            Counts, shape (n_cells, n_genes).

        Raises
        ------
        ValueError
            If there are not more cells and genes than components, all cells are empty, or
            ``target_sum`` is not above 0.
        """
        matrix = as_csr(counts)
        if self.target_sum is not None and not 0 < self.target_sum < np.inf:
            raise ValueError(f"`target_sum={self.target_sum!r}` must be a number above 0.")
        if self.n_components >= min(matrix.shape):
            raise ValueError(
                f"`n_components={self.n_components}` needs more cells and more genes than that, "
                f"but there are {matrix.shape[0]} cells and {matrix.shape[1]} genes."
            )
        depth = _library_sizes(matrix)
        if not depth.any():
            raise ValueError("All cells are empty, so there is no depth to normalise to.")
        self.target_sum_ = (
            float(np.median(depth[depth > 0])) if self.target_sum is None else self.target_sum
        )
        # "arpack" centres without making the matrix dense.
        self.pca_ = PCA(self.n_components, svd_solver="arpack", random_state=self.seed)
        self.pca_.fit(self._normalized(matrix))
        return self

    def log_normalize(self, counts: Counts) -> NDArray[np.float32]:
        """Log-normalised expression.

        Parameters
        ----------
        counts
            Counts, shape (n_cells, n_genes).

        Returns
        -------
        Dense array of shape (n_cells, n_genes). A cell without counts stays zero.
        """
        return self.log_normalize_sparse(counts).toarray()

    def log_normalize_sparse(self, counts: Counts) -> sparse.csr_matrix:
        """As :meth:`log_normalize`, sparse.

        Parameters
        ----------
        counts
            Counts, shape (n_cells, n_genes).
        """
        return self._normalized(as_csr(counts))

    def transform(self, counts: Counts) -> NDArray[np.float32]:
        """Principal component scores.

        Parameters
        ----------
        counts
            Counts, shape (n_cells, n_genes).

        Returns
        -------
        Dense array of shape (n_cells, n_components).
        """
        scores = self.pca_.transform(self._normalized(as_csr(counts)))
        return np.asarray(scores, dtype=np.float32)

    def _normalized(self, matrix: sparse.csr_matrix) -> sparse.csr_matrix:
        depth = _library_sizes(matrix)
        factor = np.divide(self.target_sum_, depth, out=np.zeros_like(depth), where=depth > 0)
        scaled = matrix.data * np.repeat(factor, np.diff(matrix.indptr))
        values = np.log1p(scaled).astype(np.float32)
        # With copies of the indices: scipy sorts those of a matrix in place when it likes, and would
        # leave the values of the other matrix behind.
        return sparse.csr_matrix((values, matrix.indices, matrix.indptr), matrix.shape, copy=True)


def _library_sizes(matrix: sparse.csr_matrix) -> NDArray[np.float64]:
    return np.asarray(matrix.sum(axis=1, dtype=np.float64)).ravel()
