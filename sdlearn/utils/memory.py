"""How much memory images need, estimated before the work, and how much there is.

The estimates count the largest tensors that must exist at the same time. They are lower bounds, of
about two thirds of what is measured, so what is refused could not have been drawn; a little less
may still run out of memory.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from sdlearn.utils.validation import one_line

MEMINFO, CONTAINER = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
GENERATOR = 5056  # bytes of the state of one torch.Generator on the CPU
FULL = (  # what torch says, in lower case, when the memory of the computer or a device is full
    "allocate memory", "enough memory", "out of memory", "tried to allocate", "buffer size",
)  # fmt: skip
UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")


def unet_bytes(
    channels: Sequence[int],
    layers: int,
    attention: Sequence[bool],
    size: tuple[int, int],
    itemsize: int,
) -> int:
    """Bytes that a U-Net needs for one latent.

    Args:
        channels: Channels of each level, the highest resolution first.
        layers: ResBlocks of a level.
        attention: Whether a level has transformers.
        size: (h, w) of the latent.
        itemsize: Bytes of one element.
    """
    positions = [-(-size[0] // 2**k) * -(-size[1] // 2**k) for k in range(len(channels))]
    most, skips = 0, 0
    for c, hw, has in zip(channels, positions, attention, strict=True):
        # A ResBlock holds its input, the normalised input and the output of a convolution. A
        # transformer's feed-forward layer holds eight-fold channels, half of them after the
        # activation and their product with the rest.
        most = max(most, skips + (layers + (16 if has else 3)) * c * hw)
        skips += (layers + 1) * c * hw
    return most * itemsize


def vae_bytes(channels: Sequence[int], size: tuple[int, int], itemsize: int) -> int:
    """Bytes that an autoencoder needs for one image of this size (height, width).

    The decoder's last level begins with an upsampled feature map of the level before it.
    """
    return 2 * channels[min(1, len(channels) - 1)] * size[0] * size[1] * itemsize


def image_bytes(size: tuple[int, int]) -> int:
    """Bytes of one finished image (height, width): float32, and 8 bits of three channels."""
    return 3 * (4 + 1) * size[0] * size[1]


def check_fits(size: tuple[int, int], images: int, needed: int, free: int | None) -> None:
    """Raise ValueError if images of this size (height, width) need more bytes than are free.

    Args:
        size: Height and width in pixels, for the message.
        images: Number of images, all prompts together, for the message.
        needed: Bytes.
        free: Bytes; None if that is not known.
    """
    if free is not None and needed > free:
        what = f"{images} images" if images > 1 else "one image"
        raise ValueError(
            f"drawing {what} of height {size[0]} and width {size[1]} at a time needs at least "
            f"{in_words(needed)} of memory, but only {in_words(free)} is free; give a smaller "
            "size, fewer images or fewer prompts"
        )


def in_words(count: float) -> str:
    """A number of bytes, such as "1.5 GiB"."""
    for unit in UNITS:
        count /= 1024
        if count < 1000 or unit == UNITS[-1]:
            break
    return f"{count:.1f} {unit}"


def free_memory() -> int | None:
    """Bytes of this computer's memory that a program can still get; None if that is not known."""
    try:
        lines = (line.split() for line in MEMINFO.read_text("ascii").splitlines())
        sizes = {line[0]: int(line[1]) * 1024 for line in lines if len(line) > 1}
        free = sizes["MemAvailable:"] + sizes.get("SwapFree:", 0)
        limit = CONTAINER.read_text("ascii").strip() if CONTAINER.is_file() else "max"
        return min(free, int(limit)) if limit != "max" else free
    except (OSError, KeyError, ValueError):  # not Linux
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows
        return None


def is_about_memory(error: Exception) -> bool:
    """Whether the memory of the computer or of a device is full, which torch says in many ways."""
    full = isinstance(error, RuntimeError) and any(each in str(error).lower() for each in FULL)
    return full or isinstance(error, MemoryError)


def in_a_sentence(error: Exception) -> str:
    """What to say of such an error, and what may help."""
    return (
        f"there is not enough memory ({one_line(error)[:160]}); try a smaller size, fewer images "
        "or a smaller model"
    )
