"""What a widget gives to a page without a kernel: its image, its words, and no repr."""

import base64
import io
import logging

import pytest
import torch
from IPython.core.formatters import DisplayFormatter
from PIL import Image

from sdlearn.course.figures.unet import trace
from sdlearn.course.widgets import (
    Playground,
    SamplerWidget,
    TextEncoderWidget,
    TextToImageWidget,
    TimestepWidget,
    UNetTour,
)
from sdlearn.course.widgets.stored_image import with_image
from sdlearn.unet import UNet

VIEW = "application/vnd.jupyter.widget-view+json"
PROMPT = "a red cat on the sand"


def shown(widget) -> tuple[dict, dict]:
    """What IPython displays for a widget at the end of a cell."""
    data, metadata = DisplayFormatter().format(widget)
    assert data[VIEW]["model_id"] == widget.model_id
    return data, metadata


def picture(data: dict) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data["image/png"])))


def painter(sd) -> TextToImageWidget:
    widget = TextToImageWidget(sd, PROMPT)
    widget.steps.value = 1
    widget.button.click()
    return widget


def drawn_panel(sd):
    playground = Playground(sd, PROMPT)
    panel = playground.panels[0]
    panel.controls["steps"].value = 1
    playground.button.click()
    playground.wait()
    return panel


def tour(sd) -> UNetTour:
    unet: UNet = sd.unet
    return UNetTour({"small": trace(unet, 8, 8, 5)}, {"small": {"conv_in": torch.randn(8, 8, 8)}})


WIDGETS = {
    "timestep": (lambda sd: TimestepWidget(t=500, other=503), "Clocks, and the embedding as b"),
    "sampler": (lambda sd: SamplerWidget(steps=2), "16 trajectories over five clusters of data"),
    "text encoder": (
        lambda sd: TextEncoderWidget(sd.text, "a red house", "a red car"),
        "The tokens in their positions. 3 tokens between start and end",
    ),
    "U-Net": (tour, "The U-Net of small; conv_in is marked. "),
    "text to image": (painter, f"The picture drawn for: {PROMPT}"),
    "panel": (drawn_panel, f"The image drawn for: {PROMPT}"),
}


@pytest.mark.parametrize("name", WIDGETS)
def test_a_widget_shows_itself_and_leaves_its_image_and_words(name, tiny_storybook, caplog):
    make, words = WIDGETS[name]
    with caplog.at_level(logging.WARNING):
        widget = make(tiny_storybook)
    assert not [record for record in caplog.records if record.exc_info]
    data, metadata = shown(widget)
    assert {*data} == {VIEW, "image/png", "text/plain"}
    assert data["text/plain"] == metadata["image/png"]["alt"]
    assert data["text/plain"].startswith(words)
    assert len(data["text/plain"]) > 40
    assert picture(data).width > metadata["image/png"]["width"] / 2


def test_the_image_follows_the_controls():
    widget = TimestepWidget(t=500, other=503)
    before, _ = shown(widget)
    widget.other.value = 900
    after, metadata = shown(widget)
    assert after["image/png"] != before["image/png"]
    assert "900" in metadata["image/png"]["alt"]
    assert "900" not in before["text/plain"]


def test_the_stored_picture_of_a_drawing_shows_its_controls(tiny_storybook):
    widget = painter(tiny_storybook)
    few, metadata = shown(widget)
    assert "(Seed 0, Steps 1, Guidance " in metadata["image/png"]["alt"]
    assert picture(few).height > widget.width + 4 * 24  # four controls above the image
    widget.steps.value = 9
    assert shown(widget)[0]["image/png"] != few["image/png"]


def test_a_widget_without_an_image_leaves_a_sentence(tiny_storybook):
    for widget in (TextToImageWidget(tiny_storybook, PROMPT), Playground(tiny_storybook)):
        data, metadata = shown(widget)
        assert data["text/plain"].endswith("Run this cell to use it.")
        assert "image/png" not in data
        assert metadata == {}


def test_a_playground_leaves_the_pictures_that_were_drawn(tiny_storybook):
    playground = Playground(tiny_storybook, PROMPT)
    playground.panels[0].controls["steps"].value = 1
    playground.button.click()
    playground.wait()
    one, _ = shown(playground)
    assert one["text/plain"] == f"The images drawn for: {PROMPT}"
    playground.compare.value = True
    playground.panels[1].prompt.value = "a blue house"
    playground.button.click()
    playground.wait()
    two, _ = shown(playground)
    assert two["text/plain"] == f"The images drawn for: {PROMPT} and a blue house"
    assert picture(two).width > picture(one).width


def test_a_caption_is_written_below_the_image():
    small = Image.new("RGB", (200, 50), "red")
    plain, captioned = (
        picture(with_image({}, small, "It is red.", 200, words)[0]) for words in ("", "red " * 20)
    )
    assert plain.size == (200, 50)
    assert captioned.width == 200
    assert captioned.height > 50 + 3 * 20
    assert captioned.crop((0, 0, 200, 50)).tobytes() == plain.tobytes()
    assert captioned.crop((0, 50, *captioned.size)).convert("L").getextrema()[0] < 60


def test_pixels_stay_squares_in_a_small_image():
    small = Image.new("RGB", (2, 1), "red")
    small.putpixel((1, 0), (0, 0, 255))
    data, metadata = with_image({}, small, "red and blue", 301)
    large = picture(data)
    assert large.size == (300, 150)
    assert {large.getpixel((x, 75)) for x in range(300)} == {(255, 0, 0), (0, 0, 255)}
    assert metadata == {"image/png": {"alt": "red and blue", "width": 300}}
