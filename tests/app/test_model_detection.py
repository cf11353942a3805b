"""A file for another system, or for a part of one, is called what it is."""

import re

import pytest
import torch
from safetensors.torch import save_file

from sdlearn import weights
from sdlearn.clip import CLIPTextEncoder
from sdlearn.controlnet import ControlNet
from sdlearn.pipeline import StableDiffusion
from sdlearn.unet import UNet
from sdlearn.utils.validation import one_line, shown
from sdlearn.vae import VAE
from sdlearn.versions import SPECS
from sdlearn.weights.ldm_keys import key_map
from sdlearn.weights.model_detection import (
    SIGNATURES,
    detect_model,
    foreign_family,
    resolve_spec,
)
from tests.tiny_original import TINY1, TINY_TEXT, TINY_UNET, TINY_VAE, original

UNET = "model.diffusion_model."
CONV_IN = "input_blocks.0.0.weight"
TO_K = "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"

# Names and shapes that a published file has -> what it is called.
FAMILIES = [
    ("a Control-LoRA", {"lora_controlnet": (0,), "input_blocks.0.0.up": (2, 2)}),
    ("ControlNet-LLLite", {"lllite_unet_input_blocks_4_1_attn1_to_q.down.0.weight": (2, 2)}),
    ("an IP-Adapter", {"ip_adapter.1.to_k_ip.weight": (2, 2), "image_proj.norm.bias": (2,)}),
    ("low-rank adapters (LoRA)", {"lora_te_text_model_encoder_layers_0.alpha": ()}),
    ("low-rank adapters (LoRA)", {"unet.down_blocks.0.attn1.to_k.lora_A.weight": (4, 2)}),
    ("low-rank adapters (LoRA)", {"lycoris_down_blocks_0.hada_w1_a": (4, 2)}),
    ("low-rank adapters (LoRA)", {"lycoris_down_blocks_0.lokr_w1": (4, 2)}),
    ("a textual-inversion embedding", {"emb_params": (2, 768)}),
    ("a textual-inversion embedding", {"clip_l": (2, 768), "clip_g": (2, 1280)}),
    ("a textual-inversion embedding", {"string_to_param.*": (2, 768)}),
    ("ControlNet Union", {"task_embedding": (6, 320), "input_hint_block.0.weight": (16, 3, 3, 3)}),
    ("a T2I-Adapter", {"body.0.in_conv.weight": (2, 2), "conv_in.weight": (320, 64, 3, 3)}),
    ("a T2I-Adapter", {"adapter.body.0.resnets.0.block1.weight": (2, 2, 3, 3)}),
    ("quantised weights", {UNET + CONV_IN: (320, 4, 3, 3), UNET + "out.2.scale_weight": ()}),
    ("quantised weights", {UNET + "time_embed.0.weight.quant_map": (16,)}),
    ("quantised weights", {UNET + CONV_IN: (320, 4, 3, 3), UNET + "out.2.comfy_quant": (30,)}),
    ("AnimateDiff", {"down_blocks.0.motion_modules.0.temporal_transformer.norm.bias": (2,)}),
    ("Stable Diffusion 3", {UNET + "joint_blocks.0.x_block.attn.proj.weight": (2, 2)}),
    ("Flux", {"double_blocks.0.img_attn.proj.weight": (2, 2)}),
    ("Flux", {"single_transformer_blocks.0.attn.to_q.weight": (2, 2)}),
    ("Playground 2.5", {UNET + CONV_IN: (320, 4, 3, 3), "edm_mean": (1, 4, 1, 1)}),
    ("CosXL", {UNET + CONV_IN: (320, 4, 3, 3), "edm_vpred.sigma_max": ()}),
    ("Stable Cascade", {"clip_txt_mapper.weight": (2, 2)}),
    ("a diffusion transformer", {"adaln_single.linear.weight": (2, 2)}),
    ("a diffusion transformer", {"t_block.1.weight": (2, 2), "y_embedder.y_embedding": (2, 2)}),
    ("Stable Video Diffusion", {UNET + "input_blocks.1.1.time_stack.0.norm1.weight": (2,)}),
    ("Stable Diffusion 2 unCLIP", {"noise_augmentor.data_mean": (1,)}),
    (
        "Stable Diffusion 2 unCLIP",
        {UNET + CONV_IN: (320, 4, 3, 3), UNET + TO_K: (2, 1024), UNET + "label_emb.0.0.weight": ()}
        | {UNET + "label_emb.0.0.weight": (1280, 2048)},
    ),
    ("Stable Diffusion 2 for depth maps", {"depth_model.model.x": (2,)}),
    ("Stable Diffusion 2 for depth maps", {UNET + CONV_IN: (1, 5, 3, 3), UNET + TO_K: (1, 1024)}),
    ("Stable Diffusion 2 for upscaling", {CONV_IN: (1, 7, 3, 3), TO_K: (1, 1024)}),
    ("Stable Diffusion 1 for following instr", {CONV_IN: (1, 8, 3, 3), TO_K: (1, 768)}),
    ("the refiner of SDXL", {UNET + CONV_IN: (1, 4, 3, 3), UNET + TO_K: (1, 1280)}),
    ("Stable Diffusion's upscaler", {"low_scale_model.betas": (1000,)}),
    ("GLIGEN", {"position_net.linears.0.weight": (2, 2), UNET + TO_K: (1, 768)}),
    ("a latent consistency model", {"time_embedding.cond_proj.weight": (320, 256)}),
    ("latent diffusion with a BERT", {"cond_stage_model.transformer.token_emb.weight": (2, 2)}),
    ("Kandinsky or Kolors", {"encoder_hid_proj.weight": (2, 2)}),
    ("a safety checker", {"concept_embeds": (17, 768)}),
    ("a T5 text encoder", {"encoder.block.0.layer.0.SelfAttention.q.weight": (2, 2)}),
    ("a language model", {"model.layers.0.mlp.gate_proj.weight": (2, 2)}),
    ("an image upscaler", {"model.1.sub.0.RDB1.conv1.0.weight": (2, 2, 3, 3)}),
    ("a tiny autoencoder (TAESD)", {"taesd_decoder.1.weight": (2, 2)}),
    ("a tiny autoencoder (TAESD)", {"1.weight": (64, 4, 3, 3), "3.conv.0.weight": (2, 2)}),
    ("a tiny autoencoder (TAESD)", {"encoder.layers.1.conv.0.weight": (64, 64, 3, 3)}),
    ("an autoencoder with a codebook", {"quantize.embedding.weight": (256, 4)}),
    ("an autoencoder whose latents have 16", {"decoder.conv_in.weight": (512, 16, 3, 3)}),
    ("an autoencoder for video", {"decoder.conv_in.weight": (512, 16, 3, 3, 3)}),
    ("the autoencoder of another system", {"decoder.middle.0.residual.0.gamma": (2,)}),
    ("the image encoder of CLIP", {"vision_model.embeddings.class_embedding": (1024,)}),
    (
        "OpenCLIP ViT-bigG/14",
        {"positional_embedding": (77, 1280), "visual.positional_embedding": (257, 1664)},
    ),
    (
        "CLIP ViT-L/14",
        {
            "vision_model.embeddings.position_embedding.weight": (257, 1024),
            "text_model.embeddings.position_embedding.weight": (77, 768),
        },
    ),
]
MODULES = UNet(TINY_UNET), VAE(TINY_VAE), CLIPTextEncoder(TINY_TEXT), ControlNet(TINY_UNET)
IDS = [f"{family} {number}" for number, (family, _) in enumerate(FAMILIES)]


