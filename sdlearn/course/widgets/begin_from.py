"""The starting point of a playground drawing: noise, or an image with a region to repaint."""

from collections.abc import Callable

import ipywidgets as widgets
from PIL import Image

from sdlearn.course.widgets.canvas import PAINTED, cells_of, mask_of
from sdlearn.course.widgets.controls import ROW
from sdlearn.course.widgets.drawing import percent
from sdlearn.course.widgets.page_style import Upload
from sdlearn.course.widgets.paint_box import PaintBox
from sdlearn.pipeline import StableDiffusion
from sdlearn.utils.image_files import open_image, upright
from sdlearn.utils.images import central_square, fit_image, to_pil

MASK_PAINT = [0, 90, 180, 150]  # translucent, so that the image shows through


class BeginFrom(widgets.VBox):
    """Buttons to begin from noise, a file or the last image, a strength slider and a mask canvas.

    Attributes:
        start: The image to begin from, at the model's size; None for noise.
    """

    def __init__(self, sd: StableDiffusion, say: Callable[[str], None]) -> None:
        """Build the controls, set to begin from noise.

        Args:
            sd: The model.
            say: A function that shows a sentence to the reader.
        """
        self.sd, self.say = sd, say
        self.start: Image.Image | None = None
        button = {"width": "auto"}
        self.noise = widgets.Button(description="Noise", layout=button)
        self.upload = Upload(
            "PNG, JPEG …",
            description="A file",
            accept="image/*",
            tooltip="Begin from an image in a file",
        )
        self.again = widgets.Button(description="This image", layout=button)
        self.strength = widgets.FloatSlider(
            value=0.6, min=0, max=1, step=0.05, description="Strength", disabled=True, **ROW
        )
        self.box = PaintBox(
            sd.spec.resolution, "The region to repaint", "Brush size", can_invert=True,
            paint=MASK_PAINT, brush=max(1, sd.spec.resolution // 12),
        )  # fmt: skip
        self.upload.observe(lambda _: self.take_upload(), "value")
        self.noise.on_click(lambda _: self.set(None))
        self.box.clear.on_click(lambda _: self.paint(None))
        self.box.canvas.observe(lambda _: self.describe(), "marks")
        starts = widgets.HBox(
            [widgets.Label("Begin from"), self.noise, self.upload, self.again],
            layout={"flex_flow": "row wrap"},
        )
        self.begins = widgets.HTML()
        super().__init__([starts, self.begins, self.box, self.strength])
        self.set(None)

    @property
    def mask(self) -> Image.Image | None:
        """The mask, white in the region to repaint; None if nothing is painted."""
        return None if self.start is None else mask_of(self.box.canvas.cells)

    def set(self, image: Image.Image | None, mask: Image.Image | None = None) -> None:
        """Set the image to begin from, resized to the model's size; None for pure noise.

        Args:
            image: The image.
            mask: White in the region to repaint; None to leave the canvas unpainted.
        """
        if image is not None:
            side = self.sd.spec.resolution
            (image,) = to_pil(2 * fit_image(image, side, side, self.sd.vae.factor) - 1)
        self.start = image
        self.strength.disabled = image is None
        self.box.layout.display = "none" if image is None else None
        self.box.canvas.show(image)
        self.paint(mask)

    def paint(self, mask: Image.Image | None) -> None:
        """Paint the white region of a mask and nothing else; None to clear the paint."""
        canvas = self.box.canvas
        grey = None if mask is None else upright("mask", mask, "L")
        canvas.cells = cells_of(grey, canvas.rows, canvas.columns)
        self.describe()

    def describe(self) -> None:
        """Say what the drawing begins from and how much of it is repainted."""
        if self.start is None:
            self.begins.value = "The next drawing begins from noise."
            return
        self.begins.value = "The next drawing begins from this image. Paint the region to repaint:"
        cells = self.box.canvas.cells
        painted = int((cells == PAINTED).sum())
        self.box.say(mask_sentence(painted, cells.size))

    def take_upload(self) -> None:
        """Begin from the uploaded file, or say why it cannot be used."""
        for file in self.upload.value:
            try:
                with open_image(bytes(file["content"]), file["name"]) as image:
                    self.set(central_square(upright(file["name"], image, "RGB")))
                    self.say(f"The next drawing begins from {file['name']}.")
            except ValueError as error:
                self.say(f"{error}.")
            except MemoryError:
                self.say(f"{file['name']} has more pixels than the memory can hold.")
        self.upload.value = ()  # so that the same file can be uploaded again


def mask_sentence(painted: int, pixels: int) -> str:
    """Say how much of an image is painted, and what that means for the drawing."""
    if painted == 0:
        return "Nothing is painted, so the whole image is redrawn."
    share = percent(painted / pixels)
    return (
        f"{share} of the image is painted: {painted:,} of {pixels:,} pixels. Only this region is "
        "repainted. At strength 1, nothing of its old content remains."
    )
