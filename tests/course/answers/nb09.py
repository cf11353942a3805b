"""Notebook 09: wrong answers that the checker was not written for, and right ones in another
style."""

from itertools import pairwise

import torch

from sdlearn.course.exercises.nb09_sampling import (
    affordable,
    ddim_step,
    ho_step,
    midpoint,
    remembered,
    velocity_step,
)
from sdlearn.samplers import SAMPLERS, ddim, ddpm, predicted_noise, step_to
from sdlearn.schedule import NoiseSchedule, Point
from tests.course.answers.expected_verdict import ExpectedVerdict


def by_trying(sampler, evaluations, scale):
    """The most steps whose calls can be paid, counted step by step."""
    each, steps = 1 if scale == 1 else 2, 0
    while each * counted(sampler, steps + 1) <= evaluations:
        steps += 1
    return steps


def counted(sampler, steps):
    if steps > 60:
        return {"heun": 2 * steps - 1, "plms": steps + 1}.get(sampler, steps)
    calls = []
    path = NoiseSchedule().path(steps, final_sigma="zero")
    list(
        SAMPLERS[sampler].sample(
            lambda z, point: calls.append(1) or z, torch.zeros(1, 1, 1, 1), path
        )
    )
    return len(calls)


def by_generator(z, z_0, here, there):
    *_, last = ddim(lambda *_: z_0, z, [here, there])
    return last.z


def from_estimate(z, eps, here, there, fresh):
    z_0 = (z - here.sigma * eps) / here.alpha
    path = [here, there]
    *_, last = ddpm(lambda *_: z_0, z, path, lambda: fresh)
    return last.z


def by_precisions(z, eps, here, there, fresh):
    """Right except at a clean end, where a precision is infinite and its product with 0 is nan."""
    z_0 = (z - here.sigma * eps) / here.alpha
    a = (here.alpha / there.alpha) ** 2
    of_data, of_step = 1 / there.sigma**2, a / (1 - a)
    variance = 1 / (of_data + of_step)
    mean = variance * (of_data * there.alpha * z_0 + of_step * z / a.sqrt())
    return mean + variance.sqrt() * fresh


def ho_with(change):
    """The right step for changed inputs."""
    return lambda *given: ho_step(*change(*given))


def by_ddim(z, v, here, there, eta, fresh):
    z_0 = here.alpha * z - here.sigma * v
    *_, last = ddim(lambda *_: z_0, z, [here, there], eta, lambda: fresh)
    return last.z


def by_rotation(z, v, here, there, eta, fresh):
    """With eta 0 a step is a turn by the difference of the angles; fresh noise is added to it."""
    angle = torch.atan2(here.sigma, here.alpha) - torch.atan2(there.sigma, there.alpha)
    turned = angle.cos() * z - angle.sin() * v
    kick = eta * there.sigma / here.sigma * (1 - (here.alpha / there.alpha) ** 2).sqrt()
    eps = here.sigma * z + here.alpha * v
    return turned + ((there.sigma**2 - kick**2).sqrt() - there.sigma) * eps + kick * fresh


def eps_by_division(z, v, here, there, eta, fresh):
    z_0 = here.alpha * z - here.sigma * v
    eps = (v + here.sigma * z_0) / here.alpha
    kick = eta * there.sigma / here.sigma * (1 - (here.alpha / there.alpha) ** 2).sqrt()
    return there.alpha * z_0 + (there.sigma**2 - kick**2).sqrt() * eps + kick * fresh


def exchanged(z, v, here, there, eta, fresh):
    noise, picture = here.alpha * z - here.sigma * v, here.sigma * z + here.alpha * v
    kick = eta * there.sigma / here.sigma * (1 - (here.alpha / there.alpha) ** 2).sqrt()
    return there.alpha * picture + (there.sigma**2 - kick**2).sqrt() * noise + kick * fresh


