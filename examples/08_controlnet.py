"""A ControlNet on the storybook: at first it changes nothing, after twenty steps it does.

python examples/08_controlnet.py [FOLDER]

A published one is read with sdlearn.ControlNet.from_pretrained("path/to/sd-controlnet-canny").
"""

import random
import sys
import tempfile
from pathlib import Path

import torch

import sdlearn
from sdlearn.controlnet import unet_with
from sdlearn.storybook import caption, edges, render, sample_scene
from sdlearn.training import diffusion_loss, update
from sdlearn.utils.images import as_images

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
torch.manual_seed(0)
sd = sdlearn.StableDiffusion.storybook(device="cpu")
controlnet = sdlearn.ControlNet.from_unet(sd.unet)  # a copy of its encoder, and zero convolutions
scene = sample_scene(random.Random(7), split="train")
prompt, drawn = caption(scene, random.Random(7)), [render(scene, 64), edges(scene, 64)]
image, hint = as_images("drawn", drawn, "RGB", (64, 64), 8).split(1)  # (1, 3, 64, 64) in [0, 1]
z_0, context = sd.vae.to_latent(2 * image - 1), sd.text([prompt]).context
controlled = unet_with(sd.unet, None, [(controlnet, hint, 1.0)])
optimizer = torch.optim.AdamW(controlnet.parameters())
for step in range(21):
    if step in (0, 20):
        with_hint = sd.text_to_image(prompt, control=(controlnet, drawn[1]), progress=False)[0]
        with_hint.save(folder / f"{'trained' if step else 'untrained'}.png")
    t, eps = torch.randint(0, 1000, (1,)), torch.randn(z_0.shape)
    loss = diffusion_loss(controlled, z_0, t, eps, context, sd.schedule, sd.spec.predicts)
    update(loss, optimizer, lr=1e-3)
sd.text_to_image(prompt, progress=False)[0].save(folder / "without.png")
print(f"{folder}: without.png, untrained.png and trained.png of {prompt!r}")
