"""Values of a condition that show what it does."""

from __future__ import annotations

from functools import singledispatch

import numpy as np
import pandas as pd

from ._conditions import Category, Condition, Number, Vector
from ._gene_sets import GeneSets
from ._perturbations import PerturbationSet, members

__all__ = ["examples"]

_STEPS = ("-1 SD", "+1 SD")


@singledispatch
def examples(condition: Condition, training: pd.DataFrame) -> tuple[list[str], pd.DataFrame]:
    """Return labels of values and the values as rows of the condition's frame.

    Parameters
    ----------
    condition
        The condition.
    training
        Frame of the training cells.
    """
    raise NotImplementedError(f"{type(condition).__name__} has no examples.")


@examples.register
def _(condition: Category, training: pd.DataFrame) -> tuple[list[str], pd.DataFrame]:
    values = pd.Categorical(condition.observed, categories=condition.categories)
    return [str(value) for value in values], pd.DataFrame({condition.name: values})


@examples.register
def _(condition: Number, training: pd.DataFrame) -> tuple[list[str], pd.DataFrame]:
    values = [condition.mean - condition.spread, condition.mean + condition.spread]
    return list(_STEPS), pd.DataFrame({condition.name: values})


@examples.register
def _(condition: Vector, training: pd.DataFrame) -> tuple[list[str], pd.DataFrame]:
    columns = condition.columns(condition.name)
    spread = np.broadcast_to(condition.spread, len(columns))
    steps = np.concatenate([-np.diag(spread), np.diag(spread)])
    labels = [f"{column} {step}" for step in _STEPS for column in columns]
    return labels, pd.DataFrame(condition.mean + steps, columns=columns)


@examples.register
def _(condition: GeneSets, training: pd.DataFrame) -> tuple[list[str], pd.DataFrame]:
    columns = condition.columns(condition.name)
    names = condition.scores.names
    # one set alone is asked for, the others are left free
    alone = np.where(np.eye(len(names), dtype=bool), 1.0, np.nan)
    labels = [f"{name} {step}" for step in _STEPS for name in names]
    return labels, pd.DataFrame(np.concatenate([-alone, alone]), columns=columns)


@examples.register
def _(condition: PerturbationSet, training: pd.DataFrame) -> tuple[list[str], pd.DataFrame]:
    labels = training["perturbation"].astype(str)
    has = {
        label: members(label, condition.control, condition.separator) for label in labels.unique()
    }
    known = {item for items in has.values() for item in items}
    names = [condition.control, *(item for item in condition.items if item in known)]
    if not (labels == condition.control).any():
        names = names[1:]
    frame = condition.parse("perturbation", names)
    if condition.dose is not None:
        of = {item: labels.map(lambda label, i=item: i in has[label]) for item in names}
        of[condition.control] = labels == condition.control
        frame["dose"] = [training.loc[of[name], "dose"].mean() for name in names]
    return names, frame
