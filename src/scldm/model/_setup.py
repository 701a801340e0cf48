"""From the arguments of a setup to the fields of the registry."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from scvi.data.fields import BaseAnnDataField

from ._array_fields import CoordinatesField, VectorField
from ._choices import names_by, text
from ._dose_field import DoseField
from ._embeddings import EmbeddingsField
from ._fields import (
    CategoricalCovariatesField,
    CategoryField,
    ContinuousCovariatesField,
    CountsField,
    LibrarySizeField,
    NumberField,
)
from ._gene_sets import GeneSetsField
from ._keys import KEYS
from ._perturbations import doses_of, members

__all__ = ["check_setup", "condition_fields", "setup_fields"]

_WITH_EMBEDDINGS = {
    "cell_type": KEYS.CELL_TYPE_EMBEDDINGS,
    "perturbation": KEYS.PERTURBATION_EMBEDDINGS,
}


def setup_fields(
    setup: Mapping[str, Any], reserved_names: Collection[str]
) -> list[BaseAnnDataField]:
    """Return the fields that a setup of one modality registers.

    Parameters
    ----------
    setup
        The arguments of ``setup_anndata``.
    reserved_names
        Names that a covariate cannot have.

    Raises
    ------
    TypeError, ValueError
        As :func:`check_setup` and :func:`condition_fields`.
    """
    check_setup(setup, reserved_names)
    fields = [
        CountsField(KEYS.COUNTS, setup["layer"]),
        LibrarySizeField(KEYS.LIBRARY_SIZE, setup["library_size_key"], "library_size_key"),
        *condition_fields(setup),
    ]
    if setup["gene_sets_key"] is not None:
        fields.append(GeneSetsField(setup["gene_sets_key"], setup["layer"]))
    return fields


def check_setup(setup: Mapping[str, Any], reserved_names: Collection[str]) -> None:
    """Check that the arguments of a setup are of the right types, before data are looked at.

    Parameters
    ----------
    setup, reserved_names
        As in :func:`setup_fields`.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If covariates collide or a separator is empty.
    """
    for argument, value in setup.items():
        if argument == "layer" or argument.endswith(("_layer", "_key")):
            text(argument, value, required=argument == "protein_expression_obsm_key")
        elif argument in ("embeddings", "measured_keys", "modalities"):
            names_by(argument, value)
    control = setup["control_label"]
    if not isinstance(control, str | Real | np.bool_):
        raise TypeError(
            f"`control_label` is a {type(control).__name__}, but must be a label of a column."
        )
    separator = setup["perturbation_separator"]
    if not isinstance(separator, str) or not separator:
        raise ValueError(f"`perturbation_separator={separator!r}` must be text, and not empty.")
    seen: set[str] = set()
    for argument in ("categorical_covariate_keys", "continuous_covariate_keys"):
        _check_covariates(argument, setup[argument], reserved_names, seen)


def condition_fields(setup: Mapping[str, Any]) -> list[BaseAnnDataField]:
    """Return the fields of what cells depend on.

    Parameters
    ----------
    setup
        As in :func:`setup_fields`.

    Raises
    ------
    ValueError
        If embeddings are for something that has none.
    """
    perturbation = setup["perturbation_key"]
    control = setup["control_label"] if perturbation is not None else None
    fields = [
        CategoryField(KEYS.CELL_TYPE, setup["cell_type_key"], "cell_type_key"),
        CategoryField(KEYS.BATCH, setup["batch_key"], "batch_key"),
        CategoryField(
            KEYS.PERTURBATION, perturbation, "perturbation_key", control, open_ended=True
        ),
        DoseField(
            KEYS.DOSE,
            setup["dose_key"],
            "dose_key",
            None if perturbation is None else setup["perturbation_separator"],
            perturbation,
            partial(doses_of, str(control), setup["perturbation_separator"]),
        ),
        NumberField(KEYS.TIME, setup["time_key"], "time_key"),
        CategoricalCovariatesField(KEYS.CATEGORICAL, setup["categorical_covariate_keys"]),
        ContinuousCovariatesField(KEYS.CONTINUOUS, setup["continuous_covariate_keys"]),
    ]
    if setup["spatial_key"] is not None:
        batch_key = setup["batch_key"]
        fields.append(
            CoordinatesField(KEYS.SPATIAL, setup["spatial_key"], "spatial_key", batch_key)
        )
    if setup["source_key"] is not None:
        fields.append(VectorField(KEYS.SOURCE, setup["source_key"], "source_key"))
    return [*fields, *_embeddings_fields(setup)]


def _embeddings_fields(setup: Mapping[str, Any]) -> list[EmbeddingsField]:
    fields = []
    for name, key in (setup["embeddings"] or {}).items():
        if name not in _WITH_EMBEDDINGS:
            raise ValueError(
                f"`embeddings` has {name!r}, but allowed are {list(_WITH_EMBEDDINGS)}. Batch and "
                "covariates enter the decoder, which knows only those that cells have."
            )
        column = setup[f"{name}_key"]
        if column is None:
            raise ValueError(f"`embeddings` has {name!r}, which needs `{name}_key`.")
        split = partial(_members, name, setup["control_label"], setup["perturbation_separator"])
        fields.append(EmbeddingsField(_WITH_EMBEDDINGS[name], key, name, column, split))
    return fields


def _members(name: str, control: Any, separator: str, label: Any) -> list[str]:
    """Return what a label needs vectors for: its members where it is a set, else itself."""
    label = str(label)
    return members(label, str(control), separator) if name == "perturbation" else [label]


def _check_covariates(argument: str, keys: Any, taken: Collection[str], seen: set[str]) -> None:
    if keys is None:
        return
    if not isinstance(keys, list | tuple | pd.Index):
        raise TypeError(f"`{argument}` is a {type(keys).__name__}, but must be a list of columns.")
    for key in keys:
        if not isinstance(key, str):
            raise TypeError(f"`{argument}` has {key!r}, which is not text.")
        if key in seen:
            raise ValueError(f"`{argument}`: the covariate {key!r} is given twice.")
        seen.add(key)
        if key in taken:
            raise ValueError(
                f"`{argument}`: the covariate {key!r} has the name of an argument of `generate`. "
                f"Rename the column; taken are {sorted(taken)}."
            )
