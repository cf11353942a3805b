"""Notebook 11: wrong answers that the checker was not written for, and right ones in another
style."""

import torch
import torch.nn.functional as F

from sdlearn.course.exercises.nb11_pipeline import (
    decode_tiled,
    guided_denoiser,
    image_noise,
    long_embeddings,
    sample_latents,
    texts_for,
)


def halves_of_lists(prompts, negative, n):
    negatives = [""] if negative is None else negative
    negatives = negatives if isinstance(negatives, list) else [negatives]
    rows = negatives * (len(prompts) if len(negatives) == 1 else 1)
    return [text for row in (*rows, *prompts) for text in [row] * n]


def in_a_loop(prompts, negative, n):
    texts = []
    for k in range(len(prompts)):
        one = negative[k] if isinstance(negative, list) else (negative or "")
        texts.extend([one] * n)
    for prompt in prompts:
        texts.extend([prompt] * n)
    return texts


def image_by_image(seed, shape, draws):
    noise = torch.empty(draws, *shape)
    for k in range(shape[0]):
        generator = torch.Generator()
        generator.manual_seed(seed + k)
        for draw in range(draws):
            noise[draw, k] = torch.randn(*shape[1:], generator=generator)
    return noise


def with_a_global_seed(seed, shape, draws):
    columns = []
    for k in range(shape[0]):
        with torch.random.fork_rng():
            torch.manual_seed(seed + k)
            columns.append(torch.stack([torch.randn(shape[1:]) for _ in range(draws)]))
    return torch.stack(columns, dim=1)


def by_index(encode, unet, sample, path, texts, noises, scale):
    b = len(texts) // 2
    context = encode(texts).context
    used = [0]

    def following():
        used[0] += 1
        return noises[used[0]]

    denoise = guided_denoiser(unet, context[:b], context[b:], scale)
    z = noises[0]
    for state in sample(denoise, z, path, noise=following):
        z = state.z
    return z


def in_two_calls(encode, unet, sample, path, texts, noises, scale):
    half = len(texts) // 2
    first, last = encode(texts[:half]).context, encode(texts[half:]).context
    denoise = guided_denoiser(unet, first, last, scale)
    return list(sample(denoise, noises[0], path, noise=iter(noises[1:]).__next__))[-1].z


def one_at_a_time(encode, negative, prompt):
    m = max(len(negative), len(prompt))
    found = []
    for row in (negative, prompt):
        filled = [*row, *[""] * (m - len(row))]
        found.append(torch.cat([encode([text]).context for text in filled], dim=1))
    return tuple(found)


def pixel_by_pixel_weights(decode, z, tile, overlap, factor):
    h, w = z.shape[-2:]

    def starts(length):
        places = [0]
        while places[-1] + tile < length:
            places.append(min(places[-1] + tile - overlap, length - tile))
        return places

    ramp = torch.tensor([min(i, factor * tile + 1 - i) for i in range(1, factor * tile + 1)]).to(z)
    numerator = z.new_zeros(len(z), 3, factor * h, factor * w)
    denominator = torch.zeros_like(numerator)
    for top in starts(h):
        for left in starts(w):
            around = (
                factor * left, factor * (w - left - tile), factor * top, factor * (h - top - tile),
            )  # fmt: skip
            part = decode(z[:, :, top : top + tile, left : left + tile])
            weight = torch.outer(ramp, ramp).expand_as(part)
            numerator = numerator + F.pad(weight * part, around)
            denominator = denominator + F.pad(weight, around)
    return numerator / denominator


def squared_weights(decode, z, tile, overlap, factor):
    whole = decode_tiled(decode, z, tile, overlap, factor)
    return 0.99 * whole + 0.01 * whole.mean()


def without_the_first(encode, unet, sample, path, texts, noises, scale):
    return sample_latents(encode, unet, sample, path, texts, noises.flip(1), scale)


