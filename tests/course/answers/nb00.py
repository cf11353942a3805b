"""Notebook 00: wrong answers that the checker was not written for, and right ones in another
style."""

from itertools import pairwise

import torch
import torch.nn.functional as F

from sdlearn.course.exercises.nb00_picture import (
    denoise_step,
    ideal_noise,
    run_loop,
    switch_prompt,
)
from tests.course.answers.expected_verdict import ExpectedVerdict


def guided(unet, z, t, text, empty, scale):
    a, b = unet(z, t, text), unet(z, t, empty)
    return b + scale * (a - b)


def one_call(unet, z, here, there, text, empty, scale):
    a, b = unet(torch.cat([z, z]), here.t, torch.cat([text, empty])).chunk(2)
    eps = torch.lerp(b, a, scale)
    z_0 = (z - here.sigma * eps) / here.alpha
    return z_0 * there.alpha + eps * there.sigma, z_0


def two_weights(unet, z, here, there, text, empty, scale):
    eps = scale * unet(z, here.t, text) + (1 - scale) * unet(z, here.t, empty)
    z_0 = z / here.alpha - here.sigma / here.alpha * eps
    return there.alpha * z_0 + there.sigma * eps, z_0


def straight_to_there(unet, z, here, there, text, empty, scale):
    eps = guided(unet, z, here.t, text, empty, scale)
    ratio = there.alpha / here.alpha
    z_0 = (z - here.sigma * eps) / here.alpha
    return ratio * z + (there.sigma - ratio * here.sigma) * eps, z_0


def halves_swapped(unet, z, here, there, text, empty, scale):
    a, b = unet(torch.cat([z, z]), here.t, torch.cat([empty, text])).chunk(2)
    eps = b + scale * (a - b)
    z_0 = (z - here.sigma * eps) / here.alpha
    return there.alpha * z_0 + there.sigma * eps, z_0


def paper_scale(unet, z, here, there, text, empty, scale):
    return denoise_step(unet, z, here, there, text, empty, 1 + scale)


def mean_of_texts(unet, z, here, there, text, empty, scale):
    eps = unet(z, here.t, empty + scale * (text - empty))
    z_0 = (z - here.sigma * eps) / here.alpha
    return there.alpha * z_0 + there.sigma * eps, z_0


def clamped(unet, z, here, there, text, empty, scale):
    eps = guided(unet, z, here.t, text, empty, scale)
    z_0 = ((z - here.sigma * eps) / here.alpha).clamp(-1, 1)
    return there.alpha * z_0 + there.sigma * eps, z_0


def only_subtracted(unet, z, here, there, text, empty, scale):
    eps = guided(unet, z, here.t, text, empty, scale)
    z_0 = (z - here.sigma * eps) / here.alpha
    return z - (here.sigma - there.sigma) * eps, z_0


def old_noise(unet, z, here, there, text, empty, scale):
    eps = guided(unet, z, here.t, text, empty, scale)
    z_0 = (z - here.sigma * eps) / here.alpha
    return there.alpha * z_0 + there.sigma * z, z_0


def by_number(step, z, path):
    latents, estimates = [z], []
    for k in range(len(path) - 1):
        following, estimate = step(latents[-1], path[k], path[k + 1])
        latents += [following]
        estimates += [estimate]
    return latents, estimates


def as_tuples(step, z, path):
    if len(path) < 2:
        return (z,), ()
    following, estimate = step(z, path[0], path[1])
    latents, estimates = as_tuples(step, following, path[1:])
    return (z, *latents), (estimate, *estimates)


def both_from_the_estimate(step, z, path):
    latents, estimates = [z], []
    for here, there in pairwise(path):
        z = step(z, here, there)[1]
        latents.append(z)
        estimates.append(z)
    return latents, estimates


def one_list(step, z, path):
    return list(zip(*run_loop(step, z, path), strict=False))


def newest_first(step, z, path):
    latents, estimates = run_loop(step, z, path)
    return latents[::-1], estimates[::-1]


