"""A ControlNet on the storybook: at first it changes nothing, after ten steps it does.

python examples/08_controlnet.py [FOLDER]

A published one is read with sdlearn.ControlNet.from_pretrained("path/to/sd-controlnet-canny").
"""

import random
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import sdlearn
from sdlearn.storybook import caption, edges, render, sample_scene
from sdlearn.training import diffusion_loss

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
torch.manual_seed(0)

sd = sdlearn.StableDiffusion.storybook(device="cpu")
controlnet = sdlearn.ControlNet.from_unet(sd.unet)  # a copy of its encoder, and zero convolutions
scene = sample_scene(random.Random(7), split="train")
prompt, image, hint = caption(scene, random.Random(7)), render(scene, 64), edges(scene, 64)


def draw(name: str) -> Image.Image:
    drawn = sd.text_to_image(prompt, control=(controlnet, hint), steps=10, progress=False)[0]
    drawn.save(folder / f"{name}.png")
    print(folder / f"{name}.png")
    return drawn


def tensor(picture: Image.Image) -> Tensor:
    """An RGB image as (1, 3, h, w) in [0, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255


def controlled(z: Tensor, t: Tensor, context: Tensor) -> Tensor:
    residuals = controlnet(z, t, context, tensor(hint))
    return sd.unet(z, t, context, residuals=residuals)


sd.text_to_image(prompt, steps=10, progress=False)[0].save(folder / "without.png")
draw("untrained")
z_0 = sd.vae.to_latent(2 * tensor(image) - 1).expand(4, -1, -1, -1)
context = sd.text([prompt] * 4).context
optimizer = torch.optim.AdamW(controlnet.parameters(), lr=1e-3)
for _ in range(10):
    t, eps = torch.randint(0, 1000, (4,)), torch.randn(z_0.shape)
    loss = diffusion_loss(controlled, z_0, t, eps, context, sd.schedule, predicts=sd.spec.predicts)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
draw("trained")
