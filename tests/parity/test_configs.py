"""Every setting of the published configuration files: honoured as diffusers does, or refused.

The settings are the arguments of diffusers' classes and the fields of transformers' configuration,
so a setting that a new version adds fails here until it is decided on. For each value of a table a
network is built by diffusers with that value. Ours, read from its configuration, must either
compute the same in float64 or be refused by the setting's name.
"""

import inspect
import json
from dataclasses import fields
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from transformers import CLIPConfig, CLIPModel, CLIPTextModel, CLIPTextModelWithProjection
from transformers import CLIPTextConfig as TheirTextConfig

from sdlearn import weights
from sdlearn.clip import CLIPTextEncoder
from sdlearn.controlnet import ControlNet
from sdlearn.unet import UNet
from sdlearn.vae import VAE
from sdlearn.weights.configs import (
    controlnet_config_from_json,
    unet_config_from_json,
    vae_config_from_json,
)
from sdlearn.weights.text_config import text_config_from_json

from .oracle import TOLERANCE, normal, published, randomise, relative_error

NAN = float("nan")
UNET = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
XL = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4}
XL |= {"projection_class_embeddings_input_dim": 7 + 6 * 4}
# Setting -> values that are honoured or have no effect, values that are refused by its name.
# A dictionary is several settings at once.
UNET_SETTINGS: dict[str, tuple[list[Any], list[Any]]] = {
    "sample_size": ([None, 16, (8, 8)], [(8, 16), "8", 0, 10**9]),
    "in_channels": ([9], [0, -4, 4.5, "4", True, 10**30]),
    "out_channels": ([3], [0, None]),
    "center_input_sample": ([None], [True]),
    "flip_sin_to_cos": ([], [False]),
    "freq_shift": ([0.0], [1, 0.5, NAN]),
    "down_block_types": (
        [
            {
                "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
                "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            }
        ],
        [("AttnDownBlock2D", "DownBlock2D"), ("DownBlock2D",), (), None, ("DownBlock2D",) * 9999],
    ),
    "mid_block_type": ([], [None, "UNetMidBlock2D", "UNetMidBlock2DSimpleCrossAttn"]),
    "up_block_types": ([], [("CrossAttnUpBlock2D", "UpBlock2D"), ("UpBlock2D",) * 2, ["Up"]]),
    "only_cross_attention": ([(False, False)], [True, (True, False), (False,), ()]),
    "block_out_channels": ([(16, 16), (8, 24)], [8, (8,), (7, 14), (8, 18), (8.0, 16.0), ()]),
    "layers_per_block": ([2, (2, 2)], [(1, 2), 0, 10**6, (2,)]),
    "downsample_padding": ([], [0]),
    "mid_block_scale_factor": ([1.0], [2]),
    "dropout": ([0.5], []),
    "act_fn": (["swish"], ["gelu", "mish", None, [[["x" * 999] * 9] * 9]]),
    "norm_num_groups": ([2, 8], [None, 3, 0]),
    "norm_eps": ([], [1e-6, 0.1]),
    "cross_attention_dim": ([20, (12, 12)], [(12, 20), None, 0]),
    "transformer_layers_per_block": ([2, (2, 3), 0], [((1, 1), 1), (1,), -1, 10**6]),
    "reverse_transformer_layers_per_block": ([None], [(1, 2), ((1, 1), 1)]),
    "encoder_hid_dim": ([], [10]),
    "encoder_hid_dim_type": ([], ["text_proj", "ip_image_proj"]),
    "attention_head_dim": ([4, (2, 4)], [0, 3, None, (2, 3), (2,)]),
    "num_attention_heads": ([None], [0, 4, "2"]),
    "dual_cross_attention": ([None], [True]),
    "use_linear_projection": ([True], ["yes", 1]),
    "class_embed_type": ([], ["timestep", "identity", "projection", "simple_projection"]),
    "addition_embed_type": ([XL], ["text", "image", "text_image", "image_hint", {}]),
    "addition_time_embed_dim": (
        [8],
        [XL | {"addition_time_embed_dim": 0}, XL | {"addition_time_embed_dim": 5}],
    ),
    "num_class_embeds": ([], [10]),
    "upcast_attention": ([True, None], ["no"]),
    "resnet_time_scale_shift": ([], ["scale_shift", "ada_group"]),
    "resnet_skip_time_act": ([True], []),
    "resnet_out_scale_factor": ([2.0], []),
    "time_embedding_type": ([], ["fourier"]),
    "time_embedding_dim": ([], [20]),
    "time_embedding_act_fn": ([], ["silu"]),
    "timestep_post_act": ([], ["silu"]),
    "time_cond_proj_dim": ([], [256]),
    "conv_in_kernel": ([], [1, 5]),
    "conv_out_kernel": ([], [1, 5]),
    "projection_class_embeddings_input_dim": (
        [40],
        [XL | {"projection_class_embeddings_input_dim": None}],
    ),
    "attention_type": ([], ["gated", "gated-text-image"]),
    "class_embeddings_concat": ([None], [True]),
    "mid_block_only_cross_attention": ([True, False], []),
    "cross_attention_norm": (["layer_norm"], []),
    "addition_embed_type_num_heads": ([8], []),
    "quantization_config": ([], [{"load_in_8bit": True}]),
    "_class_name": ([], ["UNet2DModel", "UNetSpatioTemporalConditionModel", "FluxTransformer2D"]),
}
CONTROLNET_SETTINGS = {
    name: values
    for name, values in UNET_SETTINGS.items()
    if name in inspect.signature(ControlNetModel).parameters
} | {
    "in_channels": ([], [0, "4"]),
    "conditioning_channels": ([], [1, 4]),
    "down_block_types": ([("CrossAttnDownBlock2D",) * 2], [("DownBlock2D",), ("Down",) * 2]),
    "num_attention_heads": ([4, (2, 4)], [3]),
    "layers_per_block": ([2], [(2, 2, 2), 0]),
    "cross_attention_dim": ([20], [(12, 20)]),
    "transformer_layers_per_block": ([2, (2, 3)], [-1]),
    "controlnet_conditioning_channel_order": ([], ["bgr"]),
    "conditioning_embedding_out_channels": ([(4, 6), (4, 6, 8)], [None, (), 4]),
    "global_pool_conditions": ([True], ["yes", 1]),
    "_class_name": ([], ["ControlNetUnionModel", "ControlNetXSAdapter", "UNet2DConditionModel"]),
}
AE = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
VAE_SETTINGS: dict[str, tuple[list[Any], list[Any]]] = {
    "in_channels": ([], [1, 6]),
    "out_channels": ([], [1, 6]),
    "down_block_types": (
        [],
        [("AttnDownEncoderBlock2D",) * 2, ("DownEncoderBlock2D",), ("DownEncoderBlock2D",) * 3],
    ),
    "up_block_types": ([], [("AttnUpDecoderBlock2D",) * 2, ("UpDecoderBlock2D",), None]),
    "block_out_channels": ([(8, 8), (16, 8)], [(8, 10), (), 8]),
    "layers_per_block": ([2], [0, 10**6, None]),
    "act_fn": (["swish"], ["gelu", "mish"]),
    "latent_channels": ([8], [0]),
    "norm_num_groups": ([2], [3, 0, None]),
    "sample_size": ([64, (8, 16), None], []),
    "scaling_factor": ([0.5, 2], [0, -1, None, "1", NAN, 10**400]),
    "shift_factor": ([], [0.1, 0]),
    "latents_mean": ([], [(0.0,) * 4]),
    "latents_std": ([], [(1.0,) * 4]),
    "force_upcast": ([False, True], ["no"]),
    "use_quant_conv": ([], [False]),
    "use_post_quant_conv": ([], [False]),
    "mid_block_add_attention": ([], [False]),
    "quantization_config": ([], [{"load_in_8bit": True}]),
    "_class_name": ([], ["AutoencoderTiny", "VQModel", "AsymmetricAutoencoderKL"]),
}
TEXT = {
    "vocab_size": 60,
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 9,
    "eos_token_id": 59,
    "projection_dim": 5,
}
VISION = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "image_size": 4,
    "patch_size": 2,
}
TEXT_SETTINGS: dict[str, tuple[list[Any], list[Any]]] = {
    "vocab_size": ([80], [0, 10**9, None, "60"]),
    "hidden_size": ([16], [0, 13]),
    "intermediate_size": ([8], [0]),
    "projection_dim": ([7], [0, None]),
    "num_hidden_layers": ([3], [0, 10**6]),
    "num_attention_heads": ([3], [5, 0]),
    "max_position_embeddings": ([20], [2, 0]),
    "hidden_act": (["gelu"], ["gelu_new", "relu", "silu", None]),
    "layer_norm_eps": ([], [1e-6, 0.1, None]),
    "attention_dropout": ([0.5], []),
    "initializer_range": ([1.0], []),
    "initializer_factor": ([2.0], []),
    "pad_token_id": ([5], []),
    "bos_token_id": ([5], []),
    "eos_token_id": ([2, 7, 58], [[59], -1, None]),
    "quantization_config": ([], [{"load_in_8bit": True}]),
    "architectures": ([None], [["T5EncoderModel"], ["XLMRobertaModel"], ["CLIPVisionModel"]]),
    "model_type": ([None], ["t5", "xlm-roberta", "clip_vision_model"]),
}


