"""Load a model from files: a folder in the published layout, written here and read back.

python examples/07_load_published_weights.py [FOLDER]

For Stable Diffusion 1.5, give from_pretrained one of these instead of the folder below:

    "stable-diffusion-v1-5/stable-diffusion-v1-5"     a hub id, downloaded once (4 GB)
    "path/to/stable-diffusion-v1-5"                   the folder with model_index.json
    "path/to/v1-5-pruned-emaonly.safetensors"         the original file, with spec="sd1.5"
                                                      and tokenizer="path/to/tokenizer"
"""

import sys
import tempfile
from pathlib import Path

import torch

import sdlearn

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
prompt = "a blue rocket on the grass under grey clouds"

sd = sdlearn.StableDiffusion.storybook()
sd.save_pretrained(folder / "model", dtype=torch.float32)
again = sdlearn.StableDiffusion.from_pretrained(folder / "model")
a, b = (model.text_to_image(prompt, steps=5, progress=False)[0] for model in (sd, again))
same = a.tobytes() == b.tobytes()
print(f"{folder / 'model'}: {len(list((folder / 'model').rglob('*.safetensors')))} weight files")
print("the two models draw", "the same image" if same else "different images")
