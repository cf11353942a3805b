"""Rectified flow: the straight path, the change of variables, the velocity and its samplers."""

import math
from collections.abc import Callable

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from sdlearn import StableDiffusion, flow, samplers
from sdlearn.guidance import classifier_free_guidance, denoiser
from sdlearn.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule()
LAST = flow.last_time(SCHEDULE)
MEAN, STD = 0.7, 0.4


def draws(n: int = 1, seed: int = 0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    shape = (3, 4, 8, 8)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(n))


def ratio_at(timestep: Tensor) -> Tensor:
    """sigma / alpha at a fractional timestep, as the package interpolates it for given levels."""
    table = SCHEDULE.sigmas.log()
    below = timestep.double().floor().long().clamp(max=998)
    return torch.lerp(table[below], table[below + 1], timestep.double() - below).exp()


def gaussian_noise(z: Tensor, timestep: Tensor) -> Tensor:
    """The exact noise prediction if every element of x_0 has MEAN and STD."""
    ratio = ratio_at(timestep).view(-1, 1, 1, 1)
    alpha, sigma = 1 / (1 + ratio**2).sqrt(), ratio / (1 + ratio**2).sqrt()
    return sigma * (z - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)


def gaussian_velocity(x: Tensor, t: float) -> Tensor:
    """E[eps - x_0 | x_t], from the joint distribution of two Gaussians."""
    centred = x - (1 - t) * MEAN
    variance = (1 - t) ** 2 * STD**2 + t**2
    return t / variance * centred - (MEAN + (1 - t) * STD**2 / variance * centred)


def gaussian_end(x: Tensor, start: float) -> Tensor:
    """Where the exact flow takes x from `start` to 0: a Gaussian keeps its quantiles."""
    std = math.sqrt((1 - start) ** 2 * STD**2 + start**2)
    return MEAN + STD * (x - (1 - start) * MEAN) / std


def final(states) -> Tensor:  # type: ignore[no-untyped-def]
    return [*states][-1].x


# --------------------------------------------------------------------------------------- the path


def test_the_path_runs_from_the_latent_to_noise_in_a_straight_line() -> None:
    x_0, eps = draws(2)
    assert torch.equal(flow.interpolate(x_0, eps, 0), x_0)
    assert torch.equal(flow.interpolate(x_0, eps, 1), eps)
    t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    rows = [flow.interpolate(x_0, eps, float(each))[k] for k, each in enumerate(t)]
    assert torch.equal(flow.interpolate(x_0, eps, t), torch.stack(rows))
    assert torch.allclose(rows[0] - x_0[0], 0.2 * (eps - x_0)[0], rtol=0, atol=1e-15)


def test_times_are_logit_normal_or_uniform() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = flow.draw_times(100_000, 0.5, 1.2, generator).double().logit()
    assert float(logits.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(logits.std()) == pytest.approx(1.2, abs=0.02)
    uniform = flow.draw_times(100_000, 0.5, 0, generator)
    shares = torch.histc(uniform, 4, 0, 1) / 100_000
    assert (shares - 0.25).abs().max() < 0.01


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("steps", [4, 28])
def test_times_are_shifted_as_in_diffusers(shift: float, steps: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / steps, steps).tolist())
    times = torch.tensor(flow.path(steps, shift=shift))
    assert (times - scheduler.sigmas).abs().max() < 1e-6
    assert flow.path(steps, LAST, shift)[0] == LAST
    assert flow.path(steps, LAST, shift)[-1] == 0


# -------------------------------------------------------------------------- the change of variables


def test_the_change_of_variables_goes_there_and_back() -> None:
    x_0, eps = draws(2)
    t = torch.tensor([1e-3, 0.5, LAST], dtype=torch.float64)
    x = flow.interpolate(x_0, eps, t)
    z = flow.to_latent(x, t)
    for row, (time, point) in enumerate(zip(t.tolist(), flow.points_at(t, SCHEDULE), strict=True)):
        assert float(point.alpha**2 + point.sigma**2) == pytest.approx(1, abs=1e-12)
        assert flow.time_of(point) == pytest.approx(time, abs=1e-12)
        expected = point.alpha * x_0[row] + point.sigma * eps[row]
        assert (z[row] - expected).abs().max() < 1e-12
    assert (flow.from_latent(z, t) - x).abs().max() < 1e-12
    u = eps - x_0
    assert (flow.noise_from_velocity(u, x, t) - eps).abs().max() < 1e-12
    assert (flow.velocity_from_noise(eps, x, t) - u).abs().max() < 1e-12


