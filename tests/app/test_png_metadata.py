"""An image that holds how it was made, and files that only look like one."""

import base64
import io
import re
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdlearn.pipeline import StableDiffusion
from sdlearn.utils import png_metadata
from sdlearn.utils.images import fit_image
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


MASK = Image.fromarray(np.array([[0, 255, 127, 128]], np.uint8))
PAINTED = replace(
    FROM, mask=MASK, hint=START.rotate(90), control_scale=0.5, controlnet="0123456789ab"
)


def test_a_mask_and_a_hint_are_read_as_they_were_used():
    made = replace(PAINTED, mask=MASK.convert("RGBA"), hint=PAINTED.hint.convert("CMYK"))
    for settings in (PAINTED, made):
        found = png_metadata.read_png(png_metadata.png_bytes(START, settings))
        assert (found.mask.mode, found.mask.tobytes()) == ("L", MASK.tobytes())
        assert (found.hint.mode, found.hint.tobytes()) == ("RGB", PAINTED.hint.tobytes())
        assert (found.control_scale, found.controlnet) == (0.5, "0123456789ab")
    for settings in (PLAIN, FROM):
        found = png_metadata.read_png(png_metadata.png_bytes(START, settings))
        assert (found.mask, found.hint, found.control_scale) == (None, None, 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image": None}, "mask marks the part of an image to repaint, but no image is given"),
        ({"mask": np.zeros((4, 4))}, "mask is a ndarray; it must be a PIL image"),
        ({"hint": "edges"}, "hint is a str; it must be a PIL image"),
        ({"hint": None}, "control_scale is 0.5, but there is no hint; leave it out, or give a hi"),
        ({"control_scale": float("nan")}, "control_scale is nan; it must be a finite number"),
        ({"controlnet": 3}, "controlnet is 3"),
    ],
)
def test_masks_and_hints_that_cannot_be_used_are_refused(change, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        replace(PAINTED, **change)


def turned() -> Image.Image:
    """A photo that was taken with the camera on its side, as it is opened from its file."""
    photo, exif, content = Image.new("RGB", (24, 16), "red"), Image.Exif(), io.BytesIO()
    photo.paste("blue", (0, 0, 8, 16))
    exif[0x0112] = 6
    photo.save(content, "PNG", exif=exif)
    return Image.open(content)


STARTS = {
    "turned by EXIF": turned,
    "transparent": lambda: Image.new("RGBA", (24, 16), (200, 30, 90, 128)),
    "CMYK": lambda: Image.new("CMYK", (24, 16), (200, 30, 90, 0)),
    "floats": lambda: Image.new("F", (24, 16), 0.25),
    "16 bits": lambda: Image.new("I;16", (24, 16), 200 * 257),
    "premultiplied": lambda: Image.new("RGBa", (24, 16), (20, 30, 90, 128)),
    "palette": lambda: START.quantize(2),
}


@pytest.mark.parametrize("make", STARTS.values(), ids=STARTS)
def test_a_picture_to_begin_from_is_stored_as_it_was_used(make):
    used = fit_image(make(), None, None, 8)
    content = png_metadata.png_bytes(START, replace(FROM, image=make()))
    assert torch.equal(fit_image(png_metadata.read_png(content).image, None, None, 8), used)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: replace(PLAIN, sampling=None), "sampling is None; it must be a Sampling"),
        (lambda: replace(PLAIN, sampling={"steps": 3}), "sampling is {'steps': 3}; it must be"),
        (lambda: replace(FROM, image="cat.png"), "image is a str; it must be a PIL image"),
        (lambda: replace(FROM, image=torch.zeros(1, 3, 8, 8)), "image is a Tensor; it must be"),
        (lambda: png_metadata.png_bytes(None, PLAIN), "image is a NoneType; it must be a PIL"),
        (lambda: png_metadata.png_bytes([START], PLAIN), "image is a list; it must be a PIL"),
        (lambda: png_metadata.png_bytes(START, None), "settings is None; it must be Generation"),
        (lambda: png_metadata.png_bytes(START, HOW), "settings is Sampling("),
    ],
)
def test_other_types(call, said):
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        call()
    assert len(str(caught.value)) < 300


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
        (b"", "cat.png is not a PNG image that can be read"),
        (b"not a picture", "cat.png is not a PNG image that can be read"),
        (stamped()[:150], "cat.png is not a PNG image that can be read"),
        (jpeg(), "cat.png is not a PNG image that can be read"),
        (stamped(prompt=None), "cat.png holds no settings; give an image that sdlearn made"),
        (stamped(steps=None), "cat.png holds a prompt, but not the setting 'steps'"),
        (stamped(seed="many"), "cat.png holds settings that cannot be used: .*'many'"),
        (stamped(steps="0"), "cat.png holds settings that cannot be used: steps is 0"),
        (stamped(sampler="magic"), "cannot be used: sampler 'magic' is not known"),
        (stamped(image="%%%"), "cat.png holds settings that cannot be used"),
        (stamped(image=base64.b64encode(jpeg()).decode()), "holds settings that cannot be used"),
        (stamped(mask=base64.b64encode(jpeg()).decode()), "the mask is not a PNG image that can"),
        (stamped(hint="%%%"), "cat.png holds settings that cannot be used"),
        (stamped(control_scale="lots"), "control_scale is 'lots'; it must be a number"),
        (stamped(control_scale="0.5"), "control_scale is 0.5, but there is no hint"),
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
        "mask",
        "hint",
        "scale",
        "no hint",
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


