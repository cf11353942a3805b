"""Atomic writing: files and folders get a temporary name first and are renamed when complete."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sdlearn.utils.validation import shown


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A context manager for a temporary file, renamed to `path` on success and else deleted.

    Yields:
        The temporary path, in the same folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def check_writable(out: Path, suffix: str, what: str) -> None:
    """Check before the work whether the option --out names a file that can be written.

    Args:
        out: The file.
        suffix: Its suffix, such as ".png".
        what: What will be written, for the message.

    Raises:
        ValueError: If the name does not end in the suffix.
        OSError: If it is a folder, or its folder is missing or cannot be written to.
    """
    if out.suffix.lower() != suffix:
        raise ValueError(f"--out is {out}; the name of {what} must end in {suffix}")
    try:
        out.with_name(out.name + ".part").is_file()  # as atomic_write calls it
    except OSError as error:
        raise ValueError(f"--out is {shown(str(out))}: {error.strerror}") from error
    if out.is_dir():
        raise IsADirectoryError(f"--out is {out}, which is a folder; give the name of a file")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"--out is {out}, but there is no folder {out.parent}")
    try:
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise PermissionError(
            f"--out is {out}, but the folder {out.parent} cannot be written to: {error.strerror}"
        ) from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object as JSON in the style of published configurations: sorted, indented by two."""
    with atomic_write(path) as part:
        part.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not readable JSON, or not an object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; a published model folder holds it")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected a JSON object")
    return content


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Have `write` fill a temporary folder, then replace `folder` by it."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    write(part)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)
