"""Figures of notebook 07: images and latents under noise."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sdlearn.course.figures.images import grid, rows_of
from sdlearn.course.figures.style import Described

SHADES = 16  # grey levels of a latent: the squares stay apart, and the file stays small
LIMIT = 3.0  # a latent's darkest and lightest value
COLOURS = 96  # of a figure of noisy images, which hardly compresses
BLACK = 128  # levels of 255: a difference this large, or larger, is black

# ------------------------------------------------------------------------------------ noisy latents


def mosaic(z: Tensor, size: int = 64) -> Image.Image:
    """Draw the four channels of a latent (4, h, w), two above two, as one square grey image.

    Black is -3 or less and white is 3 or more, for every latent.
    """
    rows = [torch.cat([*z[k : k + 2].detach().float().cpu()], dim=1) for k in (0, 2)]
    values = torch.cat(rows).clamp(-LIMIT, LIMIT) / (2 * LIMIT) + 0.5  # (2 h, 2 w) in 0 ... 1
    shades = (values * (SHADES - 1)).round() * (255 // (SHADES - 1))
    picture = Image.fromarray(shades.numpy().astype(np.uint8))
    return picture.resize((size, size), Image.Resampling.NEAREST)


def add_noise(z_0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return alpha z_0 + sigma eps in float32, with one scalar pair for the whole batch."""
    return (alpha * z_0.double() + sigma * eps.double()).float()


def nearest_latent(z: Tensor, alpha: Tensor, codes: Tensor) -> Tensor:
    """Find the known latent that best explains each noisy one.

    This is the maximum a posteriori estimate for Gaussian noise and a uniform prior over `codes`.

    Args:
        z: Noisy latents, (b, c, h, w).
        alpha: Factor of the signal, a scalar.
        codes: Known latents, (n, c, h, w).

    Returns:
        Indices into `codes`, (b,).
    """
    distances = torch.cdist(z.flatten(1).double(), alpha * codes.flatten(1).double())
    return distances.argmin(dim=1)


def noise_and_nearest(
    page: Image.Image,
    z: Tensor,
    found: Image.Image | None,
    decode: Callable[[Tensor], Image.Image],
) -> Image.Image:
    """Draw a row of four: the page, its noisy latent, the decoded noisy latent, the nearest page.

    Args:
        page: The original page.
        z: The noisy latent, (1, 4, h, w).
        found: The nearest known page, or None for a blank image.
        decode: Decodes z to an image.
    """
    blank = Image.new("RGB", page.size, "white")
    pictures = [page, mosaic(z[0], page.width), decode(z), found or blank]
    return grid([pictures], ["the image", "z_t", "z_t decoded", "the nearest"], scale=2)


def describe_noise_level(t: int, alpha: float, sigma: float) -> str:
    """Describe alpha, sigma and the signal-to-noise ratio at timestep t in a sentence."""
    snr = (alpha / sigma) ** 2 if sigma else math.inf
    decibels = f"{10 * math.log10(snr):.1f} dB" if 0 < snr < math.inf else "no signal is left"
    return (
        f"At t = {t}: alpha {alpha:.3f}, sigma {sigma:.3f}, signal-to-noise ratio {snr:.4g} "
        f"({decibels})."
    )


# ------------------------------------------------------------------------------ images under noise


def few_colours(figure: Image.Image, colours: int = COLOURS) -> Image.Image:
    """Reduce a figure to a palette, so that noisy images need a third of the bytes."""
    return figure.quantize(colours, dither=Image.Dither.NONE)


def noise_strip(images: Mapping[int, Image.Image], alphas: Sequence[float]) -> Described:
    """Draw an image under growing noise, four in a row.

    Args:
        images: By timestep.
        alphas: Factor of the clean image in each.
    """
    names = [f"t = {t}" for t in images]
    figure = rows_of([*images.values()], names, "One image under more and more noise", 4)
    said = "; ".join(f"t = {t}: {alpha:.2f}" for t, alpha in zip(images, alphas, strict=True))
    words = (
        f"{len(images)} panels of one image, with more noise in its pixels from each to the next. "
        f"The factor of the clean image is {said}. Outlines can be made out in the first half; "
        "the last panel seems to be nothing but coloured specks."
    )
    return Described(few_colours(figure), words)


