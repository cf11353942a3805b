"""Four samplers from the same noise, with ten steps each.

python examples/05_samplers.py [FOLDER]
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image

import sdlearn

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
samplers = ("ddim", "euler", "heun", "dpm_pp_2m")
prompt = "a pink house in the snow at night"

sd = sdlearn.StableDiffusion.storybook()
sheet = Image.new("RGB", (64 * len(samplers), 64))
for k, sampler in enumerate(samplers):
    image = sd.text_to_image(prompt, sampler=sampler, steps=10, seed=3, progress=False)[0]
    sheet.paste(image, (64 * k, 0))
sheet.save(folder / "samplers.png")
print(f"{folder / 'samplers.png'}: {', '.join(samplers)}")
