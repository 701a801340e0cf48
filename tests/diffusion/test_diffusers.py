"""Samplers against the schedulers of diffusers, state by state.

Both sides ask the same network, the exact denoiser of a mixture written as what diffusers calls a
prediction type, and are given the same noise and the same noise levels. Discrete timestep k of
diffusers is our time (k + 1) / 1000; with ``timestep_spacing="trailing"`` a number of steps that
divides 1000 gives even times from 1 to 0. Diffusers computes its tables in single precision, so
they are replaced by the same in double; the schedulers written in noise levels cast samples to
single precision all the same.
"""

from dataclasses import dataclass, field

import diffusers
import pytest
import torch

from scldm.diffusion import (
    DDIM,
    DDPM,
    PARAMETRISATIONS,
    Churn,
    DPMSolver,
    Euler,
    Heun,
    NetworkDenoiser,
    RectifiedFlow,
    Resample,
    VarianceExploding,
    VariancePreserving,
)

# diffusers' own, under numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PREDICTIONS = {"epsilon": "noise", "sample": "data", "v_prediction": "velocity"}
STEPS = 20
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


class Network(torch.nn.Module):
    """The exact denoiser as a network on ``x_t`` of variance-preserving or straight paths."""

    def __init__(self, exact, prediction):
        super().__init__()
        self.exact, self.prediction = exact, prediction

    def forward(self, x, t, conditions=None):
        alpha, sigma = self.exact.scales(t, x)
        # our networks see data of variance 1, which on these schedules is x_t, but on the
        # straight path is not
        x_t = x * torch.hypot(alpha, sigma)
        x_0 = self.exact(x_t, t)
        eps = (x_t - alpha * x_0) / sigma
        return {
            "epsilon": eps,
            "sample": x_0,
            "v_prediction": alpha * eps - sigma * x_0,
            "flow": eps - x_0,
        }[self.prediction]


@dataclass
class Trajectory:
    """States in our coordinates, and the generator's before each step."""

    times: torch.Tensor
    states: list = field(default_factory=list)
    draws: list = field(default_factory=list)

    def add(self, state, generator):
        self.states.append(state.double())
        self.draws.append(generator.get_state())


def _generator(state=None):
    generator = torch.Generator().manual_seed(11)
    return generator if state is None else generator.set_state(state)


def _compare(sampler, denoiser, trajectory, noise):
    """Compare each single step, started from diffusers' own state, and the whole way."""
    times, states = trajectory.times, trajectory.states
    assert len(states) == len(times)
    for i, draws in enumerate(trajectory.draws[:-1]):
        x = sampler.integrate(denoiser, states[i], times[i : i + 2], generator=_generator(draws))
        torch.testing.assert_close(x, states[i + 1], **CLOSE)
    whole = sampler.sample(denoiser, noise, generator=_generator(), times=times)
    torch.testing.assert_close(whole, states[-1], **CLOSE)


def _compare_ways(sampler_of, denoiser, trajectory, noise):
    """Compare the ways of 1, 2, ... steps, of rules whose steps know of each other.

    ``sampler_of`` takes a number of steps.
    """
    times, states = trajectory.times, trajectory.states
    assert len(states) == len(times)
    for i in range(1, len(times)):
        x = sampler_of(i).sample(denoiser, noise, generator=_generator(), times=times[: i + 1])
        torch.testing.assert_close(x, states[i], **CLOSE)


