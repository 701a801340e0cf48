"""From the registry of a setup to its conditions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ._array_conditions import Coordinates, Vector
from ._conditions import Category, Condition, Dose, Number
from ._embeddings import Embeddings
from ._gene_scores import GeneSetScores
from ._gene_sets import GeneSets
from ._keys import KEYS
from ._perturbations import PerturbationSet

__all__ = ["conditions_from_registry"]


def _number(name: str, field: Mapping[str, Any], in_decoder: bool = False) -> Number:
    state = field["state_registry"]
    column = field["data_registry"]["attr_key"]
    return Number(name, column, state["mean"], state["spread"], state["dtype"], in_decoder)


def _embeddings(
    fields: Mapping[str, Any], setup: Mapping[str, Any], name: str, key: str
) -> Embeddings | None:
    # models of the first version have no such argument
    where = (setup.get("embeddings") or {}).get(name)
    if where is None:
        return None
    state = fields[key]["state_registry"]
    return Embeddings(where, state["names"], state["vectors"])


def conditions_from_registry(
    registry: Mapping[str, Any], cell_type_in_decoder: bool = False
) -> list[Condition]:
    """Return the conditions that a setup registered, in a fixed order.

    Parameters
    ----------
    registry
        The registry of scvi-tools' data manager, as it stands in a saved model.
    cell_type_in_decoder
        Whether the decoder depends on the cell type.
    """
    fields = registry["field_registries"]
    setup = registry["setup_args"]
    return [
        *_categories(fields, setup, cell_type_in_decoder),
        *_perturbation_and_dose(fields, setup),
        *([_number("time", fields[KEYS.TIME])] if setup["time_key"] else []),
        *_arrays(fields, setup),
        *_covariates(fields, setup),
    ]


def _categories(
    fields: Mapping[str, Any], setup: Mapping[str, Any], cell_type_in_decoder: bool
) -> Iterable[Condition]:
    for name, key, in_decoder in (
        ("cell_type", KEYS.CELL_TYPE, cell_type_in_decoder),
        ("batch", KEYS.BATCH, True),
    ):
        column = setup[f"{name}_key"]
        if column:
            state = fields[key]["state_registry"]
            categories = list(state["categorical_mapping"])
            observed = list(state["observed"])
            vectors = _embeddings(fields, setup, name, KEYS.CELL_TYPE_EMBEDDINGS)
            yield Category(name, column, categories, observed, in_decoder, vectors)


def _perturbation_and_dose(
    fields: Mapping[str, Any], setup: Mapping[str, Any]
) -> Iterable[Condition]:
    dose = None
    if column := setup["dose_key"]:
        state = fields[KEYS.DOSE]["state_registry"]
        separator = setup.get("perturbation_separator", "+") if setup["perturbation_key"] else None
        dose = Dose("dose", column, **state, separator=separator)
    if setup["perturbation_key"]:
        labels = list(fields[KEYS.PERTURBATION]["state_registry"]["observed"])
        yield PerturbationSet(
            setup["perturbation_key"],
            labels,
            setup["control_label"],
            dose,
            setup.get("perturbation_separator", "+"),
            _embeddings(fields, setup, "perturbation", KEYS.PERTURBATION_EMBEDDINGS),
        )
    elif dose is not None:
        yield dose


def _arrays(fields: Mapping[str, Any], setup: Mapping[str, Any]) -> Iterable[Condition]:
    if column := setup["spatial_key"]:
        state = fields[KEYS.SPATIAL]["state_registry"]
        yield Coordinates("spatial", column, *(state[k] for k in ("mean", "spread", "spacing")))
    if column := setup.get("source_key"):
        state = fields[KEYS.SOURCE]["state_registry"]
        yield Vector("source", column, state["mean"], state["spread"])
    if column := setup.get("gene_sets_key"):
        state = fields[KEYS.GENE_SETS]["state_registry"]
        yield GeneSets(column, GeneSetScores(**state), setup["layer"])


def _covariates(fields: Mapping[str, Any], setup: Mapping[str, Any]) -> Iterable[Condition]:
    for column in setup["categorical_covariate_keys"] or []:
        state = fields[KEYS.CATEGORICAL]["state_registry"]
        categories, observed = state["mappings"][column], state["observed"][column]
        yield Category(column, column, list(categories), list(observed), in_decoder=True)
    for column in setup["continuous_covariate_keys"] or []:
        state = fields[KEYS.CONTINUOUS]["state_registry"]
        mean, spread, dtype = (state[what][column] for what in ("mean", "spread", "dtype"))
        yield Number(column, column, mean, spread, dtype, in_decoder=True)
