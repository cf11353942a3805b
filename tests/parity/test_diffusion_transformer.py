"""The diffusion transformer against diffusers' SD3Transformer2DModel."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import SD3Transformer2DModel
from torch import Tensor

from sdlearn import diffusion_transformer
from sdlearn.diffusion_transformer import (
    DiffusionTransformer,
    DiffusionTransformerConfig,
    JointBlock,
)
from sdlearn.utils.atomic_files import read_json, write_json

from .oracle import (
    DTYPES,
    TOLERANCE,
    VISIBLE,
    count,
    normal,
    published,
    randomise,
    relative_error,
    shapes,
)

SD3 = DiffusionTransformerConfig()
SD3_5_LARGE = replace(SD3, num_layers=38, num_heads=38, qk_norm=True)
SMALL = {
    "SD 3": DiffusionTransformerConfig(
        in_channels=4, num_layers=3, num_heads=3, head_dim=8, context_dim=10, pooled_dim=7,
        sample_size=8, pos_embed_max_size=9,
    ),
    "SD 3.5 large": DiffusionTransformerConfig(
        in_channels=6, num_layers=2, num_heads=2, head_dim=12, context_dim=10, pooled_dim=7,
        qk_norm=True, sample_size=12, pos_embed_max_size=8,
    ),
    "storybook": DiffusionTransformerConfig(
        in_channels=4, patch_size=1, num_layers=2, num_heads=4, head_dim=8, context_dim=16,
        pooled_dim=16, sample_size=8, pos_embed_max_size=12,
    ),
}  # fmt: skip


def theirs_for(config: DiffusionTransformerConfig) -> SD3Transformer2DModel:
    return SD3Transformer2DModel(
        sample_size=config.sample_size,
        patch_size=config.patch_size,
        in_channels=config.in_channels,
        num_layers=config.num_layers,
        attention_head_dim=config.head_dim,
        num_attention_heads=config.num_heads,
        joint_attention_dim=config.context_dim,
        caption_projection_dim=config.dim,
        pooled_projection_dim=config.pooled_dim,
        out_channels=config.in_channels,
        pos_embed_max_size=config.pos_embed_max_size,
        qk_norm="rms_norm" if config.qk_norm else None,
    )


class Transformers:
    """Both transformers with the same random weights, and inputs of awkward sizes for both."""

    def __init__(
        self,
        config: DiffusionTransformerConfig,
        dtype: torch.dtype = torch.float64,
        size: tuple[int, int] = (4, 8),
        tokens: int = 13,
    ) -> None:
        self.theirs = randomise(theirs_for(config).to(dtype))
        self.ours = DiffusionTransformer(config).to(dtype)
        self.ours.load_state_dict(published(self.theirs), strict=True)
        self.x = normal(2, config.in_channels, *size, dtype=dtype)
        self.t = torch.tensor([1000.0, 3.7])
        self.context = normal(2, tokens, config.context_dim, seed=1, dtype=dtype)
        self.pooled = normal(2, config.pooled_dim, seed=2, dtype=dtype)

    def answer(self) -> Tensor:
        return self.ours(self.x, self.t, self.context, self.pooled)

    def error(self) -> float:
        wanted = self.theirs(self.x, self.context, self.pooled, self.t).sample
        return relative_error(self.answer(), wanted)


# ------------------------------------------------------------------------------------- the network


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SMALL)
def test_the_velocity_is_that_of_diffusers(name: str, dtype: torch.dtype) -> None:
    assert Transformers(SMALL[name], dtype).error() <= TOLERANCE[dtype]


@pytest.mark.parametrize("size", [(2, 2), (6, 4), (16, 14)])
def test_any_size_that_has_positions(size: tuple[int, int]) -> None:
    assert Transformers(SMALL["SD 3"], size=size).error() <= 1e-12


@pytest.mark.parametrize("tokens", [1, 77, 154])
def test_any_number_of_text_tokens(tokens: int) -> None:
    assert Transformers(SMALL["SD 3"], tokens=tokens).error() <= 1e-12


@pytest.mark.parametrize("name", SMALL)
def test_fresh_positions_are_those_of_diffusers(name: str) -> None:
    config = SMALL[name]
    ours, wanted = DiffusionTransformer(config).state_dict(), theirs_for(config).state_dict()
    assert relative_error(ours["pos_embed.pos_embed"], wanted["pos_embed.pos_embed"]) <= 1e-6


def test_one_timestep_for_the_batch_is_the_same_as_one_each() -> None:
    pair = Transformers(SMALL["SD 3"])
    with torch.no_grad():
        one = pair.ours(pair.x, 250, pair.context, pair.pooled)
        each = pair.ours(pair.x, torch.tensor([250.0, 250.0]), pair.context, pair.pooled)
    assert torch.equal(one, each)


# ------------------------------------------------------------------------------------ at full size


@pytest.mark.parametrize(
    ("config", "parameters"),
    [(SD3, 2_028_328_000), (SD3_5_LARGE, 8_056_627_520)],
    ids=["SD 3 medium", "SD 3.5 large"],
)
def test_the_published_sizes(config: DiffusionTransformerConfig, parameters: int) -> None:
    with torch.device("meta"):
        ours, theirs = DiffusionTransformer(config), theirs_for(config)
    assert shapes(ours.state_dict()) == shapes(theirs.state_dict())
    assert count(ours) == count(theirs) == parameters


# --- mistakes that are easily made: each must be far outside the tolerance


def test_scale_and_shift_exchanged_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    def exchanged(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + shift) + scale

    monkeypatch.setattr(diffusion_transformer, "modulate", exchanged)
    assert Transformers(SMALL["SD 3"]).error() > 1e-2


def test_the_epsilon_of_the_norms_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], eps=1e-5) * (1 + scale) + shift

    monkeypatch.setattr(diffusion_transformer, "modulate", other)
    assert Transformers(SMALL["SD 3"]).error() > VISIBLE


def test_the_exact_gelu_would_show() -> None:
    pair = Transformers(SMALL["SD 3"])
    for module in pair.ours.modules():
        if isinstance(module, torch.nn.GELU):
            module.approximate = "none"
    assert pair.error() > VISIBLE


def test_positions_from_the_corner_would_show() -> None:
    pair = Transformers(SMALL["SD 3"])
    pair.ours.pos_embed.pos_embed = pair.ours.pos_embed.pos_embed.roll(1, dims=1)
    assert pair.error() > 1e-2


def test_a_missing_query_norm_would_show() -> None:
    pair = Transformers(SMALL["SD 3.5 large"])
    for block in pair.ours.transformer_blocks:
        assert isinstance(block, JointBlock)
        block.attn.norm_added_q = torch.nn.Identity()
    assert pair.error() > 1e-2


# --------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("size", [(5, 4), (4, 7), (20, 4)])
def test_a_size_that_does_not_fit_is_refused(size: tuple[int, int]) -> None:
    ours = DiffusionTransformer(SMALL["SD 3"])
    with pytest.raises(ValueError, match=r"multiples of 2, the patch size, and at most 18$"):
        ours(torch.zeros(1, 4, *size), 0, torch.zeros(1, 3, 10), torch.zeros(1, 7))


def test_a_configuration_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="num_layers = 0; it must be a whole number of at least 1"):
        replace(SD3, num_layers=0)
    with pytest.raises(ValueError, match=r"head_dim = 2\.5; it must be a whole number"):
        replace(SD3, head_dim=2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"num_heads \* head_dim = 6; it must be a multiple of 4"):
        replace(SD3, num_heads=1, head_dim=6)


# ------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("name", SMALL)
def test_a_folder_of_diffusers_is_read_and_one_of_ours_by_diffusers(
    name: str, tmp_path: Path
) -> None:
    pair = Transformers(SMALL[name], torch.float32)
    wanted = pair.theirs(pair.x, pair.context, pair.pooled, pair.t).sample
    pair.theirs.save_pretrained(tmp_path / "theirs")
    read = DiffusionTransformer.from_pretrained(tmp_path / "theirs")
    assert read.config == SMALL[name]
    assert not read.training
    assert relative_error(read(pair.x, pair.t, pair.context, pair.pooled), wanted) <= 3e-5
    read.save_pretrained(tmp_path / "ours")
    back = SD3Transformer2DModel.from_pretrained(tmp_path / "ours")
    found = back(pair.x, pair.context, pair.pooled, pair.t).sample
    assert torch.equal(found, wanted)


def test_a_saved_half_is_read_in_single_precision(tmp_path: Path) -> None:
    ours = Transformers(SMALL["storybook"], torch.float32).ours
    ours.save_pretrained(tmp_path, torch.float16)
    read = DiffusionTransformer.from_pretrained(tmp_path)
    for key, value in ours.state_dict().items():
        assert torch.equal(read.state_dict()[key], value.half().float())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        # SD 3.5 medium
        ({"dual_attention_layers": [0, 1, 2]}, r"dual_attention_layers is \[0, 1, 2\]; only \[\]"),
        ({"qk_norm": "layer_norm"}, "qk_norm is 'layer_norm'; only None and 'rms_norm' are"),
        ({"out_channels": 8}, "out_channels is 8; only 4, as many as in_channels, is supported"),
        ({"caption_projection_dim": 16}, "caption_projection_dim is 16; only 24, num_attention_h"),
        ({"_class_name": "FluxTransformer2DModel"}, "_class_name is 'FluxTransformer2DModel'; "),
        ({"num_layers": 0}, "num_layers is 0; it must be a whole number from 1 to 256"),
        ({"attention_head_dim": 7}, r"num_heads \* head_dim = 21; it must be a multiple of 4"),
        ({"num_layers": 2}, "which DiffusionTransformer does not have"),
        ({"num_layers": 4}, r"norm1_context.linear.bias has the shape \(48,\); Diffu"),
    ],
)
def test_what_is_not_covered_is_refused_by_name(
    changes: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    DiffusionTransformer(SMALL["SD 3"]).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    content = read_json(file) | changes
    if "attention_head_dim" in changes:
        del content["caption_projection_dim"]
    write_json(file, content)
    with pytest.raises(ValueError, match=sentence) as caught:
        DiffusionTransformer.from_pretrained(tmp_path)
    assert str(tmp_path) in str(caught.value)
