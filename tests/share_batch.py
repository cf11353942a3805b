"""A batch that each of two processes draws and keeps its rows of; they save what they compute.

Run by torchrun with the folder for the results, which tests/laws/test_distributed.py compares with
those of one process.
"""

import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sdlearn import distributed
from sdlearn.clip import contrastive_loss


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 4)).double()


def whole_batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    return x, torch.randn(6, 4, generator=generator, dtype=torch.float64)


def refusal(function: Any, *args: Any) -> str:
    """What a function says when it refuses its arguments; "" if it does not."""
    try:
        function(*args)
    except ValueError as error:
        return str(error)
    return ""


def gradients(*parts: nn.Module | nn.Parameter) -> list[Tensor]:
    """The gradients of networks and parameters, averaged over the processes."""
    parameters = [
        p for x in parts for p in ([x] if isinstance(x, nn.Parameter) else x.parameters())
    ]
    distributed.average_gradients(parameters)
    return [p.grad for p in parameters if p.grad is not None]


def shared() -> dict[str, Any]:
    """What this process computes with the others."""
    rank = dist.get_rank()
    x, y = whole_batch()
    mine, theirs = distributed.own_rows(x), distributed.own_rows(y)
    found: dict[str, Any] = {"rows": mine, "gathered": distributed.gather_rows(mine)}
    found["refused"] = refusal(distributed.own_rows, x[:5])
    distributed.BUCKET = 20  # so that the gradients need several messages

    model = network()
    (model(mine) - theirs).square().mean().backward()
    found["mean"] = gradients(model)

    model = network()
    parallel = DistributedDataParallel(model)  # kept, or its hooks would be gone before backward()
    (parallel(mine) - theirs).square().mean().backward()
    found["ddp"] = [p.grad for p in model.parameters()]

    model, scale = network(), nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    images, texts = (distributed.gather_rows(each) for each in (model(mine), theirs))
    loss = contrastive_loss(images, texts, scale)
    loss.backward()
    found["contrastive"] = [loss.detach(), *gradients(model, scale)]

    found["metrics"] = distributed.average_metrics({"a": torch.tensor(rank + 1.0), "b": loss})
    found["any"] = [distributed.any_process(rank == 1), distributed.any_process(False)]
    found["same"] = [
        refusal(distributed.check_same, number, "the last checkpoint") for number in (7, 7 + rank)
    ]
    return found


if __name__ == "__main__":
    dist.init_process_group("gloo")
    torch.save(shared(), f"{sys.argv[1]}/{dist.get_rank()}.pt")
    dist.destroy_process_group()
