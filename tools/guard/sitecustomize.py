"""An audit hook that keeps notebooks under test from using the network or changing the repository.

Every Python that starts with this folder on PYTHONPATH loads this file first, so the hook covers a
notebook's kernel and the programs it starts. (An environment's own sitecustomize is not loaded
during the test.) Python calls an audit hook before each connection and each file access. Compiled
code that bypasses Python is not covered.
"""

import os
import sys
from typing import Any

ROOT = os.path.realpath(os.environ["SDLEARN_UNCHANGED"])
OUR_OWN = {".venv", "__pycache__"}
LOCAL = {"", "localhost", "0.0.0.0", "::1", "::"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# For each event of the audit hook, the positions of its arguments that are addresses, or files.
ADDRESSES = {
    "socket.connect": (1,),
    "socket.sendto": (1,),
    "socket.sendmsg": (1,),
    "socket.getaddrinfo": (0,),
    "socket.gethostbyname": (0,),
}
FILES = {
    "open": (0,),
    "os.mkdir": (0,),
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.rename": (0, 1),
    "shutil.rmtree": (0,),
}


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse an event that uses the network or changes the repository; RuntimeError says which."""
    for position in ADDRESSES.get(event, ()):
        keep_to_this_machine(arguments[position])
    if event == "open":
        changes = bool((arguments[2] or 0) & WRITING)
    else:  # the last argument is an open folder to which the name is relative, as in rmtree
        changes = event in FILES and arguments[-1] in (None, -1)
    for position in FILES[event] if changes else ():
        keep_out(arguments[position])


def keep_to_this_machine(address: Any) -> None:
    """Refuse an address outside this machine."""
    host = address[0] if isinstance(address, tuple) else address  # (host, port, …) or a host
    name = os.fsdecode(host or "")
    if os.path.isabs(name):
        return  # a Unix socket
    if name not in LOCAL and not name.startswith("127."):
        raise RuntimeError(f"a notebook must run without a network, and this one asks for {name}")


def keep_out(file: Any) -> None:
    """Refuse to change a file of the repository."""
    if not isinstance(file, str | bytes | os.PathLike):
        return  # the descriptor of an open file
    path = os.path.realpath(os.fsdecode(file))
    if f"{path}{os.sep}".startswith(f"{ROOT}{os.sep}") and not OUR_OWN & {*path.split(os.sep)}:
        raise RuntimeError(
            f"a notebook writes to temporary folders only, and this one changes {path}"
        )


sys.addaudithook(watch)
