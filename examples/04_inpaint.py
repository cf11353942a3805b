"""Repaint the right half of an image; the left half stays as it is, pixel by pixel.

python examples/04_inpaint.py [FOLDER]
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image

import sdlearn

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())

sd = sdlearn.StableDiffusion.storybook()
image = sd.text_to_image("a red car on the grass by day", steps=20, progress=False)[0]
mask = Image.new("L", image.size, 0)  # black: keep
mask.paste(255, (32, 0, 64, 64))  # white: repaint
new = sd.inpaint("a green tree on the grass by day", image, mask, steps=20, progress=False)[0]
for name, picture in {"before": image, "mask": mask, "after": new}.items():
    picture.save(folder / f"{name}.png")
    print(folder / f"{name}.png")