def latent_and_decoded(latents: Mapping[int, Tensor], decoded: Sequence[Image.Image]) -> Described:
    """Draw noisy latents (4, h, w), by timestep, and what the decoder makes of them."""
    rows = [[mosaic(z, decoded[0].width) for z in latents.values()], decoded]
    columns = [f"t = {t}" for t in latents]
    title = "Noise in the latent, and what the decoder makes of it"
    words = (
        f"Two rows at {', '.join(columns)}. Above, the four channels of a latent as grey squares, "
        "which dissolve into specks. Below, the same latents decoded: the noise turns into "
        "coloured blotches the size of objects, not into fine grain."
    )
    figure = grid(rows, columns, ["latent", "decoded"], title, 2, letters=19)
    return Described(few_colours(figure, 256), words)


def under_schedules(
    rows: Mapping[str, Sequence[Image.Image]], times: Sequence[int], alphas: Mapping[str, Tensor]
) -> Described:
    """Draw one image under the noise of several schedules, at the same timesteps.

    Args:
        rows: By schedule, an image for each timestep.
        times: The timesteps.
        alphas: By schedule, the factor of the clean image at each of them.
    """
    columns = [f"t = {t}" for t in times]
    title = "The same image and timesteps under different schedules"
    figure = grid([*rows.values()], columns, [*rows], title, 2, letters=16)
    said = "; ".join(
        f"{name}: {', '.join(f'{a:.2f}' for a in alphas[name].tolist())}" for name in rows
    )
    words = f"A row for each schedule, at {', '.join(columns)}. Factor of the image: {said}."
    return Described(few_colours(figure), words)


def averaged_sizes(
    images: Sequence[Image.Image], sides: Sequence[int], title: str, noise: Sequence[float]
) -> Described:
    """Draw images that had noise added at several sizes, after averaging to the smallest one.

    Args:
        images: Of one size.
        sides: Of the images to which the noise was added, in pixels.
        title: Of the figure.
        noise: Standard deviation of what is left of the noise, relative to the image.
    """
    figure = grid([images], [f"{side} pixels" for side in sides], title=title, scale=2)
    said = "; ".join(f"{side} pixels: {x:.2f}" for side, x in zip(sides, noise, strict=True))
    words = (
        "The same scene, with noise added at several sizes and then averaged to one size. "
        f"Standard deviation of the remaining noise, relative to the image, by size: {said}."
    )
    return Described(few_colours(figure), words)


def told_apart(images: Mapping[str, Image.Image], limits: Sequence[int]) -> Described:
    """Draw an image and its variants, each with the last timestep at which it can be recognised.

    Args:
        images: The original, then the variants, by name.
        limits: Of the variants.
    """
    names = [*images]
    headings = [names[0], *(f"{n}: t = {t}" for n, t in zip(names[1:], limits, strict=True))]
    title = "Last timestep at which each variant is recognised, in 9 of 10 cases"
    words = f"An image and {len(limits)} variants of it: {'; '.join(headings[1:])}."
    return Described(rows_of([*images.values()], headings, title, 3, 3), words)


def swapped(images: Mapping[str, Image.Image], levels: Sequence[float]) -> Described:
    """Draw images generated with several schedules, and below each its difference from the first.

    Args:
        images: By schedule, all of one size.
        levels: The largest difference of each from the first, in levels of 255.
    """
    first, *_ = images.values()
    maps = [difference_map(first, image) for image in images.values()]
    title = "The model's own schedule, and others in its place"
    figure = grid([[*images.values()], maps], [*images], ["generated", "difference"], title, 2)
    said = "; ".join(f"{n}: {x:.0f}" for n, x in zip(images, levels, strict=True))
    words = (
        "The same prompt and noise on the paths of several schedules. Below each image is its "
        f"difference from the first, where white is none and black at least {BLACK} levels of 255. "
        f"Largest difference: {said}."
    )
    return Described(few_colours(figure, 256), words)


def difference_map(one: Image.Image, other: Image.Image) -> Image.Image:
    """Draw the largest difference of a pixel's channels: white is 0, black is BLACK or more."""
    a, b = (np.asarray(image.convert("RGB"), dtype=np.int16) for image in (one, other))
    apart = np.abs(a - b).max(axis=-1).clip(max=BLACK)  # (h, w)
    return Image.fromarray((255 - 255 * apart.astype(float) / BLACK).round().astype(np.uint8))
