"""Temporary files and folders, which are renamed when complete, and those of processes that died.

The process that writes one in a shared folder holds a lock on it, which the system releases when
the process dies. So another one can tell whether it is still written, also from another container
or, where the disk passes locks on, another machine. The name has the process's number.
"""

import errno
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PART = ".part"  # the end of every temporary name


def temporary_name(path: Path) -> Path:
    """A new name beside `path` that no other process chooses; it begins with a dot."""
    return path.with_name(f".{os.getpid()}-{secrets.token_hex(8)}{PART}")


@contextmanager
def held_part(path: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """A context manager that makes a temporary file or folder beside `path` and holds it.

    Windows and some network disks have no such locks; there nothing is held.

    Args:
        path: What it will be renamed to.
        make: Makes an empty file or folder.

    Yields:
        Its name.
    """
    while True:
        part = temporary_name(path)
        make(part)
        handle = os.open(part, os.O_RDONLY) if os.name == "posix" else None
        if handle is None or (try_lock(handle, shared=True) is not False and part.exists()):
            break
        os.close(handle)  # `remove_abandoned` was faster than the lock; the next name is ours
    try:
        yield part
    finally:
        if handle is not None:
            os.close(handle)


def try_lock(handle: int, shared: bool = False) -> bool | None:
    """Lock an open file at once: whether that succeeded, or None if there are no locks here."""
    import fcntl

    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True


def remove_leftovers(folder: Path, seconds: float = 0.0) -> None:
    """Delete the temporary files and folders of processes that died while they wrote.

    Args:
        folder: Where to look; it may be missing.
        seconds: Leave alone what was changed within this time, because another process may still
            write it.
    """
    for part in folder.glob(f".*{PART}"):
        with suppress(FileNotFoundError):
            if time.time() - part.stat().st_mtime >= seconds:
                remove(part)


def remove_abandoned(folder: Path) -> None:
    """Delete those temporary files and folders of a shared folder that no living process holds.

    Args:
        folder: Where to look; it may be missing.
    """
    if os.name != "posix":
        return
    for part in folder.glob(f".*{PART}"):
        if may_be_written(part):
            continue
        with suppress(OSError):  # another process removes it, or it is another user's
            handle = os.open(part, os.O_RDONLY)
            try:
                if try_lock(handle):
                    remove(part)
            finally:
                os.close(handle)


def may_be_written(part: Path) -> bool:
    """Whether the number in a temporary name is that of another process that is alive.

    The first versions held no locks.
    """
    number = part.name[1:].partition("-")[0]
    if not (number.isdecimal() and 0 < int(number) < 2**31):
        return True  # not one of ours
    if int(number) == os.getpid():
        return False  # this process is about to start; in a container all have the same number
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        pass
    return True


def remove(part: Path) -> None:
    """Delete a file or a folder."""
    if part.is_dir():
        shutil.rmtree(part)
    else:
        part.unlink()
