r"""A second-order rule at one denoiser call a step, by remembering the step before."""

from __future__ import annotations

from torch import Tensor

from ._samplers import Sampler

__all__ = ["DPMSolver"]

# the cosine of a right angle is not zero in floating point
_NO_SIGNAL = 1e-6


class DPMSolver(Sampler):
    r"""DPM-Solver++(2M).

    With :math:`\lambda = \log(\alpha / \sigma)`, :math:`h = \lambda_s - \lambda_t` and
    :math:`r = h_{\mathrm{before}} / h`,

    .. math:: x_s = \frac{\sigma_s}{\sigma_t} x_t - \alpha_s (e^{-h} - 1) D, \qquad
              D = \Big(1 + \frac{1}{2r}\Big) \hat x_0(x_t)
                  - \frac{1}{2r} \hat x_0(x_{\mathrm{before}}).

    The first step and the last one to noise zero are of first order, :math:`D = \hat x_0(x_t)`.
    Next to pure noise, where :math:`\lambda` is infinite, r is taken from :math:`e^\lambda`
    instead, which is not.

    References
    ----------
    Lu et al. (2022), *DPM-Solver++: fast solver for guided sampling of diffusion probabilistic
    models*, algorithm 2.
    """

    default_steps = 15

    def integrate(self, denoiser, x, times, conditions=None, generator=None):
        before: tuple[Tensor, Tensor] | None = None
        for t, s in zip(times[:-1], times[1:], strict=True):
            alpha_t, sigma_t = denoiser.scales(t, x)
            alpha_s, sigma_s = denoiser.scales(s, x)
            x_0 = denoiser(x, t, conditions)
            signal_t, signal_s = alpha_t / sigma_t, alpha_s / sigma_s
            d = x_0
            if before is not None and sigma_s > 0:
                x_0_before, signal_before = before
                d = x_0 + (x_0 - x_0_before) / (2 * _ratio(signal_before, signal_t, signal_s))
            # the factor of d in a form that is finite where h is not
            x = sigma_s / sigma_t * x + (alpha_s - alpha_t * sigma_s / sigma_t) * d
            before = x_0, signal_t
        return x


def _ratio(before: Tensor, now: Tensor, after: Tensor) -> Tensor:
    """Return r, the length of the step before in units of the step at hand."""
    if min(before, after) < _NO_SIGNAL:
        return (now - before) / (after - now)
    return (now / before).log() / (after / now).log()
