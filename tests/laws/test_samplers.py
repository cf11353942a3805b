"""What every sampler must satisfy: convergence to the exact flow and to the exact distribution,
and how it goes along a path.

The data are a Gaussian and a mixture of two on the line, whose denoisers are known, on a schedule
given by formulas: alpha = cos(angle), sigma = sin(angle), an even grid of angles that ends with
noise left. In one dimension the flow keeps quantiles, so where it takes a point is known as well.
"""

import math
from itertools import pairwise

import pytest
import torch

from sdlearn.samplers import (
    ADAMS_BASHFORTH,
    SAMPLERS,
    SamplerSpec,
    ddim,
    ddpm,
    dpm_pp_2m,
    euler,
    euler_ancestral,
    get_sampler,
    heun,
    lms,
    lms_coefficients,
    plms,
)
from sdlearn.schedule import NoiseSchedule, Point

# weights, means and standard deviations
GAUSSIAN = torch.tensor([[1.0], [1.5], [0.3]], dtype=torch.float64)
MIXTURE = torch.tensor([[0.4, 0.6], [-1.0, 0.8], [0.4, 0.3]], dtype=torch.float64)
DETERMINISTIC = [ddim, euler, heun, plms, lms, dpm_pp_2m]
STOCHASTIC = [ddpm, euler_ancestral]


def arc(steps, first=1.45, last=0.4):
    """A path with the angle as its time, from almost noise to an end with noise left."""
    angles = torch.linspace(first, last, steps + 1, dtype=torch.float64)
    return [Point(float(angle), angle.cos(), angle.sin()) for angle in angles]


def spread(data, point):
    """Means and standard deviations of the parts of z at a point."""
    _, mean, std = data
    return point.alpha * mean, ((point.alpha * std) ** 2 + point.sigma**2).sqrt()


def exact(data):
    """The denoiser E[z_0 | z] of these data."""

    def denoise(z, point):
        weight, mean, std = data
        middle, width = spread(data, point)
        away = (z[..., None] - middle) / width
        part = torch.softmax(weight.log() - width.log() - away**2 / 2, dim=-1)
        return (part * (mean + point.alpha * std**2 / width * away)).sum(-1)

    return denoise


def quantile_of(data, z, point):
    """The share of z's distribution below each z."""
    middle, width = spread(data, point)
    return (data[0] * torch.special.ndtr((z[..., None] - middle) / width)).sum(-1)


def flowed(data, z, here, there):
    """Where the exact flow takes z: to the same quantile."""
    quantile = quantile_of(data, z, here)
    low, high = torch.full_like(z, -9), torch.full_like(z, 9)
    for _ in range(60):
        middle = (low + high) / 2
        below = quantile_of(data, middle, there) < quantile
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def normals(*shape, seed=0):
    """A callable that gives the next standard normal, float64."""
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(shape, generator=generator, dtype=torch.float64)


def states(walk, *args, **options):
    return [step.z for step in walk(*args, **options)]


# ------------------------------------------------------------------------------------ convergence


@pytest.mark.parametrize("data", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])
@pytest.mark.parametrize(
    ("walk", "order", "exactly"),
    [
        (ddim, 1, True),
        (euler, 1, True),
        (heun, 2, True),
        (dpm_pp_2m, 2, True),
        (plms, 2, False),
        (lms, 2, False),
    ],
)
def test_order_of_convergence(walk, order, exactly, data):
    """Twice the steps, 2^order times less error."""
    z = torch.linspace(-1.8, 1.8, 37, dtype=torch.float64)
    errors = []
    for steps in (80, 160, 320):
        path = arc(steps)
        end = states(walk, exact(data), z, path)[-1]
        errors.append((end - flowed(data, z, path[0], path[-1])).norm().item())
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert errors[0] < (0.05 if order == 1 else 0.002)
    for found in orders:
        assert found > order - 0.1
        assert found < order + 0.1 or not exactly