def one_point_behind(step, z, path):
    latents, estimates = [z], []
    for here, there in pairwise([path[0], *path]):
        z, z_0 = step(z, here, there)
        latents.append(z)
        estimates.append(z_0)
    return latents, estimates


def never_moved(step, z, path):
    results = [step(z, path[0], there) for there in path[1:]]
    return [z, *(r[0] for r in results)], [r[1] for r in results]


def estimates_start_with_z(step, z, path):
    latents, estimates = run_loop(step, z, path)
    return latents, [z, *estimates]


def by_hand(model, z_0, eps, t, text, alpha, sigma):
    error = model(eps * sigma + z_0 * alpha, t, text) - eps
    return (error**2).sum() / error.numel()


def target_minus_prediction(model, z_0, eps, t, text, alpha, sigma):
    return (eps - model(torch.addcmul(alpha * z_0, sigma, eps), t, text)).square().mean()


def detached(model, z_0, eps, t, text, alpha, sigma):
    return F.mse_loss(model(alpha * z_0 + sigma * eps, t, text).detach(), eps)


def velocity(model, z_0, eps, t, text, alpha, sigma):
    z = alpha * z_0 + sigma * eps
    return F.mse_loss(model(z, t, text), alpha * eps - sigma * z_0)


def noise_subtracted(model, z_0, eps, t, text, alpha, sigma):
    return F.mse_loss(model(alpha * z_0 - sigma * eps, t, text), eps)


def without_time(model, z_0, eps, t, text, alpha, sigma):
    return F.mse_loss(model(alpha * z_0 + sigma * eps, 0 * t, text), eps)


def without_text(model, z_0, eps, t, text, alpha, sigma):
    return F.mse_loss(model(alpha * z_0 + sigma * eps, t, 0 * text), eps)


def weighted(model, z_0, eps, t, text, alpha, sigma):
    z = alpha * z_0 + sigma * eps
    return (sigma * (model(z, t, text) - eps) ** 2).mean()


def with_exponentials(z, alpha, sigma, data, allowed):
    away = (z[:, None] - alpha[:, None] * data).square().sum(dim=2) / (2 * sigma**2)
    away = away.masked_fill(~allowed, torch.inf)
    weights = (away.amin(dim=1, keepdim=True) - away).exp()
    weights = weights / weights.sum(dim=1, keepdim=True)
    return (z - alpha * (weights @ data)) / sigma


def mean_of_noises(z, alpha, sigma, data, allowed):
    eps = (z[:, None] - alpha[:, None] * data) / sigma[:, None]  # (b, n, d)
    weights = (-eps.square().sum(dim=2) / 2).masked_fill(~allowed, -torch.inf).softmax(dim=1)
    return (weights[:, :, None] * eps).sum(dim=1)


def noise_of_all(z, alpha, sigma, data, allowed):
    return ideal_noise(z, alpha, sigma, data, torch.ones_like(allowed))


def first_mask_for_all(z, alpha, sigma, data, allowed):
    return ideal_noise(z, alpha, sigma, data, allowed[:1].expand_as(allowed))


def one_noise_level(z, alpha, sigma, data, allowed):
    eps = (z[:, None] - alpha[:, None] * data) / sigma[:, None]
    scores = -(eps * sigma[:, None]).square().sum(dim=2) / 2
    weights = scores.masked_fill(~allowed, -torch.inf).softmax(dim=1)
    return (weights[:, :, None] * eps).sum(dim=1)


def with_means_of_squares(z, alpha, sigma, data, allowed):
    eps = (z[:, None] - alpha[:, None] * data) / sigma[:, None]
    scores = -eps.square().mean(dim=2) / 2
    weights = scores.masked_fill(~allowed, -torch.inf).softmax(dim=1)
    return (weights[:, :, None] * eps).sum(dim=1)


def opposite_noise(z, alpha, sigma, data, allowed):
    return -ideal_noise(z, alpha, sigma, data, allowed)


def noise_of_scaled_z(z, alpha, sigma, data, allowed):
    return ideal_noise(z / alpha, alpha, sigma, data, allowed)