def packed(kind: bytes, head: bytes, size: int) -> bytes:
    """A PNG file with a compressed text entry that unpacks to so many bytes."""
    content = head + zlib.compress(b"a" * size, 9)
    check = struct.pack(">I", zlib.crc32(kind + content))
    chunk = struct.pack(">I", len(content)) + kind + content + check
    whole = stamped()
    return whole[:33] + chunk + whole[33:]  # after the signature and the header


TEXTS = {"zTXt": b"prompt\0\0", "iTXt": b"prompt\0\1\0\0\0"}


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("copies", [1, 100])
def test_text_entries_that_unpack_to_too_much_are_refused(kind, copies):
    size = 300 * 2**20 if copies == 1 else 2**20 - 1
    content = packed(kind.encode(), TEXTS[kind], size)
    extra = content[33 : content.index(b"tEXt", 33) - 4]
    content = content[:33] + copies * extra + content[33 + len(extra) :]
    assert len(content) < 600_000
    with pytest.raises(
        ValueError, match="is not a PNG image that can be read: its text entries unpack to"
    ):
        png_metadata.read_png(content, "cat.png")


@pytest.mark.parametrize("inner", [True, False], ids=["the image to begin from", "the image"])
def test_an_image_with_too_many_pixels_is_refused(inner):
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    check = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    plain = stamped()
    large = plain[:16] + header + check + plain[33:]
    content = stamped(image=base64.b64encode(large).decode()) if inner else large
    with pytest.raises(ValueError, match=r"has 10,000,000,000 pixels; an image may have at most 1"):
        png_metadata.read_png(content, "cat.png")


@pytest.mark.parametrize("mode", ["RGBA", "I;16", "L", "P"])
def test_an_image_to_begin_from_in_another_mode_lies_on_white(mode):
    start = Image.fromarray(np.array([[[200, 30, 90, 255], [0, 0, 0, 0]]], np.uint8))
    expected = [(200, 30, 90), (255, 255, 255)]
    if mode == "I;16":
        start = Image.fromarray(np.array([[51400, 65535]], np.uint16))
    elif mode == "L":
        start = Image.fromarray(np.array([[200, 255]], np.uint8))
    if mode in ("I;16", "L"):
        expected = [(200,) * 3, (255,) * 3]
    if mode == "P":
        start = start.quantize(4)
    file = io.BytesIO()
    start.save(file, "PNG")
    found = png_metadata.read_png(stamped(image=base64.b64encode(file.getvalue()).decode())).image
    assert found.mode == "RGB"
    assert [found.getpixel((k, 0)) for k in range(2)] == expected