@pytest.mark.parametrize("data", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])
@pytest.mark.parametrize(("walk", "eta"), [(ddpm, None), (ddim, 0.5), (euler_ancestral, None)])
def test_convergence_in_distribution(walk, eta, data):
    """The largest distance of the distribution functions; chance alone makes about 0.01."""
    distances = []
    options = {} if eta is None else {"eta": eta}
    for steps in (8, 32, 128):
        path = arc(steps, first=1.55, last=0.05)
        noise = normals(10_000, seed=steps)
        z = states(walk, exact(data), noise(), path, noise=noise, **options)[-1]
        share = quantile_of(data, z, path[-1]).sort().values
        even = (torch.arange(len(share), dtype=torch.float64) + 0.5) / len(share)
        distances.append((share - even).abs().max().item())
    assert distances[0] > 0.04 > distances[1] > 0.015 > distances[2]


def gaussian(mean, std):
    """The exact denoiser where z_0 ~ N(mean, std²): E[z_0 | z_t]."""

    def denoise(z, point):
        variance = (point.alpha * std) ** 2 + point.sigma**2
        return mean + point.alpha * std**2 / variance * (z - point.alpha * mean)

    return denoise


def test_ddim_converges_to_the_exact_flow_at_order_one():
    """For a Gaussian the flow is known: (z - alpha mean) / sqrt(alpha² std² + sigma²) is constant.
    Twice the steps must halve the error."""
    mean, std = 1.5, 0.3
    schedule = NoiseSchedule()
    z = normals(1, 1, 4, 4)()
    std_at = lambda p: (p.alpha**2 * std**2 + p.sigma**2).sqrt()  # noqa: E731
    errors = []
    for steps in (125, 250, 500):
        path = schedule.path(steps, "trailing")
        exact = (z - path[0].alpha * mean) / std_at(path[0]) * std_at(path[-1])
        exact = exact + path[-1].alpha * mean
        errors.append((states(ddim, gaussian(mean, std), z, path)[-1] - exact).norm().item())
    for coarse, fine in pairwise(errors):
        assert 1.8 < coarse / fine < 2.2
    assert errors[-1] < 0.02


@pytest.mark.parametrize("walk", [ddpm, ddim])
def test_samples_have_the_distribution_of_the_data(walk):
    mean, std = -0.5, 0.7
    noise = normals(20000, 1, 1, 1)
    path = NoiseSchedule().path(500, "trailing", "zero")
    z = states(walk, gaussian(mean, std), noise(), path, noise=noise)[-1]
    assert z.mean().item() == pytest.approx(mean, abs=0.02)
    assert z.std().item() == pytest.approx(std, rel=0.02)


# ------------------------------------------------------------------------------- along a path


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_start_is_yielded_and_every_point_visited(name):
    path = NoiseSchedule().path(6, final_sigma="zero")
    z = normals(2, 4, 3, 3)()
    steps = list(get_sampler(name).sample(lambda z, point: 0.5 * z, z, path))
    assert [step.point for step in steps] == path
    assert steps[0].z is z
    torch.testing.assert_close(steps[0].z_0, path[0].alpha * z)
    torch.testing.assert_close(steps[1].z_0, 0.5 * z)
    # Where the path ends clean, the last state is the last estimate, but for the two samplers that
    # extrapolate eps even there.
    last = (steps[-1].z - steps[-1].z_0).abs().max()
    assert last > 0.01 if name in ("plms", "lms") else last < 1e-12


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_known_latent_is_found_at_once(name):
    """With the true z_0 as denoiser every state is a sample of q(z_s | z_0), the end is z_0."""
    walk = get_sampler(name).sample
    z_0 = normals(3, 4, 8, 8)()
    noise = normals(3, 4, 8, 8, seed=1)
    path = NoiseSchedule().path(30, final_sigma="zero")
    start = path[0].alpha * z_0 + path[0].sigma * noise()
    for step in walk(lambda z, point: z_0, start, path, noise=noise):
        residual = step.z - step.point.alpha * z_0
        assert residual.std().item() == pytest.approx(step.point.sigma.item(), rel=0.1, abs=1e-12)
    torch.testing.assert_close(step.z, z_0, atol=1e-12, rtol=0)


