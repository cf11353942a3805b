"""sdlearn: Stable Diffusion built by hand. Each part is a short module that reads like a chapter.

    import sdlearn

    sd = sdlearn.StableDiffusion.storybook()
    sd.text_to_image("a red cat to the left of a blue house on the sand at night")[0]

The chapters, in reading order:

    vae.py           the autoencoder: images to latents and back
    vae_losses.py    the losses that train it
    embeddings.py    a timestep, or an image size, as a vector of sines and cosines
    attention.py     attention, and the transformer block that the U-Net uses
    clip.py          the text encoder, a causal transformer, and its contrastive loss
    text.py          prompts to the embeddings that the U-Net is conditioned on
    unet.py          the U-Net, which predicts the noise in a latent
    schedule.py      the noise schedule, and the points that a sampler visits
    training.py      the diffusion loss, an average of the weights, the training loop
    distributed.py   the same training in several processes, each with its share of the batch
    sharding.py      weights divided among the processes, for networks too large for one device
    samplers.py      from noise to a clean latent: DDPM, DDIM, PLMS, Heun, DPM-Solver++ and others
    guidance.py      classifier-free guidance, and what the U-Net's output means
    flow.py          rectified flow: straight paths, and the network read as a velocity
    diffusion_transformer.py  Stable Diffusion 3's transformer, in place of the U-Net
    pipeline.py      text to image: all parts put together
    inpainting.py    images to begin from, and masks that say what to repaint
    editing.py       the noise of an image, one word of a prompt changed
    controlnet.py    a second image, such as edges or a pose, steers the U-Net
    lora.py          low-rank adapters: a small trained change of a large network
    lora_layers.py   the layers that can have one
    lora_merging.py  adapters merged into weights, extracted from them, stacked
    textual_inversion.py  a new word, whose vectors are all that is trained
    dreambooth.py    fine-tuning on a few images, and what keeps it from forgetting
    versions.py      Stable Diffusion 1.4 to XL and the storybook model, a specification each

Below them:

    weights/         published weight files, read and written
    utils/           checks of input, checkpoints, devices, settings stored in a PNG file
    storybook/       the drawn dataset that the small model is trained on
    recipes/         how each trained part of the storybook model is trained
    evaluation/      how good a model is: the judge, caption accuracy, the model card
    course/          checks, hints, quizzes, figures and widgets for the notebooks
    cli/             the commands: sdlearn generate, train, evaluate, playground, classroom

Each name in `__all__` is imported when it is first used (PEP 562), so `import sdlearn` and
`sdlearn --help` don't wait seconds for torch. ARCHITECTURE.md has the same tree file by file.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .clip import CLIPTextConfig as CLIPTextConfig
    from .clip import CLIPTextEncoder as CLIPTextEncoder
    from .controlnet import ControlNet as ControlNet
    from .diffusion_transformer import DiffusionTransformer as DiffusionTransformer
    from .diffusion_transformer import DiffusionTransformerConfig as DiffusionTransformerConfig
    from .lora import Adapter as Adapter
    from .pipeline import StableDiffusion as StableDiffusion
    from .schedule import NoiseSchedule as NoiseSchedule
    from .text import Conditioning as Conditioning
    from .text import TextEncoder as TextEncoder
    from .unet import UNet as UNet
    from .unet import UNetConfig as UNetConfig
    from .unet import UNetEncoder as UNetEncoder
    from .utils.sampling import Sampling as Sampling
    from .vae import VAE as VAE
    from .vae import VAEConfig as VAEConfig
    from .versions import SPECS as SPECS
    from .versions import ModelSpec as ModelSpec

__version__ = "0.1.0"

# Where each public name comes from.
_HOME = {
    "VAE": "vae",
    "VAEConfig": "vae",
    "CLIPTextConfig": "clip",
    "CLIPTextEncoder": "clip",
    "Conditioning": "text",
    "TextEncoder": "text",
    "UNet": "unet",
    "UNetConfig": "unet",
    "UNetEncoder": "unet",
    "NoiseSchedule": "schedule",
    "StableDiffusion": "pipeline",
    "Sampling": "utils.sampling",
    "ControlNet": "controlnet",
    "DiffusionTransformer": "diffusion_transformer",
    "DiffusionTransformerConfig": "diffusion_transformer",
    "Adapter": "lora",
    "ModelSpec": "versions",
    "SPECS": "versions",
}

# The modules themselves are there as well: sdlearn.weights.load(...), sdlearn.samplers.ddim(...).
_MODULES = {module.name for module in iter_modules(__path__) if not module.name.startswith("_")}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module 'sdlearn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
