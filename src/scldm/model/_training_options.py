"""Checks of what trainings are given, before any of them starts."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from numbers import Real
from typing import Any

from ._choices import weight
from ._fields import shortened

__all__ = ["check_split", "only_steps", "options", "plan_options"]


def check_split(train_size: Any, validation_size: Any) -> None:
    """Check the shares of cells to train and to validate on.

    Raises
    ------
    ValueError
        If one is no share, or they are more than all cells together.
    """
    for argument, value in (("train_size", train_size), ("validation_size", validation_size)):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) <= 1:
            raise ValueError(f"`{argument}={value!r}` must be a number from 0 to 1.")
    if train_size == 0:
        raise ValueError("`train_size=0` leaves no cells to train on.")
    if validation_size == 1:
        raise ValueError("`validation_size=1` leaves no cells to train on.")
    if float(train_size or 0) + float(validation_size or 0) > 1 + 1e-9:
        raise ValueError(
            f"`train_size={train_size!r}` and `validation_size={validation_size!r}` are more than 1 together."
        )


def only_steps(trainer_kwargs: Mapping[str, Any], validated: bool = True) -> None:
    """Check that a stage is given no number of epochs nor, where it is not validated, early stopping.

    Raises
    ------
    TypeError
        If it is.
    """
    odd = {"max_epochs"} if validated else {"max_epochs", "early_stopping", "monitor"}
    if found := sorted(odd & set(trainer_kwargs)):
        rest = "" if validated else " and has nothing to validate on"
        raise TypeError(
            f"`{found[0]}` has no meaning here: the stage takes `max_steps` steps{rest}."
        )


def options(argument: str, value: Any) -> dict[str, Any]:
    """Return further arguments; none for ``None``.

    Raises
    ------
    TypeError
        If they are no mapping from names.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise TypeError(f"`{argument}` must map names of arguments to values, not {value!r}.")
    return dict(value)


def plan_options(plan: type, value: Any, settled: Collection[str] = ()) -> dict[str, Any]:
    """Return arguments of a training plan.

    Parameters
    ----------
    plan
        Its class.
    value
        ``plan_kwargs``, as the user gave it.
    settled
        Arguments that are not the user's.

    Raises
    ------
    TypeError
        If they are no mapping, or the plan has no such argument.
    ValueError
        If a rate, weight or number of steps is not finite or below zero.
    """
    given = options("plan_kwargs", value)
    defaults: dict[str, Any] = {}
    for kind in plan.__mro__:
        if kind.__module__.startswith("scldm.") and "__init__" in vars(kind):
            for name, parameter in inspect.signature(kind).parameters.items():
                if parameter.default is not inspect.Parameter.empty and name not in settled:
                    defaults.setdefault(name, parameter.default)
    for name, option in given.items():
        if name not in defaults:
            raise TypeError(
                f"`plan_kwargs` has {name!r}, which {plan.__name__} does not take. "
                f"Known: {shortened(defaults)}."
            )
        if isinstance(defaults[name], int | float):
            weight(f"plan_kwargs[{name!r}]", option)
    return given
