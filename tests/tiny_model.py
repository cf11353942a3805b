"""Whole Stable Diffusions with random weights, small enough to sample from in a blink.

They are written by diffusers and transformers themselves, so that reading them is a test of reading
the published layout, and their weights are far from their starting values, so that no tensor is
left out of a comparison by being zero or one.
"""

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import pre_tokenizers
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

CAPTIONS = [
    "a red cat to the left of a blue house on the sand at night",
    "two green fish in the sea by day",
    "a yellow balloon above a brown tree in the snow",
]
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def tiny_tokenizer(pad: str = "<|endoftext|>") -> CLIPTokenizer:
    """A CLIP tokenizer with the published order: bytes, bytes ending a word, merges, specials."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = []
    for word in sorted(set(" ".join(CAPTIONS).split())):  # letter by letter from the left
        *letters, end = list(word)
        pieces = [*letters, end + "</w>"]
        merges += [("".join(pieces[:k]), pieces[k]) for k in range(1, len(pieces))]
    merges = list(dict.fromkeys(merges))
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    tokens += ["".join(pair) for pair in merges] + ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77, pad_token=pad)


def tiny_diffusers(seed: int = 0) -> StableDiffusionPipeline:
    """Stable Diffusion 1 as a diffusers pipeline, in float32."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    unet = tiny_unet(block_out_channels=(16, 32), attention_head_dim=[2, 4])
    vae = tiny_vae()
    text = CLIPTextModel(
        tiny_text(
            tokenizer,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    disturb(unet, vae, text)
    return tiny_pipeline(unet, vae, text, tokenizer, DDIMScheduler(**SCHEDULER))


def tiny_sd2(seed: int = 0) -> StableDiffusionPipeline:
    """Stable Diffusion 2.1 at 768: velocity, heads of equal width, linear projections, the other
    GELU, padding with "!", and numbers of special tokens that are wrong in the text encoder's file.
    """
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer(pad="!")
    unet = tiny_unet(
        block_out_channels=(12, 36),
        attention_head_dim=[3, 9],
        cross_attention_dim=28,
        use_linear_projection=True,
        upcast_attention=True,
    )
    vae = tiny_vae()
    legacy = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "projection_dim": 7}
    text = CLIPTextModel(
        tiny_text(tokenizer, hidden_size=28, num_hidden_layers=3, hidden_act="gelu", **legacy)
    )
    disturb(unet, vae, text)
    scheduler = DDIMScheduler(**SCHEDULER, prediction_type="v_prediction")
    return tiny_pipeline(unet, vae, text, tokenizer, scheduler)


def tiny_sdxl(seed: int = 0) -> StableDiffusionXLPipeline:
    """Stable Diffusion XL: two tokenizers and encoders, pooled text and sizes, uneven depths."""
    torch.manual_seed(seed)
    tokenizers = tiny_tokenizer(), tiny_tokenizer(pad="!")
    unet = tiny_unet(
        block_out_channels=(8, 24),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=[1, 3],
        transformer_layers_per_block=[1, 2],
        cross_attention_dim=12 + 20,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=18 + 6 * 4,
    )
    vae = tiny_vae()
    legacy = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    first = tiny_text(tokenizers[0], hidden_size=12, num_hidden_layers=3, **legacy)
    second = tiny_text(
        tokenizers[1],
        hidden_size=20,
        num_hidden_layers=4,
        num_attention_heads=5,
        hidden_act="gelu",
        projection_dim=18,
        **legacy,
    )
    texts = CLIPTextModel(first), CLIPTextModelWithProjection(second)
    disturb(unet, vae, *texts)
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=texts[0],
        text_encoder_2=texts[1],
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        unet=unet,
        scheduler=DDIMScheduler(**SCHEDULER),
        add_watermarker=False,
    )


def tiny_unet(**differences: Any) -> UNet2DConditionModel:
    config = {
        "sample_size": 8,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": 24,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**config | differences)


def tiny_vae(**differences: Any) -> AutoencoderKL:
    config = {
        "sample_size": 16,
        "block_out_channels": (8, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "scaling_factor": 0.3,
    }
    return AutoencoderKL(**config | differences)


def tiny_text(tokenizer: CLIPTokenizer, **differences: Any) -> CLIPTextConfig:
    config = {
        "vocab_size": len(tokenizer),
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    return CLIPTextConfig(**config | differences)


def disturb(*modules: nn.Module) -> None:
    """Embeddings of size 1 and the rest a bit off: the prompt matters, nothing is 0 or 1."""
    for module in modules:
        for name, parameter in module.named_parameters():
            size = 1.0 if "token_embedding" in name else 0.05
            parameter.data.add_(torch.randn_like(parameter), alpha=size)


def tiny_pipeline(
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    text: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    scheduler: DDIMScheduler,
) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
