"""One network's own file, in every naming that a library, a tool or a converter has written.

transformers and diffusers write the files that they can write; the other namings are made from
them by the renaming that the tool does. What is read must compute the same, in float64.
"""

import re

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextModel,
    CLIPTextModelWithProjection,
)
from transformers import CLIPTextConfig as TheirTextConfig

from sdlearn import weights
from sdlearn.clip import CLIPTextConfig, CLIPTextEncoder
from sdlearn.controlnet import ControlNet
from sdlearn.unet import UNet
from sdlearn.vae import VAE
from sdlearn.weights.configs import unet_config_to_json, vae_config_to_json
from sdlearn.weights.saving import published_state
from tests.parity.oracle import normal, randomise, relative_error
from tests.tiny_original import TINY1, TINY2, TINY_UNET, TINY_VAE, TINYXL, equal, original

IDS = torch.tensor([[1, 5, 7, 39, 39, 39, 39, 39, 39], [1, 8, 39, 39, 39, 39, 39, 39, 39]])
TEXT = {
    "vocab_size": 40,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 9,
    "eos_token_id": 39,
    "projection_dim": 24,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}


def plain_encoder(activation="quick_gelu", layers=2, projection=None):
    """A text encoder of random weights; a projection of 24 channels is square, like the real."""
    config = CLIPTextConfig(40, 24, layers, 2, 40, 9, activation, projection, 39)
    return randomise(CLIPTextEncoder(config).double(), seed=5)


def whole_clip(activation, layers=2):
    """CLIP of transformers with random weights, and its tensors as it publishes them."""
    text = TEXT | {"hidden_act": activation, "num_hidden_layers": layers}
    config = CLIPConfig(text_config=text, vision_config=VISION, projection_dim=24)
    return randomise(CLIPModel(config).double())


def their_output(clip, layers=2):
    """The hidden states and the projected embedding of transformers."""
    with torch.no_grad():
        out = clip.text_model(IDS, output_hidden_states=True)
        return out.hidden_states[: layers + 1], clip.text_projection(out.pooler_output)


