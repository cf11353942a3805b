"""What schedule, samplers and guidance must satisfy whatever library one compares them with."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from sdlearn.guidance import denoiser, guided, rescaled
from sdlearn.samplers import SAMPLERS, ddim, ddpm, offered
from sdlearn.schedule import NoiseSchedule, Point
from sdlearn.text import Conditioning
from sdlearn.versions import SPECS, ModelSpec

KINDS = ["scaled_linear", "linear", "cosine"]
PUBLISHED = {"epsilon": "noise", "v_prediction": "velocity"}  # names of predictions in the files


def normals(*shape, seed=0):
    """A callable that gives the next standard normal, float64."""
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(shape, generator=generator, dtype=torch.float64)


def last(walk):
    return list(walk)[-1].z


# --------------------------------------------------------------------------------------- schedule


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("zero", [False, True])
def test_variance_is_preserved_and_signal_only_falls(kind, zero):
    schedule = NoiseSchedule(kind=kind, zero_terminal_snr=zero)
    alpha, sigma = schedule.at(torch.arange(1000))
    assert alpha.dtype == sigma.dtype == torch.float64
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(1000).double(), atol=0, rtol=1e-15)
    assert (alpha.diff() < 0).all()
    assert (alpha[-1] == 0) == zero


def test_constants_of_stable_diffusion():
    schedule = NoiseSchedule()
    alphabar = schedule.alphas_cumprod
    assert alphabar[0].item() == pytest.approx(0.99915, abs=5e-9)
    assert alphabar[999].item() == pytest.approx(0.00466010, abs=5e-9)
    assert alphabar[981].item() == pytest.approx(0.0057755, abs=5e-8)
    assert schedule.snr(999).item() == pytest.approx(0.004682, abs=5e-7)
    alpha, sigma = schedule.at(torch.tensor([0, 999]))
    # Published in single precision, 0.029168 and 14.614647.
    assert (sigma / alpha).tolist() == pytest.approx([0.0291672, 14.6146412], abs=5e-8)


def test_zero_terminal_snr_keeps_the_first_entry():
    plain, zero = NoiseSchedule(), NoiseSchedule(zero_terminal_snr=True)
    assert zero.alphas_cumprod[0].item() == pytest.approx(plain.alphas_cumprod[0].item(), abs=1e-15)


def test_one_noising_is_many_small_ones():
    """q(z_t | z_0) in one go has the mean and variance of t + 1 single steps."""
    schedule = NoiseSchedule(num_steps=50)
    mean, variance = torch.tensor(1.0).double(), torch.tensor(0.0).double()
    for t, beta in enumerate(schedule.betas):
        mean, variance = (1 - beta).sqrt() * mean, (1 - beta) * variance + beta
        alpha, sigma = schedule.at(t)
        assert alpha.item() == pytest.approx(mean.item(), rel=1e-13)
        assert sigma.item() == pytest.approx(variance.sqrt().item(), rel=1e-12)


def test_between_two_entries_sigma_over_alpha_is_linear():
    schedule = NoiseSchedule()
    ratio = [(sigma / alpha).item() for alpha, sigma in map(schedule.at, (500, 500.25, 501))]
    assert ratio[1] == pytest.approx(0.75 * ratio[0] + 0.25 * ratio[2], rel=1e-13)
    alpha, sigma = schedule.at(500.25)
    assert (alpha**2 + sigma**2).item() == pytest.approx(1, abs=1e-15)
    assert schedule.at(torch.tensor([3.0, 500.25]))[0][1] == alpha


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 2, 7, 20, 50, 999, 1000])
def test_a_path_has_one_point_more_than_steps_and_only_descends(spacing, steps):
    path = NoiseSchedule().path(steps, spacing)
    assert len(path) == steps + 1
    times = [point.t for point in path[:-1]]
    assert times == sorted(set(times), reverse=True)
    assert times[-1] >= 0
    assert times[0] <= 999
    assert path[0].t == {"leading": times[0], "trailing": 999}.get(spacing, 999 if steps > 1 else 0)


def test_where_the_last_step_ends():
    schedule = NoiseSchedule()
    first, clean = (schedule.path(20, final=final)[-1] for final in ("first", "clean"))
    assert first == Point(0.0, *schedule.at(0))
    assert (clean.alpha.item(), clean.sigma.item()) == (1, 0)
    assert [point.t for point in schedule.path(4)] == [751, 501, 251, 1, 0]
    assert [point.t for point in schedule.path(4, "trailing", "clean")] == [999, 749, 499, 249, -1]
    assert [point.t for point in schedule.path(4, "linspace")] == [999, 666, 333, 0, 0]


def test_grids():
    """Where the families of samplers put their points: on linspace in sigma between the entries of
    the table, and for DPM-Solver++ one further point that is then dropped."""
    schedule = NoiseSchedule()
    times = lambda *args, **how: [p.t for p in schedule.path(*args, "clean", **how)]  # noqa: E731
    assert times(4, "leading", grid="sigma") == [751, 501, 251, 1, -1]
    assert times(5, "linspace", grid="sigma") == [999, 749.25, 499.5, 249.75, 0, -1]
    assert times(5, "linspace", grid="t") == [999, 749, 500, 250, 0, -1]
    assert times(4, "linspace", grid="lambda") == [999, 749, 500, 250, -1]
    assert times(4, "leading", grid="lambda") == [801, 601, 401, 201, -1]
    assert times(4, "trailing", grid="lambda") == [999, 749, 499, 249, -1]
    point = schedule.path(5, "linspace", grid="sigma")[1]
    assert (point.alpha, point.sigma) == schedule.at(749.25)


@pytest.mark.parametrize(("grid", "ends"), [("sigma", (981, 1)), ("lambda", (999, 0))])
def test_karras_points(grid, ends):
    schedule = NoiseSchedule()
    path = schedule.path(50, grid=grid, final="clean", karras=True)
    ratios = torch.stack([point.sigma / point.alpha for point in path[:-1]])
    roots = ratios ** (1 / 7)
    torch.testing.assert_close(roots.diff(), (roots[-1] - roots[0]).expand(49) / 49)
    assert len(path) == 51
    assert [path[0].t, path[-2].t, path[-1].t] == pytest.approx([*ends, -1], abs=1e-9)
    torch.testing.assert_close(ratios[[0, -1]], schedule.ratios[list(ends)])
    for point in path[1:-2]:
        assert (point.alpha**2 + point.sigma**2).item() == pytest.approx(1, abs=1e-15)
        assert (point.t == round(point.t)) == (grid == "lambda")
        ratio = point.sigma / point.alpha
        below = schedule.ratios[math.floor(point.t - 0.5 * (grid == "lambda"))]
        assert below <= ratio <= schedule.ratios[math.ceil(point.t + 0.5 * (grid == "lambda"))]


def test_lu_points_are_even_in_lambda_over_the_whole_table():
    schedule = NoiseSchedule()
    path = schedule.path(10, grid="lambda", final="clean", lu=True)
    lambdas = torch.stack([(point.alpha / point.sigma).log() for point in path[:-1]])
    torch.testing.assert_close(lambdas.diff(), (lambdas[-1] - lambdas[0]).expand(9) / 9)
    torch.testing.assert_close(lambdas[[0, -1]].neg().exp(), schedule.ratios[[999, 0]])
    assert [point.t for point in path[::5]] == [999, 153, -1]
    assert all(point.t == round(point.t) for point in path)


@pytest.mark.parametrize("grid", ["t", "sigma", "lambda"])
@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_the_last_entry_of_zero_terminal_snr(grid, spacing):
    """No signal at all, or next to none where sigma / alpha has to be a number."""
    first, second, *_ = NoiseSchedule(zero_terminal_snr=True).path(20, spacing, grid=grid)
    assert first.alpha == (0 if grid == "t" else 2.0**-12)
    assert first.alpha**2 + first.sigma**2 == 1
    assert (first.t, second.alpha > 0.002) == (999, True)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s: s.path(10, grid="log"), "'log' is not known: it is 't', 'sigma' or 'lambda'"),
        (lambda s: s.path(10, karras=True), "only the grids 'sigma' and 'lambda'"),
        (lambda s: s.path(10, grid="sigma", lu=True), "lu is true; only the grid 'lambda'"),
        (lambda s: s.path(10, grid="lambda", karras=True, lu=True), "lu is true; karras is, too"),
        (lambda s: s.path(1000, grid="lambda"), "steps is 1000; it must lie in 1 … 999"),
        (lambda s: s.path(0), "steps is 0"),
        (lambda s: s.path(1001), "1 … 1000"),
        (lambda s: s.path(2.5), "whole number"),
        (lambda s: s.path(10, "karras"), "'leading', 'trailing' or 'linspace'"),
        (lambda s: s.path(10, final="zero"), "'first' or 'clean'"),
        (lambda s: s.at(1000), "outside"),
        (lambda s: s.at(torch.tensor([5, -1])), "outside"),
        (lambda s: NoiseSchedule(kind="sigmoid"), "'sigmoid' is not a schedule"),
    ],
)
def test_what_a_schedule_cannot_do_is_said(call, words):
    with pytest.raises(ValueError, match=words):
        call(NoiseSchedule())


# --------------------------------------------------------------------------------------- samplers


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_start_is_yielded_and_every_point_visited(name):
    path = NoiseSchedule().path(6, final="clean")
    z = normals(2, 4, 3, 3)()
    steps = list(offered(name).walk(lambda z, point: 0.5 * z, z, path))
    assert [step.point for step in steps] == path
    assert steps[0].z is z
    torch.testing.assert_close(steps[0].z_0, path[0].alpha * z)
    torch.testing.assert_close(steps[1].z_0, 0.5 * z)
    # Where the path ends clean, the last state is the last estimate, but for the two samplers that
    # extrapolate eps even there.
    last = (steps[-1].z - steps[-1].z_0).abs().max()
    assert last > 0.01 if name in ("plms", "lms") else last < 1e-12


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


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_known_latent_is_found_at_once(name):
    """With the true z_0 as denoiser every state is a sample of q(z_s | z_0), the end is z_0."""
    walk = offered(name).walk
    z_0 = normals(3, 4, 8, 8)()
    noise = normals(3, 4, 8, 8, seed=1)
    path = NoiseSchedule().path(30, final="clean")
    start = path[0].alpha * z_0 + path[0].sigma * noise()
    for step in walk(lambda z, point: z_0, start, path, noise=noise):
        residual = step.z - step.point.alpha * z_0
        assert residual.std().item() == pytest.approx(step.point.sigma.item(), rel=0.1, abs=1e-12)
    torch.testing.assert_close(step.z, z_0, atol=1e-12, rtol=0)


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
    spread = lambda p: (p.alpha**2 * std**2 + p.sigma**2).sqrt()  # noqa: E731
    errors = []
    for steps in (125, 250, 500):
        path = schedule.path(steps, "trailing")
        exact = (z - path[0].alpha * mean) / spread(path[0]) * spread(path[-1])
        exact = exact + path[-1].alpha * mean
        errors.append((last(ddim(gaussian(mean, std), z, path)) - exact).norm().item())
    for coarse, fine in pairwise(errors):
        assert 1.8 < coarse / fine < 2.2
    assert errors[-1] < 0.02


@pytest.mark.parametrize("walk", [ddpm, ddim])
def test_samples_have_the_distribution_of_the_data(walk):
    mean, std = -0.5, 0.7
    noise = normals(20000, 1, 1, 1)
    path = NoiseSchedule().path(500, "trailing", "clean")
    z = last(walk(gaussian(mean, std), noise(), path, noise=noise))
    assert z.mean().item() == pytest.approx(mean, abs=0.02)
    assert z.std().item() == pytest.approx(std, rel=0.02)


def test_an_unknown_sampler_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'dimm' is not known: the samplers are ddim, ddpm"):
        offered("dimm")


# --------------------------------------------------------------------------------------- guidance


def conditioning(seed):
    return Conditioning(normals(2, 7, 5, seed=seed)())


def model(z, t, cond):
    """A stand-in network in which everything matters: the latent, the time and the text."""
    return z * t.view(-1, 1, 1, 1) / 1000 + cond.context.mean((1, 2)).view(-1, 1, 1, 1)


def test_guidance_goes_from_the_unconditional_through_the_conditional_output():
    cond, uncond = conditioning(1), conditioning(2)
    z, t = normals(2, 4, 3, 3)(), torch.tensor([500.0, 20.0]).double()
    without, given = model(z, t, uncond), model(z, t, cond)
    for scale in (0.0, 0.3, 1.0, 1.5, 7.5, -2.0):
        output = guided(model, cond, uncond, scale)(z, t)
        torch.testing.assert_close(output, without + scale * (given - without), atol=1e-14, rtol=0)


def test_guidance_of_one_asks_the_network_once():
    sizes = []
    spy = lambda z, t, cond: sizes.append((len(z), len(cond.context))) or z  # noqa: E731
    z, t = normals(2, 4, 3, 3)(), torch.ones(2)
    guided(spy, conditioning(1), None, 1)(z, t)
    guided(spy, conditioning(1), conditioning(2), 2)(z, t)
    assert sizes == [(2, 2), (4, 4)]
    with pytest.raises(ValueError, match="needs the unconditional"):
        guided(spy, conditioning(1), None, 2)


def test_guidance_interval():
    """Within it guidance as ever, outside it the conditional output of one network half."""
    cond, uncond, z = conditioning(1), conditioning(2), normals(2, 4, 3, 3)()
    asked = []
    spy = lambda z, t, cond: asked.append(len(z)) or model(z, t, cond)  # noqa: E731
    within = guided(spy, cond, uncond, 7.5, rescale=0.7, interval=(200, 600))
    always = guided(model, cond, uncond, 7.5, rescale=0.7)
    for time, guides in [(999, 0), (601, 0), (600, 1), (400, 1), (200, 1), (199, 0), (50, 0)]:
        t = torch.full((2,), float(time), dtype=torch.float64)
        expected = always(z, t) if guides else model(z, t, cond)
        assert (always(z, t) - model(z, t, cond)).norm() > 0.1
        assert torch.equal(within(z, t), expected)
    assert asked == [2, 2, 4, 4, 4, 2, 2]
    one = guided(spy, cond, None, 1, interval=(200, 600))
    assert torch.equal(one(z, t), model(z, t, cond))


def test_rescaling_restores_the_spread_of_each_picture():
    output, cond = 5 * normals(2, 4, 8, 8)(), normals(2, 4, 8, 8, seed=1)()
    torch.testing.assert_close(rescaled(output, cond, 0.0), output)
    full = rescaled(output, cond, 1.0)
    torch.testing.assert_close(full.flatten(1).std(1), cond.flatten(1).std(1))
    torch.testing.assert_close(rescaled(output, cond, 0.7), 0.7 * full + 0.3 * output)
    torch.testing.assert_close(rescaled(cond, cond, 0.7), cond)
    z, t = normals(2, 4, 3, 3)(), torch.tensor([500.0, 20.0]).double()
    texts = conditioning(1), conditioning(2)
    expected = rescaled(guided(model, *texts, 7.5)(z, t), model(z, t, texts[0]), 0.7)
    torch.testing.assert_close(guided(model, *texts, 7.5, rescale=0.7)(z, t), expected)


@pytest.mark.parametrize("t", [0, 500, 999])
def test_noise_and_velocity_are_two_ways_to_say_z_0(t):
    alpha, sigma = NoiseSchedule().at(t)
    point = Point(float(t), alpha, sigma)
    z_0, eps = normals(2, 4, 3, 3)(), normals(2, 4, 3, 3, seed=1)()
    z = alpha * z_0 + sigma * eps
    shown = []
    answers = {"noise": eps, "velocity": alpha * eps - sigma * z_0}
    for predicts, answer in answers.items():
        network = lambda z, t, answer=answer: shown.append(t) or answer  # noqa: E731
        estimate = denoiser(network, predicts)(z, point)
        torch.testing.assert_close(estimate, z_0, atol=1e-12, rtol=0)
    assert all(time.tolist() == [t, t] for time in shown)
    for published, name in PUBLISHED.items():
        network = lambda z, t, name=name: answers[name]  # noqa: E731
        same = denoiser(network, published)(z, point)
        assert torch.equal(same, denoiser(network, name)(z, point))


@pytest.mark.parametrize("predicts", ["sample", "Noise", "", None, ["noise"]])
def test_another_prediction_is_refused_before_the_network_is_called(predicts):
    asked = []
    network = lambda z, t: asked.append(t) or z  # noqa: E731
    for refused in (
        lambda: denoiser(network, predicts),
        lambda: ModelSpec("mine", predicts=predicts),
        lambda: replace(SPECS["sd2.1"], predicts=predicts),
    ):
        with pytest.raises(ValueError, match="predicts is") as caught:
            refused()
        assert str(caught.value) == (
            f"predicts is {predicts!r}; it must be 'noise' or 'velocity', which published files "
            "call 'epsilon' and 'v_prediction'"
        )
    assert not asked


def test_a_specification_takes_the_published_names():
    """And is then the same value, so that nothing further on has to know them."""
    for published, name in PUBLISHED.items():
        assert ModelSpec("mine", predicts=published) == ModelSpec("mine", predicts=name)
        assert replace(SPECS["sd2.1"], predicts=published).predicts == name
