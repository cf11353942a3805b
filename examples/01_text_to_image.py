"""A prompt becomes an image.

python examples/01_text_to_image.py [FOLDER]
"""

import sys
import tempfile
from pathlib import Path

import sdlearn

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
prompt = "a red cat to the left of a blue house on the sand at night"

sd = sdlearn.StableDiffusion.storybook()
image = sd.text_to_image(prompt, steps=20, seed=0, progress=False)[0]
image.save(folder / "cat.png")
print(f"{folder / 'cat.png'}: {image.width} x {image.height} pixels of {prompt!r}")
