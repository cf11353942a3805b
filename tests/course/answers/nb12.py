"""Notebook 12: wrong answers that the checker was not written for, and right ones in another
style."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F

from sdlearn.course.exercises.nb12_editing import (
    begin,
    invert_step,
    map_iou,
    reweight,
    stored_noises,
)
from sdlearn.samplers import predicted_noise, step_to
from tests.course.answers.expected_verdict import ExpectedVerdict


def from_the_end(z_0, eps, path, strength):
    left = math.floor((len(path) - 1) * strength)
    _, alpha, sigma = path[-1 - left]
    return alpha * z_0 + sigma * eps, left


def with_the_slice(z_0, eps, path, strength):
    rest = path[len(path) - 1 - int((len(path) - 1) * strength) :]
    return torch.add(rest[0].alpha * z_0, rest[0].sigma * eps), len(rest) - 1


def with_the_library(denoise, z, there, here, iterations):
    guess = z
    while iterations:
        guess = step_to(z, predicted_noise(guess, denoise(guess, here), here), there, here)
        iterations -= 1
    return guess


def in_ratios(denoise, z, there, here, iterations):
    guess = z
    for _ in range(iterations):
        eps = (guess - here.alpha * denoise(guess, here)) / here.sigma
        ratio = here.alpha / there.alpha
        guess = ratio * z + (here.sigma - ratio * there.sigma) * eps
    return guess


def halves(weights, tokens, factor):
    uncond, cond = weights.chunk(2)
    cond = cond.clone()
    cond[..., tokens] = cond[..., tokens] * factor
    return torch.cat([uncond, cond])


def token_by_token(weights, tokens, factor):
    out = weights.clone()
    for token in tokens:
        out[len(out) // 2 :, ..., token] *= factor
    return out


def softmaxed(weights, tokens, factor):
    return torch.softmax(reweight(weights, tokens, factor), dim=-1)


def in_place(weights, tokens, factor):
    weights[len(weights) // 2 :, :, :, tokens] *= factor
    return weights


def by_sorting(seen, mask):
    h, w = seen.shape
    f = mask.shape[1] // w
    inside = mask.reshape(h, f, w, f).mean(dim=(1, 3)) >= 0.5
    k = inside.sum().item()
    places = sorted(range(h * w), key=lambda i: -seen.flatten()[i].item())[:k]
    true = {i for i in range(h * w) if inside.flatten()[i]}
    return len(true & set(places)) / len(true | set(places))


def by_threshold(seen, mask):
    inside = F.interpolate(mask[None, None], size=seen.shape, mode="area")[0, 0] >= 0.5
    limit = seen.flatten().sort(descending=True).values[inside.sum() - 1]
    chosen = seen >= limit
    both = torch.logical_and(chosen, inside).sum()
    return float(both) / float(torch.logical_or(chosen, inside).sum())


def bilinear(seen, mask):
    small = F.interpolate(mask[None, None], size=seen.shape, mode="bilinear")[0, 0]
    return map_iou(seen, (small >= 0.5).double())


def in_two_loops(mean, std, z_0, eps, path):
    """All latents at once, by broadcasting."""
    shape = (-1,) + (1,) * z_0.dim()
    alpha, sigma = (torch.stack([getattr(p, x) for p in path[:-1]]) for x in ("alpha", "sigma"))
    noised = alpha.to(z_0).view(shape) * z_0 + sigma.to(z_0).view(shape) * eps
    latents = torch.cat([noised, z_0[None]])
    noises = []
    for (here, there), z, z_next in zip(pairwise(path), latents, latents[1:], strict=False):
        spread = std(here, there)
        rest = z_next - mean(z, here, there)
        noises.append(rest / spread if spread else 0 * rest)
    return latents, torch.stack(noises)


def in_one_pass(mean, std, z_0, eps, path):
    latents, noises, z = [], [], path[0].alpha * z_0 + path[0].sigma * eps[0]
    for k in range(len(path) - 1):
        here, there = path[k], path[k + 1]
        last = k + 2 == len(path)
        z_next = z_0 if last else there.alpha * z_0 + there.sigma * eps[k + 1]
        noise = torch.nan_to_num((z_next - mean(z, here, there)) / std(here, there), 0, 0, 0)
        latents, noises, z = [*latents, z], [*noises, noise], z_next
    return torch.stack([*latents, z]), torch.stack(noises)


def drawn_again(mean, std, z_0, eps, path):
    return stored_noises(mean, std, z_0, eps + 1e-3 * torch.randn_like(eps), path)


def of_unit_length(mean, std, z_0, eps, path):
    latents, noises = stored_noises(mean, std, z_0, eps, path)
    return latents, noises / noises.std(dim=(1, 2, 3, 4), keepdim=True).clamp(min=1e-9)


WRONG = {
    "12.1": [
        lambda z, eps, path, s: begin(eps, z, path, s),
        lambda z, eps, path, s: begin(z, -eps, path, s),
        lambda z, eps, path, s: begin(z, eps[:1].expand_as(eps), path, s),
        lambda z, eps, path, s: begin(z, eps, path[::-1], s),
        lambda z, eps, path, s: begin(z, eps, path, s)[::-1],
        lambda z, eps, path, s: begin(z, eps, path, s)[0],
        lambda z, eps, path, s: (begin(z, eps, path, s)[0], s),
        lambda z, eps, path, s: begin(z, eps, path, s**2),
        lambda z, eps, path, s: begin(z, eps, path, max(s, 0.1)),
        lambda z, eps, path, s: begin(z, torch.randn_like(eps), path, s),
    ],
    "12.2": [
        lambda d, z, there, here, n: invert_step(d, z, here, there, n),
        lambda d, z, there, here, n: invert_step(d, z[:1].expand_as(z), there, here, n),
        lambda d, z, there, here, n: invert_step(d, z, there, here, 2 * n),
        lambda d, z, there, here, n: invert_step(d, -z, there, here, n),
        lambda d, z, there, here, n: invert_step(d, z, there, here, n).float(),
        lambda d, z, there, here, n: z,
        lambda d, z, there, here, n: here.alpha / there.alpha * z,
        lambda d, z, there, here, n: step_to(
            z, predicted_noise(z, d(z, there), there), there, here
        ),
    ],
    "12.3": [
        drawn_again,
        of_unit_length,
        lambda m, s, z, e, path: stored_noises(m, s, z, e, path[::-1]),
        lambda m, s, z, e, path: stored_noises(m, s, z, -e, path),
        lambda m, s, z, e, path: stored_noises(m, s, z, e * e.std(), path),
        lambda m, s, z, e, path: stored_noises(m, s, z.flip(0), e, path),
        lambda m, s, z, e, path: stored_noises(m, s, z, e[:, :1].expand_as(e), path),
        lambda m, s, z, e, path: stored_noises(m, lambda a, b: s(a, b) + 1e-3, z, e, path),
        lambda m, s, z, e, path: stored_noises(lambda z, a, b: 0 * z, s, z, e, path),
        lambda m, s, z, e, path: stored_noises(m, s, z, e, path)[1],
        lambda m, s, z, e, path: stored_noises(m, s, z, e.flip(1), path),
    ],
    "12.4": [
        softmaxed,
        in_place,
        lambda w, tokens, factor: reweight(w, tokens, factor**2),
        lambda w, tokens, factor: reweight(w, [t + 1 for t in tokens[:-1]], factor),
        lambda w, tokens, factor: reweight(w, tokens, factor)[len(w) // 2 :],
        lambda w, tokens, factor: reweight(w, tokens, 1.0),
        lambda w, tokens, factor: reweight(w, tokens, factor).mean(dim=1, keepdim=True),
        lambda w, tokens, factor: reweight(w, tokens, factor).clamp(0, 1),
    ],
    "12.5": [
        bilinear,
        lambda seen, mask: map_iou(seen.flip(0), mask),
        lambda seen, mask: map_iou(seen, mask.flip(1)),
        lambda seen, mask: map_iou(seen / seen.sum(0), mask),
        lambda seen, mask: map_iou(seen, mask) ** 0.5,
        lambda seen, mask: map_iou(seen, mask) * 100,
        lambda seen, mask: 1 - map_iou(seen, mask),
        lambda seen, mask: map_iou(seen, (mask > 0.3).double()),
        lambda seen, mask: round(map_iou(seen, mask), 2),
        lambda seen, mask: float(seen.argmax() == 0),
        lambda seen, mask: map_iou(seen.clone().fill_(1.0), mask),
    ],
}
RIGHT = {
    "12.1": [from_the_end, with_the_slice],
    "12.2": [with_the_library, in_ratios],
    "12.3": [in_two_loops, in_one_pass],
    "12.4": [halves, token_by_token],
    "12.5": [by_sorting, by_threshold, lambda a, b: torch.tensor(map_iou(a, b))],
}
VERDICTS = [
    # The noises follow from whatever latents there are, so both results differ.
    ExpectedVerdict(
        "12.3",
        lambda m, s, z, e, path: stored_noises(m, s, z, e[:1].expand_as(e), path),
        "one noise for all points",
        says=("still returns exactly",),
    ),
]
