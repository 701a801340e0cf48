"""Names under which data stand in the scvi registry."""

from __future__ import annotations

from typing import NamedTuple

from scvi import REGISTRY_KEYS

__all__ = ["KEYS"]


class _Keys(NamedTuple):
    COUNTS: str = REGISTRY_KEYS.X_KEY
    BATCH: str = REGISTRY_KEYS.BATCH_KEY
    CELL_TYPE: str = REGISTRY_KEYS.LABELS_KEY
    LIBRARY_SIZE: str = REGISTRY_KEYS.SIZE_FACTOR_KEY
    CATEGORICAL: str = REGISTRY_KEYS.CAT_COVS_KEY
    CONTINUOUS: str = REGISTRY_KEYS.CONT_COVS_KEY
    PERTURBATION: str = "perturbation"
    DOSE: str = "dose"
    TIME: str = "time"
    SPATIAL: str = "spatial"
    SOURCE: str = "source"
    GENE_SETS: str = "gene_sets"
    CELL_TYPE_EMBEDDINGS: str = "cell_type_embeddings"
    PERTURBATION_EMBEDDINGS: str = "perturbation_embeddings"


KEYS = _Keys()
