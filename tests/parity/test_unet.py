"""The U-Net against diffusers' UNet2DConditionModel, for every system it can be."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor

from sdlearn import attention, unet, vae
from sdlearn.unet import UNet, UNetConfig, UpBlock, skip_widths, zero_init_residuals

from .oracle import (
    DTYPES,
    TOLERANCE,
    VISIBLE,
    Pair,
    count,
    normal,
    published,
    relative_error,
    shapes,
)

SD1 = UNetConfig()
REFINER = UNetConfig(
    block_out_channels=(384, 768, 1536, 1536),
    cross_attention=(False, True, True, False),
    transformer_depth=(4, 4, 4, 4),
    num_heads=(6, 12, 24, 24),
    cross_attention_dim=1280,
    use_linear_projection=True,
    added_dim=2560,
    added_time_dim=256,
)
# The systems in miniature (test_versions has them at full size); widths divide into odd numbers of
# heads as well.
SMALL = {
    "storybook": UNetConfig(
        block_out_channels=(24, 48),
        cross_attention=(True, True),
        transformer_depth=(1, 1),
        num_heads=(4, 8),
        cross_attention_dim=12,
        norm_num_groups=8,
    ),
    "SD 1": UNetConfig(
        block_out_channels=(16, 32, 48),
        cross_attention=(True, True, False),
        transformer_depth=(1, 1, 1),
        num_heads=(8, 8, 8),
        cross_attention_dim=10,
        norm_num_groups=4,
    ),
    "SD 2, nine channels": UNetConfig(
        in_channels=9,
        block_out_channels=(12, 36),
        layers_per_block=1,
        cross_attention=(True, False),
        transformer_depth=(1, 1),
        num_heads=(3, 9),
        cross_attention_dim=14,
        use_linear_projection=True,
        upcast_attention=True,
        norm_num_groups=6,
    ),
    "SDXL": UNetConfig(
        block_out_channels=(8, 24, 40),
        cross_attention=(False, True, True),
        transformer_depth=(1, 2, 3),
        num_heads=(1, 3, 5),
        cross_attention_dim=18,
        use_linear_projection=True,
        added_dim=7 + 6 * 4,
        added_time_dim=4,
        norm_num_groups=4,
    ),
}


def their_unet(config: UNetConfig) -> UNet2DConditionModel:
    """Spelled as the published unet/config.json files spell it: attention_head_dim there is the
    number of heads."""
    added: dict[str, Any] = {}
    if config.added_dim is not None:
        added = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": config.added_time_dim,
            "projection_class_embeddings_input_dim": config.added_dim,
        }
    attend = config.cross_attention
    return UNet2DConditionModel(
        sample_size=config.sample_size,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attend),
        up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in attend[::-1]),
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        cross_attention_dim=config.cross_attention_dim,
        transformer_layers_per_block=list(config.transformer_depth),
        attention_head_dim=list(config.num_heads),
        norm_num_groups=config.norm_num_groups,
        use_linear_projection=config.use_linear_projection,
        upcast_attention=config.upcast_attention,
        **added,
    )


class UNets(Pair):
    """Both U-Nets, see oracle.Pair."""

    def __init__(
        self,
        config: UNetConfig,
        dtype: torch.dtype = torch.float64,
        size: tuple[int, int] = (8, 12),
    ) -> None:
        super().__init__(UNet(config), their_unet(config), dtype, size)

    def error(self) -> float:
        wanted = self.theirs(self.z, self.t, self.context, added_cond_kwargs=self.their_added)
        return relative_error(self.ours(self.z, self.t, self.context, self.added), wanted.sample)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SMALL)
def test_estimates_what_diffusers_estimates(name: str, dtype: torch.dtype) -> None:
    assert UNets(SMALL[name], dtype).error() <= TOLERANCE[dtype]


@pytest.mark.parametrize("name", ["SD 1", "SDXL"])
def test_sizes_that_halve_unevenly(name: str) -> None:
    assert UNets(SMALL[name], size=(7, 10)).error() <= 1e-12


def test_the_refiner_of_sdxl_at_full_size() -> None:
    """It is none of our systems, but the same U-Net: four levels, attention in the inner two."""
    with torch.device("meta"):
        ours, theirs = UNet(REFINER), their_unet(REFINER)
    assert shapes(ours.state_dict()) == shapes(published(theirs))
    assert count(ours) == 2_259_526_660


def test_the_parts_of_sd1_have_the_published_counts() -> None:
    with torch.device("meta"):
        ours = UNet(SD1)
    parts = {name: count(child) for name, child in ours.named_children()}
    assert parts == {
        "conv_in": 11_840,
        "time_embedding": 2_050_560,
        "down_blocks": 249_612_480,
        "mid_block": 97_038_080,
        "up_blocks": 510_795_840,
        "conv_norm_out": 640,
        "conv_out": 11_524,
    }


def test_one_time_for_all_and_fractional_times() -> None:
    pair = UNets(SMALL["storybook"])
    pair.t = torch.tensor(498.5)
    assert pair.error() <= 1e-12
    number = pair.ours(pair.z, 498.5, pair.context)
    assert torch.equal(number, pair.ours(pair.z, torch.full((2,), 498.5), pair.context))


@pytest.mark.parametrize("name", SMALL)
def test_residuals_enter_where_a_controlnet_of_diffusers_adds_them(name: str) -> None:
    pair = UNets(SMALL[name])
    emb = pair.ours.embed(pair.z, pair.t, pair.added)
    skips, mid = pair.ours.encode(pair.ours.conv_in(pair.z), emb, pair.context)
    levels, layers = len(SMALL[name].block_out_channels), SMALL[name].layers_per_block
    assert len(skips) == 1 + levels * layers + levels - 1
    down = [normal(*skip.shape, seed=10 + i) for i, skip in enumerate(skips)]
    middle = normal(*mid.shape, seed=9)
    wanted = pair.theirs(
        pair.z,
        pair.t,
        pair.context,
        added_cond_kwargs=pair.their_added,
        down_block_additional_residuals=down,
        mid_block_additional_residual=middle,
    ).sample
    ours = pair.ours(pair.z, pair.t, pair.context, pair.added, (down, middle))
    assert relative_error(ours, wanted) <= 1e-12
    assert relative_error(ours, pair.ours(pair.z, pair.t, pair.context, pair.added)) > 0.1


def test_gradients_are_those_of_diffusers() -> None:
    pair = UNets(SMALL["storybook"])
    for output in (
        pair.ours(pair.z, pair.t, pair.context),
        pair.theirs(pair.z, pair.t, pair.context).sample,
    ):
        output.square().mean().backward()
    theirs = dict(pair.theirs.named_parameters())
    for name, parameter in pair.ours.named_parameters():
        assert parameter.grad is not None
        wanted = theirs[name].grad.reshape(parameter.shape)
        assert relative_error(parameter.grad, wanted) <= 1e-12, name


def test_starting_at_zero_silences_every_branch() -> None:
    torch.manual_seed(0)
    ours = UNet(SMALL["storybook"]).double()
    inputs = normal(2, 4, 8, 8), 500, normal(2, 5, 12)
    zero_init_residuals(ours)
    assert torch.equal(ours(*inputs), torch.zeros(2, 4, 8, 8).double())
    h = normal(2, 24, 8, 8)
    emb = ours.embed(inputs[0], 500, None)
    block = ours.down_blocks[0]
    assert torch.equal(block.layer(0, h, emb, inputs[2]), h)
    ours(*inputs).sub(1).square().mean().backward()
    assert ours.conv_out.weight.grad.norm() > 0


def test_blocks_leave_the_lists_of_their_callers_alone() -> None:
    config = SMALL["SD 1"]
    widths = skip_widths(config)
    before = list(widths)
    block = UpBlock(config, 2, 48, widths)
    assert widths == before == [16, 16, 16, 16, 32, 32, 32, 48, 48]
    assert [each.conv1.in_channels for each in block.resnets] == [96, 96, 80]
    sides = (12, 12, 12, 6, 6, 6, 3, 3, 3)
    skips = [torch.randn(1, c, n, n) for c, n in zip(widths, sides, strict=True)]
    given = list(skips)
    h = block(torch.randn(1, 48, 3, 3), skips, torch.randn(1, 64), torch.randn(1, 5, 10))
    assert h.shape == (1, 48, 6, 6)
    assert len(skips) == len(given)
    assert all(now is then for now, then in zip(skips, given, strict=True))


def test_a_shortcut_without_weights_passes_its_input_on() -> None:
    """So that the files of ResBlocks that keep their width have no key for it."""
    for block in (unet.ResBlock(8, 8, 12, 4), vae.ResBlock(8, 8, 4)):
        assert isinstance(block.conv_shortcut, torch.nn.Identity)
        assert not [key for key in block.state_dict() if "shortcut" in key]
        torch.nn.init.zeros_(block.conv2.weight)
        torch.nn.init.zeros_(block.conv2.bias)
        x = torch.randn(2, 8, 5, 7)
        emb = [torch.randn(2, 12)] if isinstance(block, unet.ResBlock) else []
        assert torch.equal(block(x, *emb), x)


def test_bad_configurations_and_inputs_are_named() -> None:
    with pytest.raises(ValueError, match="num_heads has 3 entries but there are 4 levels"):
        UNetConfig(num_heads=(8, 8, 8))
    with pytest.raises(ValueError, match="48 channels cannot be divided into 5 heads"):
        replace(SMALL["storybook"], num_heads=(4, 5))
    pair = UNets(SMALL["SDXL"])
    with pytest.raises(ValueError, match="needs added"):
        pair.ours(pair.z, pair.t, pair.context)


# --- mistakes that are easily made: each must be far outside the tolerance


def sines_first(right: Callable[[Tensor, int], Tensor]) -> Callable[[Tensor, int], Tensor]:
    return lambda t, dim: right(t, dim).roll(dim // 2, dims=-1)


def test_sines_first_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unet, "sinusoidal_embedding", sines_first(unet.sinusoidal_embedding))
    assert UNets(SMALL["SD 1"]).error() > 1e-2


def test_sinusoids_in_float64_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_float64(t: Tensor, dim: int) -> Tensor:
        i = torch.arange(dim // 2, dtype=torch.float64)
        angles = t.double()[:, None] * 10000 ** (-2 * i / dim)
        return torch.cat([angles.cos(), angles.sin()], dim=-1)

    monkeypatch.setattr(unet, "sinusoidal_embedding", in_float64)
    assert UNets(SMALL["SD 1"]).error() > 1e-9


@pytest.mark.parametrize(
    ("kind", "eps"), [(unet.ResBlock, 1e-6), (attention.SpatialTransformer, 1e-5)]
)
def test_a_wrong_norm_epsilon_would_show(kind: type, eps: float) -> None:
    pair = UNets(SMALL["SD 1"])
    for module in pair.ours.modules():
        if isinstance(module, kind):
            for child in module.children():
                if isinstance(child, torch.nn.GroupNorm):
                    child.eps = eps
    assert pair.error() > VISIBLE


def test_head_width_for_number_of_heads_would_show() -> None:
    pair = UNets(SMALL["SD 1"])
    for module in pair.ours.modules():
        if isinstance(module, attention.Attention):
            module.heads = module.to_q.out_features // module.heads
    assert pair.error() > 1e-3


def test_the_tanh_gelu_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = UNets(SMALL["SD 1"])
    right = F.gelu
    wanted = pair.theirs(pair.z, pair.t, pair.context).sample
    monkeypatch.setattr(attention.F, "gelu", lambda x: right(x, approximate="tanh"))
    assert relative_error(pair.ours(pair.z, pair.t, pair.context), wanted) > VISIBLE


def test_asymmetric_padding_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    def right_and_bottom(self: unet.Downsample, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (0, 1, 0, 1)), self.conv.weight, self.conv.bias, stride=2)

    monkeypatch.setattr(unet.Downsample, "forward", right_and_bottom)
    assert UNets(SMALL["SD 1"]).error() > 1e-2


def test_the_time_without_its_activation_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    def linear_in_time(self: unet.ResBlock, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.time_emb_proj(emb)[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return h + self.conv_shortcut(x)

    monkeypatch.setattr(unet.ResBlock, "forward", linear_in_time)
    assert UNets(SMALL["SD 1"]).error() > 1e-2


def test_skips_before_the_rising_features_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = UNets(SMALL["SD 1"])
    wanted = pair.theirs(pair.z, pair.t, pair.context).sample
    right = torch.cat

    def skip_first(tensors: list[Tensor], dim: int) -> Tensor:
        return right(tensors[::-1] if dim == 1 else tensors, dim)

    monkeypatch.setattr(unet.torch, "cat", skip_first)
    assert relative_error(pair.ours(pair.z, pair.t, pair.context), wanted) > 1e-2


def test_sizes_in_another_order_would_show() -> None:
    pair = UNets(SMALL["SDXL"])
    assert pair.added is not None
    pooled, sizes = pair.added
    pair.added = (pooled, sizes[:, [1, 0, 3, 2, 5, 4]])  # width before height
    assert pair.error() > 1e-3
