"""A whole Stable Diffusion with random weights, small enough to sample from in a blink.

It is written by diffusers and transformers themselves, so that reading it is a test of reading the
published layout, and its weights are far from their starting values, so that no tensor is left out
of a comparison by being zero or one.
"""

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

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


def tiny_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer with the published order: bytes, bytes ending a word, merges, specials."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = []
    for word in sorted(set(" ".join(CAPTIONS).split())):  # letter by letter from the left
        *letters, end = word
        pieces = [*letters, end + "</w>"]
        merges += [("".join(pieces[:k]), pieces[k]) for k in range(1, len(pieces))]
    merges = list(dict.fromkeys(merges))
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    tokens += ["".join(pair) for pair in merges] + ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)


def tiny_diffusers(seed: int = 0) -> StableDiffusionPipeline:
    """The model as a diffusers pipeline, in float32."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        attention_head_dim=[2, 4],
        cross_attention_dim=24,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        sample_size=16,
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.3,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=24,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    for module in (unet, vae, text):
        for name, parameter in module.named_parameters():
            # Embeddings of size 1 and the rest a bit off: the prompt matters, nothing is 0 or 1.
            size = 1.0 if "token_embedding" in name else 0.05
            parameter.data.add_(torch.randn_like(parameter), alpha=size)
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(**SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
