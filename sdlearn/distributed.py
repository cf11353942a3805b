"""Training in several processes, one for each device: each trains on its share of a batch.

Every process has all the weights. Like all the others, it draws the whole batch of step k from
(seed, k), and keeps its own rows. After the backward pass the gradients are averaged over the
processes, and each process makes the same update. This is data parallelism, as in
DistributedDataParallel.

If the loss is a mean over rows, and all processes have equally many, the average of their gradients
is the gradient of the whole batch. Other losses need the rows of all processes. CLIP compares every
image with every text of the batch, so the embeddings are gathered before the loss. N processes then
train the same weights as one would, up to rounding, and a run can continue with another number of
processes.

In a single process, every function here returns what it was given.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from sdlearn.utils.sharded_tensors import is_sharded

Rows = TypeVar("Rows", Tensor, NDArray[np.int64])
BUCKET = 2**23  # values averaged in one message: 32 MB of float32


class ProcessLost(ConnectionError):
    """Another process of this training has ended, or cannot be reached."""


def process_count() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if process_count() > 1 else 0


def is_first_process() -> bool:
    """Whether this is process 0, which alone writes files and prints."""
    return process_rank() == 0


# ------------------------------------------------------------------------- the batch and its loss


def own_rows(batch: Rows) -> Rows:
    """The rows of a batch (b, ...) that this process trains on, (b / processes, ...).

    Raises:
        ValueError: If b is not a multiple of the number of processes.
    """
    b, rest = divmod(len(batch), process_count())
    if rest:
        raise ValueError(
            f"the batch has {len(batch)} rows; accepted: multiples of {process_count()}, the "
            "number of processes"
        )
    return batch[process_rank() * b : (process_rank() + 1) * b]


def gather_rows(x: Tensor) -> Tensor:
    """The rows of all processes, in the order of the batch; the inverse of `own_rows`.

    Gradients flow back: a loss that every process computes from all rows has the right gradient
    after `average_gradients`.

    Args:
        x: The rows of this process, (b / processes, ...).

    Returns:
        (b, ...), the same in every process.
    """
    return _GatherRows.apply(x) if process_count() > 1 else x  # type: ignore[no-untyped-call]


class _GatherRows(torch.autograd.Function):
    """All-gather, whose adjoint adds up the gradients of all processes and keeps its own rows."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        parts = [torch.empty_like(x) for _ in range(process_count())]
        with connected():
            dist.all_gather(parts, x)
        return torch.cat(parts)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        # All processes compute the same loss, so the sum is `processes` times its gradient; the
        # average over the processes later divides by that number.
        return own_rows(average(gradient.contiguous()) * process_count())


# ---------------------------------------------------------------------------------------- averages


@torch.no_grad()
def average(x: Tensor) -> Tensor:
    """The average of a tensor over the processes, without gradient; all need the same shape."""
    if process_count() == 1:
        return x
    total = x.detach().clone(memory_format=torch.contiguous_format)
    with connected():
        dist.all_reduce(total)
    return total / process_count()


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace the gradients by their averages over the processes; clip them afterwards.

    The gradients are sent in buckets, because each message has a fixed cost.
    DistributedDataParallel does the same while the backward pass is still running. Gradients of
    sharded parameters (see `sharding`) are averages already.
    """
    if process_count() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None and not is_sharded(p.grad)]
    for bucket in buckets(gradients):
        averages = average(torch.cat([gradient.flatten() for gradient in bucket]))
        sizes = [gradient.numel() for gradient in bucket]
        for gradient, values in zip(bucket, averages.split(sizes), strict=True):
            gradient.copy_(values.view_as(gradient))


def buckets(gradients: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Group gradients, in order, until a group has `BUCKET` values or more."""
    group: list[Tensor] = []
    for gradient in gradients:
        group.append(gradient)
        if sum(each.numel() for each in group) >= BUCKET:
            yield group
            group = []
    if group:
        yield group


def average_metrics(metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The averages of scalars, by name, over the processes: one message for all of them."""
    values = average(torch.stack([value.detach().float() for value in metrics.values()]))
    return dict(zip(metrics, values.unbind(), strict=True))


# --------------------------------------------------------------------------- what all must agree on


def check_same(value: int, what: str) -> None:
    """Check that a number is the same in all processes.

    Raises:
        ValueError: If process 0 has a different one.
    """
    shared = torch.tensor(value)
    if process_count() > 1:
        with connected():
            dist.broadcast(shared, src=0)
    if int(shared) != value:
        raise ValueError(
            f"{what} is {value} for process {process_rank()} and {int(shared)} for process 0; it "
            "must be the same for all"
        )


def any_process(flag: bool) -> bool:
    """Whether the flag is set in at least one process."""
    if process_count() == 1:
        return flag
    shared = torch.tensor(int(flag))
    with connected():
        dist.all_reduce(shared, dist.ReduceOp.MAX)
    return bool(shared)


def decided_by_first(*flags: bool) -> tuple[bool, ...]:
    """The flags of process 0, in every process: for example those that its clock decides."""
    if process_count() == 1:
        return flags
    shared = torch.tensor(flags)
    with connected():
        dist.broadcast(shared, src=0)
    return tuple(shared.tolist())


@contextmanager
def connected(messages_only: bool = True) -> Iterator[None]:
    """A context for messages to other processes; it raises ProcessLost if they cannot be sent.

    Args:
        messages_only: Whether nothing else happens in the context. If something does, an error
            counts only if it comes from the libraries that send, as with sharded weights.
    """
    try:
        yield
    except RuntimeError as error:
        if not messages_only and not is_about_sending(error):
            raise
        raise ProcessLost(
            "another process of this training has ended or cannot be reached; --resume continues "
            "from the last checkpoint"
        ) from error


def is_about_sending(error: RuntimeError) -> bool:
    """Whether an error comes from sending a message; gloo's errors have no type of their own."""
    if process_count() == 1:
        return False
    return isinstance(error, dist.DistError) or "gloo" in str(error)
