"""Files that are whole or absent: everything written here is put beside its place, then moved."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, moved onto it when the block ends well, else removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def check_writable(out: Path, suffix: str, what: str) -> None:
    """Find out before the work, not after it, whether `what` can be written to the file --out.

    Raises ValueError or OSError, in one sentence, where it cannot.
    """
    if out.suffix.lower() != suffix:
        raise ValueError(f"--out is {out}; the name of {what} must end in {suffix}")
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
    """Write an object the way published configurations are written: sorted, indented by two."""
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read an object; FileNotFoundError or ValueError, in one sentence, where there is none."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; a published model folder holds it")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected a JSON object")
    return content
