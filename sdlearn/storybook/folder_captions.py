"""Which images a user's folder holds, and their captions, from one of three places.

    metadata.jsonl            {"file_name": "one.jpg", "text": "a red cat on the sand"}
    metadata.csv              the columns file_name and text
    one.txt or one.caption    beside one.jpg, if the folder has no metadata

A metadata file decides alone: captions beside the images are then not read. Every file that is
named must lie in the folder, also after symbolic links are followed.
"""

import csv
import io
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from reprlib import repr as short

METADATA = ("metadata.jsonl", "metadata.csv")
EXAMPLES = {
    "metadata.jsonl": '{"file_name": "one.jpg", "text": "a red cat on the sand"}',
    "metadata.csv": 'the columns file_name,text and lines such as one.jpg,"red cat, sand"',
}
CAPTIONS = (".txt", ".caption")
IMAGES = {
    ".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jp2",
    ".ppm", ".pgm", ".tga",
}  # fmt: skip


def captioned_files(folder: Path) -> list[tuple[Path, str]]:
    """Return (image file, caption) of everything that the folder names, in its order.

    Raises:
        FileNotFoundError: If the folder is missing, or has no captions.
        ValueError: If both metadata files are there, a line or a caption is malformed, or a path
            leads out of the folder.
    """
    if not folder.exists():
        raise FileNotFoundError(f"{folder} does not exist; accepted: a folder of images")
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; accepted: a folder of captioned images")
    found = [folder / name for name in METADATA if (folder / name).is_file()]
    if len(found) > 1:
        raise ValueError(f"{folder} has {' and '.join(METADATA)}; accepted: one of them")
    if not found:
        return list(_beside(folder))
    (file,) = found
    rows = _jsonl_rows(file) if file.suffix == ".jsonl" else _csv_rows(file)
    return [_pair(folder, row, where, EXAMPLES[file.name]) for row, where in rows]


def _jsonl_rows(file: Path) -> Iterator[tuple[dict[str, object], str]]:
    """Yield each line of metadata.jsonl, and what the messages call it."""
    for number, line in enumerate(_text(file).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        yield json_object(line, where, EXAMPLES[file.name]), where


def json_object(text: str, where: str, example: str) -> dict[str, object]:
    """The JSON object in a text; `where` begins the error messages, and `example` ends them.

    Raises:
        ValueError: If it is something else.
    """
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON ({error}); accepted: {example}") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where} is not a JSON object; accepted: {example}")
    return row


def _csv_rows(file: Path) -> Iterator[tuple[dict[str, object], str]]:
    """Yield each line of metadata.csv, and what the messages call it."""
    lines = csv.reader(io.StringIO(_text(file), newline=""), strict=True)
    example = EXAMPLES[file.name]
    try:
        columns = [name.strip() for name in next(lines, [])]
        if "file_name" not in columns or not {"text", "caption"} & set(columns):
            raise ValueError(
                f"{file} begins with the columns {short(columns)}; accepted: {example}, separated "
                "by commas"
            )
        for values in lines:
            where = f"{file}, line {lines.line_num}"
            if not any(value.strip() for value in values):
                continue
            if len(values) != len(columns):
                raise ValueError(
                    f"{where} has {len(values)} columns, but the first line has {len(columns)}; "
                    f"put a caption that contains commas in quotation marks; accepted: {example}"
                )
            yield dict(zip(columns, values, strict=True)), where
    except csv.Error as error:
        line = max(lines.line_num, 1)
        raise ValueError(
            f"{file}, line {line} is not CSV ({error}); accepted: {example}"
        ) from error


def _pair(folder: Path, row: dict[str, object], where: str, example: str) -> tuple[Path, str]:
    """The image and the caption of one line; `where` begins the error messages."""
    file_name = row.get("file_name")
    if not isinstance(file_name, str) or not file_name.strip():
        raise ValueError(f"{where} has no file_name; accepted: {example}")
    text = caption_in(row, where, example)
    # As Windows reads it, where "\" separates folders and "C:" is a drive; and as others do.
    written = PureWindowsPath(file_name)
    if written.drive or written.root or ".." in written.parts or "\0" in file_name:
        raise ValueError(
            f"{where} names {short(file_name)}; accepted: a path inside the folder, without '..'"
        )
    file = folder / written.as_posix()
    _check_inside(folder, file, where)
    return file, text


def caption_in(row: dict[str, object], where: str, example: str) -> str:
    """The caption of a line of metadata, or of another JSON object; see `json_object`.

    Raises:
        ValueError: If it has none.
    """
    text = row.get("text", row.get("caption"))
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{where} has no text (the caption); accepted: {example}")
    return text.strip()


def _check_inside(folder: Path, file: Path, where: str) -> None:
    """Raise ValueError if symbolic links lead from the folder to elsewhere.

    The folders of the hub's cache, REPOSITORY/snapshots/COMMIT, hold links to REPOSITORY/blobs.
    """
    try:
        home = folder.resolve()
        home = home.parents[1] if home.parent.name == "snapshots" else home
        inside = file.resolve().is_relative_to(home)
    except (OSError, RuntimeError):  # a name that is too long, or links in a circle
        inside = True  # it cannot be opened either, which is said then
    if not inside:
        raise ValueError(
            f"{where} names {short(str(file))}, a link that leads out of the folder; accepted: "
            "files inside the folder"
        )


def _beside(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the images with a caption file beside them; hidden files are left out.

    Images without a caption cause one warning and are skipped.
    """
    images = sorted(image_files(folder))
    captions = {image: _caption_file(image) for image in images}
    if not any(captions.values()):
        raise FileNotFoundError(
            f"{folder / METADATA[0]} is missing; accepted: one line {EXAMPLES[METADATA[0]]} for "
            "each image, a metadata.csv, or a caption one.txt beside each image one.jpg"
        )
    without = [image.name for image, caption in captions.items() if caption is None]
    if without:
        warnings.warn(
            f"{folder} has images without a caption file, which were skipped: {len(without)} in "
            f"all, {short(without)}",
            stacklevel=4,
        )
    for image, caption in captions.items():
        if caption is None:
            continue
        for file in (image, caption):
            _check_inside(folder, file, str(folder))
        yield image, one_line(_text(caption), str(caption))


def one_line(text: str, where: str) -> str:
    """The caption in the text of a caption file; `where` begins the error message.

    Raises:
        ValueError: If the text has no line, or several.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) != 1:
        raise ValueError(f"{where} has {len(lines)} lines of text; accepted: one caption")
    return lines[0]


def image_files(folder: Path) -> Iterator[Path]:
    """Yield the image files of a folder and of the folders in it, by their endings."""
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGES:
                yield Path(place, name)


def _caption_file(image: Path) -> Path | None:
    """The one caption file of an image, None if it has none. Raises ValueError for two."""
    endings = (*CAPTIONS, *(ending.upper() for ending in CAPTIONS))
    found = [file for ending in endings if (file := image.with_suffix(ending)).is_file()]
    # A file system that ignores case finds one file twice.
    different = [file for k, file in enumerate(found) if not any(map(file.samefile, found[:k]))]
    if len(different) > 1:
        names = " and ".join(file.name for file in different)
        raise ValueError(f"{image} has the captions {names} beside it; accepted: one of them")
    return different[0] if different else None


def _text(file: Path) -> str:
    """The content of a text file."""
    return decoded(file.read_bytes(), str(file))


def decoded(content: bytes, where: str) -> str:
    """The text of a file, with or without a byte order mark; `where` begins the error message.

    Raises:
        ValueError: If it is not UTF-8.
    """
    try:
        return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig").read()
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is not UTF-8 text: {error}") from error