def cases(settings, which):
    """The values of a table with the changes that they make; which: 0 honoured, 1 refused."""
    return [
        pytest.param(
            name,
            value if isinstance(value, dict) and name in value else {name: value},
            id=f"{name}={str(value)[:40]}",
        )
        for name, values in settings.items()
        for value in values[which]
    ]


def written(folder, config):
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return path


def loaded(ours, theirs):
    ours.double().load_state_dict(published(theirs), strict=True)
    return ours


def test_the_tables_have_every_setting():
    """A setting that a new version of diffusers or transformers adds must be decided on."""
    extra = {"quantization_config", "_class_name"}
    for cls, table in (
        (UNet2DConditionModel, UNET_SETTINGS),
        (ControlNetModel, CONTROLNET_SETTINGS),
        (AutoencoderKL, VAE_SETTINGS),
    ):
        assert set(inspect.signature(cls).parameters) == set(table) - extra
    own = {f.name for f in fields(TheirTextConfig)} & set(TheirTextConfig.__annotations__)
    special = {"quantization_config", "architectures", "model_type"}
    assert own - {"model_type", "base_config_key"} == set(TEXT_SETTINGS) - special


def compare_unets(theirs, path):
    """Their U-Net and ours, read from a file and with equal weights, compute the same."""
    ours = UNet(unet_config_from_json(path))
    loaded(ours, randomise(theirs.double()))
    z, t = normal(2, ours.config.in_channels, 8, 12), torch.tensor([999, 3])
    context = normal(2, 5, ours.config.cross_attention_dim)
    added, their_added = added_inputs(ours.config)
    wanted = theirs(z, t, context, added_cond_kwargs=their_added).sample
    assert relative_error(ours(z, t, context, added), wanted) <= TOLERANCE[torch.float64]


