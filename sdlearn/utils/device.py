"""The device a network runs on, its memory layout, and the precision of its arithmetic."""

import os
import shutil
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import nn

N = TypeVar("N", bound=nn.Module)


def pick_device(name: str | None = None) -> torch.device:
    """The named device, or the first available of CUDA GPU, Apple GPU and CPU.

    Raises:
        ValueError: If this machine has no device of that name.
    """
    if name is not None:
        try:
            if torch.device(name).type not in ("cpu", "cuda", "mps"):
                raise RuntimeError("no training or sampling was ever tried on it")
            return torch.empty(0, device=name).device
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"device is {name!r}, which is not available: {reason}; accepted: cpu, cuda, mps"
            ) from None
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def channels_last(network: N, device: torch.device) -> N:
    """Move a network to a device, in the memory layout in which convolutions are fastest."""
    network.to(device)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """A context manager for mixed precision: bfloat16 on CUDA, where it is faster, else float32."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def need_compiler(device: torch.device) -> None:
    """Raise ValueError if torch.compile, which generates C++ for a CPU, finds no compiler."""
    compilers = (os.environ.get("CXX", ""), "g++", "clang++", "c++", "cl")
    if device.type == "cpu" and not any(map(shutil.which, compilers)):
        raise ValueError("compile is True, and no C++ compiler is installed; accepted: False")
