"""The settings that an image was made with, stored in the text entries of its PNG file.

write_png(image, path, settings)     writes an image with its settings inside
read_png(path)                       returns the settings, so that the image can be made again

On the same machine, the new image is identical to the old one, byte for byte. If the old one was
drawn together with others, rounding can change a pixel by one grey level. The file holds the image
to begin from, the mask and the hint, but no weights: of the model, a ControlNet or an adapter.
"""

import base64
import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from sdlearn.controlnet import ControlNet
from sdlearn.lora import attachments
from sdlearn.pipeline import StableDiffusion
from sdlearn.samplers import State, num_steps
from sdlearn.utils import sampling as fields
from sdlearn.utils.atomic_files import atomic_write
from sdlearn.utils.image_files import DAMAGE, Mode, open_image, unreadable, upright
from sdlearn.utils.images import ImageList, as_mask, fit_image, paste
from sdlearn.utils.pipeline_inputs import Options
from sdlearn.utils.sampling import Sampling
from sdlearn.utils.validation import check_scale, check_text, check_unit_interval, shown

NEEDED = ("seed", "steps", "guidance_scale", "sampler")  # in every file
# The images inside a file: their names in messages, and the mode in which they are used.
INNER: dict[str, tuple[str, Mode]] = {
    "image": ("the image to begin from", "RGB"),
    "mask": ("the mask", "L"),
    "hint": ("the hint", "RGB"),
}


@dataclass(frozen=True)
class GenerationSettings:
    """Everything that determines an image, except the weights.

    Attributes:
        prompt, negative_prompt: "" for no negative prompt.
        sampling: All numbers and choices. A None in it means the model's default.
        image: The image to begin from; None for pure noise.
        strength: 0 … 1, the fraction of the path that is run from an image, see
            StableDiffusion.image_to_image.
        model: The name of the model; "" if it is not known.
        mask: White where the image is repainted, see StableDiffusion.inpaint; None for no mask.
        hint: The hint of a ControlNet; None for no control.
        control_scale: Factor of the ControlNet's residuals; 0 is off. Without a hint it is 1.
        controlnet: The `controlnet_name` of the ControlNet; "" if it is not known.
        adapters: The `adapters_name` of the model's adapters; "" for none.

    Raises:
        ValueError: If the settings cannot be drawn.
    """

    prompt: str
    negative_prompt: str = ""
    sampling: Sampling = field(default_factory=lambda: fields.Sampling())
    image: Image.Image | None = None
    strength: float = 1.0
    model: str = ""
    mask: Image.Image | None = None
    hint: Image.Image | None = None
    control_scale: float = 1.0
    controlnet: str = ""
    adapters: str = ""

    def __post_init__(self) -> None:
        for name in ("prompt", "negative_prompt", "model", "controlnet", "adapters"):
            check_text(name, getattr(self, name))
        check_unit_interval("strength", self.strength)
        if not isinstance(self.sampling, Sampling):
            raise ValueError(f"sampling is {shown(self.sampling)}; it must be a Sampling")
        for name in INNER:
            if getattr(self, name) is not None:
                check_pil(name, getattr(self, name))
        if self.image is None and self.mask is not None:
            raise ValueError("mask marks the part of an image to repaint, but no image is given")
        scale = check_scale("control_scale", self.control_scale)
        if self.hint is None and scale != 1:
            raise ValueError(
                f"control_scale is {shown(self.control_scale)}, but there is no hint; leave it "
                "out, or give a hint"
            )

    def num_steps(self, sd: StableDiffusion) -> int:
        """The number of steps to run; from an image, only the last part of the path is run."""
        steps = sd.resolve(self.sampling).steps or 0
        return num_steps(steps, 1.0 if self.image is None else self.strength)

    def check_model(self, sd: StableDiffusion) -> None:
        """Raise ValueError if the settings name another model, or adapters that it lacks."""
        if self.model not in ("", sd.spec.name):
            raise ValueError(
                f"the image was made with the model {shown(self.model)}; this is "
                f"{sd.spec.name!r}, which draws something else"
            )
        if self.adapters not in ("", name := adapters_name(sd)):
            raise ValueError(
                f"the image was made with the adapters {shown(self.adapters)}, as ID:STRENGTH; the "
                f"model here has {shown(name) if name else 'none'}, which draws something else"
            )

    def check_controlnet(self, controlnet: ControlNet | None) -> None:
        """Raise ValueError if the hint is for another ControlNet, or if there is no ControlNet."""
        if self.hint is None:
            return
        if controlnet is None:
            raise ValueError(
                "the image was made with a ControlNet and a hint, but there is no ControlNet here; "
                "give the one that it was made with"
            )
        name = controlnet_name(controlnet)
        if self.controlnet not in ("", name):
            raise ValueError(
                f"the image was made with the ControlNet {shown(self.controlnet)}; this is "
                f"{name!r}, which draws something else"
            )

    def trajectory(
        self, sd: StableDiffusion, controlnet: ControlNet | None = None
    ) -> Iterator[State]:
        """The sampler's states for this image, see StableDiffusion.trajectory.

        Args:
            sd: The model.
            controlnet: The ControlNet that follows the hint; not needed without a hint.

        Raises:
            ValueError: If the settings name another model or ControlNet, or need one that is not
                given.
        """
        self.check_model(sd)
        self.check_controlnet(controlnet)
        options = cast(Options, self.sampling.to_options())
        options["negative_prompt"] = self.negative_prompt or None
        if controlnet is not None and self.hint is not None and self.control_scale != 0:
            options["control"] = controlnet, self.hint
            options["control_scale"] = self.control_scale
        return sd.trajectory(
            self.prompt, image=self.image, mask=self.mask, strength=self.strength, **options
        )

    def images(self, sd: StableDiffusion, z: Tensor) -> ImageList:
        """The images decoded from z, with the original pixels outside the mask."""
        painted = sd.to_images(z)
        if self.image is None or self.mask is None:
            return painted
        x = fit_image(self.image, painted[0].height, painted[0].width, sd.vae.factor)
        return paste(painted, x, as_mask(self.mask, x), len(painted))


