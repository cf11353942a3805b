"""Train a small U-Net from scratch on the storybook: twenty steps, to see the loss fall.

python examples/06_train_a_unet.py [FOLDER]

`sdlearn train unet` does this for an hour, with everything that makes the model good.
"""

import random
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import sdlearn
from sdlearn.storybook import caption, render, sample_scene
from sdlearn.training import diffusion_loss

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
torch.manual_seed(0)
rng = random.Random(0)

sd = sdlearn.StableDiffusion.storybook(device="cpu")  # for its autoencoder and text encoder
scenes = [sample_scene(rng, split="train") for _ in range(32)]
pixels = np.stack([np.asarray(render(scene, 64)) for scene in scenes])  # (32, 64, 64, 3)
x = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1  # (b, 3, h, w) in [-1, 1]
z_0 = sd.vae.to_latent(x)
context = sd.text([caption(scene, rng) for scene in scenes]).context

config = sdlearn.UNetConfig(
    block_out_channels=(32, 64),
    num_heads=(1, 2),
    cross_attention=(True, True),
    transformer_depth=(1, 1),
    cross_attention_dim=context.shape[-1],
)
unet = sdlearn.UNet(config)
optimizer = torch.optim.AdamW(unet.parameters(), lr=2e-3)
for step in range(20):
    t, eps = torch.randint(0, 1000, (len(z_0),)), torch.randn_like(z_0)
    loss = diffusion_loss(unet, z_0, t, eps, context, sd.schedule)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step in (0, 19):
        print(f"step {step + 1:2}: loss {loss.item():.3f}")
sdlearn.weights.save(unet, folder / "unet.safetensors")
print(f"{folder / 'unet.safetensors'}: {sum(p.numel() for p in unet.parameters()):,} parameters")