def compare_controlnets(theirs, path):
    ours = ControlNet(*controlnet_config_from_json(path))
    loaded(ours, randomise(theirs.double()))
    z, context = normal(2, 4, 8, 12), normal(2, 5, ours.config.cross_attention_dim)
    hint = normal(2, 3, 8 * ours.factor, 12 * ours.factor).sigmoid()
    added, their_added = added_inputs(ours.config)
    down, mid = ours(z, 7, context, hint, added=added)
    wanted = theirs(z, 7, context, hint, added_cond_kwargs=their_added)
    pairs = zip(down, wanted.down_block_res_samples, strict=True)
    for mine, other in [*pairs, (mid, wanted.mid_block_res_sample)]:
        assert relative_error(mine, other) <= TOLERANCE[torch.float64]


def compare_autoencoders(theirs, path):
    ours = VAE(vae_config_from_json(path))
    loaded(ours, randomise(theirs.double()))
    x, z = normal(2, 3, 8, 12), normal(2, ours.config.latent_channels, 4, 6)
    posterior, scale = theirs.encode(x).latent_dist, theirs.config.scaling_factor
    assert relative_error(ours.to_latent(x), posterior.mean * scale) <= TOLERANCE[torch.float64]
    wanted = theirs.decode(z / scale).sample.clamp(-1, 1)
    assert relative_error(ours.to_image(z), wanted) <= TOLERANCE[torch.float64]


