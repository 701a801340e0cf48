"""From the arguments of a model to its denoising network and latent diffusion."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from scldm.diffusion import (
    COUPLINGS,
    LOSS_WEIGHTS,
    PARAMETRISATIONS,
    SCHEDULES,
    TIME_DISTRIBUTIONS,
)
from scldm.module import (
    JointDiffusion,
    JointNetwork,
    LatentDiffusion,
    MultimodalAutoencoder,
    given_key,
)
from scldm.nn import BACKBONES, CONDITIONINGS, Backbone, ConditionEmbedder, VectorEmbedder

from ._choices import chosen, flag, positive, share
from ._conditions import Condition
from ._fields import shortened

__all__ = ["build_diffusion", "build_joint_diffusion", "compiled"]


def build_backbone(
    embedders: Mapping[str, nn.Module],
    n_dims: int,
    *,
    backbone: str,
    conditioning: str,
    width: int,
    depth: int,
    backbone_kwargs: Mapping[str, Any] | None,
) -> Backbone:
    """Check the arguments, which are those of the model, and build the network.

    Parameters
    ----------
    embedders
        Of the conditions, by name, ``width`` wide.
    n_dims
        Number of dimensions of what is diffused.
    """
    kind = chosen("backbone", backbone, BACKBONES)
    chosen("conditioning", conditioning, CONDITIONINGS)
    return kind(
        n_dims,
        ConditionEmbedder(embedders, width),
        depth=positive("depth", depth),
        conditioning=conditioning,
        **_checked_options(kind, backbone_kwargs),
    )


def diffusion_options(
    *,
    schedule: str,
    parametrisation: str,
    times: str,
    loss_weight: str,
    condition_dropout: float,
    ema_decay: float,
) -> dict[str, Any]:
    """Check the arguments, which are those of the model, and return those of the module."""
    return {
        "schedule": chosen("schedule", schedule, SCHEDULES)(),
        "parametrisation": chosen("parametrisation", parametrisation, PARAMETRISATIONS)(),
        "times": chosen("times", times, TIME_DISTRIBUTIONS)(),
        "weight": chosen("loss_weight", loss_weight, LOSS_WEIGHTS)(),
        "condition_dropout": share("condition_dropout", condition_dropout),
        "ema_decay": share("ema_decay", ema_decay),
    }


def build_diffusion(
    conditions: Sequence[Condition],
    n_latent: int,
    *,
    coupling: str,
    width: int,
    network: Mapping[str, Any],
    options: Mapping[str, Any],
) -> LatentDiffusion:
    """Check the arguments, which are those of the model, and build the module.

    Parameters
    ----------
    conditions
        The registered conditions.
    n_latent
        Number of latent dimensions.
    coupling, width
        Of the model.
    network
        Further arguments of :func:`build_backbone`.
    options
        Arguments of :func:`diffusion_options`.
    """
    embedders = {c.name: c.embedder(width) for c in conditions}
    backbone = build_backbone(embedders, n_latent + 1, width=width, **network)
    rule = chosen("coupling", coupling, COUPLINGS)()
    return LatentDiffusion(backbone, n_latent, coupling=rule, **diffusion_options(**options))


def build_joint_diffusion(
    conditions: Sequence[Condition],
    autoencoder: MultimodalAutoencoder,
    *,
    width: int,
    network: Mapping[str, Any],
    options: Mapping[str, Any],
) -> JointDiffusion:
    """Check the arguments, which are those of the model, and build the module of several modalities.

    Parameters
    ----------
    conditions
        The registered conditions.
    autoencoder
        The modalities' autoencoders.
    width, network, options
        As in :func:`build_diffusion`.
    """
    owner, names = autoencoder.owner, autoencoder.names
    embedders = {c.name: c.embedder(width) for c in conditions}
    for m, name in enumerate(names):
        embedders[given_key(name)] = VectorEmbedder(owner.count(m), width)
    backbone = build_backbone(embedders, len(owner) + len(names), width=width, **network)
    n_latent = sum(part.n_latent for _, part in autoencoder.items())
    return JointDiffusion(
        JointNetwork(backbone, owner), n_latent, names, **diffusion_options(**options)
    )


def compiled(diffusion: LatentDiffusion) -> None:
    """Compile the networks in place, so that names of weights stay what they are."""
    diffusion.trained.network.compile()
    diffusion.averaged.network.compile()


def _checked_options(kind: type, options: Mapping[str, Any] | None) -> dict[str, Any]:
    if options is None:
        return {}
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
    checks: dict[str, Callable[[str, Any], Any]] = {"dropout_rate": share, "checkpointing": flag}
    return {
        name: checks.get(name, positive)(f"backbone_kwargs[{name!r}]", value)
        for name, value in options.items()
    }