@pytest.mark.parametrize(("family", "shapes"), FAMILIES, ids=IDS)
def test_a_file_is_called_what_it_is(tmp_path, family, shapes):
    assert (detect_model(shapes) or "").startswith(family)
    path = tmp_path / "model.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, path)
    readings = [lambda module=module: weights.load(module, path) for module in MODULES]
    readings.append(lambda: StableDiffusion.from_pretrained(path, device="cpu"))
    readings.append(lambda: StableDiffusion.from_pretrained(path, device="cpu", spec=TINY1))
    readings.append(lambda: weights.load_original(TINY1, path))
    if "ControlNet for" not in family:
        readings.append(lambda: ControlNet.from_pretrained(path))
    for read in readings:
        with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
            read()
        assert "\n" not in str(caught.value)
        assert family in str(caught.value) or "EDM" in str(caught.value)


@pytest.mark.parametrize("name", SPECS)
def test_no_signature_is_in_a_system_that_is_supported(name):
    spec = SPECS[name]
    with torch.device("meta"):
        modules = [UNet(spec.unet), VAE(spec.vae), ControlNet(spec.unet)]
        modules += [CLIPTextEncoder(config) for config in spec.text]
    for module in modules:
        for key, theirs in (key_map(module) | key_map(module, open_clip=True)).items():
            assert foreign_family({key: (), theirs: (), f"text_model.{key}": ()}) is None


def test_long_values_are_shortened():
    assert shown("x" * 110) == repr("x" * 110)  # the longest names of published tensors
    for value in ("a" * 5000 + "b" * 5000, [["x" * 5000] * 50] * 50, 10**5000, ("a\nb",) * 100):
        assert len(shown(value)) <= 160
    assert shown("a" * 5000 + "b" * 5000).endswith("b'")
    assert one_line("a\n  b") == "a b"
    assert len(one_line("a" * 5000)) == 480
    assert len(one_line("a" * 5000, 200)) == 200
    with pytest.raises(ValueError, match="; accepted: ") as caught:
        resolve_spec("sd" * 5000)
    assert len(str(caught.value)) < 500
    assert len(SIGNATURES) > 30


LONG = {"x": "x" * 9000, "attn_1": "mid.attn_1." * 40_000, "layers": "block.1.layer." * 30_000}


@pytest.mark.parametrize("name", LONG)
def test_a_tensor_with_a_long_name(tmp_path, name):
    path = tmp_path / "model.safetensors"
    save_file({LONG[name]: torch.zeros(1)}, path)
    for module in MODULES:
        with pytest.raises(ValueError, match="holds a tensor with the name") as caught:
            weights.load(module, path)
        assert len(str(caught.value)) < 400


ADDED = {
    "scaled_fp8": "quantised weights",
    "lora_unet_mid_block.lora_up.weight": "low-rank adapters",
    "lora_te_text_model_encoder_layers_0.alpha": "low-rank adapters",
    "image_proj.proj.weight": "an IP-Adapter",
}


@pytest.mark.parametrize("name", ADDED)
def test_what_is_added_beside_one_network(tmp_path, name):
    """A network of a file is not read without what the file adds to it, whatever the prefix."""
    for module, prefix in ((UNet(TINY_UNET), UNET), (ControlNet(TINY_UNET), "control_model.")):
        state = original(module, prefix)
        path = tmp_path / "model.safetensors"
        save_file(state | {name: torch.ones(2)}, path)
        with pytest.raises(ValueError, match=f"{name}', which belongs to {ADDED[name]}"):
            weights.load(module, path)
        save_file(state | {"text_encoders.t5xxl.embed_tokens.weight": torch.ones(2)}, path)
        weights.load(module, path)  # other networks of the file change nothing
