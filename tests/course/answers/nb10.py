"""Notebook 10: wrong answers that the checker was not written for, and right ones in another
style."""

import math

import torch

from sdlearn.course.exercises.nb10_guidance import (
    guided,
    guided_rows,
    rescaled_noise,
    sharpened_bell,
    steered,
)
from sdlearn.guidance import classifier_free_guidance, rescale_guidance
from sdlearn.text import Conditioning
from tests.course.answers.expected_verdict import ExpectedVerdict

# --------------------------------------------------------------------------------------- 10.1


def conditional_first(model, z, t, cond, uncond, scale):
    given, without = model(z.repeat(2, 1, 1, 1), t.repeat(2), torch.cat([cond, uncond])).chunk(2)
    return torch.lerp(without, given, scale)


def pairs_of_rows(model, z, t, cond, uncond, scale):
    both = torch.stack([uncond, cond], dim=1).flatten(0, 1)
    outputs = model(z.repeat_interleave(2, 0), t.repeat_interleave(2), both)
    return (1 - scale) * outputs[0::2] + scale * outputs[1::2]


def by_the_paper(model, z, t, cond, uncond, scale):
    outputs = model(torch.cat([z] * 2), torch.cat([t] * 2), torch.cat([uncond, cond]))
    without, given = outputs[: len(z)], outputs[len(z) :]
    w = scale - 1
    return (1 + w) * given - w * without


def in_one_call(change=lambda outputs: outputs, times=lambda t: t, combine=torch.lerp):
    """The right answer with a change to the outputs, to the times or to the combination."""

    def answer(model, z, t, cond, uncond, scale):
        both = torch.cat([uncond, cond])
        outputs = change(model(torch.cat([z, z]), times(torch.cat([t, t])), both))
        return combine(*outputs.chunk(2), scale)

    return answer


# --------------------------------------------------------------------------------------- 10.2


def in_a_loop(model, z, t, empty, prompts, scales):
    rows = len(prompts) + 1
    contexts = torch.cat([empty[None], prompts]).flatten(0, 1)
    outputs = model(z.repeat(rows, 1, 1, 1), t.repeat(rows), contexts)
    result = outputs[: len(z)] * (1 - sum(scales))
    for k, scale in enumerate(scales, start=1):
        result = result + scale * outputs[k * len(z) : (k + 1) * len(z)]
    return result


def empty_last(model, z, t, empty, prompts, scales):
    rows = len(prompts) + 1
    contexts = torch.cat([*prompts, empty])
    *given, without = model(torch.cat([z] * rows), torch.cat([t] * rows), contexts).chunk(rows)
    return without + sum(s * (one - without) for s, one in zip(scales, given, strict=True))


def row_by_row(model, z, t, empty, prompts, scales):
    """The rows of an example side by side, and right."""
    k = len(prompts) + 1
    contexts = torch.stack([empty, *prompts], dim=1).flatten(0, 1)
    outputs = model(z.repeat_interleave(k, 0), t.repeat_interleave(k), contexts)
    without, given = outputs.unflatten(0, (-1, k)).split([1, k - 1], dim=1)
    weights = z.new_tensor(scales).view(1, -1, 1, 1, 1)
    return (without + (weights * (given - without)).sum(1, keepdim=True))[:, 0]


def told(change=lambda outputs, b: outputs, times=lambda t: t, weights=lambda scales: scales):
    """The right answer with a change to the outputs of all rows, to the times or to the scales."""

    def answer(model, z, t, empty, prompts, scales):
        k = len(prompts) + 1
        contexts = torch.cat([empty, *prompts])
        outputs = model(torch.cat([z] * k), times(torch.cat([t] * k)), contexts)
        without, *given = change(outputs, len(z)).chunk(k)
        pairs = zip(weights(scales), given, strict=True)
        return without + sum(scale * (one - without) for scale, one in pairs)

    return answer


def two_by_two(model, z, t, empty, prompts, scales):
    result = 0
    for prompt, scale in zip(prompts, scales, strict=True):
        both = torch.cat([empty, prompt])
        without, given = model(torch.cat([z, z]), torch.cat([t, t]), both).chunk(2)
        result = result + scale * (given - without)
    return without + result


# --------------------------------------------------------------------------------------- 10.3


def by_weights(model, z, t, cond, uncond, scale, rescale=0.0, interval=(0, 999)):
    if scale == 1 or float(t[0]) < interval[0] or float(t[0]) > interval[1]:
        return model(z, t, cond)
    given, without = model(z.repeat(2, 1, 1, 1), t.repeat(2), torch.cat([cond, uncond])).chunk(2)
    output = scale * given + (1 - scale) * without
    factor = given.flatten(1).std(1) / output.flatten(1).std(1) if rescale else 0 * t
    return output * (rescale * factor + 1 - rescale).view(-1, 1, 1, 1)


