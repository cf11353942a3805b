"""The early model: the storybook model with a small, briefly trained U-Net.

It is often wrong, so it shows what guidance improves (notebook 10) and which part of a model makes
an error (notebook 12). The shipped model is right too often for that.
"""

from sdlearn import weights
from sdlearn.pipeline import StableDiffusion
from sdlearn.recipes.unet import assemble
from sdlearn.unet import UNet
from sdlearn.utils.resources import data_folder
from sdlearn.weights.configs import unet_config_from_json


def early_model(sd: StableDiffusion) -> StableDiffusion:
    """Load the early U-Net and combine it with the autoencoder and text encoder of `sd`.

    Its weights are in `data/early/unet`. The commands that trained it are in
    `data/early/README.md`.

    Args:
        sd: The storybook model. Its parts are shared, not copied.

    Returns:
        The early model, on the device of the U-Net of `sd`. Its U-Net is frozen.

    Raises:
        FileNotFoundError: If `data/early` is missing.
    """
    folder = data_folder("early") / "unet"
    unet = UNet(unet_config_from_json(folder / "config.json"))
    weights.load(unet, folder)
    device = next(sd.unet.parameters()).device
    return assemble(unet.to(device).eval().requires_grad_(False), sd.vae, sd.text, "early")