def with_slices(step, z, path, first, second, at, keep):
    pairs = list(pairwise(path))
    old = [z]
    for here, there in pairs:
        old.append(step(old[-1], here, there, first)[0])
    z = old[at]
    for k, (here, there) in enumerate(pairs[at:], start=at):
        z = torch.where(keep.bool(), old[k + 1], step(z, here, there, second)[0])
    return z


def with_a_list(step, z, path, first, second, at, keep):
    texts = [first] * at + [second] * (len(path) - 1 - at)
    old = new = z
    for text, (here, there) in zip(texts, pairwise(path), strict=True):
        old, new = step(old, here, there, first)[0], step(new, here, there, text)[0]
        new = new + keep * (old - new)
    return new


def by_time(step, z, path, first, second, at, keep):
    old = z
    for here, there in pairwise(path):
        z, _ = step(z, here, there, first if here.t > path[at].t else second)
        old, _ = step(old, here, there, first)
        z = keep * old + (1 - keep) * z
    return z


def backwards(step, z, path, first, second, at, keep):
    return switch_prompt(step, z, path[::-1], first, second, at, keep)


def alternating(step, z, path, first, second, at, keep):
    old = z
    for k, (here, there) in enumerate(pairwise(path)):
        z, _ = step(z, here, there, first if k % 2 == 0 else second)
        old, _ = step(old, here, there, first)
        z = keep * old + (1 - keep) * z
    return z


def second_only(step, z, path, first, second, at, keep):
    return switch_prompt(step, z, path, second, second, 0, keep)


def first_part_only(step, z, path, first, second, at, keep):
    return switch_prompt(step, z, path[: at + 1], first, second, at, keep)


def kept_before_the_step(step, z, path, first, second, at, keep):
    old = new = z
    for k, (here, there) in enumerate(pairwise(path)):
        new, _ = step(keep * old + (1 - keep) * new, here, there, first if k < at else second)
        old, _ = step(old, here, there, first)
    return new


def kept_until_the_switch(step, z, path, first, second, at, keep):
    old = new = z
    for k, (here, there) in enumerate(pairwise(path)):
        old, _ = step(old, here, there, first)
        new, _ = step(new, here, there, first if k < at else second)
        if k <= at:
            new = keep * old + (1 - keep) * new
    return new


def fresh_noise_kept(step, z, path, first, second, at, keep):
    old = new = z
    for here, there in pairwise(path):
        old, _ = step(old, here, there, first)
    for k, (here, there) in enumerate(pairwise(path)):
        new, _ = step(new, here, there, first if k < at else second)
        kept = there.alpha * old + there.sigma * torch.randn_like(z)
        new = keep * kept + (1 - keep) * new
    return new


WRONG = {
    "00.1": [
        halves_swapped,
        paper_scale,
        mean_of_texts,
        clamped,
        only_subtracted,
        old_noise,
    ],
    "00.2": [
        both_from_the_estimate,
        one_list,
        newest_first,
        one_point_behind,
        never_moved,
        estimates_start_with_z,
    ],
    "00.3": [detached, velocity, noise_subtracted, without_time, without_text, weighted],
    "00.4": [
        noise_of_all,
        first_mask_for_all,
        one_noise_level,
        with_means_of_squares,
        opposite_noise,
        noise_of_scaled_z,
    ],
    "00.5": [
        backwards,
        alternating,
        second_only,
        first_part_only,
        kept_before_the_step,
        kept_until_the_switch,
        fresh_noise_kept,
    ],
}

RIGHT = {
    "00.1": [one_call, two_weights, straight_to_there],
    "00.2": [by_number, as_tuples],
    "00.3": [by_hand, target_minus_prediction],
    "00.4": [with_exponentials, mean_of_noises],
    "00.5": [with_slices, with_a_list, by_time],
}

VERDICTS = [
    ExpectedVerdict("00.1", halves_swapped, "prompts exchanged"),
    ExpectedVerdict("00.1", paper_scale, "guidance from the conditional prediction"),
]
