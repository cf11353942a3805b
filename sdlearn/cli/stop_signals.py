"""The signals that end a training between two steps."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C, SIGTERM and SIGHUP set: the loop then stops between two steps.

    A terminal that is closed sends SIGHUP, unless `nohup` has it ignored. After any of them, Ctrl-C
    interrupts at once. Outside the main thread no signal is handled.

    The signals stay handled after a ConnectionError, with which a training in several processes
    ends: torchrun's SIGTERM would cut off the message.
    """
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def handle(number: int, frame: object) -> None:
        if stopped.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stopped.set()

    numbers: list[int] = [signal.SIGINT, signal.SIGTERM]
    if os.name == "posix" and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stopped
    except ConnectionError:  # another process has died, and torchrun ends this one, too
        before.clear()  # but first it says why
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