def one_at_a_time(z, pictures, alpha, sigma):
    result = []
    for each in z:
        scores = torch.stack([-((each - alpha * x) ** 2).sum() / (2 * sigma**2) for x in pictures])
        weights = (scores - scores.max()).exp()
        result.append(sum(w * x for w, x in zip(weights / weights.sum(), pictures, strict=True)))
    return torch.stack(result)


def in_ratios(z, pictures, alpha, sigma):
    ratio = sigma / alpha
    away = torch.cdist(
        (z / alpha).flatten(1), pictures.flatten(1), compute_mode="donot_use_mm_for_euclid_dist"
    )
    weights = torch.softmax(-(away**2) / (2 * ratio**2), dim=-1)
    return (weights @ pictures.flatten(1)).reshape(z.shape)


def remembered_with(change):
    return lambda *given: remembered(*change(*given))


def slope(denoise, z, point):
    return predicted_noise(z, denoise(z, point), point)


def geometric(here, there):
    ratio = (here.sigma / here.alpha * there.sigma / there.alpha).sqrt()
    alpha = 1 / (1 + ratio**2).sqrt()
    return Point((here.t + there.t) / 2, alpha, ratio * alpha)


def walked(step, keep=lambda states: states):
    def answer(denoise, z, path):
        states = [z]
        for here, there in pairwise(path):
            if there.sigma == 0:
                states.append(denoise(states[-1], here))
            else:
                states.append(step(denoise, states[-1], here, there))
        return keep(states)

    return answer


def in_karras_form(denoise, z, here, there):
    """The right step in x = z / alpha and rho = sigma / alpha."""
    middle = geometric(here, there)
    x, rho = z / here.alpha, here.sigma / here.alpha
    first = (x - denoise(z, here)) / rho
    rho_m, rho_s = middle.sigma / middle.alpha, there.sigma / there.alpha
    x_m = x + (rho_m - rho) * first
    second = (x_m - denoise(x_m * middle.alpha, middle)) / rho_m
    return (x + (rho_s - rho) * second) * there.alpha


def right_step(denoise, z, here, there):
    middle = geometric(here, there)
    ahead = step_to(z, slope(denoise, z, here), here, middle)
    return step_to(z, slope(denoise, ahead, middle), here, there)


def middle_of(choose):
    def step(denoise, z, here, there):
        middle = choose(here, there)
        ahead = step_to(z, slope(denoise, z, here), here, middle)
        return step_to(z, slope(denoise, ahead, middle), here, there)

    return step


def even_angle(here, there):
    angle = (torch.atan2(here.sigma, here.alpha) + torch.atan2(there.sigma, there.alpha)) / 2
    return Point((here.t + there.t) / 2, angle.cos(), angle.sin())


def sigma_only(here, there):
    sigma = (here.sigma * there.sigma).sqrt()
    return Point((here.t + there.t) / 2, (1 - sigma**2).sqrt(), sigma)


def larger_by_a_tenth(here, there):
    middle = geometric(here, there)
    return Point(middle.t, 1.1 * middle.alpha, 1.1 * middle.sigma)


def twice(denoise, z, here, there):
    return right_step(denoise, right_step(denoise, z, here, geometric(here, there)),
                      geometric(here, there), there)  # fmt: skip


def extrapolated(denoise, z, here, there):
    """Twice the slope of the middle less that of the start: the slope of the far end."""
    middle = geometric(here, there)
    eps = slope(denoise, z, here)
    ahead = step_to(z, eps, here, middle)
    return step_to(z, 2 * slope(denoise, ahead, middle) - eps, here, there)


def asking(times, step):
    """More calls than are needed, with their results unused."""

    def asked(denoise, z, here, there):
        for _ in range(times):
            denoise(z, here)
        return step(denoise, z, here, there)

    return asked


def mean_of_exponentials(more):
    def answer(z, x, alpha, sigma):
        squared = (z[:, None] - alpha * x).pow(2).flatten(2).sum(-1)
        parts = (-squared / (2 * sigma**2)).exp()
        return torch.einsum("bn,nchw->bchw", parts / (parts.sum(1, keepdim=True) + more), x)

    return answer


