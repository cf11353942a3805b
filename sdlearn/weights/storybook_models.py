"""The small models that come with this package.

`StableDiffusion.storybook`, `ControlNet.storybook` and `DiffusionTransformer.storybook` call the
functions here.
"""

from typing import TYPE_CHECKING, TypeVar

import torch

from sdlearn.inpainting import widen_for_inpainting
from sdlearn.utils.device import check_device
from sdlearn.utils.resources import data_folder
from sdlearn.versions import few_steps_spec, inpainting_spec
from sdlearn.weights.differences import add_difference

if TYPE_CHECKING:
    from sdlearn.controlnet import ControlNet
    from sdlearn.diffusion_transformer import DiffusionTransformer
    from sdlearn.pipeline import StableDiffusion

SD = TypeVar("SD", bound="StableDiffusion")
Control = TypeVar("Control", bound="ControlNet")
Transformer = TypeVar("Transformer", bound="DiffusionTransformer")
DIFFERENCE = "unet_difference.safetensors"


def read_storybook(
    cls: type[SD],
    dtype: torch.dtype | None,
    device: str | torch.device | None,
    inpaint: bool,
    few_steps: bool,
) -> SD:
    """Read the model from a clone or an installed wheel.

    Args:
        cls: StableDiffusion, or a subclass with the same arguments.
        dtype: Type of the weights in memory; None for float32.
        device: None for a GPU or Apple device if there is one, otherwise the CPU.
        inpaint: Whether to use the U-Net that was trained for inpainting, which is stored as its
            difference from the model's own.
        few_steps: Whether to use the U-Net that was distilled to four steps, stored in the same
            way. There is none for both.

    Raises:
        FileNotFoundError: If the files are missing.
        ValueError: If they are damaged, or if `inpaint` and `few_steps` are both true.
    """
    if inpaint and few_steps:
        raise ValueError(
            "inpaint and few_steps are both true; only one of them can be, because the model that "
            "was distilled to a few steps is not for inpainting"
        )
    sd = cls.from_pretrained(data_folder("storybook"), dtype, device)
    if few_steps:
        add_difference(sd.unet, data_folder("storybook-few-steps") / DIFFERENCE)
        return cls(sd.unet, sd.vae, sd.text, few_steps_spec(sd.spec))
    if not inpaint:
        return sd
    unet = widen_for_inpainting(sd.unet)
    add_difference(unet, data_folder("storybook-inpaint") / DIFFERENCE)
    spec = inpainting_spec(sd.spec, unet.config)
    return cls(unet.eval().requires_grad_(False), sd.vae, sd.text, spec)


def read_storybook_controlnet(
    cls: type[Control], dtype: torch.dtype, device: str | torch.device | None
) -> Control:
    """Read the ControlNet.

    Args:
        cls: ControlNet, or a subclass with the same arguments.
        dtype: Type of the weights in memory.
        device: See `read_storybook`.

    Raises:
        FileNotFoundError: If the files are missing.
        ValueError: If they are damaged.
    """
    controlnet = cls.from_pretrained(data_folder("storybook-controlnet"), dtype)
    return controlnet.to(check_device(device)).eval().requires_grad_(False)


def read_storybook_transformer(cls: type[Transformer]) -> Transformer:
    """Read the diffusion transformer, in float32 and on the CPU, see `DiffusionTransformer`.

    Args:
        cls: DiffusionTransformer, or a subclass with the same argument.

    Raises:
        FileNotFoundError: If the files are missing.
        ValueError: If they are damaged.
    """
    return cls.from_pretrained(data_folder("storybook-transformer")).requires_grad_(False)