def added_inputs(config):
    """SDXL's inputs for ours and for theirs, if the network has them."""
    if config.added_dim is None:
        return None, {}
    sizes = torch.tensor([[16, 12, 0, 4, 16, 16], [8, 8, 1, 0, 12, 16]])
    pooled = normal(2, 7, seed=2)
    return (pooled, sizes), {"text_embeds": pooled, "time_ids": sizes}


@pytest.mark.parametrize(("name", "changes"), cases(UNET_SETTINGS, 0))
@torch.no_grad()
def test_a_setting_of_the_unet_is_honoured(name, changes, tmp_path):
    theirs = UNet2DConditionModel(**UNET | changes)
    compare_unets(theirs, written(tmp_path, theirs.config))


@pytest.mark.parametrize(("name", "changes"), cases(UNET_SETTINGS, 1))
def test_a_setting_of_the_unet_is_refused(name, changes, tmp_path):
    refused(lambda path: UNet(unet_config_from_json(path)), UNET | changes, name, tmp_path)


def refused(read, config, name, folder):
    """Whatever is refused is refused in one sentence of bounded length that names the setting."""
    with pytest.raises(ValueError) as caught, torch.device("meta"):  # noqa: PT011
        read(written(folder, config))
    said = str(caught.value)
    assert ALIASES.get(name, name) in said
    assert "\n" not in said
    assert len(said.replace(str(folder), "")) < 450


# What a sentence of ours calls a setting where several settings are checked together.
ALIASES = {"down_block_types": "block", "up_block_types": "block", "attention_head_dim": "head"}
ALIASES |= {"num_attention_heads": "head", "model_type": "type"}
ALIASES |= {"norm_num_groups": "group", "hidden_act": "act", "block_out_channels": "channels"}
ALIASES |= {"transformer_layers_per_block": "transformer_", "architectures": "class CLIPTextModel"}


@pytest.mark.parametrize(("name", "changes"), cases(VAE_SETTINGS, 0))
@torch.no_grad()
def test_a_setting_of_the_autoencoder_is_honoured(name, changes, tmp_path):
    theirs = AutoencoderKL(**AE | changes | {"sample_size": 32})
    compare_autoencoders(theirs, written(tmp_path, dict(theirs.config) | changes))


@pytest.mark.parametrize(("name", "changes"), cases(VAE_SETTINGS, 1))
def test_a_setting_of_the_autoencoder_is_refused(name, changes, tmp_path):
    refused(lambda path: VAE(vae_config_from_json(path)), AE | changes, name, tmp_path)


NOT_CONTROL = ("sample_size", "up_block_types", "_class_name")
CONTROL = {k: v for k, v in UNET.items() if k not in NOT_CONTROL}
CONTROL |= {"conditioning_embedding_out_channels": (4, 6), "_class_name": "ControlNetModel"}


@pytest.mark.parametrize(("name", "changes"), cases(CONTROLNET_SETTINGS, 0))
@torch.no_grad()
def test_a_setting_of_a_controlnet_is_honoured(name, changes, tmp_path):
    config = {k: v for k, v in (CONTROL | changes).items() if k not in NOT_CONTROL}
    theirs = ControlNetModel(**config)
    compare_controlnets(
        theirs, written(tmp_path, {"_class_name": "ControlNetModel"} | theirs.config)
    )


@pytest.mark.parametrize(("name", "changes"), cases(CONTROLNET_SETTINGS, 1))
def test_a_setting_of_a_controlnet_is_refused(name, changes, tmp_path):
    refused(
        lambda path: ControlNet(*controlnet_config_from_json(path)),
        CONTROL | changes,
        name,
        tmp_path,
    )


def compare_text_encoders(theirs, path):
    ours = CLIPTextEncoder(text_config_from_json(path, type(theirs).__name__))
    loaded(ours, randomise(theirs.double()))
    ids = torch.tensor([[58, 7, 59, 3, 59, 5], [7, 7, 3, 59, 58, 0]])
    states, wanted = ours(ids), theirs(ids)
    assert relative_error(states.last, wanted.last_hidden_state) <= TOLERANCE[torch.float64]
    has_projection = isinstance(theirs, CLIPTextModelWithProjection)
    pooled = wanted["text_embeds" if has_projection else "pooler_output"]
    assert relative_error(states.pooled, pooled) <= TOLERANCE[torch.float64]