WRONG = {
    "09.1": [
        lambda z, z_0, here, there: z,
        lambda z, z_0, here, there: there.alpha * z_0,
        lambda z, z_0, here, there: ddim_step(z, z_0, there, here),
        lambda z, z_0, here, there: ddim_step(z_0, z, here, there),
        lambda z, z_0, here, there: ddim_step(z, z_0, here, there) / there.alpha,
        lambda z, z_0, here, there: there.alpha * z_0 + there.sigma * z,
        lambda z, z_0, here, there: there.alpha * z_0 + there.sigma * torch.randn_like(z),
        lambda z, z_0, here, there: ddim_step(z, z_0, here, there).clamp(-1, 1),
        lambda z, z_0, here, there: ddim_step(z, z_0, here, there).float(),
        lambda z, z_0, here, there: (z_0, ddim_step(z, z_0, here, there)),
        lambda z, z_0, here, there: z.copy_(ddim_step(z, z_0, here, there)),
    ],
    "09.2": [
        ho_with(lambda z, eps, here, there, fresh: (z, eps, here, there, eps)),
        ho_with(lambda z, eps, here, there, fresh: (z, -eps, here, there, fresh)),
        ho_with(lambda z, eps, here, there, fresh: (z, eps, here, there, -fresh)),
        ho_with(lambda z, eps, here, there, fresh: (eps, z, here, there, fresh)),
        ho_with(lambda z, eps, here, there, fresh: (z, fresh, here, there, eps)),
        ho_with(lambda z, eps, here, there, fresh: (z, eps, here, there, fresh.abs())),
        ho_with(lambda z, eps, here, there, fresh: (z, eps, there, here, fresh)),
        lambda z, eps, here, there, fresh: torch.randn_like(z) * here.sigma + z,
        lambda z, eps, here, there, fresh: (
            there.alpha * (z - here.sigma * eps) / here.alpha + there.sigma * eps
        ),
        lambda z, eps, here, there, fresh: (
            there.alpha * (z - here.sigma * eps) / here.alpha + there.sigma * fresh
        ),
        lambda z, eps, here, there, fresh: (z - here.sigma * eps) / here.alpha,
        lambda z, eps, here, there, fresh: ho_step(z, eps, here, there, fresh).float(),
        lambda z, eps, here, there, fresh: ho_step(z, eps, here, there, fresh)[:1],
        lambda z, eps, here, there, fresh: ho_step(z, eps, here, there, fresh).clamp(-1, 1),
        lambda z, eps, here, there, fresh: z.add_(-z).add_(ho_step(z, eps, here, there, fresh)),
        by_precisions,
    ],
    "09.3": [
        lambda sampler, evaluations, scale: evaluations,
        lambda sampler, evaluations, scale: affordable(sampler, evaluations, scale) + 1,
        lambda sampler, evaluations, scale: max(affordable(sampler, evaluations, scale), 1),
        lambda sampler, evaluations, scale: float(affordable("ddim", evaluations, scale)),
        lambda sampler, evaluations, scale: affordable(sampler, evaluations, 7.5),
        lambda sampler, evaluations, scale: affordable("heun", evaluations, scale),
        lambda sampler, evaluations, scale: affordable("plms", evaluations, scale),
        lambda sampler, evaluations, scale: (
            affordable(sampler, evaluations // 2, 1)
            if scale > 1
            else affordable(sampler, evaluations, 1)
        ),
        lambda sampler, evaluations, scale: (
            affordable(sampler, evaluations, scale)
            if sampler != "dpm_pp_2m"
            else max(affordable("ddim", evaluations, scale) - 1, 0)
        ),
        lambda sampler, evaluations, scale: evaluations / (1 if scale == 1 else 2),
        lambda sampler, evaluations, scale: int(evaluations / scale) if scale else 0,
        lambda sampler, evaluations, scale: (
            affordable(sampler, (evaluations + 1) // 2, 1)
            if scale != 1
            else affordable(sampler, evaluations, 1)
        ),
    ],
    "09.4": [
        lambda z, v, here, there, eta, fresh: velocity_step(z, v, here, there, 0.0, fresh),
        lambda z, v, here, there, eta, fresh: velocity_step(z, v, here, there, 1.0, fresh),
        lambda z, v, here, there, eta, fresh: velocity_step(z, v, here, there, eta**2, fresh),
        lambda z, v, here, there, eta, fresh: velocity_step(z, v, here, there, 1 - eta, fresh),
        lambda z, v, here, there, eta, fresh: velocity_step(z, v, here, there, eta, -fresh),
        lambda z, v, here, there, eta, fresh: velocity_step(z, v, here, there, eta, z),
        lambda z, v, here, there, eta, fresh: velocity_step(v, z, here, there, eta, fresh),
        lambda z, v, here, there, eta, fresh: velocity_step(z, v, there, here, eta, fresh),
        lambda z, v, here, there, eta, fresh: here.alpha * z - here.sigma * v,
        lambda z, v, here, there, eta, fresh: there.alpha * z - there.sigma * v,
        lambda z, v, here, there, eta, fresh: velocity_step(
            z, v, here, there, eta, torch.randn_like(z)
        ),
        lambda z, v, here, there, eta, fresh: (
            velocity_step(z, v, here, there, eta, fresh) / there.alpha
        ),
        lambda z, v, here, there, eta, fresh: torch.nan_to_num(
            by_ddim(z, v, here, there, eta, fresh) * (here.alpha > 0)
        ),
        lambda z, v, here, there, eta, fresh: (z, velocity_step(z, v, here, there, eta, fresh)),
    ],
    "09.5": [
        mean_of_exponentials(1e-10),
        mean_of_exponentials(1e-300),
        remembered_with(lambda z, x, alpha, sigma: (z, x, alpha, sigma * 2**0.5)),
        remembered_with(lambda z, x, alpha, sigma: (z, x, alpha, sigma**2)),
        remembered_with(lambda z, x, alpha, sigma: (z, x, alpha, sigma / alpha)),
        remembered_with(lambda z, x, alpha, sigma: (z * alpha, x, alpha, sigma)),
        remembered_with(lambda z, x, alpha, sigma: (z, x, sigma, alpha)),
        remembered_with(lambda z, x, alpha, sigma: (z, x.flip(-1), alpha, sigma)),
        remembered_with(lambda z, x, alpha, sigma: (z, x[1:], alpha, sigma)),
        remembered_with(lambda z, x, alpha, sigma: (z[:1].expand_as(z), x, alpha, sigma)),
        lambda z, x, alpha, sigma: remembered(z, x, alpha, sigma).transpose(-1, -2),
        lambda z, x, alpha, sigma: remembered(z, x, alpha, sigma).flatten(1),
        lambda z, x, alpha, sigma: (z - sigma * z) / alpha,
        lambda z, x, alpha, sigma: z / alpha,
        lambda z, x, alpha, sigma: remembered(z, x, alpha, sigma).mean(0, keepdim=True),
        lambda z, x, alpha, sigma: remembered(z, x, alpha, sigma.clamp(min=0.3)),
        lambda z, x, alpha, sigma: x[[0] * len(z)],
        lambda z, x, alpha, sigma: torch.einsum(
            "bchwn,nchw->bchw",
            (-((z[..., None] - alpha * x.permute(1, 2, 3, 0)) ** 2) / (2 * sigma**2)).softmax(-1),
            x,
        ),
    ],
    "09.6": [
        walked(right_step, lambda states: states[1:]),
        walked(right_step, lambda states: states[:-1]),
        walked(right_step, lambda states: states[::-1]),
        walked(right_step, lambda states: states[-1]),
        walked(right_step, lambda states: [states[-1]]),
        walked(right_step, torch.stack),
        walked(twice),
        walked(extrapolated),
        walked(asking(1, right_step)),
        walked(middle_of(even_angle)),
        walked(middle_of(lambda here, there: geometric(here, there)._replace(t=here.t + 1))),
        walked(middle_of(lambda here, there: geometric(here, there)._replace(t=-1.0))),
        walked(middle_of(sigma_only)),
        walked(middle_of(larger_by_a_tenth)),
        walked(middle_of(lambda here, there: there)),
        walked(middle_of(lambda here, there: here)),
        walked(lambda denoise, z, here, there: right_step(denoise, z, there, here)),
        lambda denoise, z, path: list(midpoint(denoise, z, path[::-1])),
        lambda denoise, z, path: [x.float() for x in midpoint(denoise, z, path)],
        lambda denoise, z, path: [
            x / p.alpha for x, p in zip(midpoint(denoise, z, path), path, strict=True)
        ],
        lambda denoise, z, path: [
            (p, x) for x, p in zip(midpoint(denoise, z, path), path, strict=True)
        ],
    ],
}
RIGHT = {
    "09.1": [
        by_generator,
        lambda z, z_0, here, there: (
            there.sigma / here.sigma * z
            + (there.alpha - here.alpha * there.sigma / here.sigma) * z_0
        ),
    ],
    "09.2": [from_estimate],
    "09.3": [
        by_trying,
        lambda sampler, evaluations, scale: max(
            n
            for n in range(evaluations + 1)
            if (1 + (scale != 1)) * {"heun": max(2 * n - 1, 0), "plms": n + (n > 1)}.get(sampler, n)
            <= evaluations
        ),
    ],
    "09.4": [by_rotation],
    "09.5": [one_at_a_time, in_ratios],
    "09.6": [
        walked(right_step),
        walked(in_karras_form),
        lambda denoise, z, path: tuple(midpoint(denoise, z, path)),
    ],
}
VERDICTS = [
    ExpectedVerdict(
        "09.1",
        lambda z, z_0, here, there: z_0 + (z - z_0) * there.sigma / here.sigma,
        "a straight line",
    ),
    ExpectedVerdict(
        "09.2",
        lambda z, eps, here, there, fresh: (
            (z - (1 - (here.alpha / there.alpha) ** 2) / here.sigma * eps) / here.alpha
            + there.sigma / here.sigma * (1 - (here.alpha / there.alpha) ** 2).sqrt() * fresh
        ),
        "grown as if to a clean latent",
    ),
    ExpectedVerdict(
        "09.2",
        lambda z, eps, here, there, fresh: (
            (z - (1 - (here.alpha / there.alpha) ** 2) / here.sigma**2 * eps)
            * (there.alpha / here.alpha)
            + there.sigma / here.sigma * (1 - (here.alpha / there.alpha) ** 2).sqrt() * fresh
        ),
        "divided by sigma_t twice",
    ),
    ExpectedVerdict("09.2", by_precisions, "not a number at a clean end", says=("nan",)),
    ExpectedVerdict("09.4", eps_by_division, "divided by alpha"),
    ExpectedVerdict("09.4", WRONG["09.4"][1], "always DDPM"),
    ExpectedVerdict(
        "09.4",
        lambda z, v, here, there, eta, fresh: by_ddim(z, v, here, there, 0.0, None),
        "always without noise",
    ),
    ExpectedVerdict("09.4", exchanged, "z_0 and eps exchanged"),
    ExpectedVerdict("09.5", mean_of_exponentials(1e-12), "a little added to the sum"),
    ExpectedVerdict(
        "09.6",
        walked(middle_of(lambda here, there: geometric(here, there)._replace(t=here.t))),
        "t of the start",
    ),
    ExpectedVerdict(
        "09.6",
        walked(middle_of(lambda here, there: geometric(here, there)._replace(t=0.0))),
        "no t",
    ),
    ExpectedVerdict("09.6", walked(asking(1, right_step)), says=("two calls a step",)),
]