def test_the_timestep_is_that_of_the_same_noise_level() -> None:
    for k in (0, 1, 250, 999):
        ratio = float(SCHEDULE.sigmas[k])
        (point,) = flow.points_at([ratio / (1 + ratio)], SCHEDULE)
        assert point.t == pytest.approx(k, abs=1e-9)
    between = torch.tensor([0.1, 0.35, 0.6, 0.9], dtype=torch.float64)
    timesteps = torch.tensor([p.t for p in flow.points_at(between, SCHEDULE)], dtype=torch.float64)
    assert torch.allclose(ratio_at(timesteps), between / (1 - between), rtol=1e-12, atol=0)
    (clean,) = flow.points_at([0.0], SCHEDULE)
    assert (clean.t, float(clean.alpha), float(clean.sigma)) == (0, 1, 0)


@pytest.mark.parametrize("t", [-0.01, LAST + 0.001, 1.0, math.nan])
def test_a_time_that_the_schedule_does_not_reach_is_refused(t: float) -> None:
    def never(*_: Tensor) -> Tensor:
        raise AssertionError("the network is called")

    with pytest.raises(ValueError, match=r"it must lie in 0 … 0\.9360, where this schedule ends"):
        flow.velocity_model(never, SCHEDULE)(torch.zeros(1, 4, 8, 8), t)
    z = torch.zeros(1, 4, 8, 8)
    with pytest.raises(ValueError, match="where this schedule ends"):
        flow.velocity_loss(never, z, torch.tensor([t]), z, z, SCHEDULE)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: flow.path(0), "steps is 0; it must be a whole number of at least 1"),
        (lambda: flow.path(2.0), "steps is 2.0; it must be a whole number"),  # type: ignore[arg-type]
        (lambda: flow.path(2, 1.5), "start is 1.5; it must be greater than 0 and at most 1"),
        (lambda: flow.path(2, shift=0), "shift is 0; it must be greater than 0"),
        (lambda: flow.path(2, shift=math.inf), "shift is inf; it must be a finite number"),
    ],
)
def test_a_wrong_path_is_one_sentence(call: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()


# ----------------------------------------------------------------------------------- the velocity


@pytest.mark.parametrize("t", [0.05, 0.3, 0.61, LAST])
def test_the_wrapped_network_has_the_exact_velocity_of_a_gaussian(t: float) -> None:
    (x,) = draws()
    (point,) = flow.points_at([t], SCHEDULE)

    def network(z: Tensor, timestep: Tensor) -> Tensor:
        assert torch.equal(timestep, torch.full((3,), point.t))  # in float32, as in `denoiser`
        return gaussian_noise(z, torch.full((3,), point.t, dtype=torch.float64))

    found = flow.velocity_model(network, SCHEDULE)(x, t)
    assert (found - gaussian_velocity(x, t)).abs().max() < 1e-10


def test_the_loss_compares_velocities() -> None:
    x_0, eps, error = draws(3)
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    seen = []

    def model(z: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        seen.append((z, timestep, context))
        return eps + error

    context = torch.zeros(3, 77, 128)
    loss = flow.flow_loss(model, x_0, t, eps, context, SCHEDULE)
    weight = (1 - t.view(-1, 1, 1, 1)) ** -2
    assert float(loss) == pytest.approx(float((weight * error**2).mean()), rel=1e-5)
    z, timestep, _ = seen[0]
    points = flow.points_at(t, SCHEDULE)
    alpha = torch.stack([p.alpha for p in points]).view(-1, 1, 1, 1)
    sigma = torch.stack([p.sigma for p in points]).view(-1, 1, 1, 1)
    assert (z - (alpha * x_0 + sigma * eps)).abs().max() < 1e-12
    assert torch.equal(timestep, torch.tensor([p.t for p in points]))
    exact = flow.flow_loss(lambda *_: eps, x_0, t, eps, context, SCHEDULE)
    assert float(exact) < 1e-10


# ----------------------------------------------------------------------------------- the samplers


@pytest.mark.parametrize("method", [flow.euler, flow.heun])
@pytest.mark.parametrize("start", [1.0, LAST, 0.3])
def test_a_straight_line_takes_one_step(method, start: float) -> None:  # type: ignore[no-untyped-def]
    x_0, eps = draws(2)
    x = flow.interpolate(x_0, eps, start)
    states = [*method(lambda x, t: eps - x_0, x, flow.path(1, start))]
    assert [(state.step, state.t) for state in states] == [(0, start), (1, 0)]
    assert (states[-1].x - x_0).abs().max() < 1e-14
    assert (states[-1].x_0 - x_0).abs().max() < 1e-14


def test_euler_is_ddim_between_the_same_noise_levels() -> None:
    (z,) = draws()
    times = flow.path(7, LAST, shift=2.0)
    points = flow.points_at(times, SCHEDULE)
    expected = [*samplers.ddim(denoiser(gaussian_noise, "noise"), z, points)]
    velocity = flow.velocity_model(gaussian_noise, SCHEDULE)
    for state, known in zip(
        flow.euler(velocity, flow.from_latent(z, times[0]), times), expected, strict=True
    ):
        assert (flow.to_latent(state.x, state.t) - known.z).abs().max() < 1e-12
        assert state.step == 0 or (state.x_0 - known.z_0).abs().max() < 1e-12


def errors(method, steps: list[int]) -> list[float]:  # type: ignore[no-untyped-def]
    (eps,) = draws()
    x = float(flow.norm(LAST)) * eps
    ends = [final(method(gaussian_velocity, x, flow.path(n, LAST))) for n in steps]
    return [float((end - gaussian_end(x, LAST)).abs().max()) for end in ends]


@pytest.mark.parametrize(("method", "factor"), [(flow.euler, 2), (flow.heun, 4)])
def test_half_the_step_divides_the_error(method, factor: int) -> None:  # type: ignore[no-untyped-def]
    few, more, most = errors(method, [80, 160, 320])
    assert few / more == pytest.approx(factor, rel=0.05)
    assert more / most == pytest.approx(factor, rel=0.03)


def test_heun_on_both_paths_agrees_to_second_order() -> None:
    # They average different things, velocities here and noise there: half the step, a quarter of
    # the difference. The paths end at a little noise, where both call the network twice.
    (z,) = draws()

    def difference(steps: int) -> float:
        times = [0.1 + t for t in flow.path(steps, 0.7)]
        points = flow.points_at(times, SCHEDULE)
        exact = {p.t: t for p, t in zip(points, times, strict=True)}
        denoise = lambda z, point: z_0_of(z, exact[point.t])  # noqa: E731
        *_, there = samplers.heun(denoise, z, points)
        x = final(flow.heun(gaussian_velocity, flow.from_latent(z, times[0]), times))
        return float((flow.to_latent(x, times[-1]) - there.z).abs().max())

    few, more, most = map(difference, (40, 80, 160))
    assert few / more == pytest.approx(4, rel=0.1)
    assert more / most == pytest.approx(4, rel=0.05)
    assert few > 1e-6


def z_0_of(z: Tensor, t: float) -> Tensor:
    """The exact estimate of a Gaussian's x_0, from the latent at time t."""
    x = flow.from_latent(z, t)
    return x - t * gaussian_velocity(x, t)


@pytest.fixture(scope="module")
def sd() -> StableDiffusion:
    return StableDiffusion.storybook(device="cpu")


@torch.inference_mode()
def test_the_shipped_model_flows_as_diffusers_scheduler_does(sd: StableDiffusion) -> None:
    cond, uncond = sd.text(["a red cat", "a blue house"]), sd.text(["", ""])
    network = classifier_free_guidance(sd.unet, cond, uncond, 3.0)
    velocity = flow.velocity_model(network, sd.schedule)
    times = flow.path(6, LAST, shift=2.0)
    eps = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    x = start = flow.from_latent(eps, times[0])
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=times[:-1])
    for k, (state, timestep) in enumerate(
        zip([*flow.euler(velocity, start, times)][1:], scheduler.timesteps, strict=True)
    ):
        x = scheduler.step(velocity(x, times[k]), timestep, x).prev_sample
        assert (state.x - x).abs().max() <= 1e-5


@torch.inference_mode()
def test_the_velocity_of_the_shipped_model_is_that_of_its_noise(sd: StableDiffusion) -> None:
    context = sd.text(["a red cat"]).context
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for k in (250, 600, 999):
        t = float(SCHEDULE.sigmas[k] / (1 + SCHEDULE.sigmas[k]))
        x = flow.from_latent(z, t)
        u = flow.velocity_model(lambda z, t: sd.unet(z, t, context), sd.schedule)(x, t)
        eps = sd.unet(z, torch.tensor([float(k)]), context)
        assert (flow.noise_from_velocity(u, x, t) - eps).abs().max() < 1e-5
