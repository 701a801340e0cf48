r"""Diffusion on vectors: pure torch, nothing of biology.

Three ideas stay apart. A *schedule* says how much data and how much noise there is at a time,
:math:`x_t = \alpha_t x_0 + \sigma_t \epsilon` with :math:`t = 0` the data and :math:`t = 1` the
noise. A *denoiser* estimates :math:`x_0` from :math:`x_t`. A *sampler* is the rule that takes
one step from a time to an earlier one. Any schedule works with any denoiser and any sampler.
"""

from ._denoisers import (
    PARAMETRISATIONS,
    Data,
    Denoiser,
    Flow,
    GaussianDenoiser,
    NetworkDenoiser,
    Noise,
    Parametrisation,
    Velocity,
)
from ._guidance import GuidedDenoiser
from ._samplers import DDIM, DDPM, SAMPLERS, Euler, Heun, Sampler
from ._schedules import (
    SCHEDULES,
    RectifiedFlow,
    Schedule,
    VariancePreserving,
    VariancePreservingCosine,
)
from ._times import TIME_DISTRIBUTIONS, LogitNormalTimes, TimeDistribution, UniformTimes

__all__ = [
    "DDIM",
    "DDPM",
    "PARAMETRISATIONS",
    "SAMPLERS",
    "SCHEDULES",
    "TIME_DISTRIBUTIONS",
    "Data",
    "Denoiser",
    "Euler",
    "Flow",
    "GaussianDenoiser",
    "GuidedDenoiser",
    "Heun",
    "LogitNormalTimes",
    "NetworkDenoiser",
    "Noise",
    "Parametrisation",
    "RectifiedFlow",
    "Sampler",
    "Schedule",
    "TimeDistribution",
    "UniformTimes",
    "VariancePreserving",
    "VariancePreservingCosine",
    "Velocity",
]
