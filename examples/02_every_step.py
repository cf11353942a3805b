"""Every step from noise to image: what the model takes the clean image to be, side by side.

python examples/02_every_step.py [FOLDER]
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image

import sdlearn

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())

sd = sdlearn.StableDiffusion.storybook()
states = list(sd.trajectory("a yellow star above a green tree in the snow", steps=10, seed=0))
sheet = Image.new("RGB", (64 * len(states), 64))
for state in states:
    sheet.paste(sd.to_images(state.z_0)[0], (64 * state.step, 0))
    print(f"step {state.step:2}: t = {state.t:5.1f}, standard deviation of z {state.z.std():.3f}")
sheet.save(folder / "steps.png")
print(f"{folder / 'steps.png'}: the noise and {len(states) - 1} estimates of the clean image")
