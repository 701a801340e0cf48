"""Real and generated cells, made ready for a figure."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from scldm.metrics import library_sizes
from scldm.metrics._anndata import align_genes, generated_counts, labels_of, real_counts
from scldm.metrics._split import draw
from scldm.pl._checks import require_at_least, require_known
from scldm.pl._style import natural

__all__ = ["NAMES", "Samples"]

NAMES = ("real", "generated")


class Samples(NamedTuple):
    """Two samples of cells with the same genes in the same order."""

    counts: tuple[sparse.csr_matrix, sparse.csr_matrix]
    """Each of shape (n_cells, n_genes)."""
    labels: tuple[NDArray[np.str_], NDArray[np.str_]] | None
    """Type of each cell, each of shape (n_cells,)."""
    genes: pd.Index
    names: tuple[str, str]
    """What the samples are called."""
    colors: Mapping[str, str]
    """Colours of types that scanpy keeps with the real cells; empty unless all types have one."""

    @classmethod
    def of(
        cls,
        real: AnnData,
        generated: AnnData,
        groupby: str | None = None,
        *,
        layer: str | None = None,
        names: tuple[str, str] = NAMES,
        max_cells: int | None = None,
        seed: int = 0,
    ) -> "Samples":
        """Counts and labels of both.

        Parameters
        ----------
        real, generated
            The cells.
        groupby
            Column of ``obs`` with the type, in both, or ``None``.
        layer
            Layer with the counts, or ``None`` for ``X``; ``X`` if ``generated`` has no such layer.
        names
            What the two are called.
        max_cells
            Cut both at random to the same number of cells, at most so many. All if ``None``.
        seed
            Seed of the random choice.

        Raises
        ------
        ValueError
            If genes differ, ``groupby`` or ``layer`` is missing, values are no counts, there are
            less than two cells, ``names`` are not two or ``max_cells`` is below 2.
        """
        if isinstance(names, str) or len(names) != 2:
            raise ValueError(f"`names={names!r}` must be two names, such as {NAMES}.")
        generated = align_genes(real, generated, "generated")
        cells = (real, generated)
        for adata, name in zip(cells, NAMES, strict=True):
            if adata.n_obs < 2:
                raise ValueError(f"`{name}` has {adata.n_obs} cells; at least 2 are needed.")
        if max_cells is not None:
            require_at_least("max_cells", max_cells, 2)
            rng = np.random.default_rng(seed)
            n = min(real.n_obs, generated.n_obs, max_cells)
            cells = (real[draw(real.n_obs, n, rng)], generated[draw(generated.n_obs, n, rng)])
        counts = (
            real_counts(cells[0], layer, NAMES[0]),
            generated_counts(cells[1], layer, NAMES[1]),
        )
        labels = None
        if groupby is not None:
            labels = (labels_of(cells[0], groupby, "real"),
                      labels_of(cells[1], groupby, "generated"))  # fmt: skip
        found = cls(counts, labels, real.var_names, names, {})
        colors = _kept_colors(real, groupby)
        return found._replace(colors=colors) if colors.keys() >= set(found.categories) else found

    @property
    def categories(self) -> list[str]:
        """The types of both in their natural order; none without labels."""
        if self.labels is None:
            return []
        return sorted({str(name) for labels in self.labels for name in labels}, key=natural)

    def places(self, genes: Sequence[str]) -> NDArray[np.intp]:
        """Columns of genes.

        Raises
        ------
        ValueError
            If there is none, one is not known, or names of genes occur twice.
        """
        if not self.genes.is_unique:
            raise ValueError(
                "The names of the genes of `real` are not unique. Call `var_names_make_unique()`."
            )
        require_known("genes", genes, self.genes.tolist())
        return self.genes.get_indexer(list(genes))

    def log_normalized(self) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
        """Log-normalised expression of both, at the median library size of the real cells."""
        sizes = library_sizes(self.counts[0])
        # One depth for both, or the same expression would get two values.
        depth = float(np.median(sizes[sizes > 0])) if sizes.any() else 1.0
        return _log_normalized(self.counts[0], depth), _log_normalized(self.counts[1], depth)


def _kept_colors(adata: AnnData, groupby: str | None) -> dict[str, str]:
    """Colours of the categories of a column, where there are any."""
    colors = adata.uns.get(f"{groupby}_colors")
    if groupby is None or colors is None or not hasattr(adata.obs[groupby], "cat"):
        return {}
    return dict(zip(adata.obs[groupby].cat.categories.astype(str), colors, strict=False))


def _log_normalized(counts: sparse.csr_matrix, depth: float) -> sparse.csr_matrix:
    cells = AnnData(counts.astype(np.float32))
    sc.pp.normalize_total(cells, target_sum=depth)
    sc.pp.log1p(cells)
    return cells.X
