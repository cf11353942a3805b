"""What can happen to a file: each function damages the one at a path."""

from pathlib import Path

import numpy as np


def cut(path: Path) -> None:
    """Keep the first half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(path: Path) -> None:
    """Keep the length, as a file system may after a power failure."""
    path.write_bytes(bytes(path.stat().st_size))


def scramble(path: Path) -> None:
    """Replace all bytes by random ones."""
    path.write_bytes(np.random.default_rng(0).bytes(path.stat().st_size))


def flip(path: Path) -> None:
    """Change one bit."""
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def remove(path: Path) -> None:
    """Delete it."""
    path.unlink()
