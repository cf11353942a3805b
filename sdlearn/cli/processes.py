"""The processes of one training run, as torchrun starts them, and which of them prints errors.

torchrun tells each process its number and the address of the others in environment variables. It
ends all processes when one of them fails. `accelerate launch` sets the same variables, and others
for programs that use accelerate, which this one does not.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# The first process may draw images for hours while the others wait. A process that dies is noticed
# at once, because its connections break.
PATIENCE = timedelta(days=2)
FIRST_CONTACT = timedelta(minutes=10)  # for all processes to start and to find each other

# What `accelerate launch` can ask for: variable -> (the value that changes nothing, our option).
ACCELERATE = {
    "ACCELERATE_MIXED_PRECISION": ("no", "--precision"),
    "ACCELERATE_DYNAMO_BACKEND": ("no", "--set compile=True"),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("1", "--accumulate"),
    "ACCELERATE_USE_FSDP": ("false", "--shard"),
    "ACCELERATE_USE_DEEPSPEED": ("false", "--shard"),
    "ACCELERATE_USE_MEGATRON_LM": ("false", "--shard"),
    "ACCELERATE_USE_PARALLELISM_CONFIG": ("false", "--shard"),
    "ACCELERATE_USE_CPU": ("false", "--device cpu"),
}


def started() -> tuple[int, int, int]:
    """How this process was started.

    Returns:
        The number of processes, the number of this one, and its number on this machine.

    Raises:
        ValueError: If the environment variables are not as torchrun sets them.
    """
    count = variable("WORLD_SIZE", "1", 1, 2**20)
    if count == 1:
        return 1, 0, 0
    rank = variable("RANK", None, 0, count - 1)
    local = variable("LOCAL_RANK", None, 0, rank)
    if not os.environ.get("MASTER_ADDR"):
        raise ValueError("MASTER_ADDR is not set; start the processes with torchrun")
    variable("MASTER_PORT", None, 1, 2**16 - 1)
    return count, rank, local


def check_accelerate(device: str | None) -> None:
    """Check that accelerate's launcher asks for nothing that only accelerate can do.

    Args:
        device: The name of the kind of device, or None.

    Raises:
        ValueError: If it does, or if it has started one process where several were meant.
    """
    for name, (nothing, option) in ACCELERATE.items():
        value = os.environ.get(name, nothing)
        if value.lower() == nothing or (name == "ACCELERATE_USE_CPU" and device == "cpu"):
            continue
        raise ValueError(
            f"{name} is {value[:40]!r}, which only programs with accelerate read; accepted: "
            f"{nothing!r}, and {option} instead"
        )
    # With --cpu it ignores --num_processes: it sets the address, and starts a single process.
    alone = "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ
    if alone and "ACCELERATE_MIXED_PRECISION" in os.environ:
        raise ValueError(
            "accelerate has started one process where several were meant, as it does on the CPU; "
            "start them with torchrun"
        )


def variable(name: str, missing: str | None, low: int, high: int) -> int:
    """The whole number in an environment variable of torchrun.

    Raises:
        ValueError: If it holds none in this range.
    """
    text = os.environ.get(name, missing)
    if text is None:
        raise ValueError(f"{name} is not set; start the processes with torchrun")
    if not text.isdecimal() or len(text) > 9 or not low <= int(text) <= high:
        raise ValueError(
            f"{name} is {text[:40]!r}; accepted: a whole number from {low} to {high}, as torchrun "
            "sets it"
        )
    return int(text)


@contextmanager
def joined(device: str | None) -> Iterator["torch.device"]:
    """A context in which this process is connected to the others, if there are others.

    Args:
        device: The name of the kind of device, or None for the first available.

    Yields:
        The device of this process: with several GPUs, one for each process of this machine.

    Raises:
        ValueError: If there is no such device, or not one for each process, or if the processes
            were started in a way that is not supported.
        ConnectionError: If the others cannot be found.
    """
    import torch.distributed as dist

    from sdlearn.distributed import connected
    from sdlearn.utils.device import pick_device

    check_accelerate(device)
    count, _, local = started()
    if count > 1 and not dist.is_available():
        raise ValueError(f"this torch cannot connect {count} processes; accepted: one process")
    if count == 1 or dist.is_initialized():
        yield pick_device(device)
        return
    chosen = device_for(device, local)
    connect("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo")
    with connected(messages_only=False):
        yield chosen
    dist.destroy_process_group()  # not after an error: the others have ended


def connect(backend: str) -> None:
    """Connect this process to the others.

    Args:
        backend: How torch sends tensors.

    Raises:
        ConnectionError: If the others are not there.
    """
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    try:
        store, rank, count = next(rendezvous("env://", timeout=FIRST_CONTACT))
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=PATIENCE)
    except (RuntimeError, OSError) as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise ConnectionError(
            f"the other processes were not found at {place} (MASTER_ADDR and MASTER_PORT) within "
            f"{FIRST_CONTACT.seconds // 60} minutes; start all of them, with the same address"
        ) from error


def device_for(name: str | None, local: int) -> "torch.device":
    """The device of one of several processes.

    Args:
        name: See `joined`.
        local: The number of the process on this machine.

    Raises:
        ValueError: If there is no such device, or none for this process.
    """
    import torch

    from sdlearn.utils.device import pick_device

    device = pick_device(name)
    if device.type == "mps" or (name is not None and ":" in name):
        raise ValueError(
            f"device is {name or device.type}, which is one device for several processes; "
            "accepted: cuda, cpu"
        )
    if device.type == "cuda":
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"device is cuda, and this machine has {torch.cuda.device_count()} GPUs for "
                f"{local + 1} processes or more; accepted: at most one process for each GPU, or cpu"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    return device


class OtherProcessFailed(Exception):
    """Another process has failed, and has said why."""


@contextmanager
def first_process_first() -> Iterator[None]:
    """A context whose block runs in the first process, and then in the others.

    The others find the files that the first process has written. If it refuses something, only it
    says so.

    Raises:
        OtherProcessFailed: If the block has failed in another process.
    """
    from sdlearn.distributed import ProcessLost, any_process, is_first_process

    if not is_first_process() and any_process(False):
        raise OtherProcessFailed
    try:
        yield
    except BaseException:
        with suppress(ProcessLost):  # its own error says more
            any_process(True)
        raise
    if (is_first_process() and any_process(False)) or any_process(False):
        raise OtherProcessFailed


def check_same_settings(*settings: object) -> None:
    """Check that all processes were started with the same settings, before any of them works.

    Raises:
        ValueError: In each process whose settings differ from those of the first.
        OtherProcessFailed: In the others, if there is such a process.
    """
    from sdlearn.distributed import any_process, check_same

    digest = hashlib.sha256(repr(settings).encode()).hexdigest()
    try:
        check_same(int(digest[:8], 16), "the checksum of the settings")
    except ValueError:
        any_process(True)
        raise
    if any_process(False):
        raise OtherProcessFailed


@contextmanager
def locked(folder: Path) -> Iterator[Callable[[], None]]:
    """The lock of a folder, which the first process holds for all; see `run_lock`."""
    from sdlearn.distributed import is_first_process
    from sdlearn.recipes.run_folder import check_shared
    from sdlearn.utils.run_lock import run_lock

    with ExitStack() as stack:
        with first_process_first():
            lock = run_lock(folder) if is_first_process() else nullcontext(lambda: None)
            check_held = stack.enter_context(lock)
            check_shared(folder)
        yield check_held


def may_speak() -> bool:
    """Whether this process may print its error: of several, only the first that has one may.

    Their store, which torchrun keeps, counts the processes with an error. It can't simply be
    process 0, which may have been killed.
    """
    try:
        count, *_ = started()
    except ValueError:
        return True
    if count == 1:
        return True
    import torch.distributed as dist

    host, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            host, int(port), is_master=False, timeout=timedelta(seconds=5)
        )
        return store.add(f"sdlearn/errors/{start}", 1) == 1
    except (RuntimeError, ValueError, OSError):  # there is no store, so no other process can ask it
        return True


def is_quiet() -> bool:
    """Whether this is one of several processes, and not the first, which alone reports progress."""
    return os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK", "0") != "0"
