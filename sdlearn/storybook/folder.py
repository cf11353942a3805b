"""A user's own captioned images: a folder in the imagefolder convention.

my_images/
    metadata.jsonl        {"file_name": "one.jpg", "text": "a red cat on the sand"}
    one.jpg               ... one line of JSON for each image; file_name may contain folders
"""

import json
import struct
import warnings
from pathlib import Path

from PIL import Image, ImageOps

EXAMPLE = '{"file_name": "one.jpg", "text": "a red cat on the sand"}'


def read_folder(path: str | Path, size: int) -> list[tuple[Image.Image, str]]:
    """Read the images of a folder and their captions.

    Images are rotated according to their EXIF data, transparent ones are put on white, and all are
    resized to the shorter side and cropped to the centre. The caption is the column `text` (or
    `caption`). An image that cannot be read causes a warning and is skipped.

    Args:
        path: The folder.
        size: Side of the images in pixels.

    Returns:
        RGB images of size x size pixels, with their captions.

    Raises:
        FileNotFoundError: If the folder or its metadata.jsonl is missing.
        ValueError: If a line of metadata.jsonl is malformed, or no image can be read.
    """
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"size is {size!r}; accepted: a whole number of pixels, at least 1")
    folder = Path(path)
    pairs = []
    for file_name, text in _metadata(folder):
        try:
            pairs.append((_read_image(folder / file_name, size), text))
        except FileNotFoundError:
            warnings.warn(f"{folder / file_name} is missing and was skipped", stacklevel=2)
        # Pillow's readers raise all of these for damaged files.
        except (
            OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError
        ) as error:  # fmt: skip
            warnings.warn(
                f"{folder / file_name} cannot be read as an image and was skipped: {error}",
                stacklevel=2,
            )
    if not pairs:
        raise ValueError(
            f"{folder} has no image that can be read; accepted: a metadata.jsonl that names some"
        )
    return pairs


def _metadata(folder: Path) -> list[tuple[str, str]]:
    """Return (file name, caption) of every line of metadata.jsonl."""
    if not folder.exists():
        raise FileNotFoundError(f"{folder} does not exist; accepted: a folder of images")
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; accepted: a folder with images and metadata.jsonl")
    file = folder / "metadata.jsonl"
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; accepted: one line {EXAMPLE} for each image")
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text: {error}") from error
    rows = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    return [_row(line, f"{file}, line {number}") for number, line in rows]


def _row(line: str, where: str) -> tuple[str, str]:
    """Parse one line of metadata.jsonl; `where` begins the error messages."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON ({error}); accepted: {EXAMPLE}") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where} is not a JSON object; accepted: {EXAMPLE}")
    file_name, text = row.get("file_name"), row.get("text", row.get("caption"))
    if not isinstance(file_name, str) or not file_name.strip():
        raise ValueError(f"{where} has no file_name; accepted: {EXAMPLE}")
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{where} has no text (the caption); accepted: {EXAMPLE}")
    return file_name, text.strip()


def _read_image(file: Path, size: int) -> Image.Image:
    """Read one image as RGB, size x size pixels."""
    with Image.open(file) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I"):  # 16 bits of grey, which convert() would clip at 255
            image = image.convert("I").point(lambda grey: grey / 256).convert("L")
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        return ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.LANCZOS)