def prefixed(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def text_part(state):
    """What CLIPTextModelWithProjection publishes of the whole CLIP."""
    return {k: v for k, v in state.items() if k.startswith(("text_model.", "text_projection"))}


def open_clip(state, projection="text_projection"):
    """OpenCLIP's naming, which is OpenAI's, of transformers' text model."""
    inner = {"layer_norm1": "ln_1", "layer_norm2": "ln_2"}
    inner |= {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "self_attn.out_proj": "attn.out_proj"}
    renamed = {}
    for key, value in text_part(state).items():
        name = key.removeprefix("text_model.").replace("encoder.layers.", "transformer.resblocks.")
        name = name.replace("embeddings.token_embedding", "token_embedding")
        name = name.replace("embeddings.position_embedding.weight", "positional_embedding")
        name = name.replace("final_layer_norm", "ln_final")
        for theirs, ours in inner.items():
            name = name.replace(f".{theirs}.", f".{ours}.")
        if "_proj." in name and "self_attn" in name:
            if "q_proj" not in name:
                continue
            parts = [state[key.replace("q_proj", each)] for each in ("q_proj", "k_proj", "v_proj")]
            name = name.replace("self_attn.q_proj.", "attn.in_proj_")
            value = torch.cat(parts)
        if name == "text_projection.weight":
            name, value = projection, value.T if projection == "text_projection" else value
        renamed[name] = value
    return renamed


VISUAL = {"visual.conv1.weight": torch.ones(2, 2), "visual.transformer.resblocks.0.ln_1.bias": IDS}
POSITIONS = {"text_model.embeddings.position_ids": torch.arange(9)[None]}
OPENAI = {name: torch.tensor(9) for name in ("context_length", "vocab_size", "input_resolution")}
SCALE = {"logit_scale": torch.tensor(4.6)}
# How a text encoder is published -> the tensors of the file, from those of the whole CLIP.
TEXT_FILES = {
    "whole CLIP": lambda s: s | POSITIONS,
    "text model with projection": text_part,
    "ComfyUI's clip_l": lambda s: text_part(s) | POSITIONS | SCALE,
    "without text_model": lambda s: {k.removeprefix("text_model."): v for k, v in s.items()},
    "transformer.": lambda s: prefixed("transformer.", text_part(s)) | SCALE,
    "all of SD 3": lambda s: prefixed("text_encoders.clip_l.transformer.", text_part(s)),
    "all of a pipeline": lambda s: prefixed("text_encoder.", text_part(s)),
    "SD 1": lambda s: prefixed("cond_stage_model.transformer.", text_part(s)),
    "SD 1 with the whole CLIP": lambda s: prefixed("cond_stage_model.transformer.", s),
    "SDXL, first": lambda s: prefixed("conditioner.embedders.0.transformer.", text_part(s)),
    "OpenCLIP": lambda s: open_clip(s) | VISUAL | SCALE | {"attn_mask": torch.ones(9, 9)},
    "OpenCLIP, a linear projection": lambda s: open_clip(s, "text_projection.weight") | VISUAL,
    "OpenCLIP, custom text": lambda s: prefixed("text.", open_clip(s)) | VISUAL | SCALE,
    "OpenAI": lambda s: open_clip(s) | VISUAL | SCALE | OPENAI,
    "SDXL, second": lambda s: prefixed("conditioner.embedders.1.model.", open_clip(s) | SCALE),
    "a wrapper": lambda s: prefixed("module.", s),
    "text_projection without .weight": lambda s: (
        {k: v for k, v in text_part(s).items() if k != "text_projection.weight"}
        | {"text_projection": s["text_projection.weight"].T}
    ),
}


@pytest.mark.parametrize("projection", [None, 24], ids=["plain", "projected"])
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("case", TEXT_FILES)
def test_a_text_encoder_s_own_file(tmp_path, case, activation, projection):
    clip = whole_clip(activation)
    state = {k: v.contiguous().clone() for k, v in TEXT_FILES[case](clip.state_dict()).items()}
    save_file(state, tmp_path / "clip.safetensors")
    encoder = plain_encoder(activation, projection=projection)
    weights.load(encoder, tmp_path / "clip.safetensors")
    hidden, projected = their_output(clip)
    with torch.no_grad():
        ours = encoder(IDS)
    for a, b in zip(ours.hidden, hidden, strict=True):
        assert relative_error(a, b) <= 1e-12
    if projection:
        assert relative_error(ours.pooled, projected) <= 1e-12
        assert relative_error(ours.pooled.flip(0), projected) > 0.1


@pytest.mark.parametrize("kind", [CLIPModel, CLIPTextModel, CLIPTextModelWithProjection])
def test_files_that_transformers_writes(tmp_path, kind):
    clip = whole_clip("gelu")
    whole = clip
    if kind is not CLIPModel:
        clip = randomise(kind(TheirTextConfig(**TEXT, hidden_act="gelu")).double())
    clip.save_pretrained(tmp_path)
    encoder = plain_encoder("gelu", projection=None if kind is CLIPTextModel else 24)
    weights.load(encoder, tmp_path / "model.safetensors")
    with torch.no_grad():
        theirs = whole.text_model(IDS) if kind is CLIPModel else clip(IDS)
        assert relative_error(encoder(IDS).last, theirs.last_hidden_state) <= 1e-12


@pytest.mark.parametrize("naming", ["published", "OpenCLIP"])
def test_the_last_layer_that_stable_diffusion_2_leaves_out(tmp_path, naming):
    """Of a whole OpenCLIP; an encoder of OpenAI's, or with a projection, needs every layer."""
    clip = whole_clip("gelu", layers=3)
    state = clip.state_dict() if naming == "published" else open_clip(clip.state_dict()) | VISUAL
    path = tmp_path / "clip.safetensors"
    save_file({k: v.contiguous().clone() for k, v in state.items()}, path)
    encoder = plain_encoder("gelu")
    weights.load(encoder, path)
    with torch.no_grad():
        ours, theirs = encoder(IDS).hidden, their_output(clip)[0]
        assert all(relative_error(*pair) <= 1e-12 for pair in zip(ours, theirs, strict=True))
    for other in (plain_encoder("quick_gelu"), plain_encoder("gelu", projection=24)):
        with pytest.raises(ValueError, match=r"holds the tensor .*\.2\..*which CLIPTextEncoder do"):
            weights.load(other, path)
    with pytest.raises(ValueError, match="which CLIPTextEncoder does not have"):
        weights.load(plain_encoder("gelu", layers=1), path)


def without(*starts):
    return lambda s: {k: v for k, v in text_part(s).items() if not k.startswith(starts)}


WRONG_TEXT = {
    "no projection": (without("text_projection"), "lacks 1 of .* 'text_projection.weight'"),
    "a layer too few": (without("text_model.encoder.layers.1."), "lacks 16 of the"),
    "a tensor twice": (
        lambda s: text_part(s) | {"final_layer_norm.bias": torch.zeros(24)},
        "under two names, '(text_model.)?final_layer_norm.bias' and '(text_model.)?final_layer",
    ),
    "LoRA": (
        lambda s: {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.ones(2)},
        r"it looks like low-rank adapters \(LoRA\)",
    ),
    "the image encoder alone": (
        lambda s: {k: v for k, v in s.items() if k.startswith(("vision", "visual"))},
        "it looks like the image encoder of CLIP, without its text encoder",
    ),
    "a head": (
        lambda s: s | {"classifier.weight": torch.ones(2, 2)},
        "holds the tensor 'classifier.weight', which CLIPTextEncoder does not have",
    ),
    "T5": (
        lambda s: {"encoder.block.0.layer.0.SelfAttention.q.weight": torch.ones(2, 2)},
        "it looks like a T5 text encoder",
    ),
}


@pytest.mark.parametrize("case", WRONG_TEXT)
def test_another_text_encoder_is_refused(tmp_path, case):
    make, words = WRONG_TEXT[case]
    path = tmp_path / "clip.safetensors"
    save_file({k: v.clone() for k, v in make(whole_clip("gelu").state_dict()).items()}, path)
    encoder = plain_encoder("gelu", projection=24)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    with pytest.raises(ValueError, match=words) as caught:
        weights.load(encoder, path)
    assert str(path) in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


def test_each_text_encoder_finds_its_own_in_a_file_with_two(tmp_path):
    encoders = [randomise(CLIPTextEncoder(config), n) for n, config in enumerate(TINYXL.text)]
    state = original(encoders[0], "conditioner.embedders.0.transformer.text_model.")
    state |= original(encoders[1], "conditioner.embedders.1.model.")
    save_file(state, tmp_path / "sdxl.safetensors")
    for encoder in encoders:
        other = CLIPTextEncoder(encoder.config)
        weights.load(other, tmp_path / "sdxl.safetensors")
        assert equal(other, encoder)


# ------------------------------------------------------------------------------------ autoencoders

QUERIES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
LETTERS = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out", "group_norm": "norm"}


def attention_as(state, names, convolutions):
    """The attention's layers under other names, with weights of linear layers or convolutions."""
    renamed = {}
    for key, value in state.items():
        block, mark, layer = key.partition("attentions.0.")
        if not mark:
            block, mark, layer = key.partition("attn_1.")
        if mark:
            name, _, kind = layer.rpartition(".")
            weight = kind == "weight" and "norm" not in name
            value = value.flatten(1)[:, :, None, None] if weight and convolutions else value
            value = value.flatten(1) if weight and not convolutions else value
            key = f"{block}{mark}{names.get(name, name)}.{kind}"
        renamed[key] = value
    return renamed


NEW = {theirs: ours for names in (QUERIES, LETTERS) for ours, theirs in names.items()}
NAMINGS = {
    "the layout's own": {},
    "to_q": NEW,
    "query": {**NEW, **QUERIES, "q": "query", "k": "key", "v": "value", "proj_out": "proj_attn"},
    "q": {**LETTERS, **{old: LETTERS[new] for new, old in QUERIES.items()}},
}
LOSSES = {
    "loss.logvar": torch.zeros(()),
    "loss.discriminator.main.0.weight": torch.ones(4, 4),
    "loss.perceptual_loss.lin0.model.1.weight": torch.ones(1, 2),
    "model_ema.decay": torch.ones(()),
    "model_ema.num_updates": torch.tensor(5),
    "model_ema.decoderconv_inweight": torch.ones(3),
}


@pytest.mark.parametrize("prefix", ["", "first_stage_model.", "vae.", "model.", "module."])
@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("convolutions", [False, True], ids=["linear", "convolutions"])
@pytest.mark.parametrize("layout", ["published", "original"])
def test_an_autoencoder_in_every_naming(tmp_path, layout, naming, convolutions, prefix):
    theirs = randomise(AutoencoderKL(**vae_config_to_json(TINY_VAE, 16)).double())
    published = theirs.state_dict()
    if layout == "original":
        vae = VAE(TINY_VAE).double()
        vae.load_state_dict(published)
        published = original(vae, "")
    state = prefixed(prefix, attention_as(published, NAMINGS[naming], convolutions))
    state |= prefixed(prefix, LOSSES)
    save_file({k: v.contiguous().clone() for k, v in state.items()}, tmp_path / "v.safetensors")
    ours = VAE(TINY_VAE).double()
    weights.load(ours, tmp_path / "v.safetensors")
    x = normal(1, 3, 16, 24)
    with torch.no_grad():
        moments = theirs.encode(x).latent_dist
        assert relative_error(ours.encode(x)[0], moments.mean) <= 1e-12
        assert relative_error(ours.decode(moments.mean), theirs.decode(moments.mean).sample) < 1e-12


@pytest.mark.parametrize("naming", NAMINGS)
def test_diffusers_reads_the_same_from_an_original_autoencoder(tmp_path, naming):
    """Which naming diffusers understands is its own affair; ours must agree where it does."""
    vae = randomise(VAE(TINY_VAE))
    path = tmp_path / "vae.safetensors"
    state = attention_as(original(vae, "first_stage_model."), NAMINGS[naming], True)
    save_file({k: v.contiguous().clone() for k, v in state.items()}, path)
    AutoencoderKL(**vae_config_to_json(TINY_VAE, 16)).save_config(tmp_path)
    if naming in ("the layout's own", "q"):
        theirs = AutoencoderKL.from_single_file(str(path), config=str(tmp_path))
        ours = published_state(vae)
        assert all(torch.equal(ours[key], value) for key, value in theirs.state_dict().items())
    other = VAE(TINY_VAE)
    weights.load(other, path)
    assert equal(other, vae)


def test_an_autoencoder_without_its_quant_conv_is_refused(tmp_path):
    state = original(randomise(VAE(TINY_VAE)), "first_stage_model.")
    state = {k: v.half().contiguous() for k, v in state.items() if "stage_model.quant" not in k}
    save_file(state, tmp_path / "vae.safetensors")
    with pytest.raises(ValueError, match=r"lacks 2 of the \d+ tensors of VAE, .*'quant_conv\.bias"):
        weights.load(VAE(TINY_VAE), tmp_path / "vae.safetensors")


# -------------------------------------------------------------------------- U-Nets and ControlNets


@pytest.mark.parametrize("spec", [TINY1, TINY2, TINYXL], ids=lambda spec: spec.name)
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model.", "unet."])
@pytest.mark.parametrize("layout", ["published", "original"])
def test_a_unet_alone(tmp_path, layout, prefix, spec):
    unet = randomise(UNet(spec.unet))
    state = original(unet, prefix)
    if layout == "published":
        with torch.device("meta"):
            theirs = UNet2DConditionModel.from_config(dict(unet_config_to_json(spec.unet)))
        state = prefixed(prefix, published_state(unet))
        assert {prefix + key for key in theirs.state_dict()} == state.keys()
    path = tmp_path / "unet.safetensors"
    save_file({k: v.contiguous() for k, v in state.items()}, path)
    other = UNet(spec.unet)
    weights.load(other, path)
    assert equal(other, unet)


@pytest.mark.parametrize("prefix", ["", "control_model.", "controlnet.", "module."])
@pytest.mark.parametrize("layout", ["published", "original"])
def test_a_controlnet_alone(tmp_path, layout, prefix):
    controlnet = randomise(ControlNet(TINY_UNET, hint_channels=(4, 6, 8, 10)))
    state = original(controlnet, prefix)
    if layout == "published":
        state = prefixed(prefix, published_state(controlnet))
    torch.save(state, tmp_path / "control.pth")
    other = ControlNet.from_pretrained(tmp_path / "control.pth", spec=TINY1)
    assert equal(other, controlnet)


KINDS_OF_CONTROL = {
    "a Control-LoRA": {"lora_controlnet": torch.zeros(0)},
    "ControlNet Union": {"task_embedding": torch.zeros(6, 320)},
    "a T2I-Adapter": {"body.0.block1.weight": torch.zeros(2, 2)},
    "a T2I-Adapter ": {"adapter.body.0.resnets.0.block1.weight": torch.zeros(2, 2)},
    "an IP-Adapter": {"image_proj.proj.weight": torch.zeros(2, 2)},
    "ControlNet-LLLite": {"lllite_unet_input_blocks_4_1.cond_emb.weight": torch.zeros(2, 2)},
}


@pytest.mark.parametrize("kind", KINDS_OF_CONTROL)
def test_what_is_no_controlnet_is_called_what_it_is(tmp_path, kind):
    """With the tensors that it shares with a ControlNet, and without."""
    controlnet = original(randomise(ControlNet(TINY_UNET, hint_channels=(4, 6, 8, 10))), "")
    path = tmp_path / "control.safetensors"
    for shared in ({}, {k: v.contiguous() for k, v in controlnet.items()}):
        save_file(shared | KINDS_OF_CONTROL[kind], path)
        words = f"holds no ControlNet; it looks like {re.escape(kind.strip())}"
        with pytest.raises(ValueError, match=words) as caught:
            ControlNet.from_pretrained(path, spec=TINY1)
        assert str(path) in str(caught.value)


def test_a_file_that_transformers_wrote_is_no_unet(tmp_path):
    whole_clip("gelu").save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    assert any(key.startswith("vision_model.") for key in state)
    for module in (UNet(TINY_UNET), VAE(TINY_VAE), ControlNet(TINY_UNET)):
        with pytest.raises(ValueError, match=f"which {type(module).__name__} does not have"):
            weights.load(module, tmp_path / "model.safetensors")
