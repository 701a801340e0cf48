"""Ways between points of the noise space."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["slerp"]


def slerp(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    r"""Interpolate along the sphere between draws of noise.

    .. math:: \frac{\sin((1 - w) \omega)}{\sin \omega} a + \frac{\sin(w \omega)}{\sin \omega} b

    with :math:`\omega` the angle between a and b. Normal draws in d dimensions lie near a sphere
    of radius :math:`\sqrt d`; the straight line between two of them leaves it, and what is made of
    its middle is too typical.

    Parameters
    ----------
    start, end
        Noise, ``(n, d)``.
    share
        Positions w from 0 (start) to 1 (end), broadcast against ``(n, 1)``.

    References
    ----------
    Shoemake (1985), *Animating rotation with quaternion curves*; White (2016), *Sampling
    generative networks*, section 2.1.
    """
    cosine = torch.cosine_similarity(start, end, dim=-1).unsqueeze(-1)
    omega = cosine.clamp(-1, 1).acos()
    sine = omega.sin()
    # nearly parallel draws: the sphere is flat between them
    flat = sine < 1e-6
    sine = sine.masked_fill(flat, 1.0)
    first = torch.where(flat, 1 - share, ((1 - share) * omega).sin() / sine)
    second = torch.where(flat, share, (share * omega).sin() / sine)
    return first * start + second * end
