"""The optimizer of the autoencoder: what a whitened step is, and that its state can be kept."""

import copy

import pytest
import torch
from torch import nn

from sdlearn.recipes.muon import Muon, whiten


@pytest.mark.parametrize("shape", [(16, 16), (16, 144), (144, 16)])
def test_whitening_brings_every_singular_value_near_one(shape):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(*shape, generator=generator)
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    matrix = (u * torch.logspace(-1, 1, len(s))) @ vt  # from 0.1 to 10
    whitened = whiten(matrix, rounds=8)
    s2 = torch.linalg.svdvals(whitened)
    assert s2.min() > 0.6
    assert s2.max() < 1.3
    # The directions stay: in the old bases the result is diagonal.
    inside = u.T @ whitened @ vt.T
    assert (inside - inside.diagonal().diag()).abs().max() < 1e-3


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.SiLU(), nn.Conv2d(16, 16, 3, bias=False))


def descend(net: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for k in steps:
        x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(k))
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()


def test_matrices_take_whitened_steps_and_the_rest_adams():
    net, twin = network(), network()
    before = copy.deepcopy(net.state_dict())
    lr = 1e-2
    descend(net, Muon(net.parameters(), lr=lr), range(1))
    descend(twin, torch.optim.AdamW(twin.parameters(), lr, (0.9, 0.99), weight_decay=0.0), range(1))
    # Biases are not matrices: bit for bit what Adam does.
    assert torch.equal(net[0].bias, twin[0].bias)
    moved = (net[2].weight.detach() - before["2.weight"]).flatten(1)
    # 0.2 lr sqrt(144) times singular values near one, so a root mean square near 0.2 lr.
    assert moved.square().mean().sqrt().item() == pytest.approx(0.2 * lr, rel=0.25)
    assert torch.linalg.matrix_rank(moved) == 16


def test_a_saved_state_goes_on_to_the_same_bits():
    whole = network()
    descend(whole, Muon(whole.parameters(), lr=1e-2), range(6))

    net = network()
    optimizer = Muon(net.parameters(), lr=1e-2)
    descend(net, optimizer, range(3))
    state = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
    other = network()
    again = Muon(other.parameters(), lr=1e-2)
    other.load_state_dict(state[0])
    again.load_state_dict(state[1])
    descend(other, again, range(3, 6))
    for a, b in zip(whole.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
