"""A U-Net that several processes shard and train; they save what each of them holds.

Run by torchrun with the folder for the results, which tests/laws/test_sharding.py compares with
those of one process.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.amp import GradScaler

from sdlearn.distributed import own_rows, process_count
from sdlearn.recipes import unet
from sdlearn.recipes.denoising_step import Trained, in_training
from sdlearn.recipes.recipe import override
from sdlearn.sharding import consolidated
from sdlearn.training import update
from sdlearn.unet import UNet
from sdlearn.utils.checkpoint import load_checkpoint, save_checkpoint, take_part
from sdlearn.utils.sharded_tensors import gathered, local
from sdlearn.versions import STORYBOOK

CPU = torch.device("cpu")
CONFIG = dataclasses.replace(
    STORYBOOK.unet, block_out_channels=(32, 32), num_heads=(2, 2), layers_per_block=1,
    cross_attention=(True, True), transformer_depth=(1, 1), cross_attention_dim=16, sample_size=4,
)  # fmt: skip


def start(seed: int = 0, **changes: object) -> Trained[UNet]:
    """A U-Net in training, in float64."""
    torch.manual_seed(seed)
    recipe = override(unet.RECIPES["small"], {"ema": 0.9, "shard": True, **changes})
    return in_training(UNet(CONFIG).double(), recipe, CPU)


def loss(trained: Trained[UNet], k: int) -> Tensor:
    """The loss of this process's rows of batch k."""
    generator = torch.Generator().manual_seed(k)
    z, context = (
        torch.randn(12, *shape, generator=generator, dtype=torch.float64)
        for shape in ((4, 4, 4), (7, 16))
    )
    t = torch.arange(5, 1000, 83)
    rows = [own_rows(x) for x in (z, t, context)]
    return (trained.network(*rows) - rows[0]).square().mean()


def train(trained: Trained[UNet], first: int, last: int) -> list[float]:
    """Train for some steps; returns the norms of the gradients, all of which are clipped."""
    norms = []
    for k in range(first, last):
        norm = update(loss(trained, k), trained.optimizer, 1e-4, 0.1)
        trained.average.update(trained.network, k)
        norms.append(float(norm))
    return norms


def networks(trained: Trained[UNet]) -> dict[str, torch.nn.Module]:
    return {"unet": trained.network, "ema": trained.average.module}


def held(trained: Trained[UNet]) -> dict[str, int]:
    """The numbers of values that this process keeps."""
    states = trained.optimizer.state.values()
    return {
        "weights": sum(local(p).numel() for p in trained.network.parameters()),
        "average": sum(local(p).numel() for p in trained.average.module.parameters()),
        "gradients": sum(
            local(p.grad).numel() for p in trained.network.parameters() if p.grad is not None
        ),
        "optimizer": sum(local(state["exp_avg"]).numel() for state in states),
    }


def overflow(trained: Trained[UNet]) -> tuple[bool, float]:
    """Whether a step changes weights if process 1 alone has an infinite gradient; and the scale."""
    scaler = GradScaler("cpu", init_scale=8.0)
    before = [local(p.detach()).clone() for p in trained.network.parameters()]
    factor = torch.inf if process_count() == 1 or dist.get_rank() == 1 else 1.0
    update(loss(trained, 0) * factor, trained.optimizer, 1e-4, 1.0, scaler)
    after = [local(p.detach()) for p in trained.network.parameters()]
    moved = any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    return moved, float(scaler.get_scale())


def sharded(folder: Path) -> dict[str, Any]:
    """What this process computes with the others."""
    trained = start(activation_checkpointing=True)
    found: dict[str, Any] = {"norms": train(trained, 0, 3), "held": held(trained)}
    state = networks(trained), trained.states("unet")
    if dist.get_rank() == 0:
        save_checkpoint(folder, 3, *state)
    else:
        take_part(*state)
    dist.barrier()

    other = start(seed=1)
    found["step"] = load_checkpoint(folder, networks(other), other.states("unet"))
    with torch.inference_mode():  # as samples are drawn
        other.average.module(torch.zeros(1, 4, 4, 4).double(), 3, torch.zeros(1, 7, 16).double())
    found["norms"] += train(other, 3, 5)
    found["held again"] = held(other)
    found["weights"] = gathered(other.network.state_dict())
    found["overflow"] = overflow(other)
    ema = consolidated(other.average.module, other.skeletons["ema"])
    if dist.get_rank() == 0:
        assert type(ema) is UNet
        found["ema"] = ema.state_dict()
    else:
        found["empty"] = all(p.is_meta for p in ema.parameters())
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.save(sharded(Path(sys.argv[1])), f"{sys.argv[1]}/{dist.get_rank()}.pt")
    dist.destroy_process_group()