def controlnet_name(controlnet: ControlNet) -> str:
    """Twelve hexadecimal digits that identify a trained ControlNet.

    They are the start of the SHA-256 of its zero convolutions, which any training changes.
    """
    convs = [*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block]
    return identify(parameter for conv in convs for parameter in conv.parameters())


def adapters_name(sd: StableDiffusion) -> str:
    """The adapters that are attached to a model, each as ID:STRENGTH; "" for none.

    The ID is twelve hexadecimal digits of its matrices, such as in "5f0c…:0.8, 77ab…:1.0".
    """
    attached = dict.fromkeys(each for part in sd.adaptable.values() for each in attachments(part))
    ids = [identify(p for a in each.adapters for p in a.parameters()) for each in attached]
    return ", ".join(f"{i}:{each.strength}" for i, each in zip(ids, attached, strict=True))


def identify(parameters: Iterable[Tensor]) -> str:
    """Twelve hexadecimal digits: the start of the SHA-256 of these values."""
    digest = hashlib.sha256()
    for parameter in parameters:
        digest.update(parameter.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def check_pil(name: str, value: object) -> None:
    """Raise ValueError unless the value is a PIL image."""
    if not isinstance(value, Image.Image):
        raise ValueError(f"{name} is a {type(value).__name__}; it must be a PIL image")


def png_bytes(image: Image.Image, settings: GenerationSettings) -> bytes:
    """The image as a PNG file with its settings inside.

    An image to begin from, a mask and a hint are stored as they were used: turned upright, and with
    white under transparent pixels.

    Raises ValueError if the seed, the steps, the guidance scale or the sampler is None;
    StableDiffusion.resolve replaces them by the model's own.
    """
    from sdlearn import __version__

    check_pil("image", image)
    if not isinstance(settings, GenerationSettings):
        raise ValueError(f"settings is {shown(settings)}; it must be GenerationSettings")
    for key in NEEDED:
        if getattr(settings.sampling, key) is None:
            raise ValueError(f"{key} is None; an image is stored with the value it was made with")
    entries = {"prompt": settings.prompt, "negative_prompt": settings.negative_prompt}
    entries |= settings.sampling.to_text()
    entries |= {"model": settings.model, "software": f"sdlearn {__version__}"}
    if settings.image is not None:
        entries["strength"] = str(settings.strength)
    if settings.hint is not None:
        entries |= {"control_scale": str(settings.control_scale), "controlnet": settings.controlnet}
    if settings.adapters:
        entries["adapters"] = settings.adapters
    entries |= {key: encode_image(key, each) for key, each in inner_images(settings).items()}
    info = PngInfo()
    for key, value in entries.items():
        info.add_text(key, value)
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=info)
    return file.getvalue()


