"""From the arguments of a model to its latent diffusion."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from scldm.diffusion import (
    COUPLINGS,
    LOSS_WEIGHTS,
    PARAMETRISATIONS,
    SCHEDULES,
    TIME_DISTRIBUTIONS,
)
from scldm.module import LatentDiffusion
from scldm.nn import BACKBONES, CONDITIONINGS, ConditionEmbedder

from ._choices import chosen, positive, share
from ._conditions import Condition
from ._fields import shortened

__all__ = ["build_diffusion"]


def build_diffusion(
    conditions: Sequence[Condition],
    n_latent: int,
    *,
    schedule: str,
    parametrisation: str,
    times: str,
    loss_weight: str,
    coupling: str,
    backbone: str,
    conditioning: str,
    width: int,
    depth: int,
    backbone_kwargs: Mapping[str, Any] | None,
    compile_network: bool,
    condition_dropout: float,
    ema_decay: float,
) -> LatentDiffusion:
    """Check the arguments, which are those of the model, and build the module."""
    kind = chosen("backbone", backbone, BACKBONES)
    chosen("conditioning", conditioning, CONDITIONINGS)
    embedder = ConditionEmbedder({c.name: c.embedder(width) for c in conditions}, width)
    network = kind(
        n_latent + 1,
        embedder,
        depth=positive("depth", depth),
        conditioning=conditioning,
        **_checked_options(kind, backbone_kwargs or {}),
    )
    diffusion = LatentDiffusion(
        network,
        n_latent,
        chosen("schedule", schedule, SCHEDULES)(),
        chosen("parametrisation", parametrisation, PARAMETRISATIONS)(),
        chosen("times", times, TIME_DISTRIBUTIONS)(),
        chosen("loss_weight", loss_weight, LOSS_WEIGHTS)(),
        chosen("coupling", coupling, COUPLINGS)(),
        share("condition_dropout", condition_dropout),
        share("ema_decay", ema_decay),
    )
    if compile_network:
        # in place, so that names of weights stay what they are
        diffusion.trained.network.compile()
        diffusion.averaged.network.compile()
    return diffusion


def _checked_options(kind: type, options: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(options, Mapping):
        raise ValueError(f"`backbone_kwargs={options!r}` must map names of options to values.")
    settled = {"n_dims", "conditions", "depth", "conditioning"}
    known = [name for name in inspect.signature(kind).parameters if name not in settled]
    for name in options:
        if name not in known:
            raise ValueError(
                f"`backbone_kwargs` has {name!r}, which the backbone does not take. "
                f"Known: {shortened(known)}."
            )
    return dict(options)
