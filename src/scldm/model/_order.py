"""Checked orders: what is to be sampled, and how."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from scldm._version import __version__
from scldm.diffusion import SAMPLERS, Euler, Sampler

from ._choices import chosen, positive, weight
from ._conditions import Condition
from ._fields import shortened
from ._request import Request, put_in

__all__ = [
    "DISTILLED",
    "Guidance",
    "Order",
    "checked_guidance",
    "checked_sampler",
    "is_distilled",
    "joint_scale",
    "name_of",
]

_LARGEST_SCALE = 1000.0
"""Beyond it guidance leads to no cell, and soon to no number."""

DISTILLED = "distilled"
"""Name of the sampler that uses the model's student, see ``distill``."""


@dataclass
class Guidance:
    """How conditions are strengthened.

    Parameters
    ----------
    scale
        One scale, or one for each of some conditions.
    interval
        Times at which to guide.
    rescale
        Share of the way back to the spread without guidance.
    negative
        Encoded conditions to move away from, ``(n, k)`` each.
    parts
        By members of combinations that have a scale, the encoded condition with no other of these.
    described
        How these came about, by argument, for the record.
    """

    scale: float | dict[str, float] = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    rescale: float = 0.0
    negative: dict[str, np.ndarray] = field(default_factory=dict)
    parts: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    described: dict[str, str] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """What the guided denoiser takes, but for the negative conditions."""
        return {"scale": self.scale, "interval": self.interval, "rescale": self.rescale}

    def of_block(self, tensors: Callable[[dict[str, np.ndarray]], dict[str, Tensor]]) -> dict:
        """Return all that the guided denoiser takes; ``tensors`` picks the rows of a block."""
        parts = {name: tensors(encoded) for name, encoded in self.parts.items()}
        return self.settings | {"negative": tensors(self.negative), "parts": parts}

    def record(self) -> dict[str, Any]:
        """Return what to write beside the cells."""
        if self.scale == 1:
            return {"guidance_scale": 1.0}
        record = {
            "guidance_scale": self.scale,
            "guidance_interval": list(self.interval),
            "guidance_rescale": self.rescale,
        }
        return record | ({"negative": self.described} if self.described else {})


@dataclass
class Order:
    """A checked order for latents.

    Parameters
    ----------
    request
        The completed conditions.
    seed, sampler, steps, guidance
        How to sample.
    student
        How the student that samples was made, or ``None`` where the denoiser itself does.
    signals
        What steers the network, kept from block to block.
    """

    request: Request
    seed: int
    sampler: Sampler
    steps: int | None
    guidance: Guidance
    student: dict[str, Any] | None = None
    signals: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def n_cells(self) -> int:
        return len(self.request.frame)

    def record(self) -> dict[str, Any]:
        """Return what to write beside the cells."""
        record = {
            "version": __version__,
            "seed": self.seed,
            "sampler": name_of(self.sampler),
            **self.guidance.record(),
            "conditions": dict(self.request.described),
        }
        options = {k: v for k, v in vars(self.sampler).items() if isinstance(v, int | float | str)}
        if options:
            record["sampler_options"] = options
        if self.steps is not None:
            record["steps"] = self.steps
        if self.student is not None:
            record |= {"sampler": DISTILLED, **self.student}
        return record


def name_of(rule: Sampler) -> str:
    """Return a sampler's name, that of its class where it is a user's own."""
    names = {kind: name for name, kind in SAMPLERS.items()}
    return names.get(type(rule), type(rule).__name__)


def is_distilled(sampler: Any) -> bool:
    """Say whether the model's student is asked for."""
    return isinstance(sampler, str) and sampler == DISTILLED


def checked_sampler(
    sampler: str | Sampler, steps: int | None, n_student_steps: int
) -> tuple[Sampler, int | None]:
    """Return the rule and its number of steps, ``None`` where it chooses them itself.

    Parameters
    ----------
    sampler, steps
        As the user gave them.
    n_student_steps
        Steps of the model's student, 0 where it has none.

    Raises
    ------
    ValueError
        If the sampler is not known, there is no student, or it takes another number of steps.
    """
    if is_distilled(sampler):
        if not n_student_steps:
            raise ValueError(f"`sampler={DISTILLED!r}` needs a student. Call `distill()` first.")
        if steps not in (None, n_student_steps):
            raise ValueError(
                f"`steps={steps!r}` does not go with `sampler={DISTILLED!r}`: the student was made "
                f"for {n_student_steps}."
            )
        return Euler(), n_student_steps
    known = [*SAMPLERS, DISTILLED]
    if not isinstance(sampler, Sampler):
        chosen("sampler", sampler, known)
        rule: Sampler = SAMPLERS[sampler]()
    else:
        rule = sampler
    if rule.chooses_steps:
        if steps is not None:
            raise ValueError(
                f"`steps={steps!r}` has no meaning for an adaptive sampler; give its tolerances: "
                "`sampler=scldm.diffusion.Adaptive(rtol=..., atol=...)`."
            )
        return rule, None
    return rule, rule.default_steps if steps is None else positive("steps", steps)


