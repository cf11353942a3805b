"""Contact sheets of samples that a training draws now and then."""

from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from sdlearn.utils.atomic_files import atomic_write


def save_samples(draw: Callable[[], Image.Image] | None, folder: Path | None, step: int) -> None:
    """Save a sheet, for example as samples/step-00001000.png.

    Args:
        draw: Draws the sheet; None for a training without samples.
        folder: The run's folder; None to draw the sheet with other processes, which save it.
        step: The steps done.
    """
    if draw is None:
        return
    if folder is None:
        with torch.no_grad():
            draw()
        return
    (folder / "samples").mkdir(exist_ok=True)
    path = folder / "samples" / f"step-{step:08d}.png"
    with torch.no_grad(), atomic_write(path) as part:
        draw().save(part, format="PNG")
