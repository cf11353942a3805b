"""The device a network runs on, its memory layout, and the precision of its arithmetic."""

import os
import shutil
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import nn

from sdlearn.utils.validation import one_line, shown

N = TypeVar("N", bound=nn.Module)


DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def check_dtype(dtype: object) -> torch.dtype:
    """The type to compute in, float32 for None; ValueError for another one."""
    if dtype is None:
        return torch.float32
    if not isinstance(dtype, torch.dtype) or dtype not in DTYPES:
        raise ValueError(
            f"dtype is {shown(dtype)}; it must be one of {', '.join(map(str, DTYPES))}"
        )
    return dtype


def check_module(module: object) -> None:
    """Raise ValueError unless this is a network."""
    if not isinstance(module, nn.Module):
        raise ValueError(f"module is a {type(module).__name__}; it must be a torch.nn.Module")


def check_device(device: object) -> torch.device:
    """The device of this name, or the best one for None; ValueError where there is none."""
    if device is not None and not isinstance(device, str | torch.device):
        raise ValueError(f"device is {shown(device)}; it must be a name, such as cpu, cuda or mps")
    return pick_device(None if device is None else str(device))


def pick_device(name: str | None = None) -> torch.device:
    """The named device, or the first available of CUDA GPU, Apple GPU and CPU.

    Raises:
        ValueError: If this machine has no device of that name.
    """
    if name is not None:
        try:
            if torch.device(name).type not in ("cpu", "cuda", "mps"):
                raise RuntimeError("neither training nor sampling has been tried on it")
            return torch.empty(0, device=name).device
        except (RuntimeError, AssertionError, ImportError) as error:
            reason = one_line([*str(error).splitlines(), type(error).__name__][0], 80)
            raise ValueError(
                f"device is {shown(name)}, which is not available: {reason}; accepted: cpu, "
                "cuda, mps"
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
