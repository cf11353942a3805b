"""Images from files and from people: any mode of Pillow to upright RGB or grey.

open_image(file, name)               an image file; one sentence if it is not one
upright(name, image, mode)           8-bit RGB or L, rotated by its EXIF entry, on white

Everything that takes an image from outside uses these two: the pipeline for image, mask and hint,
the reader of training folders, the playground's uploads, and the image inside a PNG file.
"""

import io
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

Mode = Literal["RGB", "L"]
# What a photo, a drawing or a mask is stored as. Pillow also opens formats that it hands to other
# programs, such as PostScript.
FORMATS = (
    "PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA",
    "ICO", "PCX",
)  # fmt: skip
# Modes that Pillow converts to RGBA in two steps only.
PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
# EXIF's orientation -> what makes the image upright.
TURNS: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow's readers raise for damaged files.
DAMAGE = (
    OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, AttributeError,
    ArithmeticError, RuntimeError, MemoryError, struct.error, zlib.error,
    AssertionError,  # of a file that was closed before it was read
)  # fmt: skip
# Which warnings are shown is a setting of all threads, so one at a time may change it.
ONE_THREAD = threading.Lock()
# A step of grey in PNG files of few bits, by Pillow's name of how the pixels are stored.
GREY_STEPS = {"L;2": 85, "L;4": 17}


@contextmanager
def open_image(
    file: Path | bytes, name: str, formats: tuple[str, ...] = FORMATS
) -> Iterator[Image.Image]:
    """An opened image file, for the length of a block.

    Args:
        file: A path, or the bytes of a file.
        name: What the messages call it.
        formats: Pillow's names of the formats that are accepted.

    Raises:
        FileNotFoundError: If the path is missing.
        ValueError: If it is not an image that can be read, or has too many pixels: more than
            Pillow's own limit, 178,956,970. Errors in the block are raised as they are.
    """
    Image.init()
    known = [each for each in formats if each in Image.OPEN]  # a Pillow may lack some
    try:
        if isinstance(file, Path) and file.exists() and not file.is_file():
            raise OSError("it is not a file")  # a folder, or a pipe that would be waited for
        with ONE_THREAD, warnings.catch_warnings():
            # Pillow warns from half of its limit, which is a photo of 90 megapixels.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, "r", known)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{name} is missing") from error
    except (*DAMAGE, Image.DecompressionBombError) as error:
        raise unreadable(name, error, formats) from error
    with opened:
        yield opened


def upright(name: str, image: Image.Image, mode: Mode) -> Image.Image:
    """An image as 8-bit RGB or L, rotated by its EXIF entry, and on white where it is transparent.

    Grey of 16 bits is scaled from 0 … 65535. Pillow's 32-bit integers are, too, if one is above
    255, and are taken as 0 … 255 otherwise, as Pillow converts 8 bits. Floats are scaled from
    0 … 1, or taken as 0 … 255 if one is at least 2. For an animation, the current frame is used:
    the first, if the file was only opened. Colour profiles are not applied.

    Args:
        name: What the messages call it.
        image: An image in any mode of Pillow.
        mode: "RGB" for three channels, "L" for grey: a mask, where black and white are as in RGB.

    Raises:
        ValueError: If its pixels cannot be read, or have no defined range.
    """
    if 0 in image.size:
        raise ValueError(f"{name} is {image.width} x {image.height} pixels, so it is empty")
    scale_transparent_grey(image)
    try:
        image.load()  # a file that was only opened is read now
        turn = TURNS.get(orientation(image))
        image = image if turn is None else image.transpose(turn)
    except (*DAMAGE, Image.DecompressionBombError) as error:
        raise unreadable(name, error) from error
    if image.mode == "F" or image.mode.startswith("I"):
        image = eight_bits(name, image)
    try:
        return on_white(image).convert(mode)
    except DAMAGE as error:
        raise ValueError(f"{name} has the mode {image.mode}, which cannot be converted") from error


def scale_transparent_grey(image: Image.Image) -> None:
    """Scale the transparent value of a PNG of 2 or 4 bits, as Pillow scales the pixels alone.

    It is changed in the image itself, as it is not known any more once the pixels are read.
    """
    stored = [each.args for each in getattr(image, "tile", ())]
    step = GREY_STEPS.get(str(stored[0]), 1) if stored else 1
    if isinstance(image.info.get("transparency"), int):
        image.info["transparency"] *= step


def orientation(image: Image.Image) -> object:
    """The EXIF entry that says how a camera was held; 1, as for none, where EXIF is damaged."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except DAMAGE:
        return 1


def eight_bits(name: str, image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits, or of floats, as L; with transparency as LA."""
    values = np.asarray(image).astype(np.float32)  # exact for 16 bits
    low, high, is_float = float(values.min()), float(values.max()), image.mode == "F"
    if is_float:
        top = 255 if high >= 2 else 1
    else:
        top = 255 if image.mode == "I" and high <= 255 else 65535
    rounding = top / 1000 if is_float else 0  # what computing with floats leaves beyond the ends
    if not (low >= -rounding and high <= top + rounding):  # NaN is neither
        accepted = "0 … 1 or 0 … 255" if is_float else "0 … 65535"
        raise ValueError(
            f"{name} has grey values from {low:g} to {high:g} (mode {image.mode}); values must lie "
            f"in {accepted}"
        )
    grey = Image.fromarray((values * (255 / top)).round().clip(0, 255).astype(np.uint8))
    clear = image.info.get("transparency")
    if isinstance(clear, int):  # PNG: the one grey value that is transparent
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def on_white(image: Image.Image) -> Image.Image:
    """An 8-bit image as RGB or L, with white where it is transparent."""
    if image.mode == "L" and not image.has_transparency_data:
        return image
    if not image.has_transparency_data:
        return image.convert("RGB")
    key = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:
        # A PNG of 16 bits, of which Pillow keeps the upper eight.
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in key)
    image = image.convert(PREMULTIPLIED.get(image.mode, image.mode)).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def unreadable(name: str, error: Exception, formats: tuple[str, ...] = FORMATS) -> ValueError:
    """The message for an error of Pillow, in at most 100 of its characters."""
    said = str(error).split("\n", 1)[0]
    if isinstance(error, Image.DecompressionBombError):
        pixels, limit = (*map(int, re.findall(r"\d+", said)), 0, 0)[:2]
        return ValueError(f"{name} has {pixels:,} pixels; an image may have at most {limit:,}")
    if isinstance(error, MemoryError):
        return ValueError(f"{name} has more pixels than the memory can hold")
    if isinstance(error, AssertionError):
        said = "its file was closed before it was read"
    elif isinstance(error, UnidentifiedImageError):
        said = f"its content is not {', '.join(formats)}"
    elif "Decompressed data too large" in said or "Too much memory used in text" in said:
        said = "its text entries unpack to too many bytes"
    kind = "a PNG image" if formats == ("PNG",) else "an image"
    why = said[:100] or type(error).__name__
    return ValueError(f"{name} is not {kind} that can be read: {why}")
