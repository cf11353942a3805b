"""Train a small U-Net from scratch on the storybook: sixty steps, to see the loss fall.

python examples/06_train_a_unet.py [FOLDER]

`sdlearn train unet` does this for an hour, with everything that makes the model good.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

import sdlearn
from sdlearn.recipes import unet as recipes
from sdlearn.training import train

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
recipe = replace(recipes.RECIPES["small"], steps=60, scenes=64)
job = recipes.make_job(recipe, folder / "cache", torch.device("cpu"))
for metrics in train(job, recipe.steps):
    if metrics["step"] in (1, recipe.steps):
        print(f"step {metrics['step']:2.0f}: loss {metrics['loss']:.3f}")
unet = job.networks["unet"]
sdlearn.weights.save(unet, folder / "unet.safetensors")
print(f"{folder / 'unet.safetensors'}: {sum(p.numel() for p in unet.parameters()):,} parameters")