WRONG = {
    "11.1": [
        lambda p, negative, n: texts_for(p, negative, 2),
        lambda p, negative, n: texts_for(p, None, n),
        lambda p, negative, n: texts_for(list(dict.fromkeys(p)), negative, n)[: 2 * n * len(p)],
        lambda p, negative, n: sorted(texts_for(p, negative, n)),
        lambda p, negative, n: tuple(texts_for(p, negative, n)[::-1]),
        lambda p, negative, n: (
            texts_for(p, negative, n)[: n * len(p)],
            texts_for(p, negative, n)[n * len(p) :],
        ),
        lambda p, negative, n: texts_for(p, [negative or ""] * len(p), n),
        lambda p, negative, n: [text.strip() + " " for text in texts_for(p, negative, n)],
        lambda p, negative, n: " ".join(texts_for(p, negative, n)),
        lambda p, negative, n: texts_for(p[::-1], negative, n),
        lambda p, negative, n: [f"not {x}" if x else x for x in texts_for(p, negative, n)],
        lambda p, negative, n: texts_for(
            p, negative[0] if isinstance(negative, list) else negative, n
        ),
    ],
    "11.2": [
        lambda seed, shape, draws: image_noise(seed, shape, draws)[0],
        lambda seed, shape, draws: image_noise(0, shape, draws),
        lambda seed, shape, draws: image_noise(seed, shape, draws).flip(1),
        lambda seed, shape, draws: image_noise(seed, shape, draws) / 2,
        lambda seed, shape, draws: image_noise(seed, shape, draws).transpose(-1, -2),
        lambda seed, shape, draws: image_noise(seed, shape, draws + 1)[1:],
        lambda seed, shape, draws: image_noise(seed, shape, draws + 1),
        lambda seed, shape, draws: image_noise(seed, (1, *shape[1:]), draws).expand(draws, *shape),
        lambda seed, shape, draws: torch.randn(
            draws, *shape, generator=torch.Generator().manual_seed(seed)
        ),
        lambda seed, shape, draws: list(image_noise(seed, shape, draws).half()),
    ],
    "11.3": [
        without_the_first,
        lambda e, u, s, path, texts, n, scale: sample_latents(e, u, s, path, texts, n, scale + 1),
        lambda e, u, s, path, texts, n, scale: sample_latents(
            e, u, s, path, texts, n.flip(0), scale
        ),
        lambda e, u, s, path, texts, n, scale: sample_latents(
            e, u, s, path, [""] * len(texts), n, scale
        ),
        lambda e, u, s, path, texts, n, scale: sample_latents(e, u, s, path[:-1], texts, n, scale),
        lambda e, u, s, path, texts, n, scale: (
            sample_latents(e, u, s, path, texts, n[1:], scale) if len(n) > len(path) else n[0]
        ),
        lambda e, u, s, path, texts, n, scale: (
            sample_latents(e, u, s, path, texts, n, scale) * path[0].sigma
        ),
        lambda e, u, s, path, texts, n, scale: sample_latents(
            e, u, s, path, texts[: len(texts) // 2] * 2, n, scale
        ),
        lambda e, u, s, path, texts, n, scale: sample_latents(e, u, s, path, texts, n, scale)[0],
    ],
    "11.4": [
        lambda e, negative, prompt: long_embeddings(e, negative, prompt)[0],
        lambda e, negative, prompt: long_embeddings(e, prompt, negative),
        lambda e, negative, prompt: torch.cat(long_embeddings(e, negative, prompt), dim=1),
        lambda e, negative, prompt: long_embeddings(e, [""], prompt),
        lambda e, negative, prompt: long_embeddings(e, negative, prompt[:1]),
        lambda e, negative, prompt: tuple(x[:, :5] for x in long_embeddings(e, negative, prompt)),
        lambda e, negative, prompt: tuple(x.flip(1) for x in long_embeddings(e, negative, prompt)),
        lambda e, negative, prompt: tuple(x[0] for x in long_embeddings(e, negative, prompt)),
        lambda e, negative, prompt: long_embeddings(e, [*negative, ""], [*prompt, ""]),
    ],
    "11.5": [
        squared_weights,
        lambda d, z, tile, overlap, factor: d(z),
        lambda d, z, tile, overlap, factor: decode_tiled(d, z, tile, 0, factor),
        lambda d, z, tile, overlap, factor: decode_tiled(d, z, min(z.shape[-2:]), 0, factor),
        lambda d, z, tile, overlap, factor: decode_tiled(d, z, tile, overlap, factor)[:, :1],
        lambda d, z, tile, overlap, factor: decode_tiled(d, z.flip(-1), tile, overlap, factor),
        lambda d, z, tile, overlap, factor: decode_tiled(d, z, tile, overlap, factor).clamp(-1, 1),
        lambda d, z, tile, overlap, factor: decode_tiled(d, z[:1], tile, overlap, factor).expand(
            len(z), -1, -1, -1
        ),
        lambda d, z, tile, overlap, factor: decode_tiled(d, z, tile, overlap, factor) * tile,
    ],
}
RIGHT = {
    "11.1": [halves_of_lists, in_a_loop],
    "11.2": [image_by_image, with_a_global_seed],
    "11.3": [by_index, in_two_calls],
    "11.4": [one_at_a_time],
    "11.5": [pixel_by_pixel_weights],
}
