"""A lock that one process holds on a folder, and that the system releases when the process dies.

The lock belongs to the open file `.lock`, not to its existence. So a lock file that a killed
process left behind locks nothing, and no timeout has to be guessed.
"""

import errno
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK = ".lock"
FAR = 1 << 30  # Windows locks bytes: one that is never read, so that the number can be
TAKEN = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}

_held: set[int] = set()  # file descriptors


@contextmanager
def run_lock(folder: Path) -> Iterator[Callable[[], None]]:
    """A context manager that holds the lock of a folder and makes the folder if necessary.

    If the block raises and the folder holds nothing but the lock, the lock is removed, and so are
    the folder and its parents if they were made for it.

    Args:
        folder: The folder of a run.

    Yields:
        A function that raises FileNotFoundError if the folder was deleted, moved or replaced. A new
        training may have the lock of a new folder of that name.

    Raises:
        BlockingIOError: If another process has the lock.
        OSError: If the folder cannot be made or written to.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open_locked(folder)
    except BlockingIOError:
        raise
    except OSError as error:
        raise type(error)(
            f"the folder {folder} cannot be made or written to: {error.strerror}; give another "
            "--out"
        ) from error

    def check() -> None:
        if not is_open_as(handle, folder / LOCK):
            raise FileNotFoundError(
                f"{folder}, or the file {LOCK} in it, was deleted, moved or replaced while a "
                "training wrote to it, so the training was stopped"
            )

    _held.add(handle)
    try:
        yield check
    except BaseException:
        with suppress(OSError):
            if is_open_as(handle, folder / LOCK) and len(list(folder.iterdir())) == 1:
                (folder / LOCK).unlink()
                for path in made:
                    path.rmdir()
        raise
    finally:
        _held.discard(handle)
        os.close(handle)


def check_unlocked(folder: Path) -> None:
    """Check that no other process has the lock of a folder, and change nothing.

    Raises:
        BlockingIOError: If one has.
    """
    path = folder / LOCK
    if not path.is_file():
        return
    handle = os.open(path, os.O_RDWR)
    try:
        lock(handle)
    except OSError as error:
        raise taken(folder) from error
    finally:
        os.close(handle)


def taken(folder: Path) -> BlockingIOError:
    """The error for a folder that another process has locked."""
    return BlockingIOError(
        f"another training{holder(folder / LOCK)} is writing to {folder}; wait until it ends, or "
        "give another --out"
    )


def open_locked(folder: Path) -> int:
    """Open the lock file of a folder and lock it.

    Returns:
        The file descriptor; closing it releases the lock. Programs that this one starts do not
        inherit it.
    """
    path = folder / LOCK
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            lock(handle)
            if is_open_as(handle, path):
                os.ftruncate(handle, 0)
                os.write(handle, f"{os.getpid()}\n".encode())
                return handle
        except OSError as error:
            os.close(handle)
            if error.errno in TAKEN:
                raise taken(folder) from error
            raise
        os.close(handle)  # its holder has just removed the file; the next one is ours


def is_open_as(handle: int, path: Path) -> bool:
    """Whether a path still names an open file."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def lock(handle: int) -> None:
    """Lock an open file or raise OSError at once; warn where the file system has no locks."""
    try:
        if os.name == "nt":
            import msvcrt

            os.lseek(handle, FAR, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
            os.lseek(handle, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in TAKEN:
            raise
        warnings.warn(
            f"the run's folder cannot be locked ({error.strerror}); make sure that no other "
            "training writes to it",
            stacklevel=2,
        )


def holder(path: Path) -> str:
    """The number of the process that has the lock, for a message; "" if it cannot be read."""
    with suppress(OSError, ValueError):
        return f" (process {int(path.read_text(encoding='ascii'))})"
    return ""


def _release_in_child() -> None:
    """Close the locks that a forked process has inherited, or they would outlive their holder."""
    for handle in _held:
        os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_in_child)
