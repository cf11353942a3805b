"""A second judge, without a network: subtract the known background and compare what is left.

A network can be fooled, above all by images that were selected or optimised for its verdict. This
judge has no weights. The storybook's 25 empty pages are known, and the one that agrees with most
pixels of an image gives the sky and the ground. The pixels that differ from it form connected
regions. Each region is compared with drawings of every thing in every colour and pattern, and is
identified as the nearest one.

This judge makes errors of its own: two things that touch become one region, and parts in the
background's colour are lost. `render_accuracy` measures these errors on true renders, as it does
the network's.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sdlearn.evaluation.image_metrics import as_tensor
from sdlearn.evaluation.judge import Detection, Reading
from sdlearn.evaluation.silhouettes import LEVEL
from sdlearn.storybook import COLOURS, GROUNDS, KINDS, PATTERNS, POSES, SKIES, Scene, Thing, render
from sdlearn.storybook.rendering import background, oversampling, shadow_colour

SIZE = 64  # pixels
SIDE = 24  # pixels, of a region and of the drawings that it is compared with
SMALLEST = 0.012  # area of a region, as a fraction of the page: smaller ones are noise
GREY = 0.0  # the value around a region and around a drawing
PAGES = tuple((sky, ground) for sky in SKIES for ground in GROUNDS)  # without things


class Drawings(NamedTuple):
    """Every appearance of a thing.

    Attributes:
        images: (n, 3, SIDE, SIDE) in [-1, 1], GREY around the thing.
        things: The n things.
    """

    images: Tensor
    things: tuple[Thing, ...]


class BackgroundJudge:
    """Reads images like `Judge`, by subtracting the background."""

    def read(self, images: Sequence[Image.Image]) -> list[Reading]:
        """Detect everything on each image.

        Args:
            images: Images of any mode and size; sizes other than 64 pixels are resized.

        Returns:
            A reading of each image. The score of a thing is 1 minus the mean absolute difference
            from its drawing, and the centre is the mean of its region.
        """
        square = [
            image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX) for image in images
        ]
        return [read_page(x) for x in as_tensor(square)]


def read_page(x: Tensor) -> Reading:
    """Read one page, (3, SIZE, SIZE) in [-1, 1]."""
    page = nearest_page(x)
    things = [nearest_drawing(crop(x, region), region) for region in regions(different(x, page))]
    things.sort(key=lambda thing: -thing.score)
    return Reading(tuple(things), *PAGES[page])


def nearest_page(x: Tensor) -> int:
    """Return the index of the empty page of PAGES that most pixels of x agree with."""
    return int(apart(x, empty_pages()).float().mean(dim=(1, 2)).argmin())


def different(x: Tensor, page: int) -> Tensor:
    """Return where x is neither the empty page nor a shadow on it, (SIZE, SIZE) booleans."""
    shade = torch.tensor(shadow_colour(*PAGES[page])) / 127.5 - 1
    return apart(x, empty_pages()[page]) & apart(x, shade[:, None, None])


def apart(x: Tensor, y: Tensor) -> Tensor:
    """Return where two images differ by more than LEVEL grey levels, (..., h, w)."""
    return (x - y).abs().amax(dim=-3) > LEVEL / 127.5


@lru_cache
def empty_pages() -> Tensor:
    """Return the empty pages, (25, 3, SIZE, SIZE) in [-1, 1], in the order of PAGES."""
    factor = oversampling(SIZE)
    return as_tensor([background(*page, SIZE * factor).reduce(factor) for page in PAGES])


def regions(mask: Tensor) -> Iterator[Tensor]:
    """Yield the connected regions of a mask (h, w) that are large enough, (h, w) booleans.

    Every pixel starts with its own number, then takes the largest number among its neighbours until
    nothing changes.
    """
    numbers = torch.arange(1.0, mask.numel() + 1).view(1, 1, *mask.shape) * mask
    while not torch.equal(grown := F.max_pool2d(numbers, 3, 1, 1) * mask, numbers):
        numbers = grown
    for number in numbers[mask[None, None]].unique():
        region = numbers[0, 0] == number
        if region.float().mean() >= SMALLEST:
            yield region


def crop(x: Tensor, region: Tensor) -> Tensor:
    """Return a region as (3, SIDE, SIDE), with its aspect ratio kept and GREY around it."""
    rows, columns = (region.any(dim=d).nonzero()[[0, -1], 0].tolist() for d in (1, 0))
    part = torch.where(region, x, torch.tensor(GREY))
    part = part[:, rows[0] : rows[1] + 1, columns[0] : columns[1] + 1]
    h, w = part.shape[1:]
    side = max(h, w)
    left, top = (side - w) // 2, (side - h) // 2
    part = F.pad(part, (left, side - w - left, top, side - h - top), value=GREY)
    return F.interpolate(part[None], (SIDE, SIDE), mode="area" if side > SIDE else "bilinear")[0]


@lru_cache
def drawings() -> Drawings:
    """Draw every appearance of a thing on sand by day, which has no thing's colour, and cut it out.

    The size of a drawing does not matter, because regions are compared at one size.
    """
    page = PAGES.index(("day", "sand"))
    things = [
        Thing(kind, colour, pattern, 0.5, 0.78, 0.4, pose)
        for kind in KINDS
        for pose in (POSES if kind == "person" else (None,))
        for colour in COLOURS
        for pattern in PATTERNS
    ]
    parts = []
    for x in as_tensor([render(Scene(*PAGES[page], (thing,)), SIZE) for thing in things]):
        whole = max(regions(different(x, page)), key=torch.sum)
        parts.append(crop(x, whole))
    return Drawings(torch.stack(parts), tuple(things))


def nearest_drawing(part: Tensor, region: Tensor) -> Detection:
    """Identify a region as the thing in the nearest drawing."""
    distances = (drawings().images - part).abs().mean(dim=(1, 2, 3))
    k = int(distances.argmin())
    thing = drawings().things[k]
    y, x = ((v.float().mean().item() + 0.5) / SIZE for v in region.nonzero().T)
    return Detection(thing.kind, thing.colour, thing.pattern, x, y, 1 - distances[k].item())
