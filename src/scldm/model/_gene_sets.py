"""Gene sets: their scores as a condition, and as a result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse
from scvi.data.fields import BaseAnnDataField
from torch import nn

from scldm.nn import GeneSetEmbedder

from ._conditions import STEPS, Condition, one_dimensional
from ._fields import check_counts, shortened
from ._gene_scores import GeneSetScores
from ._keys import KEYS
from ._storage import is_on_disk

__all__ = ["GeneSets", "GeneSetsField", "GeneSetsMixin"]


class GeneSets(Condition):
    """Scores of gene sets, of which any may be asked for and the rest are left free.

    Scores follow from a cell's counts. So they are no circumstance that a new cell must have one
    value of, and those that are not asked for are not drawn from training cells.

    Parameters
    ----------
    column
        The user's key of ``varm``, and of ``obsm`` in cells that are generated.
    scores
        How to score cells.
    layer
        The layer with the counts.
    """

    stays_free = True

    def __init__(self, column: str, scores: GeneSetScores, layer: str | None) -> None:
        super().__init__("gene_sets")
        self.column = column
        self.scores = scores
        self.layer = layer

    def columns(self, argument: str) -> list[str]:
        return [f"{argument}[{name}]" for name in self.scores.names]

    def parse(self, argument: str, values: Any) -> pd.DataFrame:
        given = {
            name: self._numbers(name, score)
            for name, score in self._by_name(argument, values).items()
        }
        lengths = {name: len(score) for name, score in given.items() if len(score) != 1}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{name!r} {length}" for name, length in lengths.items())
            raise ValueError(f"`{argument}` has scores for different numbers of cells: {told}.")
        n = next(iter(lengths.values()), 1)
        scores = {
            column: np.broadcast_to(given.get(name, np.nan), n).astype(np.float32)
            for name, column in zip(self.scores.names, self.columns(argument), strict=True)
        }
        return pd.DataFrame(scores, index=pd.RangeIndex(n))

    def _by_name(self, argument: str, values: Any) -> dict[str, Any]:
        """Return scores by set; an array has a column for each set of the model."""
        names = self.scores.names
        if isinstance(values, pd.DataFrame | Mapping):
            given = dict(values.items())
        elif isinstance(values, np.ndarray):
            if values.ndim not in (1, 2) or values.shape[-1] != len(names):
                raise ValueError(
                    f"`{argument}` has shape {values.shape}, but must be (n_cells, {len(names)}), "
                    f"or ({len(names)},) for all cells, with a column for each gene set."
                )
            given = dict(zip(names, np.atleast_2d(values).T, strict=True))
        else:
            given = {}
        if not given:
            raise ValueError(
                f"`{argument}` must map names of gene sets to scores, in standard deviations of "
                f"the training cells. Known: {shortened(names)}."
            )
        for name in given:
            if name not in names:
                raise ValueError(
                    f"`{argument}` has {name!r}, which is not a known gene set. "
                    f"Known: {shortened(names)}."
                )
        return given

    @staticmethod
    def _numbers(name: str, score: Any) -> np.ndarray:
        what = f"gene_sets[{name!r}]"
        given = one_dimensional(what, score)
        try:
            numbers = given.astype(float)
        except (TypeError, ValueError):
            raise ValueError(f"`{what}={score!r}` is not a number.") from None
        if np.isinf(numbers).any():
            raise ValueError(f"`{what}` has infinite values; finite ones are allowed.")
        return numbers

    def per_cell(self, argument: str, values: Any) -> bool:
        if isinstance(values, np.ndarray):
            return values.ndim == 2
        if not isinstance(values, Mapping) or isinstance(values, pd.DataFrame):
            return True
        return any(super(GeneSets, self).per_cell(argument, score) for score in values.values())

    def describe(self, values: pd.DataFrame) -> str:
        if len(values) != 1:
            return super().describe(values)
        scores = zip(self.scores.names, values.iloc[0], strict=True)
        return ", ".join(f"{name}: {score:g}" for name, score in scores if not np.isnan(score))

    def read(self, adata: AnnData) -> pd.DataFrame:
        counts = adata.X if self.layer is None else adata.layers[self.layer]
        return pd.DataFrame(
            self.scores(counts).astype(np.float32), columns=self.columns("gene_sets")
        )

    def write(self, frame: pd.DataFrame, adata: AnnData) -> None:
        adata.obsm[self.column] = pd.DataFrame(
            frame[self.columns("gene_sets")].to_numpy(np.float32),
            index=adata.obs_names,
            columns=self.scores.names,
        )

    def encode(self, frame: pd.DataFrame) -> np.ndarray:
        return frame[self.columns("gene_sets")].to_numpy(np.float32)

    def examples(self, training: pd.DataFrame) -> tuple[list[str], pd.DataFrame]:
        columns = self.columns(self.name)
        names = self.scores.names
        # one set alone is asked for, the others are left free
        alone = np.where(np.eye(len(names), dtype=bool), 1.0, np.nan)
        labels = [f"{name} {step}" for step in STEPS for name in names]
        return labels, pd.DataFrame(np.concatenate([-alone, alone]), columns=columns)

    def embedder(self, width: int) -> nn.Module:
        membership = torch.as_tensor(self.scores.membership)
        return GeneSetEmbedder(membership, width, self.scores.names)


class GeneSetsField(BaseAnnDataField):
    """Gene sets in ``varm``; keeps their names and weights, and how cells are scored.

    Parameters
    ----------
    attr_key
        Key of ``adata.varm``.
    layer
        The layer with the counts.
    """

    registry_key = KEYS.GENE_SETS
    attr_name = "varm"
    is_empty = False

    def __init__(self, attr_key: str, layer: str | None) -> None:
        self._attr_key = attr_key
        self.layer = layer

    @property
    def attr_key(self) -> str:
        return self._attr_key

    @property
    def _argument(self) -> str:
        return f"gene_sets_key={self.attr_key!r}"

    def get_data_registry(self) -> dict:
        """Return nothing: it has no row for each cell, so that no loader can load it."""
        return {}

    def validate_field(self, adata: AnnData) -> None:
        if self.attr_key not in adata.varm:
            raise KeyError(
                f"`{self._argument}` is not in `adata.varm`. Known: {shortened(adata.varm)}. "
                "`scldm.data.add_gene_sets` puts gene sets there."
            )
        if is_on_disk(adata.X if self.layer is None else adata.layers[self.layer]):
            raise ValueError(
                f"`{self._argument}`: cells are scored from counts in memory, and these are on disk. Read "
                "them with `adata.to_memory()`, or leave the gene sets out."
            )

    def register_field(self, adata: AnnData) -> dict:
        self.validate_field(adata)
        names, membership = self._sets(adata)
        counts = adata.X if self.layer is None else adata.layers[self.layer]
        return GeneSetScores.fit(counts, names, membership, self._argument).state

    def _sets(self, adata: AnnData) -> tuple[list[str], np.ndarray]:
        """Return names and checked weights, ``(n_genes, n_sets)``."""
        table = adata.varm[self.attr_key]
        names = getattr(table, "columns", adata.uns.get(f"{self.attr_key}_names"))
        try:
            weights = table.toarray() if sparse.issparse(table) else np.asarray(table)
            weights = weights.astype(np.float32)
        except (TypeError, ValueError):
            raise ValueError(f"`{self._argument}` does not hold numbers.") from None
        if weights.ndim != 2 or not weights.shape[1]:
            raise ValueError(
                f"`{self._argument}` has shape {weights.shape}; it must have one column for each "
                "gene set."
            )
        n_sets = weights.shape[1]
        names = [f"set_{i}" for i in range(n_sets)] if names is None else list(map(str, names))
        if len(names) != n_sets or len(set(names)) != n_sets:
            raise ValueError(
                f"`{self._argument}` has {n_sets} sets, but their names are {shortened(names)}; "
                "each needs one of its own."
            )
        if not (np.isfinite(weights) & (weights >= 0)).all():
            raise ValueError(
                f"`{self._argument}` has negative or not finite weights; membership is 0 or 1, or "
                "a weight of 0 or more."
            )
        if (empty := ~weights.any(axis=0)).any():
            raise ValueError(
                f"`{self._argument}` has sets without genes: {shortened(np.array(names)[empty])}."
            )
        return names, weights

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        """Return the state as it is: new cells are scored as the training cells were."""
        return dict(state_registry)

    def get_summary_stats(self, state_registry: dict) -> dict:
        return {f"n_{self.registry_key}": len(state_registry["names"])}

    def view_state_registry(self, state_registry: dict) -> None:
        return None


class GeneSetsMixin:
    """``get_gene_set_scores``."""

    def get_gene_set_scores(self, adata: AnnData | None = None) -> pd.DataFrame:
        """Score the registered gene sets in cells, real or generated.

        The score of a set is the weighted mean log-expression of its genes, less that of genes
        of about the same mean expression in the same cell, as in scanpy's ``score_genes``.

        Parameters
        ----------
        adata
            Cells with the model's genes; ``None`` takes the training data. Where they are not
            registered, counts are taken from the layer that was registered for the training
            data, or from ``X`` where they have no such layer, as generated cells.

        Returns
        -------
        Scores, cells by sets, in standard deviations of the training cells around their mean.

        Raises
        ------
        ValueError
            If no gene sets are registered, genes are missing, or values are not counts.
        """
        condition = next((c for c in self.conditions if isinstance(c, GeneSets)), None)
        if condition is None:
            raise ValueError(
                "The model has no gene sets. Register them with "
                "`setup_anndata(..., gene_sets_key=...)`."
            )
        if adata is None:
            adata = self._adata_manager_or_raise().adata
        scores = condition.scores(self._counts_of(adata, condition.layer))
        return pd.DataFrame(scores, index=adata.obs_names, columns=condition.scores.names)

    def _counts_of(self, adata: AnnData, layer: str | None) -> Any:
        """Return counts of the model's genes, in its order."""
        missing = self.var_names.difference(adata.var_names, sort=False)
        if len(missing):
            raise ValueError(
                f"`adata` lacks {len(missing)} of the {len(self.var_names)} genes of the model: "
                f"{shortened(missing, 5)}."
            )
        if not adata.var_names.is_unique:
            raise ValueError("`adata` has genes of the same name. Make them unique first.")
        places = adata.var_names.get_indexer(self.var_names)
        has_layer = layer is not None and layer in adata.layers
        counts = adata.layers[layer] if has_layer else adata.X
        where = f"`adata.layers[{layer!r}]`" if has_layer else "`adata.X`"
        check_counts(counts.data if sparse.issparse(counts) else np.asarray(counts), where)
        ordered = np.array_equal(places, np.arange(adata.n_vars))
        return counts if ordered else counts[:, places]
