"""Fully sharded data parallelism (FSDP): each process keeps only a part of the weights.

In data parallelism every process has all the weights, their gradients, the optimizer's two averages
and an average of the weights (EMA): 20 bytes for each weight in float32. Sharded over N processes,
that is 20 / N bytes, so a network that is too large for one device fits on several. Before a block
computes, it gathers its weights from all processes, and it frees them afterwards. In the backward
pass it gathers them again, and each process receives the averaged gradients of its own part. That
is half as much traffic again as data parallelism needs (Rajbhandari et al., arXiv:1910.02054,
section 7), and the same arithmetic: each process still trains on its rows of the batch.

PyTorch calls this FSDP2 (`torch.distributed.fsdp.fully_shard`). A sharded weight is a DTensor, cut
along its first axis.
"""

from copy import deepcopy
from typing import TypeVar

import torch
from torch import nn

from sdlearn.distributed import is_first_process, process_count
from sdlearn.utils.sharded_tensors import gathered

N = TypeVar("N", bound=nn.Module)


def shard(network: nn.Module, blocks: tuple[type[nn.Module], ...], device: torch.device) -> None:
    """Shard a network in place over all processes, of which there must be several.

    The whole network may be in CPU memory. Each block, and then the rest, is moved to the device
    and cut. Make copies of the network beforehand, and optimizers afterwards.

    Args:
        network: The same in all processes.
        blocks: Classes of the modules that gather their weights together. At any time the device
            holds the whole weights of about one block, and of what is outside all blocks.
        device: Where to compute.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (process_count(),))
    # By default, the root would keep its whole weights after a forward pass. That would save a
    # message, but sampling has no backward pass that frees them.
    for module in [m for m in network.modules() if isinstance(m, blocks)] + [network]:
        fully_shard(module, mesh=mesh, reshard_after_forward=True)


def skeleton(network: N) -> N:
    """A copy of a network without values, on torch's meta device, to be filled by `consolidated`.

    Sharded networks cannot be copied, so make it before `shard`.
    """
    memo: dict[int, object] = {
        id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in network.parameters()
    }
    return deepcopy(network, memo)


def consolidated(network: nn.Module, empty: N) -> N:
    """The whole of a sharded network, in CPU memory; all processes must call this.

    Args:
        network: The sharded network.
        empty: Its `skeleton`.

    Returns:
        The skeleton; in process 0 it has the values of the network.
    """
    state = gathered(network.state_dict(), keep=is_first_process())
    if is_first_process():
        empty.load_state_dict(state, assign=True)
    return empty