def by_the_pipelines(model, z, t, cond, uncond, scale, rescale=0.0, interval=(0, 999)):
    conditions = Conditioning(cond), Conditioning(uncond)
    return classifier_free_guidance(model, *conditions, scale, rescale, interval)(z, t)


def guided_with(
    inside=lambda t, low, high: low <= t <= high,
    rescale_to=rescale_guidance,
    rest=lambda model, z, t, cond, uncond: model(z, t, cond),
    off=lambda scale: scale == 1,
):
    """The right answer with a change to the interval, to the rescaling or to what is outside."""

    def answer(model, z, t, cond, uncond, scale, rescale=0.0, interval=(0, 999)):
        if off(scale) or not inside(float(t[0]), *interval):
            return rest(model, z, t, cond, uncond)
        output = guided(model, z, t, cond, uncond, scale)
        if not rescale:
            return output
        return rescale_to(output, guided(model, z, t, cond, uncond, 1.0), rescale)

    return answer


# --------------------------------------------------------------------------------------- 10.6


def one_after_another(without, given, t, alphabar, interval, scale):
    rows = []
    for k, time in enumerate(t.tolist()):
        level = ((1 - alphabar[time]) / alphabar[time]).detach().item() ** 0.5
        inside = interval[0] <= level <= interval[1]
        rows.append(torch.lerp(without[k], given[k], scale) if inside else given[k])
    return torch.stack(rows)


def by_where(without, given, t, alphabar, interval, scale):
    level = (1 / alphabar[t] - 1).sqrt()[:, None, None, None]
    inside = torch.logical_and(level >= interval[0], level <= interval[1])
    return torch.where(inside, torch.lerp(without, given, scale), given)


def gated(
    level=lambda a: (1 / a - 1).sqrt(),
    inside=lambda level, lo, hi: (lo <= level) & (level <= hi),
    rest=lambda without, given: given,
    own=lambda without, given, s: without + s * (given - without),
):
    def answer(without, given, t, alphabar, interval, scale):
        gate = inside(level(alphabar[t]), *interval).view(-1, 1, 1, 1)
        return torch.where(gate, own(without, given, scale), rest(without, given))

    return answer


# --------------------------------------------------------------------------------------- 10.4


def by_the_finished_one(z, output, cond, alpha, sigma, phi):
    z_0 = rescale_guidance((z - sigma * output) / alpha, (z - sigma * cond) / alpha, phi)
    return z / sigma - alpha / sigma * z_0


def by_variances(z, output, cond, alpha, sigma, phi):
    estimates = torch.stack([z - sigma * output, z - sigma * cond]) / alpha
    mine, goal = estimates.flatten(2).var(dim=-1).sqrt()[:, :, None, None, None]
    return (z - alpha * torch.lerp(estimates[0], estimates[0] * goal / mine, phi)) / sigma


def changed(noise=lambda new, output, cond, phi: new, inside=None):
    def answer(z, output, cond, alpha, sigma, phi):
        given = inside(z, output, cond, alpha, sigma, phi) if inside else None
        return noise(
            rescaled_noise(*(given or (z, output, cond, alpha, sigma, phi))), output, cond, phi
        )

    return answer


def by_size(z, output, cond, alpha, sigma, phi):
    """The root of the mean square for the standard deviation."""
    z_0, goal = ((z - sigma * eps) / alpha for eps in (output, cond))
    size = [x.square().mean((1, 2, 3), keepdim=True).sqrt() for x in (goal, z_0)]
    return (z - alpha * z_0 * (phi * size[0] / size[1] + 1 - phi)) / sigma


def in_two_calls(model, z, t, empty, prompts, scales):
    """One call without a prompt and one with all of them."""
    k, without = len(prompts), model(z, t, empty)
    given = model(torch.cat([z] * k), torch.cat([t] * k), prompts.flatten(0, 1)).chunk(k)
    return without + sum(s * (one - without) for s, one in zip(scales, given, strict=True))


def at_half(answer):
    return lambda m, z, t, c, u, scale, rescale=0.0, interval=(0, 999): answer(
        m, z, t, c, u, scale, rescale / 2, interval
    )


