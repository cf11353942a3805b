"""What no notebook may do while it is tested: ask the network, or change the repository.

Every Python that starts with this folder on PYTHONPATH loads this file before anything else, so a
notebook's kernel and the programs it starts are watched alike. (An environment with a
sitecustomize of its own goes without that one during the test.) Python tells an audit hook of
each connection and each file before it happens; compiled code that goes round Python is not seen.
"""

import os
import sys
from typing import Any

ROOT = os.path.realpath(os.environ["SDLEARN_UNCHANGED"])
OUR_OWN = {".venv", "__pycache__"}
LOCAL = {"", "localhost", "0.0.0.0", "::1", "::"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# For each event of the audit hook, which of its arguments hold an address, and which a file.
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
    for position in ADDRESSES.get(event, ()):
        keep_to_this_machine(arguments[position])
    if event == "open":
        changes = bool((arguments[2] or 0) & WRITING)
    else:  # the last argument: an open folder that the name is relative to, as rmtree does it
        changes = event in FILES and arguments[-1] in (None, -1)
    for position in FILES[event] if changes else ():
        keep_out(arguments[position])


def keep_to_this_machine(address: Any) -> None:
    host = address[0] if isinstance(address, tuple) else address  # (host, port, …) or a host
    name = os.fsdecode(host or "")
    if os.path.isabs(name):
        return  # a socket of this machine that has a path
    if name not in LOCAL and not name.startswith("127."):
        raise RuntimeError(f"a notebook must run without a network, and this one asks for {name}")


def keep_out(file: Any) -> None:
    if not isinstance(file, str | bytes | os.PathLike):
        return  # the number of a file that is open already
    path = os.path.realpath(os.fsdecode(file))
    if f"{path}{os.sep}".startswith(f"{ROOT}{os.sep}") and not OUR_OWN & {*path.split(os.sep)}:
        raise RuntimeError(
            f"a notebook writes to temporary folders only, and this one changes {path}"
        )


sys.addaudithook(watch)
