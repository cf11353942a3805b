"""sdlearn: Stable Diffusion built by hand, one module per notebook of the course.

    import sdlearn

    sd = sdlearn.StableDiffusion.storybook()
    sd.text_to_image("a red cat to the left of a blue house on the sand at night")[0]

Every name below is imported when it is first used (PEP 562), so that `import sdlearn` and
`sdlearn --help` answer at once instead of waiting seconds for torch and transformers.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .clip import CLIPTextConfig as CLIPTextConfig
    from .clip import CLIPTextEncoder as CLIPTextEncoder
    from .controlnet import ControlNet as ControlNet
    from .pipeline import StableDiffusion as StableDiffusion
    from .schedule import NoiseSchedule as NoiseSchedule
    from .text import Conditioning as Conditioning
    from .text import TextEncoder as TextEncoder
    from .unet import UNet as UNet
    from .unet import UNetConfig as UNetConfig
    from .unet import UNetEncoder as UNetEncoder
    from .vae import VAE as VAE
    from .vae import VAEConfig as VAEConfig
    from .versions import SPECS as SPECS
    from .versions import ModelSpec as ModelSpec

__version__ = "0.1.0"

# Where each public class comes from.
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
    "ControlNet": "controlnet",
    "NoiseSchedule": "schedule",
    "StableDiffusion": "pipeline",
    "ModelSpec": "versions",
    "SPECS": "versions",
}

# Modules that read well behind a dot: sdlearn.weights.load(...), sdlearn.versions.SPECS[...].
_MODULES = {module.name for module in iter_modules(__path__) if not module.name.startswith("_")}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module 'sdlearn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_MODULES})
