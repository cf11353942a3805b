"""The X/Y comparison of the playground: a table of images over two settings."""

import html
import warnings
from threading import Event

import ipywidgets as widgets
from PIL import Image

from sdlearn.controlnet import ControlNet
from sdlearn.course.figures import img
from sdlearn.course.widgets.viewer import status
from sdlearn.course.widgets.xy_cells import SUGGESTED, Axis, choices, parse_axis, table
from sdlearn.pipeline import StableDiffusion
from sdlearn.utils import memory
from sdlearn.utils.png_metadata import GenerationSettings

CELL = 148  # width of an image, in CSS pixels


class XYTable(widgets.VBox):
    """Two settings with their values, a button, and the table of images.

    Attributes:
        images: The images drawn so far, by row and column; a sentence where a combination is
            refused.
        columns, rows: The axes of the table that is shown.
    """

    def __init__(self, sd: StableDiffusion, controlnet: ControlNet | None = None) -> None:
        """Build it for a model and, for settings with a hint, its ControlNet."""
        self.sd, self.controlnet = sd, controlnet
        self.images: dict[tuple[int, int], Image.Image | str] = {}
        self.columns = self.rows = Axis("", "", ())
        options = list(choices(sd.spec).items())
        self.x, self.x_values = axis_controls("Columns", options, "guidance_scale")
        self.y, self.y_values = axis_controls("Rows", options, "seed")
        self.button = widgets.Button(
            description="Draw the table", tooltip="Draw an image for every pair of values",
            layout={"width": "auto"},
        )  # fmt: skip
        self.message, self.view = widgets.HTML(), widgets.HTML()
        self.x.observe(lambda _: suggest(self.x, self.x_values), "value")
        self.y.observe(lambda _: suggest(self.y, self.y_values), "value")
        note = widgets.HTML(
            "Each image has the settings above (those of A if there is a B), except for the two "
            "chosen here. Separate values with commas. Write each prompt on a line of its own."
        )
        axes = [
            widgets.VBox(pair, layout={"flex": "1 1 16em", "max_width": "32em"})
            for pair in ([self.x, self.x_values], [self.y, self.y_values])
        ]
        bar = widgets.HBox(axes, layout={"flex_flow": "row wrap"})
        super().__init__([note, bar, self.button, self.message, self.view])

    def cells(self, base: GenerationSettings) -> list[list[GenerationSettings]]:
        """Read the axes and return the settings of the table.

        Raises:
            ValueError: For values that are not accepted; the axes then stay as they were.
        """
        columns = parse_axis(self.x.value, self.x_values.value, self.sd.spec)
        rows = parse_axis(self.y.value, self.y_values.value, self.sd.spec)
        settings = table(base, columns, rows)
        self.columns, self.rows = columns, rows
        return settings

    def draw(self, base: GenerationSettings, stopping: Event) -> None:
        """Draw one cell after another until `stopping` is set."""
        self.images, self.view.value = {}, ""
        try:
            settings = self.cells(base)
        except ValueError as error:
            self.say(f"This cannot be drawn: {error}.")
            return
        count, done = sum(map(len, settings)), 0
        for j, row in enumerate(settings):
            for i, each in enumerate(row):
                self.say(f"Drawing image {done + 1} of {count} …")
                image = self.cell(each, stopping)
                if image is None:
                    self.say(f"Stopped after {done} of {count} images.")
                    return
                self.images[j, i], done = image, done + 1
                self.show()
        self.say(f"Done: {count} images.")

    def cell(self, settings: GenerationSettings, stopping: Event) -> Image.Image | str | None:
        """Draw a cell: return its image, a sentence if that is impossible, or None if stopped."""
        try:
            with warnings.catch_warnings(action="ignore"):
                states = settings.trajectory(self.sd, self.controlnet)
                last = next(states)
                for last in states:  # noqa: B007
                    if stopping.is_set():
                        return None
            (image,) = settings.images(self.sd, last.z)
        except (ValueError, FloatingPointError, MemoryError, RuntimeError) as error:
            full = memory.is_about_memory(error)
            if isinstance(error, RuntimeError) and not full:
                raise
            return f"Not possible: {memory.in_a_sentence(error) if full else error}."
        return image

    def show(self) -> None:
        """Show the table with the images so far."""
        across, down = self.columns.headings(), self.rows.headings()
        head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in across)
        body = "".join(
            f'<tr><th scope="row">{html.escape(name)}</th>'
            + "".join(self.cell_html(j, i, f"{name}, {over}") for i, over in enumerate(across))
            + "</tr>"
            for j, name in enumerate(down)
        )
        width = 110 + (CELL + 6) * len(across)
        self.view.value = (
            "<style>.sd-xy { table-layout: fixed; border-collapse: collapse; width: 100%; }"
            " .sd-xy th, .sd-xy td { padding: 2px; text-align: center; vertical-align: middle;"
            " overflow-wrap: anywhere; font-weight: normal; line-height: 1.3; }</style>"
            f'<table class="sd-xy" style="max-width: {width}px"><thead><tr><td></td>{head}</tr>'
            f"</thead><tbody>{body}</tbody></table>"
        )

    def cell_html(self, j: int, i: int, name: str) -> str:
        """Return a cell of the table."""
        found = self.images.get((j, i))
        if found is None:
            return "<td>…</td>"
        if isinstance(found, str):
            return f"<td><small>{html.escape(found)}</small></td>"
        return f"<td>{img(found, f'The image drawn with {name}', CELL, squares=False)}</td>"

    def say(self, sentence: str) -> None:
        """Show a sentence, which screen readers read out."""
        self.message.value = status(sentence)


def axis_controls(
    name: str, options: list[tuple[str, str]], value: str
) -> tuple[widgets.Dropdown, widgets.Textarea]:
    """Make the controls of one axis: the menu of settings, and the field for the values."""
    row = {"style": {"description_width": "6em"}, "layout": {"width": "auto"}}
    menu = widgets.Dropdown(options=options, value=value, description=name, **row)
    values = widgets.Textarea(
        value=SUGGESTED[value],
        description="Values",
        rows=2,
        tooltip=f"Values of the {name.lower()}",
        **row,
    )
    return menu, values


def suggest(menu: widgets.Dropdown, field: widgets.Textarea) -> None:
    """Suggest values for the chosen setting."""
    field.value = SUGGESTED.get(menu.value, "")
