"""A user's own captioned pictures: a folder in the imagefolder convention.

my_pictures/
    metadata.jsonl        {"file_name": "one.jpg", "text": "a red cat on the sand"}
    one.jpg               ... one line of JSON for each picture; file_name may hold folders
"""

import json
import struct
import warnings
from pathlib import Path

from PIL import Image, ImageOps

EXAMPLE = '{"file_name": "one.jpg", "text": "a red cat on the sand"}'


def read_folder(path: str | Path, size: int) -> list[tuple[Image.Image, str]]:
    """The RGB pictures of a folder, `size` x `size` pixels, with their captions.

    Pictures are turned upright as their EXIF says, laid on white where they are transparent,
    resized so that the shorter side fits, and cropped to the middle. A caption is the column
    `text` (or `caption`). A picture that cannot be read is named in a warning and left out.
    Raises FileNotFoundError without the folder or its metadata.jsonl, ValueError for a line that
    is not as above and where no picture can be read.
    """
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"size is {size!r}; accepted: a whole number of pixels, at least 1")
    folder = Path(path)
    pairs = []
    for file_name, text in _metadata(folder):
        try:
            pairs.append((_read_picture(folder / file_name, size), text))
        except FileNotFoundError:
            warnings.warn(f"{folder / file_name} is missing and was left out", stacklevel=2)
        # Pillow's readers raise these and nothing narrower for files that are not what they say.
        except (
            OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError
        ) as error:  # fmt: skip
            warnings.warn(
                f"{folder / file_name} cannot be read as a picture and was left out: {error}",
                stacklevel=2,
            )
    if not pairs:
        raise ValueError(f"{folder} has no picture that can be read; metadata.jsonl must name some")
    return pairs


def _metadata(folder: Path) -> list[tuple[str, str]]:
    """(file name, caption) of every line of metadata.jsonl."""
    if not folder.exists():
        raise FileNotFoundError(f"{folder} does not exist; accepted: a folder of pictures")
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; accepted: a folder with pictures and metadata.jsonl")
    file = folder / "metadata.jsonl"
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; it holds one line {EXAMPLE} a picture")
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not text in UTF-8: {error}") from error
    rows = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    return [_row(line, f"{file}, line {number}") for number, line in rows]


def _row(line: str, where: str) -> tuple[str, str]:
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


def _read_picture(file: Path, size: int) -> Image.Image:
    with Image.open(file) as opened:
        picture = ImageOps.exif_transpose(opened)
        if picture.mode.startswith("I"):  # 16 bits of grey, which convert() would cut off at 255
            picture = picture.convert("I").point(lambda grey: grey / 256).convert("L")
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            white = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(white, picture)
        return ImageOps.fit(picture.convert("RGB"), (size, size), Image.Resampling.LANCZOS)
