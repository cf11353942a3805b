"""Packed convolutions against the ones they were made from."""

import copy

import pytest
import torch

from sdlearn import SPECS, VAE, UNet, VAEConfig, weights
from sdlearn.utils.prepack import PackedConv2d, prepack
from tests.parity.oracle import relative_error

TINY = VAEConfig(block_out_channels=(16, 32), norm_num_groups=8)
oneDNN = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN"
)


@pytest.fixture(scope="module")
def vae() -> VAE:
    torch.manual_seed(0)
    return VAE(TINY).eval().requires_grad_(False)


def copied(module: torch.nn.Module) -> torch.nn.Module:
    return copy.deepcopy(module).requires_grad_(False)


@oneDNN
@pytest.mark.parametrize("size", [(8, 8), (6, 10), (33, 5)])
@pytest.mark.parametrize("b", [1, 3])
def test_the_storybook_unet_gives_the_same(size, b):
    torch.manual_seed(1)
    unet = UNet(SPECS["storybook"].unet).eval().requires_grad_(False)
    packed = copied(unet)
    assert prepack(packed) == 23
    z, context = torch.randn(b, 4, *size), torch.randn(b, 77, 128)
    assert 0 < relative_error(packed(z, 500, context), unet(z, 500, context)) < 3e-6


@oneDNN
def test_the_autoencoder_gives_the_same_strides_and_1x1_convolutions_included(vae):
    packed = copied(vae)
    kept = [m for m in packed.modules() if isinstance(m, torch.nn.Conv2d)]
    assert prepack(packed) > 10
    left = {m for m in packed.modules() if isinstance(m, torch.nn.Conv2d)}
    assert all(min(m.in_channels, m.out_channels) < 16 for m in left)
    assert {m for m in kept if min(m.in_channels, m.out_channels) < 16} == left
    x = torch.rand(2, 3, 16, 24)
    for ours, plain in zip(packed.encode(x), vae.encode(x), strict=True):
        assert relative_error(ours, plain) < 3e-6
    z = torch.randn(2, 4, 8, 6)
    assert relative_error(packed.decode(z), vae.decode(z)) < 3e-6


@oneDNN
def test_it_is_saved_as_it_was(vae, tmp_path):
    packed = copied(vae)
    prepack(packed)
    weights.save(packed, tmp_path / "packed.safetensors")
    weights.save(vae, tmp_path / "plain.safetensors")
    assert (tmp_path / "packed.safetensors").read_bytes() == (
        tmp_path / "plain.safetensors"
    ).read_bytes()


@oneDNN
def test_a_gradient_is_refused():
    conv = torch.nn.Conv2d(16, 16, 3)
    x = torch.randn(1, 16, 8, 8, requires_grad=True)
    with pytest.raises(RuntimeError, match="prepacked weights have no gradients"):
        PackedConv2d(conv)(x)
    with torch.no_grad():
        assert relative_error(PackedConv2d(conv)(x), conv(x)) < 3e-6


def test_other_types_and_devices_are_left_alone(vae):
    assert prepack(copied(vae).half()) == 0
    assert prepack(copied(vae).double()) == 0
    with torch.device("meta"):
        assert prepack(VAE(TINY)) == 0