WRONG = {
    "10.1": [
        in_one_call(change=lambda outputs: outputs.flip(0)),
        in_one_call(change=lambda outputs: outputs.roll(1, 0)),
        in_one_call(times=lambda t: t[:1].expand(len(t))),
        in_one_call(times=lambda t: 0 * t),
        in_one_call(combine=lambda without, given, s: without + max(s, 1.0) * (given - without)),
        in_one_call(combine=lambda without, given, s: s * given - without),
        in_one_call(combine=lambda without, given, s: without + s**2 * (given - without)),
        in_one_call(combine=lambda without, given, s: given),
        lambda model, z, t, cond, uncond, scale: guided(model, z, t, cond, 0 * uncond, scale),
        lambda model, z, t, cond, uncond, scale: guided(model, z, t, cond, uncond, scale).detach(),
        lambda model, z, t, cond, uncond, scale: guided(
            model, z[:1].expand_as(z), t, cond, uncond, scale
        ),
    ],
    "10.2": [
        two_by_two,
        told(change=lambda outputs, b: outputs.flip(0)),
        told(change=lambda outputs, b: outputs.roll(1, 0)),
        told(change=lambda outputs, b: torch.cat([outputs[:b], outputs[b:].flip(0)])),
        told(times=lambda t: t[:1].expand(len(t))),
        told(times=lambda t: t.round()),
        told(weights=lambda scales: scales[::-1]),
        told(weights=lambda scales: [abs(s) for s in scales]),
        told(weights=lambda scales: [min(s, 1.0) for s in scales]),
        told(weights=lambda scales: [s - 1 for s in scales]),
        told(weights=lambda scales: [s / sum(scales) for s in scales]),
        lambda model, z, t, empty, prompts, scales: steered(
            model, z, t, prompts[0], torch.cat([empty[None], prompts[1:]]), scales
        ),
        lambda model, z, t, empty, prompts, scales: steered(
            model, z, t, torch.zeros_like(empty), prompts, scales
        ),
        lambda model, z, t, empty, prompts, scales: steered(
            model, z, t, empty, prompts, scales
        ).detach(),
        lambda model, z, t, empty, prompts, scales: steered(
            model, z[:1].expand_as(z), t, empty, prompts, scales
        ),
    ],
    "10.3": [
        guided_with(inside=lambda t, low, high: t >= low),
        guided_with(inside=lambda t, low, high: t <= high),
        guided_with(inside=lambda t, low, high: low + 1 <= t <= high - 1),
        guided_with(inside=lambda t, low, high: low / 1000 <= t <= high / 1000),
        guided_with(off=lambda scale: scale <= 1),
        guided_with(rest=lambda model, z, t, cond, uncond: 0 * z),
        guided_with(rest=lambda model, z, t, cond, uncond: model(z, 0 * t, cond)),
        guided_with(rescale_to=lambda output, given, phi: output * given.std() / output.std()),
        guided_with(rescale_to=lambda output, given, phi: rescale_guidance(output, given, 1 - phi)),
        guided_with(rescale_to=lambda output, given, phi: torch.lerp(output, given, phi)),
        at_half(by_weights),
        lambda *given: by_weights(*given).detach(),
        lambda m, z, t, cond, uncond, *rest: by_weights(m, z, t, uncond, cond, *rest),
    ],
    "10.4": [
        by_size,
        changed(lambda new, output, cond, phi: torch.lerp(output, new, phi)),
        changed(lambda new, output, cond, phi: -new),
        changed(lambda new, output, cond, phi: rescale_guidance(new, cond, phi)),
        changed(lambda new, output, cond, phi: new.detach()),
        changed(inside=lambda z, output, cond, a, s, phi: (z, cond, output, a, s, phi)),
        changed(inside=lambda z, output, cond, a, s, phi: (z, output, cond, a**2, 1 - a**2, phi)),
        changed(inside=lambda z, output, cond, a, s, phi: (z, output, cond, a, s, 0.7)),
        changed(inside=lambda z, output, cond, a, s, phi: (z, output, cond, a, s, phi / 2)),
        changed(inside=lambda z, output, cond, a, s, phi: (z, output, z, a, s, phi)),
        changed(inside=lambda z, output, cond, a, s, phi: (z / a, output, cond, a, s, phi)),
        lambda z, output, cond, alpha, sigma, phi: rescale_guidance(output, cond, phi),
        lambda z, output, cond, alpha, sigma, phi: (
            (z - alpha * rescale_guidance((z - sigma * output) / alpha, cond, phi)) / sigma
        ),
        lambda z, output, cond, alpha, sigma, phi: (
            (z - alpha * rescale_guidance(z - sigma * output, z - sigma * cond, phi)) / sigma
        ),
    ],
    "10.5": [
        lambda m, v, m_c, v_c, s: (m_c, v_c),
        lambda m, v, m_c, v_c, s: (m_c + 0 * m, v_c / s if s else v),
        lambda m, v, m_c, v_c, s: sharpened_bell(m_c, v_c, m, v, s),
        lambda m, v, m_c, v_c, s: sharpened_bell(m, v, m_c, v_c, s)[::-1],
        lambda m, v, m_c, v_c, s: sharpened_bell(m, v**0.5, m_c, v_c**0.5, s),
        lambda m, v, m_c, v_c, s: sharpened_bell(-m, v, m_c, v_c, s),
        lambda m, v, m_c, v_c, s: sharpened_bell(m, v, m_c, v_c, s)[0],
        lambda m, v, m_c, v_c, s: sharpened_bell(m, v, m_c, v_c, s - 1),
        lambda m, v, m_c, v_c, s: sharpened_bell(m, v, m_c, v_c, max(s, 1.0)),
        lambda m, v, m_c, v_c, s: tuple(x.float() for x in sharpened_bell(m, v, m_c, v_c, s)),
        lambda m, v, m_c, v_c, s: sharpened_bell(0 * m, 1 + 0 * v, m_c, v_c, s),
    ],
    "10.6": [
        gated(inside=lambda level, lo, hi: level >= lo),
        gated(inside=lambda level, lo, hi: level <= hi),
        gated(inside=lambda level, lo, hi: (level < lo) | (level > hi)),
        gated(inside=lambda level, lo, hi: (level > lo) & (level <= hi)),
        gated(inside=lambda level, lo, hi: (level >= lo) | (level <= hi)),
        gated(level=lambda a: (1 - a**0.5) / a**0.5),
        gated(level=lambda a: (1 - a).sqrt() / a),
        gated(level=lambda a: a),
        gated(level=lambda a: ((1 - a) / a).log()),
        gated(rest=lambda without, given: 0 * given),
        gated(rest=lambda without, given: without),
        gated(own=lambda without, given, s: given + s * (without - given)),
        gated(own=lambda without, given, s: s * given),
        gated(own=lambda without, given, s: without + max(s, 1.0) * (given - without)),
        lambda without, given, t, alphabar, interval, scale: guided_rows(
            without, given, t.flip(0), alphabar, interval, scale
        ),
        lambda without, given, t, alphabar, interval, scale: guided_rows(
            without, given, t, alphabar.flip(0), interval, scale
        ),
        lambda without, given, t, alphabar, interval, scale: guided_rows(
            without, given, t.max().expand_as(t), alphabar, interval, scale
        ),
        lambda without, given, t, alphabar, interval, scale: (
            guided_rows(without, given, (t - 1).clamp(min=0), alphabar, interval, scale) * 1.0
        ),
        lambda without, given, t, alphabar, interval, scale: guided_rows(
            given, without, t, alphabar, interval, scale
        ),
    ],
    "10.7": [
        lambda s, r: r * s - r,
        lambda s, r: s**r - 1,
        lambda s, r: r * (s + 1) - 1,
        lambda s, r: 1 - r * s,
        lambda s, r: (s - 1) * r + (r - 1) * s,
        lambda s, r: max(s, r) - 1,
        lambda s, r: int(r * s) - 1,
        lambda s, r: math.sqrt(r * s) - 1,
    ],
}
RIGHT = {
    "10.1": [conditional_first, pairs_of_rows, by_the_paper, in_one_call()],
    "10.2": [in_a_loop, empty_last, row_by_row],
    "10.3": [by_weights, by_the_pipelines],
    "10.4": [by_the_finished_one, by_variances],
    "10.5": [
        lambda m, v, m_c, v_c, s: (
            (s * m_c * v + (1 - s) * m * v_c) / (s * v + (1 - s) * v_c),
            v * v_c / (s * v + (1 - s) * v_c),
        ),
        lambda m, v, m_c, v_c, s: (
            m + (m_c - m) * (s * v / (s * v + (1 - s) * v_c)),
            torch.lerp(1 / v, 1 / v_c, s).reciprocal(),
        ),
        lambda *given: list(sharpened_bell(*given)),
    ],
    "10.6": [
        one_after_another,
        by_where,
        gated(),
        gated(level=lambda a: (1 - a).sqrt() / a.sqrt()),
        gated(level=lambda a: (1 - a.sqrt() ** 2).sqrt() / a.sqrt()),
        gated(level=lambda a: (a / (1 - a)) ** -0.5),
    ],
    "10.7": [
        lambda s, r: s * r - 1.0,
        lambda s, r: (1 + (s - 1)) * (1 + (r - 1)) - 1,
        lambda s, r: (s - 1) + (r - 1) * s,
    ],
}
# A wrong level is none of the known mistakes, and it does depend on the times.
LEVELS = [lambda a: 1 / a, lambda a: (1 - a).sqrt() / a**2, lambda a: -a.log(), lambda a: 2 * a]
VERDICTS = [
    ExpectedVerdict("10.2", in_two_calls, "call by call", says=("more than once",)),
    *(ExpectedVerdict("10.6", gated(level), omits=("does not depend",)) for level in LEVELS),
]