def checked_guidance(
    conditions: Sequence[Condition],
    request: Request,
    scale: float | Mapping[str, float] = 1.0,
    interval: tuple[float, float] = (0.0, 1.0),
    rescale: float = 0.0,
    negative: Mapping[str, Any] | None = None,
) -> Guidance:
    """Check a user's guidance and encode what to move away from.

    Parameters
    ----------
    conditions
        The registered conditions.
    request
        The completed conditions of the cells. Where the encoding of a condition takes the room
        that its negative needs, it is widened.
    scale, interval, rescale, negative
        As in ``generate``.

    Raises
    ------
    ValueError
        If a value is out of range, has no effect, or names a condition that is not registered.
    """
    scale = _checked_scale(conditions, scale)
    if negative is not None and not isinstance(negative, Mapping):
        raise ValueError(f"`negative={negative!r}` must map conditions to values.")
    two = isinstance(interval, tuple | list) and len(interval) == 2
    if (
        not two
        or not all(_is_number(time) for time in interval)
        or not 0 <= interval[0] <= interval[1] <= 1
    ):
        raise ValueError(
            f"`guidance_interval={interval!r}` must be two times, from 0 (data) to 1 (noise)."
        )
    if not _is_number(rescale) or not 0 <= rescale <= 1:
        raise ValueError(f"`guidance_rescale={rescale!r}` must be a number from 0 to 1.")
    interval = (float(interval[0]), float(interval[1]))
    if scale == 1:
        for name, idle in (
            ("guidance_interval", interval == (0, 1)),
            ("guidance_rescale", rescale == 0),
            ("negative", negative is None or len(negative) == 0),
        ):
            if not idle:
                raise ValueError(
                    f"`{name}` has no effect without a `guidance_scale` other than 1."
                )
    encoded, described = _encoded_negative(conditions, request, scale, negative)
    parts, without = _encoded_parts(conditions, request, scale)
    return Guidance(scale, interval, float(rescale), encoded | without, parts, described)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def joint_scale(scale: Any) -> float:
    """Return one strength of guidance of 0 or more for all that is given.

    Raises
    ------
    ValueError
        If it is not one.
    """
    return _of_a_size("guidance_scale", weight("guidance_scale", scale))


def _of_a_size(argument: str, scale: Any) -> float:
    if abs(scale) > _LARGEST_SCALE:
        raise ValueError(f"`{argument}={scale!r}` is too large; {_LARGEST_SCALE:g} is the most.")
    return float(scale)


def _checked_scale(
    conditions: Sequence[Condition], scale: float | Mapping[str, float]
) -> float | dict[str, float]:
    names = [condition.name for condition in conditions]
    items = [item for condition in conditions for item in condition.items]
    if _is_number(scale):
        return _of_a_size("guidance_scale", scale)
    if not isinstance(scale, Mapping) or not scale:
        raise ValueError(
            f"`guidance_scale={scale!r}` must be a finite number, or a mapping from conditions to "
            "numbers."
        )
    for name, value in scale.items():
        if name not in names and name not in items:
            raise ValueError(
                f"`guidance_scale` names {name!r}, which is not a condition. "
                f"Known: {shortened([*names, *items])}."
            )
        if not _is_number(value):
            raise ValueError(f"`guidance_scale[{name!r}]={value!r}` must be a finite number.")
    return {name: _of_a_size(f"guidance_scale[{name!r}]", x) for name, x in scale.items()}


def _encoded_parts(
    conditions: Sequence[Condition], request: Request, scale: float | dict[str, float]
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """Return what is given in the terms of members that have a scale, and what in the base.

    Raises
    ------
    ValueError
        If a condition has a scale beside its members, or no cell has a member.
    """
    parts: dict[str, dict[str, np.ndarray]] = {}
    without: dict[str, np.ndarray] = {}
    names = {condition.name for condition in conditions}
    scales = scale if isinstance(scale, dict) else {}
    for condition in conditions:
        named = [name for name in scales if name in condition.items and name not in names]
        if not named:
            continue
        if condition.name in scales:
            raise ValueError(
                f"`guidance_scale` has {condition.name!r} and its member {named[0]!r}; give one scale "
                "for all members, or one for each."
            )
        if condition.name not in request.encoded:
            raise ValueError(
                f"`guidance_scale` names {named[0]!r}, a member of a {condition.name}; here only whole "
                "conditions can have a scale."
            )
        encoded = request.encoded[condition.name]
        without[condition.name] = condition.only(encoded, named, None)
        for name in named:
            parts[name] = {condition.name: condition.only(encoded, named, name)}
            if np.array_equal(
                parts[name][condition.name], without[condition.name], equal_nan=True
            ):
                raise ValueError(
                    f"`guidance_scale` names {name!r}, which no cell to generate has as its "
                    f"{condition.name}."
                )
    return parts, without


def _encoded_negative(
    conditions: Sequence[Condition],
    request: Request,
    scale: float | dict[str, float],
    negative: Mapping[str, Any] | None,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the encoded negatives and their descriptions."""
    try:
        frame, parsed = put_in(conditions, request.frame, negative or {})
    except ValueError as error:
        raise ValueError(f"In `negative`: {error}") from None
    encoded: dict[str, np.ndarray] = {}
    described: dict[str, str] = {}
    for condition in conditions:
        arguments = [argument for argument in condition.arguments if argument in parsed]
        if not arguments:
            continue
        named = (
            [name for name in scale if name in condition.items] if isinstance(scale, dict) else []
        )
        if named:
            raise ValueError(
                f"`negative` has {condition.name!r}, of which `guidance_scale` names {named[0]!r}; give one "
                "or the other."
            )
        if isinstance(scale, dict) and scale.get(condition.name, 1.0) == 1:
            raise ValueError(
                f"`negative` has {condition.name!r}, which has no effect without a "
                f"`guidance_scale[{condition.name!r}]` other than 1."
            )
        # in one go, as the encoding of combinations is as wide as the largest
        both = condition.encode(pd.concat([request.frame, frame], ignore_index=True))
        positive, encoded[condition.name] = np.split(both, 2)
        absent = np.isnan(request.encoded[condition.name]).all()
        request.encoded[condition.name] = np.full_like(positive, np.nan) if absent else positive
        described |= {argument: condition.describe(parsed[argument]) for argument in arguments}
    return encoded, described
