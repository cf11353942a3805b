"""Atomic writing: files and folders get a temporary name first and are renamed when complete.

They are flushed to the disk before they are renamed. A process that is killed, or a power failure,
leaves the old file or the new one, and perhaps a temporary one, which part_files deletes later.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sdlearn.utils.file_kinds import describe_content
from sdlearn.utils.part_files import held_part, temporary_name
from sdlearn.utils.validation import check_place, shown

# Bytes of a JSON file; published ones have a few thousand, those of a tokenizer a few million.
LARGEST_JSON = 2**26


def user_path(path: str | Path) -> Path:
    """A path as a user gives it, with "~" for the home folder.

    Raises:
        ValueError: If it is not a path.
        FileNotFoundError: If it begins with "~NAME/", and there is neither such a user nor folder.
        OSError: If no file system can look for it, such as for a name that is too long.
    """
    place = Path(os.path.expanduser(check_place(path, "path")))
    first, *below = place.parts or ("",)
    try:
        if first.startswith("~") and below and not Path(first).exists():
            raise FileNotFoundError(
                f"{shown(str(place))} cannot be opened: there is no user {shown(first[1:])}"
            )
        place.exists()
    except OSError as error:
        if error.strerror is None:  # it is a sentence
            raise
        raise type(error)(f"{shown(str(place))} cannot be opened: {error.strerror}") from error
    return place


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A context manager for a temporary file, renamed to `path` on success and else deleted.

    The file is flushed to the disk before it gets its name, so that `path` is the old file or the
    whole new one, even after a power failure. The temporary name is unique: two processes may write
    the same file at the same time, and the last one wins.

    Yields:
        The temporary path, in the same folder.

    Raises:
        OSError: As in the block; one that names no file names this one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with held_part(path, Path.touch) as part:
        try:
            yield part
            sync_file(part)
            os.replace(part, path)
        except OSError as error:
            if error.filename is not None or error.strerror is None:
                raise
            raise type(error)(error.errno, error.strerror, str(path)) from error  # a full disk
        finally:
            part.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Flush a file's contents to the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Flush a rename inside `folder` to the disk; Windows and some network disks cannot do that."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            with suppress(OSError):
                os.fsync(handle)
        finally:
            os.close(handle)


def sync_tree(folder: Path) -> None:
    """Flush all files of a folder, and the folders below it, to the disk."""
    for path in (*folder.rglob("*"), folder):
        if path.is_dir():
            sync_folder(path)
        else:
            sync_file(path)


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


def check_folder(folder: Path, needed: int = 0, files: Iterable[str] = ()) -> None:
    """Check before the work whether files can be written into a folder, which need not exist yet.

    Args:
        folder: The folder.
        needed: Bytes that will be written.
        files: The names of the files.

    Raises:
        OSError: If it is a file or lies in one, is a link to nothing, cannot be written to, or has
            too little space, or if a folder has the name of one of the files.
    """
    for each in (folder, *folder.absolute().parents):
        if each.is_symlink() and not each.exists():
            raise NotADirectoryError(
                f"{each} is a link to {os.readlink(each)}, which does not exist; give a folder to "
                "write to"
            )
    place = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not place.is_dir():
        what = "is a file" if place == folder else f"lies in {place}, which is a file"
        raise NotADirectoryError(f"{folder} {what}; give a folder to write to")
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise PermissionError(
            f"{folder} cannot be written to: {error.strerror}; give another folder"
        ) from error
    for path in (folder / name for name in files):
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder; a file of this name is to be written")
    free = shutil.disk_usage(place).free
    if needed > free:
        raise OSError(f"{folder} needs {needed:,} bytes, but only {free:,} are free on its disk")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object as JSON in the style of published configurations: sorted, indented by two."""
    with atomic_write(path) as part:
        part.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object in UTF-8, with or without a byte order mark.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not readable JSON, or not an object, or larger than LARGEST_JSON.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; a published model folder holds it")
    size = path.stat().st_size
    if size > LARGEST_JSON:
        raise ValueError(
            f"{path} has {size:,} bytes; at most {LARGEST_JSON:,} bytes of JSON are read"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        is_what = describe_content(path)
        if is_what:
            raise ValueError(f"{path} is not readable JSON: it is {is_what}") from error
        raise ValueError(f"{path} is not readable JSON: {error}") from error
    except RecursionError:
        reason = "its lists or objects are nested too deeply"
        raise ValueError(f"{path} is not readable JSON: {reason}") from None
    except ValueError:  # Python converts at most 4300 digits
        reason = "it holds a number with thousands of digits"
        raise ValueError(f"{path} is not readable JSON: {reason}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected a JSON object")
    return content


def add_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Have `write` fill a new folder, unless another process makes the same one first."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with held_part(folder, Path.mkdir) as part:
        try:
            write(part)
            sync_tree(part)
            os.rename(part, folder)
            sync_folder(folder.parent)
        except OSError:
            if not folder.is_dir():
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Have `write` fill a temporary folder, then replace `folder` by it.

    A folder cannot be replaced in one step. The old one is therefore renamed first and deleted
    last; `recover_folder` brings it back if the process died in between.
    """
    recover_folder(folder)
    part = temporary_name(folder)
    part.mkdir(parents=True)
    try:
        write(part)
        sync_tree(part)
        if folder.is_dir():
            os.replace(folder, old_name(folder))
        os.replace(part, folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        recover_folder(folder)


def recover_folder(folder: Path) -> None:
    """Finish a `replace_folder` whose process died: keep the new folder or the old one.

    A new folder that already has its final name is complete.
    """
    old = old_name(folder)
    if old.is_dir():
        if folder.exists():
            shutil.rmtree(old)
        else:
            os.replace(old, folder)


def old_name(folder: Path) -> Path:
    """The name of the old folder while `replace_folder` replaces it."""
    return folder.with_name(f".{folder.name}.old")