@pytest.mark.parametrize("cls", [CLIPTextModel, CLIPTextModelWithProjection])
@pytest.mark.parametrize(("name", "changes"), cases(TEXT_SETTINGS, 0))
@torch.no_grad()
def test_a_setting_of_the_text_encoder_is_honoured(name, changes, cls, tmp_path):
    theirs = randomise(cls(TheirTextConfig(**TEXT | changes)).double())
    theirs.save_pretrained(tmp_path)
    compare_text_encoders(theirs, tmp_path / "config.json")


@pytest.mark.parametrize("cls", [CLIPTextModel, CLIPTextModelWithProjection])
@torch.no_grad()
def test_the_text_encoder_of_a_whole_clip(cls, tmp_path):
    """Its file has the text encoder's settings inside, and others of the same names outside."""
    clip = CLIPModel(CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=5))
    clip.save_pretrained(tmp_path)
    theirs = cls.from_pretrained(tmp_path)
    compare_text_encoders(theirs, tmp_path / "config.json")
    ours = CLIPTextEncoder(text_config_from_json(tmp_path / "config.json", cls.__name__))
    weights.load(ours, tmp_path)
    wanted = cls.from_pretrained(tmp_path)(torch.tensor([[58, 7, 59]])).last_hidden_state
    assert relative_error(ours(torch.tensor([[58, 7, 59]])).last, wanted) < 1e-5


@torch.no_grad()
def test_null_for_the_type_of_a_text_encoder(tmp_path):
    path = written(tmp_path, TEXT | {"model_type": None, "architectures": None})
    compare_text_encoders(CLIPTextModel(TheirTextConfig.from_pretrained(tmp_path)), path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"layer_norm_eps": 0.1}, "layer_norm_eps is 0.1"),
        ({"model_type": "siglip_text_model"}, "type 'siglip_text_model'"),
    ],
)
def test_a_setting_inside_a_whole_clip_is_refused(changes, words, tmp_path):
    path = written(tmp_path, {"model_type": "clip", "text_config": TEXT | changes})
    with pytest.raises(ValueError, match=words):
        text_config_from_json(path, "CLIPTextModel")


@pytest.mark.parametrize("name", TEXT_SETTINGS)
@torch.no_grad()
def test_a_setting_of_the_text_encoder_that_is_left_out(name, tmp_path):
    given = {key: value for key, value in TEXT.items() if key != name}
    path = written(tmp_path, given)
    if name in ("vocab_size", "hidden_size", "intermediate_size", *LAYERS):
        with pytest.raises(ValueError, match=f"no entry '{name}'"):
            text_config_from_json(path)
    else:
        theirs = CLIPTextModelWithProjection(TheirTextConfig(**given))
        compare_text_encoders(theirs, path)


LAYERS = ("num_hidden_layers", "num_attention_heads")


@pytest.mark.parametrize(("name", "changes"), cases(TEXT_SETTINGS, 1))
def test_a_setting_of_the_text_encoder_is_refused(name, changes, tmp_path):
    config = TEXT | {"architectures": ["CLIPTextModelWithProjection"]} | changes
    refused(lambda path: CLIPTextEncoder(text_config_from_json(path)), config, name, tmp_path)


@pytest.mark.parametrize(
    ("cls", "config", "compare", "name"),
    [
        pytest.param(cls, config, compare, name, id=f"{cls.__name__}-{name}")
        for cls, config, compare in (
            (UNet2DConditionModel, UNET, compare_unets),
            (ControlNetModel, CONTROL, compare_controlnets),
            (AutoencoderKL, AE, compare_autoencoders),
        )
        for name in inspect.signature(cls).parameters
    ],
)
@torch.no_grad()
def test_a_setting_that_is_left_out_has_their_default(cls, config, compare, name, tmp_path):
    given = {k: v for k, v in config.items() if k not in (name, "_class_name")}
    path = written(tmp_path, given)
    try:
        theirs = cls(**given)
    except (ValueError, IndexError):  # they need it as well
        theirs = None
    if theirs is None or name.endswith(
        ("cross_attention_dim", "block_out_channels", "block_types")
    ):
        with pytest.raises(ValueError, match=f"no entry '{name}'|divided|norm_num_groups"):
            compare(theirs, path)
    else:
        compare(theirs, path)
