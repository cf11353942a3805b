"""The widget of notebook 16: change a set of images, and see which measures notice."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import ipywidgets as widgets
import numpy as np
from PIL import Image, ImageFilter
from torch import Tensor

from sdlearn.course.figures.images import grid
from sdlearn.course.widgets.figure_widget import FigureWidget
from sdlearn.evaluation.frechet import frechet_distance
from sdlearn.evaluation.image_metrics import as_tensor, psnr, ssim
from sdlearn.evaluation.judge import Judge
from sdlearn.evaluation.kernel_distances import kid
from sdlearn.evaluation.nearest_neighbours import precision_recall
from sdlearn.storybook import SKIES, Scene, render

SHOWN = 5  # images


class Measured(NamedTuple):
    """What the measures say of a set of changed images, compared with other true ones."""

    frechet: float
    kid: float
    precision: float
    recall: float
    psnr: float
    ssim: float


def blur(image: Image.Image, amount: float) -> Image.Image:
    """Blur with a standard deviation of 2 pixels for an amount of 1."""
    return image.filter(ImageFilter.GaussianBlur(2 * amount))


def fade(image: Image.Image, amount: float) -> Image.Image:
    """Take away half of the contrast for an amount of 1."""
    grey = Image.new("RGB", image.size, (128, 128, 128))
    return Image.blend(grey, image, 1 - amount / 2)


def grain(image: Image.Image, amount: float) -> Image.Image:
    """Add noise with a standard deviation of 32 grey levels for an amount of 1."""
    noise = np.random.default_rng(0).standard_normal((*image.size[::-1], 3))
    pixels = np.asarray(image) + 32 * amount * noise
    return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))


def move(image: Image.Image, amount: float) -> Image.Image:
    """Move by a sixteenth of the width to the right for an amount of 1."""
    by = round(amount * image.width / 16)
    pixels = np.pad(np.asarray(image), ((0, 0), (by, 0), (0, 0)), mode="edge")
    return Image.fromarray(np.ascontiguousarray(pixels[:, : image.width]))


CHANGES: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "blur": blur,
    "fade": fade,
    "grain": grain,
    "move": move,
}
ONE_SKY = "one sky"


def changed(
    scenes: Sequence[Scene], images: Sequence[Image.Image], change: str, amount: float
) -> list[Image.Image]:
    """Change a set of images.

    Args:
        scenes: Of the images.
        images: Renders of the scenes.
        change: "none", a key of CHANGES, or ONE_SKY, which sets the first images to the first sky.
        amount: 0 to 1; for ONE_SKY the fraction of the images.
    """
    if change == ONE_SKY:
        some = round(amount * len(scenes))
        day = [render(replace(scene, sky=SKIES[0]), images[0].width) for scene in scenes[:some]]
        return [*day, *images[some:]]
    if change == "none":
        return list(images)
    return [CHANGES[change](image, amount) for image in images]


class MetricsWidget(FigureWidget):
    """A change of a set of true images, its amount, the number of images, and what measures see.

    Attributes:
        change: Control: the kind of change.
        amount: Control: its amount in per cent.
        number: Control: images in each of the two sets.
        measured: The values of the measures.
    """

    def __init__(self, judge: Judge, scenes: Sequence[Scene], width: int = 560) -> None:
        """Build the widget.

        Args:
            judge: Gives the features.
            scenes: At least 100. The first half is changed, the second is the reference.
            width: Width of the figure, in CSS pixels.
        """
        self.judge, self.width = judge, width
        size, half = judge.config.size, len(scenes) // 2
        self.scenes = tuple(scenes[:half])
        self.images = [render(scene, size) for scene in self.scenes]
        reference = [render(scene, size) for scene in scenes[half : 2 * half]]
        self.reference = judge.embed(reference)
        self.features = lru_cache(maxsize=32)(self.embed_changed)
        row = {"style": {"description_width": "6em"}, "layout": {"width": "36em"}}
        live = {"continuous_update": False, **row}
        names = ["none", *CHANGES, ONE_SKY]
        self.change = widgets.Dropdown(options=names, value="blur", description="Change", **row)
        self.amount = widgets.IntSlider(value=50, max=100, description="Amount, %", **live)
        self.number = widgets.IntSlider(
            value=min(200, half), min=50, max=half, step=50, description="Images", **live
        )
        super().__init__([self.change, self.amount, self.number])

    def embed_changed(self, change: str, amount: int, n: int) -> tuple[list[Image.Image], Tensor]:
        """Return the first n images, changed, and their features."""
        images = changed(self.scenes[:n], self.images[:n], change, amount / 100)
        return images, self.judge.embed(images)

    def update(self) -> None:
        """Measure the changed images and describe the result."""
        change, amount, n = self.change.value, self.amount.value, self.number.value
        images, features = self.features(change, amount, n)
        reference = self.reference[:n]
        before, after = as_tensor(self.images[:SHOWN]), as_tensor(images[:SHOWN])
        balls = precision_recall(reference, features)
        self.measured = Measured(
            frechet_distance(reference, features),
            kid(reference, features, subsets=1, subset_size=n).mean,
            balls.precision,
            balls.recall,
            psnr(after, before).mean().item(),
            ssim(after, before).mean().item(),
        )
        self.image = grid(
            [self.images[:SHOWN], images[:SHOWN]], [str(k + 1) for k in range(SHOWN)],
            ["true", "changed"], scale=2, letters=18,
        )  # fmt: skip
        one = self.measured
        what = "No change" if change == "none" else f"Change: {change}, {amount} %"
        sentence = (
            f"{what}, {n} images. Fréchet distance {one.frechet:.2f}, KID {one.kid:.2f}, precision "
            f"{one.precision:.2f}, recall {one.recall:.2f}. Of the five shown: PSNR "
            f"{one.psnr:.1f} dB, SSIM {one.ssim:.3f}."
        )
        self.show(sentence, f"Five true images, and the same after the change. {sentence}")
