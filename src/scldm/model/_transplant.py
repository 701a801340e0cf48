"""Weights of a model in a larger one, which knows more categories.

Tensors of both have the same names, and most the same shape. Where there is an entry for each category
the larger model has more of them: rows of embeddings, columns of layers that see a category as one-hot,
columns of dispersions. Old entries are copied. New ones begin where nothing is known of them: at the
vector of a condition that is not given, where the network has one, else at the mean of the old ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from scvi.nn import FCLayers
from torch import Tensor, nn

from scldm.module import SCLDMModule
from scldm.nn import (
    CategoryEmbedder,
    ConditionEmbedder,
    SetEmbedder,
    TableVectors,
    standardised,
)

from ._conditions import Condition
from ._keys import KEYS

__all__ = ["New", "enlarged"]


class New(NamedTuple):
    """Entries of a tensor that the smaller model does not have.

    Parameters
    ----------
    dim
        The dimension that has grown.
    at
        Where they are.
    """

    dim: int
    at: list[int]


class _Grown(NamedTuple):
    name: str
    value: Tensor
    new: New


def enlarged(
    state: Mapping[str, Tensor],
    module: SCLDMModule,
    conditions: tuple[Sequence[Condition], Sequence[Condition]],
    registries: tuple[Mapping[str, Any], Mapping[str, Any]],
) -> tuple[dict[str, Tensor], dict[str, New]]:
    """Return the state of a larger module that holds all of a smaller one's.

    Parameters
    ----------
    state
        Of the smaller module.
    module
        The larger module, as it was built.
    conditions, registries
        Conditions and registry of the smaller model, then of the larger one.

    Returns
    -------
    The state, and its new entries by name of the tensor.
    """
    result, new = dict(state), {}
    sizes = _category_counts(registries[0]), _category_counts(registries[1])
    for grown in (
        *_embedders(state, module, *conditions),
        *_one_hot_layers(state, module, *sizes),
        *_per_category(state, module, *sizes),
    ):
        result[grown.name] = grown.value
        if grown.new.at:
            new[grown.name] = grown.new
    return result, new


def _category_counts(registry: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return the numbers of batches, of cell types, and of the categories of each covariate."""
    fields = registry["field_registries"]
    mapping = {
        key: fields[key]["state_registry"]["categorical_mapping"]
        for key in (KEYS.BATCH, KEYS.CELL_TYPE)
    }
    covariates = fields[KEYS.CATEGORICAL]["state_registry"].get("n_cats_per_key") or []
    return {
        "batch": [len(mapping[KEYS.BATCH])],
        "cell_type": [len(mapping[KEYS.CELL_TYPE])],
        "covariates": [int(n) for n in covariates],
    }


def _embedders(
    state: Mapping[str, Tensor],
    module: nn.Module,
    before: Sequence[Condition],
    after: Sequence[Condition],
) -> Iterator[_Grown]:
    """Yield the vectors of categories, which may have changed places."""
    both = {old.name: (old, new) for old, new in zip(before, after, strict=True) if new.entries}
    for path, part in module.named_modules():
        if not isinstance(part, ConditionEmbedder):
            continue
        for i, (name, embedder) in enumerate(zip(part.names, part.embedders, strict=True)):
            if name not in both or not isinstance(embedder, CategoryEmbedder | SetEmbedder):
                continue
            old, new = both[name]
            at = f"{path}.embedders.{i}"
            if isinstance(embedder.vectors, TableVectors):
                key = f"{at}.vectors.table"
                start = _standardised_as_before(old, new)
            else:
                key = f"{at}.vectors.weight"
                # members of a set are summed, so one that stands for nothing known is their mean
                rows = state[key]
                one = rows.mean(0) if isinstance(embedder, SetEmbedder) else state[f"{at}.absent"]
                start = one.expand(len(new.entries), -1)
            yield _by_name(key, state[key], old.entries, new.entries, start)


def _by_name(
    name: str, old: Tensor, before: Sequence[Any], after: Sequence[Any], start: Tensor
) -> _Grown:
    row = {entry: i for i, entry in enumerate(before)}
    rows = [old[row[entry]] if entry in row else start[i] for i, entry in enumerate(after)]
    absent = [i for i, entry in enumerate(after) if entry not in row]
    return _Grown(name, torch.stack(rows), New(0, absent))


def _standardised_as_before(old: Condition, new: Condition) -> Tensor:
    """Return the given vectors of all entries, with the moments of those of the smaller model."""
    before, after = (cast(Any, c).embeddings.table(c.entries) for c in (old, new))
    return standardised(after, like=before)


def _one_hot_layers(
    state: Mapping[str, Tensor],
    module: SCLDMModule,
    before: Mapping[str, list[int]],
    after: Mapping[str, list[int]],
) -> Iterator[_Grown]:
    """Yield the weights of layers that see categories as one-hot, the last of their inputs."""
    for path, part in module.autoencoder.named_modules():
        if not isinstance(part, FCLayers) or not part.n_cat_list:
            continue
        has_batch = len(part.n_cat_list) > len(after["covariates"])
        kinds = ("batch", "covariates") if has_batch else ("covariates",)
        sizes = [(o, n) for kind in kinds for o, n in zip(before[kind], after[kind], strict=True)]
        for i in range(len(part.fc_layers)):
            if part.inject_into_layer(i):
                key = f"autoencoder.{path}.fc_layers.Layer {i}.0.weight"
                yield _with_columns(key, state[key], sizes)


def _with_columns(name: str, old: Tensor, sizes: Sequence[tuple[int, int]]) -> _Grown:
    """Add columns to the blocks that end a weight; a category that is the only one has none."""
    widths = [o if o > 1 else 0 for o, _ in sizes]
    base, *blocks = old.split([old.shape[1] - sum(widths), *widths], dim=1)
    parts, end = [base], base.shape[1]
    absent: list[int] = []
    for block, (n_old, n_new) in zip(blocks, sizes, strict=True):
        if n_new == 1:
            continue
        if n_old == 1:
            block = old.new_zeros(len(old), 1)
        parts.append(_with_means(block, n_new, 1))
        absent += range(end + n_old, end + n_new)
        end += n_new
    return _Grown(name, torch.cat(parts, dim=1), New(1, absent))


def _per_category(
    state: Mapping[str, Tensor],
    module: SCLDMModule,
    before: Mapping[str, list[int]],
    after: Mapping[str, list[int]],
) -> Iterator[_Grown]:
    """Yield dispersions of batches or types, and vectors of batches in the decoder."""
    vectors = [name for name in state if name.startswith("autoencoder._embeddings_dict.")]
    places = [(name, 0, "batch") for name in vectors]
    kinds = {"gene-batch": "batch", "gene-label": "cell_type"}
    if (kind := kinds.get(module.autoencoder.dispersion)) is not None:
        places.append(("autoencoder.px_r", 1, kind))
    for name, dim, kind in places:
        n_old, n_new = before[kind][0], after[kind][0]
        new = New(dim, list(range(n_old, n_new)))
        yield _Grown(name, _with_means(state[name], n_new, dim), new)


def _with_means(old: Tensor, n: int, dim: int) -> Tensor:
    """Let a dimension grow to ``n`` entries by means of those that are there."""
    mean = old.mean(dim, keepdim=True)
    return torch.cat([old, mean.repeat_interleave(n - old.shape[dim], dim)], dim=dim)
