"""Estimates of memory and disk space, so that what cannot fit is refused before any work.

They are lower bounds: a training that is refused could not have run.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from sdlearn.distributed import process_count
from sdlearn.recipes.recipe import Recipe

TRAINED = 4  # a weight, its gradient, and two averages of the optimizer


def check_memory(
    recipe: Recipe,
    device: torch.device,
    networks: Callable[[], nn.Module],
    width: int,
    copies: int = TRAINED,
) -> None:
    """Check whether the networks, and the activations of one layer, can fit in the memory.

    Args:
        recipe: Gives the batch and the size of the images.
        device: Where to train.
        networks: Builds the networks; it is called on torch's meta device, without their memory.
        width: Values of one layer's output for each pixel of an image.
        copies: Numbers kept for each weight.

    Raises:
        ValueError: If the memory is too small.
    """
    with torch.device("meta"):
        weights = sum(p.numel() for p in networks().parameters())
    total = memory(device)
    shares = process_count() if getattr(recipe, "shard", False) else 1
    need(
        4 * copies * weights // shares, total,
        f"the networks have {weights:,} weights, and training them", "smaller ones",
    )  # fmt: skip
    rows = recipe.batch // (process_count() * getattr(recipe, "accumulate", 1))
    layer = rows * recipe.size**2 * width
    need(
        4 * layer, total,
        f"one layer's output for {rows} images of {recipe.size} pixels",
        "a smaller batch or size",
    )  # fmt: skip


def check_pages(recipe: Recipe, device: torch.device, copies: int = 1) -> None:
    """Check whether a part of the training that keeps all pages in memory can do so."""
    amount = copies * recipe.scenes * recipe.size**2 * 3
    need(amount, memory(device), f"{copies * recipe.scenes:,} pages", "fewer scenes")


def check_disk(folder: Path, amount: int, what: str) -> None:
    """Check whether a disk has room for files.

    Args:
        folder: Where they will be; it may be missing.
        amount: Bytes.
        what: The files, for the message.

    Raises:
        ValueError: If there is too little room.
    """
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if amount > free:
        raise ValueError(
            f"{what} take {size(amount)}, and the disk of {place} has {size(free)} free; accepted: "
            "fewer scenes or a smaller size"
        )


def need(amount: int, total: int | None, what: str, accepted: str) -> None:
    """Raise ValueError if something needs more bytes than there are; None for an unknown total."""
    if total is not None and amount > total:
        raise ValueError(
            f"{what} takes at least {size(amount)}, and this machine has {size(total)} of memory; "
            f"accepted: {accepted}"
        )


def memory(device: torch.device) -> int | None:
    """Return the bytes of memory of a device, or None if the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None


def size(amount: int) -> str:
    """Format a number of bytes."""
    return f"{amount / 1e9:,.1f} GB" if amount >= 1e8 else f"{amount / 1e6:,.1f} MB"
