"""An image that holds how it was made, and files that only look like one."""

import base64
import io
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdlearn.pipeline import StableDiffusion
from sdlearn.utils import png_metadata
from sdlearn.utils.png_metadata import GenerationSettings
from sdlearn.utils.sampling import Sampling
from sdlearn.versions import SPECS

HOW = Sampling(seed=7, steps=12, guidance_scale=3.5, sampler="euler")
PLAIN = GenerationSettings("a red cat, «ünï»", "snow", HOW, model="storybook")
START = Image.new("RGB", (24, 16), (200, 30, 90))
FROM = replace(PLAIN, strength=0.25, image=START)


@pytest.mark.parametrize("made", [PLAIN, FROM], ids=["noise", "picture"])
def test_what_is_written_is_read(tmp_path, made):
    picture = Image.new("RGB", (8, 8), "teal")
    png_metadata.write_png(picture, tmp_path / "cat.png", made)
    assert [path.name for path in tmp_path.iterdir()] == ["cat.png"]
    found = png_metadata.read_png(tmp_path / "cat.png")
    assert replace(found, image=None) == replace(made, image=None)
    if made.image is not None:
        assert (found.image.size, found.image.tobytes()) == (START.size, START.tobytes())
    assert png_metadata.read_png((tmp_path / "cat.png").read_bytes()).prompt == made.prompt
    with Image.open(tmp_path / "cat.png") as kept:
        assert kept.text["model"] == "storybook"
        assert kept.text["software"].startswith("sdlearn ")
        assert kept.convert("RGB").tobytes() == picture.tobytes()


def test_only_the_last_part_of_the_way_is_walked_from_a_picture():
    sd = StableDiffusion(None, None, None, SPECS["storybook"])
    nearly_all = replace(FROM, strength=0.999)
    assert [each.num_steps(sd) for each in (PLAIN, FROM, nearly_all)] == [12, 3, 11]
    assert GenerationSettings("a cat").num_steps(sd) == 30  # the model's own


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, "seed is 9223372036854775808"),
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan; it must be a finite number"),
        ({"strength": 1.5}, "strength is 1.5; it must lie in 0 … 1"),
        ({"sampler": "magic"}, "sampler 'magic' is not known: the samplers are ddim, "),
    ],
)
def test_settings_that_cannot_be_drawn_are_refused(change, said):
    fields = vars(HOW) | change
    strength = fields.pop("strength", 1.0)
    with pytest.raises(ValueError, match=said):
        replace(PLAIN, sampling=Sampling(**fields), strength=strength)


def stamped(**changes: str | None) -> bytes:
    """A PNG with the entries of PLAIN, some of them changed, or left out."""
    with Image.open(io.BytesIO(png_metadata.png_bytes(START, PLAIN))) as picture:
        entries = {**picture.text, **changes}
    info = PngInfo()
    for key, value in entries.items():
        if value is not None:
            info.add_text(key, value)
    file = io.BytesIO()
    START.save(file, "PNG", pnginfo=info)
    return file.getvalue()


def jpeg() -> bytes:
    file = io.BytesIO()
    START.save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cat.png cannot be read as an image: ."),
        (b"not a picture", "cat.png cannot be read as an image: ."),
        (stamped()[:150], "cat.png cannot be read as an image: ."),
        (jpeg(), "cat.png cannot be read as an image: ."),
        (stamped(prompt=None), "cat.png holds no settings; images that sdlearn made do"),
        (stamped(steps=None), "cat.png holds a prompt, but not the setting 'steps'"),
        (stamped(seed="many"), "cat.png holds settings that cannot be used: .*'many'"),
        (stamped(steps="0"), "cat.png holds settings that cannot be used: steps is 0"),
        (stamped(sampler="magic"), "cannot be used: sampler 'magic' is not known"),
        (stamped(image="%%%"), "cat.png holds settings that cannot be used"),
        (stamped(image=base64.b64encode(jpeg()).decode()), "holds settings that cannot be used"),
    ],
    ids=[
        "empty",
        "text",
        "cut",
        "jpeg",
        "bare",
        "lacking",
        "word",
        "none",
        "magic",
        "code",
        "inner",
    ],
)
def test_what_cannot_be_read_is_said_in_a_sentence(tmp_path, content, said):
    place = tmp_path / "cat.png"
    place.write_bytes(content)
    with pytest.raises(ValueError, match=said) as caught:
        png_metadata.read_png(place)
    assert "\n" not in str(caught.value)


def test_a_missing_file():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png is missing"):
        png_metadata.read_png(Path("nowhere.png"))
