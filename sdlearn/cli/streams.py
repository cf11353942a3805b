"""The standard streams of a command that cannot be written to, such as a log on a full disk."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO


class PatientStream:
    """A stream that ignores errors of writing and is otherwise the stream `below`."""

    def __init__(self, below: TextIO) -> None:
        """Write to `below`."""
        self.below = below

    def write(self, text: str) -> int:
        """Write a text, or lose it if the system refuses."""
        with suppress(OSError):
            return self.below.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush what was written, if the system lets it."""
        with suppress(OSError):
            self.below.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.below, name)


@contextmanager
def patient_stderr() -> Iterator[None]:
    """A context manager in which progress and messages that cannot be printed raise no error.

    A stream that the shell has closed is replaced by one that leads nowhere.
    """
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - as long as the process
    before = sys.stderr
    sys.stderr = PatientStream(before)
    try:
        yield
    finally:
        sys.stderr = before
        try:
            before.flush()
        except OSError:
            lead_nowhere(before)


def flush_stdout() -> None:
    """Flush what was printed.

    Raises:
        BrokenPipeError: If the program that reads it has ended.
        OSError: If the system refuses, such as on a full disk.
    """
    if sys.stdout is None:  # the shell has closed it
        return
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        lead_nowhere(sys.stdout)
        raise
    except OSError as error:
        lead_nowhere(sys.stdout)
        raise OSError(f"the output cannot be written: {error.strerror}") from error


def say(text: str) -> None:
    """Print a line of a result, with the errors of `flush_stdout`."""
    try:
        print(text)
    except BrokenPipeError:
        raise
    except OSError as error:  # Python may be told not to buffer
        raise OSError(f"the output cannot be written: {error.strerror}") from error


def lead_nowhere(stream: TextIO) -> None:
    """Let a stream write nowhere: Python flushes it at its end, which must not fail again."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def escape_what_cannot_be_printed() -> None:
    """Let stdout print a file name in any locale; stderr does so anyway."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def end_progress() -> None:
    """End the line of a progress bar, so that a message begins on a line of its own."""
    module = sys.modules.get("tqdm")  # without it there is no bar
    bars = list(getattr(module.tqdm, "_instances", ())) if module is not None else []
    if any(not bar.disable for bar in bars):
        print(file=sys.stderr)
