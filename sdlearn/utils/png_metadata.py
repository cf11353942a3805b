"""How an image was made, stored in the text entries of its PNG file.

write_png(image, path, settings)     an image that holds its settings
read_png(path)                       the settings, so that it can be made again

On the same machine it is then the same to the byte; an image that was drawn together with others
is the same up to rounding, so a pixel may differ by one grey level.
"""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdlearn.pipeline import StableDiffusion
from sdlearn.samplers import State, num_steps
from sdlearn.utils import sampling as fields
from sdlearn.utils.atomic_files import atomic_write
from sdlearn.utils.image_files import DAMAGE, open_image, unreadable, upright
from sdlearn.utils.sampling import Sampling
from sdlearn.utils.validation import check_text, check_unit_interval, shown

NEEDED = ("seed", "steps", "guidance_scale", "sampler")  # in every file


@dataclass(frozen=True)
class GenerationSettings:
    """Everything that decides an image.

    Attributes:
        prompt, negative_prompt: "" for no negative prompt.
        sampling: All numbers and choices. None in it is the model's own.
        image: An image to begin from, None for noise alone.
        strength: 0 … 1, the fraction of the path that is run from an image, see
            StableDiffusion.image_to_image.
        model: The name of the model, "" where it is not known.

    Raises:
        ValueError: For what cannot be drawn.
    """

    prompt: str
    negative_prompt: str = ""
    sampling: Sampling = field(default_factory=lambda: fields.Sampling())
    image: Image.Image | None = None
    strength: float = 1.0
    model: str = ""

    def __post_init__(self) -> None:
        for name in ("prompt", "negative_prompt", "model"):
            check_text(name, getattr(self, name))
        check_unit_interval("strength", self.strength)
        if not isinstance(self.sampling, Sampling):
            raise ValueError(f"sampling is {shown(self.sampling)}; it must be a Sampling")
        if self.image is not None:
            check_pil("image", self.image)

    def num_steps(self, sd: StableDiffusion) -> int:
        """How many steps are run: from an image, only the last of them."""
        steps = sd.resolve(self.sampling).steps or 0
        return num_steps(steps, 1.0 if self.image is None else self.strength)

    def check_model(self, sd: StableDiffusion) -> None:
        """Raises ValueError where another model than the one named would draw."""
        if self.model not in ("", sd.spec.name):
            raise ValueError(
                f"the image was made with the model {shown(self.model)}; this is "
                f"{sd.spec.name!r}, which draws something else"
            )

    def trajectory(self, sd: StableDiffusion) -> Iterator[State]:
        """The states of this image, see StableDiffusion.trajectory.

        Raises ValueError for another model than the one that the settings name.
        """
        self.check_model(sd)
        return sd.trajectory(
            self.prompt,
            negative_prompt=self.negative_prompt or None,
            image=self.image,
            strength=self.strength,
            **self.sampling.to_options(),
        )


def check_pil(name: str, value: object) -> None:
    """Raise ValueError unless the value is a PIL image."""
    if not isinstance(value, Image.Image):
        raise ValueError(f"{name} is a {type(value).__name__}; it must be a PIL image")


def png_bytes(image: Image.Image, settings: GenerationSettings) -> bytes:
    """The image as a PNG file with its settings.

    An image to begin from is stored as it was used: upright, on white.

    Raises ValueError for settings that leave the model's own open, see StableDiffusion.resolve.
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
        start = io.BytesIO()
        upright("the image to begin from", settings.image, "RGB").save(start, "PNG")
        entries["strength"] = str(settings.strength)
        entries["image"] = base64.b64encode(start.getvalue()).decode()
    info = PngInfo()
    for key, value in entries.items():
        info.add_text(key, value)
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=info)
    return file.getvalue()


def write_png(image: Image.Image, path: Path, settings: GenerationSettings) -> None:
    """Write that file; it is whole or absent."""
    content = png_bytes(image, settings)
    with atomic_write(path) as part:
        part.write_bytes(content)


def read_png(file: Path | bytes, name: str = "the image") -> GenerationSettings:
    """The settings that an image was made with.

    Args:
        file: A path, or the bytes of the file.
        name: What the messages call the bytes.

    Raises:
        FileNotFoundError, ValueError: In one sentence, where the file is no PNG, holds no settings,
            or holds some that cannot be used.
    """
    if isinstance(file, Path):
        name = str(file)
        if not file.is_file():
            raise FileNotFoundError(f"{name} is missing; it would be an image that sdlearn made")
        file = file.read_bytes()
    entries = text_entries(file, name)
    if "prompt" not in entries:
        raise ValueError(f"{name} holds no settings; images that sdlearn made do")
    for key in NEEDED:
        if key not in entries:
            raise ValueError(f"{name} holds a prompt, but not the setting {key!r}")
    try:
        return GenerationSettings(
            entries["prompt"],
            entries.get("negative_prompt", ""),
            fields.Sampling.from_text(entries),
            decode_image(entries["image"]) if "image" in entries else None,
            read_strength(entries.get("strength", "1")),
            entries.get("model", ""),
        )
    except (ValueError, OSError) as error:
        raise ValueError(f"{name} holds settings that cannot be used: {error}") from error


def read_strength(text: str) -> float:
    """The number in an entry; ValueError if there is none."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"strength is {shown(text)}; it must be a number") from None


def text_entries(content: bytes, name: str) -> dict[str, str]:
    """The text entries of a PNG file."""
    with open_image(content, name, ("PNG",)) as image:
        try:
            image.load()  # entries may come after the pixels
        except (*DAMAGE, Image.DecompressionBombError) as error:
            raise unreadable(name, error, ("PNG",)) from error
        return {str(key): str(value) for key, value in image.info.items()}


def decode_image(text: str) -> Image.Image:
    """The image to begin from, as it is stored inside the other."""
    name = "the image to begin from"
    with open_image(base64.b64decode(text, validate=True), name, ("PNG",)) as image:
        return upright(name, image, "RGB")
