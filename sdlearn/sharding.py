"""Fully sharded data parallelism (FSDP): each process stores only a part of the weights.

In data parallelism, every process stores all the weights, their gradients, the optimizer's two
moments and an exponential moving average (EMA) of the weights: 20 bytes for each weight in float32.
Sharded over N processes, that is 20 / N bytes in each, so a network that is too large for one
device can be trained on several. Before a block computes, it gathers its weights from all
processes; afterwards it frees them. In the backward pass it gathers them again, and each process
receives the averaged gradients of its own part. The arithmetic is that of data parallelism: each
process still trains on its own rows of the batch. The traffic is 1.5 times as large (Rajbhandari et
al., arXiv:1910.02054, section 7).

PyTorch calls this FSDP2 (`torch.distributed.fsdp.fully_shard`). A sharded weight is a DTensor,
split along its first axis.
"""

from copy import deepcopy
from typing import TypeVar

import torch
from torch import nn

from sdlearn.distributed import is_first_process, process_count
from sdlearn.utils.sharded_tensors import gathered

N = TypeVar("N", bound=nn.Module)


def shard(network: nn.Module, blocks: tuple[type[nn.Module], ...], device: torch.device) -> None:
    """Shard a network in place over all processes. There must be at least two.

    The network may start in CPU memory. Each block, and finally the rest, is moved to the device
    and split there. Make copies of the network before sharding, and optimizers afterwards.

    Args:
        network: The network, with the same weights in all processes.
        blocks: Classes of modules. Each such module gathers and frees its weights as one unit. At
            any time, the device holds the full weights of about one block, plus those outside all
            blocks.
        device: The device that this process computes on.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (process_count(),))
    # By default, the root module would keep its full weights after a forward pass. That saves one
    # gathering in training, but sampling has no backward pass that would free them.
    for module in [m for m in network.modules() if isinstance(m, blocks)] + [network]:
        fully_shard(module, mesh=mesh, reshard_after_forward=True)


def skeleton(network: N) -> N:
    """A copy of a network with parameters on torch's meta device, for `consolidated` to fill.

    A sharded network can't be copied, so make the skeleton before calling `shard`.
    """
    memo: dict[int, object] = {
        id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in network.parameters()
    }
    return deepcopy(network, memo)


def consolidated(network: nn.Module, empty: N) -> N:
    """Gather a sharded network into CPU memory in process 0. All processes must call this.

    Args:
        network: The sharded network.
        empty: Its `skeleton`.

    Returns:
        The skeleton. In process 0 it now holds the network's weights; in the others it stays empty.
    """
    state = gathered(network.state_dict(), keep=is_first_process())
    if is_first_process():
        empty.load_state_dict(state, assign=True)
    return empty
