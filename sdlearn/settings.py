"""How a picture was made, kept inside it: the text entries of its PNG file.

write(picture, place, settings)      a picture that remembers
read(place)                          how it was made, so that it can be made again
"""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdlearn.files import replacing
from sdlearn.inputs import finite, fraction
from sdlearn.pipeline import StableDiffusion, State
from sdlearn.samplers import offered


@dataclass(frozen=True)
class Settings:
    """What decides a picture, beside the model.

    image: a picture to begin from, None for noise alone; strength: 0 … 1, how much of the way is
    walked then, see StableDiffusion.image_to_image. Raises ValueError for what cannot be drawn.
    """

    prompt: str
    negative_prompt: str = ""
    seed: int = 0
    steps: int = 30
    guidance_scale: float = 5.0
    sampler: str = "ddim"
    strength: float = 1.0
    image: Image.Image | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}; it must lie in 0 … 2^63 - 1")
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; it must be at least 1")
        finite("guidance_scale", self.guidance_scale)
        fraction("strength", self.strength)
        offered(self.sampler)

    @property
    def walked(self) -> int:
        """How many steps are walked: from a picture, only the last of them."""
        return int(self.steps * (1.0 if self.image is None else self.strength))

    def walk(self, sd: StableDiffusion) -> Iterator[State]:
        """The trajectory of this picture, see StableDiffusion.trajectory."""
        return sd.trajectory(
            self.prompt,
            self.negative_prompt or None,
            self.steps,
            self.guidance_scale,
            self.sampler,
            self.seed,
            image=self.image,
            strength=self.strength,
        )


def png(picture: Image.Image, settings: Settings, model: str) -> bytes:
    """The picture as a PNG file with its settings and the name of its model."""
    from sdlearn import __version__

    entries: dict[str, object] = {
        "prompt": settings.prompt,
        "negative_prompt": settings.negative_prompt,
        "seed": settings.seed,
        "steps": settings.steps,
        "guidance_scale": settings.guidance_scale,
        "sampler": settings.sampler,
        "model": model,
        "software": f"sdlearn {__version__}",
    }
    if settings.image is not None:
        start = io.BytesIO()
        settings.image.save(start, "PNG")
        entries["strength"] = settings.strength
        entries["image"] = base64.b64encode(start.getvalue()).decode()
    info = PngInfo()
    for key, value in entries.items():
        info.add_text(key, str(value))
    file = io.BytesIO()
    picture.save(file, "PNG", pnginfo=info)
    return file.getvalue()


def write(picture: Image.Image, place: Path, settings: Settings, model: str) -> None:
    """Write that file; it is whole or not there."""
    content = png(picture, settings, model)
    with replacing(place) as part:
        part.write_bytes(content)


def read(file: Path | bytes, name: str = "the picture") -> Settings:
    """The settings that a picture was made with.

    file: a path, or the bytes of the file. name: what the sentences call the bytes. Raises
    FileNotFoundError, or ValueError in one sentence where the file is no PNG, holds no settings, or
    holds some that cannot be used.
    """
    if isinstance(file, Path):
        name = str(file)
        if not file.is_file():
            raise FileNotFoundError(f"{name} is missing; it would be a picture that sdlearn made")
        file = file.read_bytes()
    entries = texts(file, name)
    if "prompt" not in entries:
        raise ValueError(f"{name} holds no settings; pictures that sdlearn made do")
    try:
        return Settings(
            entries["prompt"],
            entries.get("negative_prompt", ""),
            int(entries["seed"]),
            int(entries["steps"]),
            float(entries["guidance_scale"]),
            entries["sampler"],
            float(entries.get("strength", 1)),
            start_picture(entries["image"]) if "image" in entries else None,
        )
    except KeyError as error:
        raise ValueError(f"{name} holds a prompt, but not the setting {error}") from error
    except (ValueError, OSError) as error:
        raise ValueError(f"{name} holds settings that cannot be used: {error}") from error


def texts(content: bytes, name: str) -> dict[str, str]:
    """The text entries of a PNG file."""
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            picture.load()  # entries may stand behind the pixels
            return {str(key): str(value) for key, value in picture.info.items()}
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"{name} is not a PNG picture that can be read") from error


def start_picture(text: str) -> Image.Image:
    """The picture to begin from, as it is kept inside the other."""
    with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"]) as picture:
        return picture.convert("RGB")
