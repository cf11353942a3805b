"""Start from an image instead of noise: the more strength, the less of it is left.

python examples/03_image_to_image.py [FOLDER]
"""

import random
import sys
import tempfile
from pathlib import Path

import sdlearn
from sdlearn.storybook import render, sample_scene

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())

sd = sdlearn.StableDiffusion.storybook()
image = render(sample_scene(random.Random(7), split="test"), 64)
image.save(folder / "original.png")
for strength in (0.1, 0.2, 0.7):
    prompt = "a purple balloon above a red boat at sea"
    new = sd.image_to_image(prompt, image, strength=strength, steps=20, progress=False)[0]
    new.save(folder / f"strength-{strength}.png")
    print(f"{folder / f'strength-{strength}.png'}: the last {strength:.0%} of the steps")