# ------------------------------------------------------------------------- what equals what


def karras_path(steps=12):
    return NoiseSchedule().path(steps, "leading", "zero", steps_in="sigma", sigmas="karras")


def in_karras_form(path, z, denoise, noise=None):
    """Euler's method, ancestral where there is noise, in x = z / alpha and its own sigma."""
    x, latents = z / path[0].alpha, [z]
    for here, there in pairwise(path):
        sigma, sigma_s = here.sigma / here.alpha, there.sigma / there.alpha
        up = sigma_s * (1 - (sigma_s / sigma) ** 2).sqrt() if noise else 0.0 * sigma
        down = (sigma_s**2 - up**2).sqrt()
        slope = (x - denoise(x * here.alpha, here)) / sigma
        x = x + (down - sigma) * slope
        if noise:
            x = x + up * noise()
        latents.append(x * there.alpha)
    return latents


def test_euler_is_ddim_without_noise():
    denoise, z, path = exact(MIXTURE), normals(50)(), karras_path()
    ours = states(euler, denoise, z, path)
    for other in (states(ddim, denoise, z, path, eta=0.0), in_karras_form(path, z, denoise)):
        torch.testing.assert_close(ours, other, atol=1e-12, rtol=1e-12)


def test_euler_ancestral_is_ddim_with_all_its_noise():
    denoise, z, path = exact(MIXTURE), normals(50)(), karras_path()
    ours = states(euler_ancestral, denoise, z, path, noise=normals(50, seed=1))
    for other in (
        states(ddim, denoise, z, path, eta=1.0, noise=normals(50, seed=1)),
        states(ddpm, denoise, z, path, noise=normals(50, seed=1)),
        in_karras_form(path, z, denoise, normals(50, seed=1)),
    ):
        torch.testing.assert_close(ours, other, atol=1e-12, rtol=1e-12)


def test_ddim_at_eta_one_is_ddpm():
    """Song et al. 2021, section 4.1, step by step with the same noise."""
    denoise, z, path = exact(MIXTURE), normals(50)(), NoiseSchedule().path(13, final_sigma="zero")
    ours = states(ddim, denoise, z, path, eta=1.0, noise=normals(50, seed=1))
    theirs = states(ddpm, denoise, z, path, noise=normals(50, seed=1))
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("walk", [lms, dpm_pp_2m, plms, heun])
def test_the_others_are_not_euler(walk):
    """Or the equalities above, and the orders, could be those of one sampler."""
    denoise, z, path = exact(MIXTURE), normals(50)(), karras_path()
    assert (states(walk, denoise, z, path)[6] - states(euler, denoise, z, path)[6]).norm() > 1e-3


@pytest.mark.parametrize("walk", DETERMINISTIC)
@pytest.mark.parametrize("last", [0.4, 0.0])
def test_rescaling_the_schedule_changes_nothing(walk, last):
    """Any c(t) that multiplies z, alpha and sigma: the samplers see the data and the ratio only,
    so Karras's x and the variance-preserving z are walked alike."""
    path = arc(10, last=last)
    scale = normals(11, seed=3)().exp()
    place = {point.t: k for k, point in enumerate(path)}
    scaled = [Point(p.t, c * p.alpha, c * p.sigma) for p, c in zip(path, scale, strict=True)]
    denoise, z = exact(MIXTURE), normals(50)()

    def rescaled(z, point):
        k = place[point.t]
        return denoise(z / scale[k], path[k])

    plain = states(walk, denoise, z, path)
    other = [
        z / c for z, c in zip(states(walk, rescaled, scale[0] * z, scaled), scale, strict=True)
    ]
    torch.testing.assert_close(other, plain, atol=1e-11, rtol=1e-11)


