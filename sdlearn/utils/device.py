"""The device a network runs on, its memory layout, and the precision of its arithmetic."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import nn
from torch.amp import GradScaler
from torch.overrides import TorchFunctionMode

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


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global CPU generator, which initialises layers, and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also set every GPU's
        yield


@contextmanager
def without_memory() -> Iterator[None]:
    """A context in which networks are built on torch's meta device.

    Their parameters have shapes but no memory until weights are loaded, and are not initialised.
    """
    with torch.device("meta"), NoInitialisation():
        yield


class NoInitialisation(TorchFunctionMode):
    """Skips the functions of torch.nn.init.

    On the meta device they change nothing, but the first of them makes torch import its compiler,
    which takes five seconds.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, or return the tensor that it'd have initialised."""
        kwargs = kwargs or {}
        skipped = getattr(func, "__module__", None) == "torch.nn.init"
        return kwargs["tensor"] if skipped else func(*args, **kwargs)


def autocast(device: torch.device, precision: str = "auto") -> AbstractContextManager[object]:
    """A context manager for mixed precision: matrix products and convolutions in half precision.

    Args:
        device: Where to compute.
        precision: "float32", "bf16", "fp16"; or "auto" for bf16 on CUDA, where it is faster, and
            float32 elsewhere.
    """
    if precision == "auto" and device.type == "cuda":
        precision = "bf16"
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def loss_scaler(device: torch.device, precision: str) -> GradScaler:
    """A scaler of the loss for "fp16", in which gradients below 6e-8 would become 0.

    It starts at 2^16, is halved after a step whose gradients are not finite, and doubled after
    2,000 good ones (Micikevicius et al., arXiv:1710.03740). For the other precisions it does
    nothing.
    """
    return GradScaler(device.type, enabled=precision == "fp16")


def need_compiler(device: torch.device) -> None:
    """Raise ValueError if torch.compile, which generates C++ for a CPU, finds no compiler."""
    compilers = (os.environ.get("CXX", ""), "g++", "clang++", "c++", "cl")
    if device.type == "cpu" and not any(map(shutil.which, compilers)):
        raise ValueError("compile is True, and no C++ compiler is installed; accepted: False")
