"""What a noise schedule and its paths must satisfy whatever library one compares them with."""

import math

import pytest
import torch

from sdlearn.schedule import NoiseSchedule, Point

KINDS = ["scaled_linear", "linear", "cosine"]


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
    first, clean = (schedule.path(20, final_sigma=end)[-1] for end in ("min", "zero"))
    assert first == Point(0.0, *schedule.at(0))
    assert (clean.alpha.item(), clean.sigma.item()) == (1, 0)
    assert [point.t for point in schedule.path(4)] == [751, 501, 251, 1, 0]
    assert [point.t for point in schedule.path(4, "trailing", "zero")] == [999, 749, 499, 249, -1]
    assert [point.t for point in schedule.path(4, "linspace")] == [999, 666, 333, 0, 0]


def test_what_a_sampler_steps_in():
    """Where the families of samplers put their points: on linspace in sigma between the entries of
    the table, and for DPM-Solver++ one further point that is then dropped."""
    schedule = NoiseSchedule()
    times = lambda *args, **how: [p.t for p in schedule.path(*args, "zero", **how)]  # noqa: E731
    assert times(4, "leading", steps_in="sigma") == [751, 501, 251, 1, -1]
    assert times(5, "linspace", steps_in="sigma") == [999, 749.25, 499.5, 249.75, 0, -1]
    assert times(5, "linspace", steps_in="timestep") == [999, 749, 500, 250, 0, -1]
    assert times(4, "linspace", steps_in="lambda") == [999, 749, 500, 250, -1]
    assert times(4, "leading", steps_in="lambda") == [801, 601, 401, 201, -1]
    assert times(4, "trailing", steps_in="lambda") == [999, 749, 499, 249, -1]
    point = schedule.path(5, "linspace", steps_in="sigma")[1]
    assert (point.alpha, point.sigma) == schedule.at(749.25)


@pytest.mark.parametrize(("steps_in", "ends"), [("sigma", (981, 1)), ("lambda", (999, 0))])
def test_karras_points(steps_in, ends):
    schedule = NoiseSchedule()
    path = schedule.path(50, steps_in=steps_in, final_sigma="zero", sigmas="karras")
    sigmas = torch.stack([point.sigma / point.alpha for point in path[:-1]])
    roots = sigmas ** (1 / 7)
    torch.testing.assert_close(roots.diff(), (roots[-1] - roots[0]).expand(49) / 49)
    assert len(path) == 51
    assert [path[0].t, path[-2].t, path[-1].t] == pytest.approx([*ends, -1], abs=1e-9)
    torch.testing.assert_close(sigmas[[0, -1]], schedule.sigmas[list(ends)])
    for point in path[1:-2]:
        assert (point.alpha**2 + point.sigma**2).item() == pytest.approx(1, abs=1e-15)
        assert (point.t == round(point.t)) == (steps_in == "lambda")
        sigma = point.sigma / point.alpha
        below = schedule.sigmas[math.floor(point.t - 0.5 * (steps_in == "lambda"))]
        assert below <= sigma <= schedule.sigmas[math.ceil(point.t + 0.5 * (steps_in == "lambda"))]


def test_lu_points_are_even_in_lambda_over_the_whole_table():
    schedule = NoiseSchedule()
    path = schedule.path(10, steps_in="lambda", final_sigma="zero", sigmas="uniform_lambda")
    lambdas = torch.stack([(point.alpha / point.sigma).log() for point in path[:-1]])
    torch.testing.assert_close(lambdas.diff(), (lambdas[-1] - lambdas[0]).expand(9) / 9)
    torch.testing.assert_close(lambdas[[0, -1]].neg().exp(), schedule.sigmas[[999, 0]])
    assert [point.t for point in path[::5]] == [999, 153, -1]
    assert all(point.t == round(point.t) for point in path)


@pytest.mark.parametrize("steps_in", ["timestep", "sigma", "lambda"])
@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_the_last_entry_of_zero_terminal_snr(steps_in, spacing):
    """No signal at all, or next to none where sigma / alpha has to be a number."""
    first, second, *_ = NoiseSchedule(zero_terminal_snr=True).path(20, spacing, steps_in=steps_in)
    assert first.alpha == (0 if steps_in == "timestep" else 2.0**-12)
    assert first.alpha**2 + first.sigma**2 == 1
    assert (first.t, second.alpha > 0.002) == (999, True)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s: s.path(10, steps_in="log"), "it must be 'timestep', 'sigma' or 'lambda'"),
        (lambda s: s.path(10, sigmas="lu"), "it must be 'table', 'karras' or 'uniform_lambda'"),
        (
            lambda s: s.path(10, sigmas="karras"),
            "^sigmas is 'karras'; a sampler that steps in timestep has 'table'$",
        ),
        (
            lambda s: s.path(10, steps_in="sigma", sigmas="uniform_lambda"),
            "^sigmas is 'uniform_lambda'; a sampler that steps in sigma has 'table' or 'karras'$",
        ),
        (lambda s: s.path(1000, steps_in="lambda"), "steps is 1000; it must lie in 1 … 999"),
        (lambda s: s.path(0), "steps is 0"),
        (lambda s: s.path(1001), "1 … 1000"),
        (lambda s: s.path(2.5), "whole number"),
        (lambda s: s.path(10, "karras"), "'leading', 'trailing' or 'linspace'"),
        (lambda s: s.path(10, final_sigma="clean"), "it must be 'min' or 'zero'"),
        (lambda s: s.at(1000), "it must lie in 0 … 999"),
        (lambda s: s.at(torch.tensor([5, -1])), "it must lie in 0 … 999"),
        (lambda s: NoiseSchedule(kind="sigmoid"), "kind is 'sigmoid'; it must be 'scaled_linear'"),
    ],
)
def test_what_a_schedule_cannot_do_is_said(call, words):
    with pytest.raises(ValueError, match=words):
        call(NoiseSchedule())
