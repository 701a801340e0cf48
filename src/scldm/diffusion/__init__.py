r"""Diffusion on vectors: pure torch, nothing of biology.

Three ideas stay apart. A *schedule* says how much data and how much noise there is at a time,
:math:`x_t = \alpha_t x_0 + \sigma_t \epsilon` with :math:`t = 0` the data and :math:`t = 1` the
noise. A *denoiser* estimates :math:`x_0` from :math:`x_t`. A *sampler* is the rule that takes
noise to data in steps. Any schedule works with any denoiser and any sampler.
"""

from ._churn import Churn
from ._couplings import COUPLINGS, Coupling, Independent, OptimalTransport
from ._denoisers import Denoiser, GaussianMixtureDenoiser, NetworkDenoiser
from ._guidance import GuidedDenoiser
from ._interpolation import slerp
from ._likelihood import log_prob
from ._multistep import DPMSolver
from ._ode import Adaptive
from ._parametrisations import (
    LOSS_WEIGHTS,
    PARAMETRISATIONS,
    Data,
    EDMWeight,
    Flow,
    LossWeight,
    MinSNR,
    Noise,
    Parametrisation,
    PlainWeight,
    Velocity,
)
from ._samplers import DDIM, DDPM, Euler, Heun, Resample, Sampler, StepSampler
from ._schedules import (
    SCHEDULES,
    RectifiedFlow,
    Schedule,
    VarianceExploding,
    VariancePreserving,
    VariancePreservingCosine,
)
from ._times import (
    TIME_DISTRIBUTIONS,
    LogitNormalTimes,
    LogNormalNoise,
    TimeDistribution,
    UniformTimes,
)
from ._transport import (
    TRANSPORTS,
    EntropicTransport,
    ExactTransport,
    MoscotTransport,
    Transport,
    UnbalancedTransport,
)

SAMPLERS: dict[str, type[Sampler]] = {
    "heun": Heun,
    "euler": Euler,
    "dpm_solver": DPMSolver,
    "ddim": DDIM,
    "ddpm": DDPM,
    "churn": Churn,
    "resample": Resample,
    "adaptive": Adaptive,
}
"""Samplers by name; each takes its defaults."""

__all__ = [
    "COUPLINGS",
    "DDIM",
    "DDPM",
    "LOSS_WEIGHTS",
    "PARAMETRISATIONS",
    "SAMPLERS",
    "SCHEDULES",
    "TIME_DISTRIBUTIONS",
    "TRANSPORTS",
    "Adaptive",
    "Churn",
    "Coupling",
    "DPMSolver",
    "Data",
    "Denoiser",
    "EDMWeight",
    "EntropicTransport",
    "Euler",
    "ExactTransport",
    "Flow",
    "GaussianMixtureDenoiser",
    "GuidedDenoiser",
    "Heun",
    "Independent",
    "LogNormalNoise",
    "LogitNormalTimes",
    "LossWeight",
    "MinSNR",
    "MoscotTransport",
    "NetworkDenoiser",
    "Noise",
    "OptimalTransport",
    "Parametrisation",
    "PlainWeight",
    "RectifiedFlow",
    "Resample",
    "Sampler",
    "Schedule",
    "StepSampler",
    "TimeDistribution",
    "Transport",
    "UnbalancedTransport",
    "UniformTimes",
    "VarianceExploding",
    "VariancePreserving",
    "VariancePreservingCosine",
    "Velocity",
    "log_prob",
    "slerp",
]
