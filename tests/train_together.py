"""Trainings one after the other, in this process or, under torchrun, in several at a time.

    train_together.py DTYPE ARGUMENTS [ARGUMENTS ...]

DTYPE is float32 or float64, and ARGUMENTS those of one command of sdlearn, as a JSON list. In
float64 every number of a training is one: rounding is then too small to hide a wrong gradient.
"""

import functools
import json
import sys

import torch
import torch.distributed as dist

from sdlearn import StableDiffusion, training
from sdlearn.cli.main import main


def compute_in_float64() -> None:
    """Make float64 of what the recipes call float(), and draw no samples, which are float32."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    vars(training)["save_samples"] = lambda *_: None
    read = StableDiffusion.from_pretrained
    double = functools.partial(read, dtype=torch.float64)
    StableDiffusion.from_pretrained = double  # type: ignore[method-assign]


if __name__ == "__main__":
    torch.set_num_threads(1)
    dtype, *commands = sys.argv[1:]
    if dtype == "float64":
        compute_in_float64()
    if dist.is_torchelastic_launched():
        dist.init_process_group("gloo")
    codes = [main(json.loads(command)) for command in commands]
    sys.exit(max(codes))