def _variance_preserving(scheduler):
    """Give a scheduler its table in double precision, and its timesteps."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    scheduler.alphas_cumprod = torch.cumprod(1 - betas, 0)
    scheduler.set_timesteps(STEPS)
    assert scheduler.timesteps[0] == 999
    return scheduler


def _world(mixture, prediction):
    schedule = VariancePreserving()
    network = Network(mixture.denoiser(schedule), prediction)
    rule = PARAMETRISATIONS[PREDICTIONS[prediction]]()
    return network, NetworkDenoiser(network, schedule, rule)


def _times():
    return torch.linspace(1, 0, STEPS + 1, dtype=torch.float64)


def _walk(scheduler, network, noise, **options):
    """Walk as a pipeline of diffusers does, in the coordinates of ``x_t``."""
    trajectory, generator = Trajectory(_times()), _generator()
    x = noise * network.exact.schedule(trajectory.times[0])[1]
    trajectory.add(x, generator)
    for k in scheduler.timesteps:
        t = (k.double() + 1) / 1000
        x = scheduler.step(network(x, t), k, x, generator=generator, **options).prev_sample
        trajectory.add(x, generator)
    return trajectory


def _walk_in_noise_levels(scheduler, network, noise):
    """The same for schedulers in the coordinates x / alpha, which exploding schedules have.

    Heun's takes two of its steps for one of ours.
    """
    trajectory, generator = Trajectory(_times()), _generator()
    alpha, sigma = network.exact.schedule(trajectory.times)
    trajectory.add(noise * sigma[0], generator)
    x = noise * sigma[0] / alpha[0]
    calls = 0
    for k in scheduler.timesteps:
        t = (k.double() + 1) / 1000
        x_t = scheduler.scale_model_input(x, k)
        x = scheduler.step(network(x_t, t), k, x).prev_sample
        calls += 1
        if scheduler.order == 1 or scheduler.state_in_first_order:
            trajectory.add(x * alpha[len(trajectory.states)], generator)
    # Heun's last step, to zero noise, is its one Euler step: it has no second half
    if scheduler.order == 2:
        assert calls == 2 * STEPS - 1
        trajectory.add(x, generator)
    return trajectory


@pytest.fixture
def noise(draw_noise):
    return draw_noise(30, 2)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ddpm(prediction, mixture, noise):
    network, denoiser = _world(mixture, prediction)
    scheduler = diffusers.DDPMScheduler(
        prediction_type=prediction,
        # equation 7 of Ho et al. (2020); "fixed_large" is the other choice of their section 3.2
        variance_type="fixed_small",
        # a trick for images
        clip_sample=False,
        timestep_spacing="trailing",
    )
    trajectory = _walk(_variance_preserving(scheduler), network, noise)
    _compare(DDPM(), denoiser, trajectory, noise)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ddim(prediction, eta, mixture, noise):
    network, denoiser = _world(mixture, prediction)
    scheduler = diffusers.DDIMScheduler(
        prediction_type=prediction,
        clip_sample=False,
        # alpha_0 = 1 as in Song et al. (2021, section 4.1); "leading" timesteps with an offset are
        # Stable Diffusion's
        set_alpha_to_one=True,
        steps_offset=0,
        timestep_spacing="trailing",
    )
    trajectory = _walk(_variance_preserving(scheduler), network, noise, eta=eta)
    _compare(DDIM(eta), denoiser, trajectory, noise)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_euler(prediction, mixture, noise):
    network, denoiser = _world(mixture, prediction)
    scheduler = diffusers.EulerDiscreteScheduler(
        beta_start=1e-4,
        beta_end=0.02,
        prediction_type=prediction,
        timestep_spacing="trailing",
        final_sigmas_type="zero",
    )
    trajectory = _walk_in_noise_levels(_variance_preserving(scheduler), network, noise)
    _compare(Euler(), denoiser, trajectory, noise)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_heun(prediction, mixture, noise):
    """Diffusers averages slopes in the coordinates of Karras et al. only."""
    network, denoiser = _world(mixture, prediction)
    scheduler = diffusers.HeunDiscreteScheduler(
        beta_start=1e-4,
        beta_end=0.02,
        prediction_type=prediction,
        timestep_spacing="trailing",
        clip_sample=False,
    )
    trajectory = _walk_in_noise_levels(_variance_preserving(scheduler), network, noise)
    _compare(Heun(straight=False), denoiser, trajectory, noise)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_dpm_solver(prediction, mixture, noise):
    network, denoiser = _world(mixture, prediction)
    scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type=prediction,
        # algorithm 2 of Lu et al. (2022), whose D is the "midpoint" one
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        # the last step goes to zero noise, where the second order has infinite log-SNR; with it
        # `lower_order_final` and `euler_at_final` have nothing left to decide
        final_sigmas_type="zero",
        lower_order_final=False,
        euler_at_final=False,
        timestep_spacing="trailing",
    )
    _variance_preserving(scheduler)
    trajectory, generator = Trajectory(_times()), _generator()
    x = noise * network.exact.schedule(trajectory.times[0])[1]
    trajectory.add(x, generator)
    for k in scheduler.timesteps:
        x = scheduler.step(network(x, (k.double() + 1) / 1000), k, x).prev_sample
        trajectory.add(x, generator)
    _compare_ways(lambda steps: DPMSolver(), denoiser, trajectory, noise)


def _flow_matching(mixture, noise, **options):
    schedule = RectifiedFlow()
    network = Network(mixture.denoiser(schedule), "flow")
    denoiser = NetworkDenoiser(network, schedule, PARAMETRISATIONS["flow"]())
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0, **options)
    # diffusers' own grid ends at 1/1000 before it goes to zero; ours is even down to zero
    times = schedule.times(STEPS)
    scheduler.set_timesteps(sigmas=times[:-1].tolist())
    trajectory, generator = Trajectory(times), _generator()
    x = noise
    trajectory.add(x, generator)
    for k, t in zip(scheduler.timesteps, times, strict=False):
        # the network is given x_t as it is
        velocity = network(x / torch.hypot(1 - t, t), t)
        x = scheduler.step(velocity.to(x), k, x, generator=generator).prev_sample
        trajectory.add(x, generator)
    return denoiser, trajectory


def test_flow_matching(mixture, noise):
    denoiser, trajectory = _flow_matching(mixture, noise)
    _compare(Euler(), denoiser, trajectory, noise)


def test_stochastic_flow_matching_is_resampling(mixture, noise):
    noise = noise.float()
    denoiser, trajectory = _flow_matching(mixture, noise, stochastic_sampling=True)
    # diffusers draws in single precision, which gives other numbers than double
    trajectory.states = [state.float() for state in trajectory.states]
    _compare(Resample(), denoiser.float(), trajectory, noise)


def _walk_edm(scheduler, schedule, noise, network=None, **options):
    scheduler.set_timesteps(STEPS)
    trajectory = Trajectory(schedule.time(scheduler.sigmas.double()))
    generator = _generator()
    x = noise * scheduler.sigmas[0]
    trajectory.add(x, generator)
    for i, c_noise in enumerate(scheduler.timesteps):
        output = torch.zeros_like(noise)
        if network is not None:
            scaled = scheduler.scale_model_input(x, c_noise)
            output = network(scaled, trajectory.times[i].expand(len(x)), None)
        x = scheduler.step(output, c_noise, x, generator=generator, **options).prev_sample
        trajectory.add(x, generator)
    return trajectory


class Smooth(torch.nn.Module):
    """A fixed, smooth function."""

    def forward(self, x, t, conditions=None):
        return torch.sin(2 * x.flip(1) + t.unsqueeze(1)) - 0.5 * x


EDM = {
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "rho": 7.0,
    "sigma_schedule": "karras",
    "final_sigmas_type": "zero",
    # our preconditioning is theirs for data of variance 1, with the sign that diffusers calls a
    # velocity's
    "sigma_data": 1.0,
    "prediction_type": "v_prediction",
}


def test_edms_noise_levels_and_preconditioning(noise):
    """A raw network, so that c_skip, c_out and c_in of both sides are compared as well."""
    schedule, network = VarianceExploding(), Smooth()
    trajectory = _walk_edm(diffusers.EDMEulerScheduler(**EDM), schedule, noise, network)
    denoiser = NetworkDenoiser(network, schedule, PARAMETRISATIONS["velocity"]())
    torch.testing.assert_close(trajectory.times, schedule.times(STEPS), rtol=1e-6, atol=0)
    _compare(Euler(), denoiser, trajectory, noise)


@pytest.mark.parametrize(
    "options",
    [
        {"s_churn": 5.0, "s_tmin": 0.0, "s_tmax": float("inf"), "s_noise": 1.0},
        {"s_churn": 40.0, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.003},
    ],
)
def test_churn(options, mixture, noise):
    """Algorithm 2 of Karras et al. (2022) with Euler steps.

    Diffusers asks the network before it adds noise and uses the answer after it, at another noise
    level, where line 7 of the algorithm asks it at the raised sample and level. The hook asks it
    there; all the rest is diffusers'.
    """
    # beyond 80, so that the first step has a level to be raised to
    schedule = VarianceExploding(sigma_max=160.0)
    denoiser = mixture.denoiser(schedule)
    scheduler = diffusers.EDMEulerScheduler(**EDM)
    scheduler.precondition_outputs = lambda sample, output, sigma: denoiser(
        sample.double(), schedule.time(sigma.double())
    )
    scheduler.is_scale_input_called = True
    trajectory = _walk_edm(scheduler, schedule, noise, **options)
    churn, *others = options.values()
    _compare_ways(
        # the same noise in every step, whatever their number
        lambda steps: Churn(churn * steps / STEPS, *others, rule=Euler()),
        denoiser,
        trajectory,
        noise,
    )


def test_edms_dpm_solver(noise):
    schedule, network = VarianceExploding(), Smooth()
    scheduler = diffusers.EDMDPMSolverMultistepScheduler(
        **EDM,
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        lower_order_final=False,
        euler_at_final=False,
    )
    trajectory = _walk_edm(scheduler, schedule, noise, network)
    denoiser = NetworkDenoiser(network, schedule, PARAMETRISATIONS["velocity"]())
    _compare_ways(lambda steps: DPMSolver(), denoiser, trajectory, noise)