# --------------------------------------------------------------------------------------- the parts


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_linear_multistep_weights(k):
    """Exact for polynomials on an uneven grid; on an even one they are Adams and Bashforth's."""
    nodes = torch.tensor([5.0, 6.5, 9.0, 14.0], dtype=torch.float64)[:k]
    end = torch.tensor(4.2, dtype=torch.float64)
    weights = lms_coefficients(nodes, end)
    for degree in range(k):
        mean = (end ** (degree + 1) - 5.0 ** (degree + 1)) / (degree + 1) / (end - 5)
        total = sum(w * node**degree for w, node in zip(weights, nodes, strict=True))
        assert total.item() == pytest.approx(mean.item(), rel=1e-11)
    even = lms_coefficients(torch.arange(k).double(), torch.tensor(-1.0).double())
    assert even == pytest.approx(ADAMS_BASHFORTH[k - 1], rel=1e-12)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_calls_of_the_denoiser(name, steps):
    calls = []
    offer = SAMPLERS[name]
    path = NoiseSchedule().path(
        steps, final_sigma=offer.final_sigma or "min", steps_in=offer.steps_in
    )

    def denoise(z, point):
        calls.append(point.t)
        return z / 2

    walked = states(offer.sample, denoise, normals(3)(), path)
    times = [point.t for point in path[:-1]]
    if name == "heun":
        times = sorted(times + times[1:], reverse=True)
    elif name == "plms" and steps > 1:
        times.insert(1, times[1])
    assert calls == times
    assert len(walked) == steps + 1


@pytest.mark.parametrize("walk", DETERMINISTIC + STOCHASTIC)
def test_who_asks_for_noise(walk):
    calls = []
    noise = lambda: calls.append(1) or torch.zeros(3)  # noqa: E731
    states(walk, exact(MIXTURE), normals(3)(), karras_path(9), noise=noise)
    assert len(calls) == (9 if walk in STOCHASTIC else 0)


@pytest.mark.parametrize(("eta", "draws"), [(0.0, 0), (0.5, 9), (1.0, 9)])
def test_noise_is_drawn_once_a_step_and_only_where_it_is_used(eta, draws):
    calls = []
    noise = lambda: calls.append(1) or torch.zeros(1, 4, 2, 2)  # noqa: E731
    z = torch.ones(1, 4, 2, 2)
    path = NoiseSchedule().path(9)
    list(ddim(lambda z, point: z, z, path, eta=eta, noise=noise))
    assert len(calls) == draws
    calls.clear()
    list(ddpm(lambda z, point: z, z, path, noise=noise))
    assert len(calls) == 9


def test_an_order_that_linear_multistep_does_not_have():
    for order in (0, 5, "two"):
        with pytest.raises(ValueError, match=f"order is {order!r}; it must be 1, 2, 3 or 4"):
            states(lms, exact(MIXTURE), normals(3)(), karras_path(), order=order)
    one = states(lms, exact(MIXTURE), normals(3)(), karras_path(), order=1)
    torch.testing.assert_close(one, states(euler, exact(MIXTURE), normals(3)(), karras_path()))


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_initial_noise(spacing):
    """Samplers in sigma leave the picture's share of the variance out, but not on leading."""
    path = NoiseSchedule().path(5, spacing, "zero")
    stds = {name: float(offer.initial_std(path, spacing)) for name, offer in SAMPLERS.items()}
    less = 1.0 if spacing == "leading" else path[0].sigma.item()
    assert less == 1 or less < 0.998
    in_sigma = ("euler", "euler_ancestral", "heun", "lms")
    assert stds == {name: less if name in in_sigma else 1.0 for name in SAMPLERS}
    assert SamplerSpec(ddim).initial_std(path, spacing) == 1


def test_an_unknown_sampler_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'dimm' is not known: the samplers are ddim, ddpm"):
        get_sampler("dimm")
