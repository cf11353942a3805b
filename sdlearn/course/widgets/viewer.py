"""One drawing of the playground: its image, latent and attention at any step, and its strip."""

import base64
import html
from threading import RLock

import ipywidgets as widgets
from PIL import Image

from sdlearn.course.figures import grid, heatmap, img, overlay
from sdlearn.course.figures.trajectory import channel_mosaic, pick_steps
from sdlearn.course.widgets import drawing as drawings
from sdlearn.course.widgets.drawing import Drawing
from sdlearn.course.widgets.tiles import Tile, Tiles
from sdlearn.pipeline import StableDiffusion
from sdlearn.utils import png_metadata

WIDTH = 384  # of the image on the page, in CSS pixels: six for each pixel of the storybook model
TILE = 84  # of a tile of the strip: four fit beside each other on a phone
MAP = 148  # of the latent and of each map


class Viewer(widgets.VBox):
    """The image, a slider over the steps, the latent, the attention map, the strip and the grid.

    All of them always show the same drawing. The slider, the tiles and the tokens choose which of
    its steps, images and attention maps are shown.

    Attributes:
        drawing: The drawing that is shown, or None.
        image: The image that is shown: a finished one at the last step, an estimate before.
        k: The number of the chosen image.
    """

    def __init__(self, sd: StableDiffusion, name: str) -> None:
        """Make an empty viewer.

        Args:
            sd: The model that draws.
            name: The panel's name where there are two.
        """
        self.sd, self.name = sd, name
        self.drawing: Drawing | None = None
        self.image: Image.Image | None = None
        self.k = 0
        self.lock = RLock()  # the drawing thread and the reader's clicks both change the view
        self.view, self.caption, self.link = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.slider = widgets.VBox(layout={"width": "auto"})
        self.make_slider(1)
        self.grid = Tiles(TILE)
        self.latent, self.map, self.sentence = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.words = widgets.ToggleButtons(
            style={"button_width": "auto"}, layout={"display": "none", "width": "auto"}
        )
        self.words_label = widgets.HTML()
        self.strip = Tiles(TILE)
        self.strip_label = widgets.HTML()
        self.words.observe(lambda _: self.look(), "index")
        self.strip.observe(lambda change: self.go_to(change["new"]), "chosen")
        self.grid.observe(lambda change: self.choose(change["new"]), "chosen")
        self.above = widgets.VBox(layout={"width": "auto"})  # the panel's progress and messages
        drawn = [self.view, self.slider, self.above, self.caption, self.grid, self.link]
        inside = [self.words_label, self.words, self.sentence, self.map, self.latent]
        column = {"flex": "1 1 20em", "max_width": "30em", "padding": "0 0.5em"}
        wide = {"flex": "1 1 20em", "max_width": "36em", "padding": "0 0.5em"}
        columns = widgets.HBox(
            [widgets.VBox(drawn, layout=column), widgets.VBox(inside, layout=wide)],
            layout={"flex_flow": "row wrap"},
        )
        super().__init__([columns, self.strip_label, self.strip])
        self.show(None)

    # ------------------------------------------------------------------------- a whole drawing

    def show(self, drawing: Drawing | None) -> None:
        """Show a drawing at its latest step, and nothing of any other drawing."""
        with self.lock:
            before, self.drawing = self.drawing, None  # no observer draws in between
            if drawing is None:
                self.clear()
                return
            same = before is not None and before.states[0] is drawing.states[0]
            self.k = min(self.k, drawing.settings.sampling.n - 1) if same else 0
            if self.step.max != max(drawing.total, 1):
                self.make_slider(drawing.total)
            self.step.value = drawing.step
            self.step.disabled = not drawing.images or drawing.total == 0
            self.show_words(drawing, before)
            self.drawing = drawing
            self.show_link()
            self.show_grid()
            self.show_strip()
            self.look()

    def make_slider(self, total: int) -> None:
        """Make the slider over the steps.

        Each number of steps needs a new one: on the page, the keys Home and End keep going to the
        ends that a slider was made with.
        """
        self.step = widgets.IntSlider(
            min=0, max=max(total, 1), description="Step", disabled=True,
            style={"description_width": "4em"}, layout={"width": "auto"},
        )  # fmt: skip
        self.step.observe(lambda _: self.look(), "value")
        before, self.slider.children = self.slider.children, (self.step,)
        for old in before:
            old.close()

    def clear(self) -> None:
        """Show nothing."""
        self.image, self.k = None, 0
        for each in (self.view, self.caption, self.link, self.map, self.latent, self.sentence):
            each.value = ""
        self.words_label.value = self.strip_label.value = ""
        self.words.layout.display = "none"
        self.step.value, self.step.disabled = 0, True
        self.strip.show([])
        self.grid.show([])

    def show_words(self, drawing: Drawing, before: Drawing | None) -> None:
        """Offer the drawing's tokens; while the prompt is the same, the chosen one stays chosen."""
        same_prompt = before is not None and before.settings.prompt == drawing.settings.prompt
        index = self.words.index if same_prompt else None
        if tuple(self.words.options) != drawing.tokens or not same_prompt:
            with self.words.hold_trait_notifications():
                self.words.options, self.words.index = drawing.tokens, None
        if index is None:
            index = drawings.opening_token(drawing)
        self.words.index = index
        visible = drawing.attention or (drawing.total and not drawing.images)
        self.words.layout.display = None if visible else "none"
        self.words_label.value = "<b>Attention</b> to the token:" if visible else ""

    def show_strip(self) -> None:
        """Show the latent and the estimate of some steps as tiles; a click goes to that step."""
        if self.drawing is None:
            return
        now = self.drawing
        tiles = [
            Tile(
                f"Step {step}",
                (
                    channel_mosaic(now.latent_at(step, self.k), 2 * TILE),
                    now.image_at(self.sd, step, self.k),
                ),
                f"Go to step {step} of {now.total}",
            )
            for step in drawings.pick(now, pick_steps(now.total))
        ]
        self.strip.show(tiles, len(tiles) - 1)
        self.strip_label.value = (
            "<b>The steps.</b> Top: the latent, with its four channels as the quarters of a "
            "square. Bottom: the estimate of the image. Choose a tile to go to its step."
        )

    def strip_image(self) -> Image.Image:
        """Return the strip as one image, for a stored page.

        Raises:
            ValueError: If nothing is shown.
        """
        if not self.strip.tiles:
            raise ValueError("there is no drawing to show yet; press Draw first")
        rows = [[smooth(image, 2 * TILE) for image in each.images] for each in self.strip.tiles]
        names = [each.name for each in self.strip.tiles]
        return grid(list(zip(*rows, strict=True)), names, ["latent", "image"], scale=1, letters=20)

    def show_grid(self) -> None:
        """If a drawing has several images, show them as tiles; a click chooses one."""
        if self.drawing is None or self.drawing.settings.sampling.n == 1:
            self.grid.show([])
            return
        now, first = self.drawing, self.drawing.settings.sampling.seed
        images = [now.image_at(self.sd, now.step, k) for k in range(now.settings.sampling.n)]
        tiles = [
            Tile(f"Seed {first + k}", (image,), f"Show the image with seed {first + k}")
            for k, image in enumerate(images)
        ]
        self.grid.show(tiles, self.k)

    def show_link(self) -> None:
        """Show a link with which the browser saves the chosen image, with its settings inside."""
        if self.drawing is None or not self.drawing.images:
            self.link.value = ""
            return
        image, settings = self.drawing.images[self.k], self.drawing.settings_of(self.k)
        data = base64.b64encode(png_metadata.png_bytes(image, settings)).decode()
        self.link.value = (
            f'<a download="image-{self.name.lower()}-{settings.sampling.seed}.png" '
            f'href="data:image/png;base64,{data}" '
            'style="text-decoration: underline">Save this image</a>, with its settings inside'
        )

    # ------------------------------------------------------------------------------ a part of it

    def go_to(self, tile: int | None) -> None:
        """Go to the step of a tile of the strip."""
        if tile is not None and self.drawing is not None and self.drawing.images:
            self.step.value = drawings.pick(self.drawing, pick_steps(self.drawing.total))[tile]

    def choose(self, k: int | None) -> None:
        """Show another image of the drawing, at the same step."""
        with self.lock:
            if k is not None and self.drawing is not None:
                self.k = k
                self.grid.mark(k)
                self.show_link()
                self.show_strip()
                self.look()

    def look(self) -> None:
        """Show the image, the latent and the attention of the chosen step, image and token."""
        with self.lock:
            if self.drawing is None:
                return
            now, step = self.drawing, min(self.step.value, self.drawing.step)
            finished = bool(now.images) and step == now.total
            self.image = now.image_at(self.sd, step, self.k)
            prompt = now.settings.prompt
            alt = (
                f"The image drawn for: {prompt}"
                if finished
                else f"Estimate of the image after {step} of {now.total} steps"
            )
            self.view.value = img(self.image, alt, WIDTH, squares=False)
            settings = drawings.short_settings(now.settings_of(self.k))
            caption = f"“{prompt}”, {settings}" if finished else f"{alt}."
            self.caption.value = html.escape(caption)
            latent = channel_mosaic(now.latent_at(step, self.k), 2 * MAP)
            self.latent.value = (
                "<b>Latent</b>: its four channels. Black is −3, white is 3.<br>"
                + img(latent, f"The latent after {step} of {now.total} steps", MAP)
            )
            marks = drawings.pick(now, pick_steps(now.total))
            self.strip.mark(marks.index(step) if step in marks else None)
            self.look_at_word(now, step)

    def look_at_word(self, now: Drawing, step: int) -> None:
        """Show the map of the chosen token in a step."""
        token = self.words.index
        weights = None if token is None else now.map_at(step, token, self.k)
        self.map.value = ""
        if token is None or not now.tokens[token:] or not (now.total and self.image is not None):
            self.sentence.value = ""
            return
        if weights is None:
            self.sentence.value = status(
                "At step 0 the network has not run yet, so there is no map."
            )
            return
        most, word = now.most_attention(), now.tokens[token]
        size = 2 * MAP
        lit = lit_by(self.image, weights, most, size)
        plain = (
            heatmap(weights, most, size).convert("RGB").resize(lit.size, Image.Resampling.NEAREST)
        )
        page = grid([[lit, plain]], ["lit by the map", "the map"], scale=1, letters=22)
        said = drawings.attention_sentence(word, weights, 1 / now.num_tokens)
        scale = f"White is {drawings.percent(most)} on every map of this drawing."
        self.map.value = img(page, f"Map of the token {word}. {said} {scale}", 2 * MAP + 20, False)
        self.sentence.value = status(f"Step {step}: {said} {scale}")


def lit_by(image: Image.Image, weights, most: float, size: int) -> Image.Image:  # type: ignore[no-untyped-def]
    """Return the image, enlarged smoothly and lit by a map, with its own proportions."""
    square = image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)
    lit = overlay(square, weights, most)
    return lit.resize((size, max(1, round(size * image.height / image.width))))


def smooth(image: Image.Image, width: int) -> Image.Image:
    """Return the image, enlarged smoothly to a width in pixels."""
    height = max(1, round(width * image.height / image.width))
    return image.resize((width, height), Image.Resampling.LANCZOS)


def status(sentence: str) -> str:
    """Return a sentence as HTML that screen readers read out when it changes."""
    return f'<span role="status">{html.escape(sentence)}</span>'
