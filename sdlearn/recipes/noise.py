"""The noise of a training step."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sdlearn.training import step_generator


def draw_noise(
    shape: Sequence[int], seed: int, step: int, device: torch.device, stream: int = 0
) -> Tensor:
    """Standard normal noise of one step, drawn on the GPU for CUDA, else on the CPU."""
    source = "cuda" if device.type == "cuda" else "cpu"
    generator = step_generator(seed, step, stream, source)
    return torch.randn(*shape, generator=generator, device=source).to(device)