def write_png(image: Image.Image, path: Path, settings: GenerationSettings) -> None:
    """Write the file of `png_bytes`; it is either complete or absent."""
    content = png_bytes(image, settings)
    with atomic_write(path) as part:
        part.write_bytes(content)


def read_png(file: Path | bytes, name: str = "the image") -> GenerationSettings:
    """The settings that an image was made with.

    Args:
        file: A path, or the bytes of the file.
        name: The name of the bytes in messages.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a PNG file, holds no settings, or holds settings that cannot be
            used. The message is one sentence.
    """
    if isinstance(file, Path):
        name = str(file)
        if not file.is_file():
            raise FileNotFoundError(f"{name} is missing; give an image that sdlearn made")
        file = file.read_bytes()
    entries = text_entries(file, name)
    if "prompt" not in entries:
        raise ValueError(f"{name} holds no settings; give an image that sdlearn made")
    for key in NEEDED:
        if key not in entries:
            raise ValueError(f"{name} holds a prompt, but not the setting {key!r}")
    try:
        return GenerationSettings(
            entries["prompt"],
            entries.get("negative_prompt", ""),
            fields.Sampling.from_text(entries),
            strength=read_number("strength", entries),
            model=entries.get("model", ""),
            control_scale=read_number("control_scale", entries),
            controlnet=entries.get("controlnet", ""),
            adapters=entries.get("adapters", ""),
            **{key: decode_image(key, entries[key]) for key in INNER if key in entries},
        )
    except (ValueError, OSError) as error:
        raise ValueError(f"{name} holds settings that cannot be used: {error}") from error


def read_number(key: str, entries: dict[str, str]) -> float:
    """The number in an entry, 1 without the entry; ValueError if it is not a number."""
    text = entries.get(key, "1")
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{key} is {shown(text)}; it must be a number") from None


def text_entries(content: bytes, name: str) -> dict[str, str]:
    """The text entries of a PNG file."""
    with open_image(content, name, ("PNG",)) as image:
        try:
            image.load()  # entries may come after the pixels
        except (*DAMAGE, Image.DecompressionBombError) as error:
            raise unreadable(name, error, ("PNG",)) from error
        return {str(key): str(value) for key, value in image.info.items()}


def inner_images(settings: GenerationSettings) -> dict[str, Image.Image]:
    """The images that the settings hold, by the names of their entries."""
    found = {key: getattr(settings, key) for key in INNER}
    return {key: image for key, image in found.items() if image is not None}


def encode_image(key: str, image: Image.Image) -> str:
    """An image as the text of a PNG entry."""
    name, mode = INNER[key]
    file = io.BytesIO()
    upright(name, image, mode).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def decode_image(key: str, text: str) -> Image.Image:
    """The image in the text of a PNG entry."""
    name, mode = INNER[key]
    with open_image(base64.b64decode(text, validate=True), name, ("PNG",)) as image:
        return upright(name, image, mode)
