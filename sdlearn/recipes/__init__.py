"""The training recipes of the course, one module for each trained network.

Each module has `RECIPES`, a dictionary of named recipes, `make_job(recipe, cache, device)`, which
returns the `TrainingJob`, and `export(job, recipe, cache, folder)`, which writes the result in the
published layout. `sdlearn train PART` (sdlearn/cli/train.py) runs them.
"""

PARTS = (
    "vae", "clip", "unet", "inpaint", "controlnet", "flow", "distill", "lora", "embedding",
    "dreambooth", "perceptual", "judge",
)  # fmt: skip
