"""A fine-tuned network stored as a difference."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sdlearn.weights.differences import add_difference, write_difference


def tuned(rank: int) -> tuple[nn.Module, nn.Module]:
    """A network, and one whose convolution and linear layer differ by matrices of this rank."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Conv2d(8, 16, 3), nn.GroupNorm(4, 16), nn.Linear(20, 24))
    other = deepcopy(base)
    with torch.no_grad():
        for parameter in other.parameters():
            flat = parameter.flatten(1) if parameter.ndim > 1 else parameter[:, None]
            rows, columns = flat.shape
            flat += torch.randn(rows, rank) @ torch.randn(rank, columns) / rank
    return base, other


def test_a_difference_of_low_rank_comes_back(tmp_path: Path) -> None:
    base, other = tuned(2)
    path = tmp_path / "difference.safetensors"
    write_difference(path, other, base.state_dict(), 2, torch.float32)
    found = deepcopy(base)
    add_difference(found, path)
    for name, weight in other.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], weight, rtol=1e-5, atol=1e-5)
    stored = load_file(path)
    assert stored["0.weight.difference_up"].shape == (16, 2)
    assert stored["0.weight.difference_down"].shape == (2, 72)
    assert stored["1.weight.difference"].shape == (16,)


def test_it_is_the_best_approximation_of_its_rank(tmp_path: Path) -> None:
    base, other = tuned(6)
    path = tmp_path / "difference.safetensors"
    whole = other[2].weight - base[2].weight
    values = torch.linalg.svdvals(whole)
    for rank in (1, 3, 5):
        write_difference(path, other, base.state_dict(), rank, torch.float32)
        found = deepcopy(base)
        add_difference(found, path)
        error = (found[2].weight - other[2].weight).norm()
        torch.testing.assert_close(error, values[rank:].norm(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", ["missing", "left over", "of another shape"])
def test_a_file_of_another_network_is_refused_and_changes_nothing(how: str, tmp_path: Path) -> None:
    base, other = tuned(2)
    path = tmp_path / "difference.safetensors"
    write_difference(path, other, base.state_dict(), 2, torch.float16)
    stored = load_file(path)
    if how == "missing":
        del stored["2.bias.difference"]
        sentence = "has no difference for '2.bias'"
    elif how == "left over":
        stored["3.weight.difference"] = torch.zeros(2)
        sentence = "holds '3.weight.difference', which belongs to no weight of the network"
    else:
        stored["2.bias.difference"] = torch.zeros(7)
        sentence = "the difference for '2.bias' has 7 values; it must have 24, as many as the wei"
    save_file(stored, path)
    found = deepcopy(base)
    with pytest.raises(ValueError, match=sentence):
        add_difference(found, path)
    for name, weight in base.state_dict().items():
        assert torch.equal(found.state_dict()[name], weight)
