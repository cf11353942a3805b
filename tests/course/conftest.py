"""A storybook model with random weights, small enough to draw in a blink."""

from dataclasses import replace

import pytest
import torch

import sdlearn
from sdlearn.versions import STORYBOOK
from tests.tiny_model import tiny_tokenizer


@pytest.fixture(scope="session")
def tiny_storybook() -> sdlearn.StableDiffusion:
    """The storybook's specification but for the widths of its networks and the number of steps."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    text = replace(
        STORYBOOK.text[0],
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        hidden_size=16,
        num_layers=1,
        num_heads=2,
        intermediate_size=32,
    )
    unet = replace(
        STORYBOOK.unet,
        block_out_channels=(8, 16),
        num_heads=(2, 2),
        cross_attention_dim=16,
        norm_num_groups=4,
    )
    vae = replace(STORYBOOK.vae, block_out_channels=(4, 8, 8, 8), norm_num_groups=4)
    spec = replace(STORYBOOK, text=(text,), unet=unet, vae=vae, steps=6)
    parts = sdlearn.UNet(unet), sdlearn.VAE(vae)
    encoder = sdlearn.TextEncoder([tokenizer], [sdlearn.CLIPTextEncoder(text)])
    for module in (*parts, encoder):
        module.eval().requires_grad_(False)
    return sdlearn.StableDiffusion(*parts, encoder, spec)
