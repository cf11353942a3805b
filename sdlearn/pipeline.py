"""Text to image: the parts put together.

A prompt becomes a conditioning, the U-Net and guidance become a denoiser, a sampler walks it from
noise to a clean latent, and the autoencoder turns that into a picture. `trajectory` is that walk,
state by state; `text_to_image` walks to the end and decodes.
"""

import math
from collections.abc import Callable, Iterator
from itertools import count
from operator import index
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, SupportsFloat, SupportsIndex

import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from sdlearn import folder, hub
from sdlearn.guidance import denoiser, guided
from sdlearn.paths import data_folder
from sdlearn.samplers import Step, offered
from sdlearn.schedule import NoiseSchedule, Point
from sdlearn.text import Conditioning, TextEncoder
from sdlearn.training import pick_device
from sdlearn.unet import UNet
from sdlearn.vae import VAE
from sdlearn.versions import ModelSpec

Noise = Tensor | Callable[[], Tensor]


class State(NamedTuple):
    """Where a trajectory is.

    step: 0 for the initial noise, then 1 … steps; t: the time reached; z: the latent there and
    z_0: the estimate of the clean latent that led there, each (b, c, h, w), see samplers.Step.
    """

    step: int
    t: float
    z: Tensor
    z_0: Tensor


class StableDiffusion:
    """A text-to-image model: a U-Net, an autoencoder, a text encoder and their specification."""

    def __init__(self, unet: UNet, vae: VAE, text: TextEncoder, spec: ModelSpec) -> None:
        self.unet = unet
        self.vae = vae
        self.text = text
        self.spec = spec

    # ------------------------------------------------------------------------------ where from

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
    ) -> Self:
        """Load a model in the published folder layout.

        source: a folder, or the id of one on the Hugging Face hub, "organisation/name", which is
        downloaded once. dtype: None for float32, whatever the files hold. device: None for a GPU
        or Apple device where there is one, else the CPU.
        Raises FileNotFoundError or ValueError, in one sentence, for what cannot be read.
        """
        place = hub.local_folder(source)
        spec, unet, vae, text = folder.read_folder(place, dtype or torch.float32)
        device = pick_device(None if device is None else str(device))
        for module in (unet, vae, text):
            module.to(device).eval().requires_grad_(False)
        return cls(unet, vae, text, spec)

    @classmethod
    def storybook(
        cls, dtype: torch.dtype | None = None, device: str | torch.device | None = None
    ) -> Self:
        """The small model that comes with this package, in a clone and in an installed wheel."""
        return cls.from_pretrained(data_folder("storybook"), dtype, device)

    def save_pretrained(
        self, place: str | Path, dtype: torch.dtype | None = None, max_bytes: int | None = None
    ) -> None:
        """Write the model as a folder in the published layout, which diffusers reads, too.

        dtype: of the files, None for the modules' own. max_bytes: larger files become shards.
        """
        folder.write_folder(
            Path(place), self.spec, self.unet, self.vae, self.text, dtype, max_bytes
        )

    # ------------------------------------------------------------------------------- what it is

    @property
    def schedule(self) -> NoiseSchedule:
        return self.spec.schedule

    @property
    def device(self) -> torch.device:
        return self.unet.conv_in.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.conv_in.weight.dtype

    def model(self, z: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """The U-Net as guidance sees it: (z, t, conditioning) -> noise or velocity."""
        return self.unet(z, t, conditioning.context)

    def path(self, steps: int | None = None, sampler: str | None = None) -> list[Point]:
        """The points that a sampler visits with this model; None: the specification's own."""
        steps = self.spec.steps if steps is None else steps
        final = offered(self.spec.sampler if sampler is None else sampler).final or self.spec.final
        return self.schedule.path(steps, self.spec.spacing, final, self.spec.offset)

    # ----------------------------------------------------------------------------- what it does

    def trajectory(
        self,
        prompt: str | list[str],
        negative_prompt: str | list[str] | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        sampler: str | None = None,
        seed: int = 0,
        height: int | None = None,
        width: int | None = None,
        n: int = 1,
        noise: Noise | None = None,
    ) -> Iterator[State]:
        """Walk from noise to a clean latent; yields steps + 1 states, the initial noise first.

        prompt: one, or a list of them; n: pictures of each. None leaves a choice to `spec`.
        negative_prompt: what to lead away from, one for all or one for each prompt.
        guidance_scale: uncond + scale * (cond - uncond), so 1 is off.
        seed: picture k draws all its noise from its own generator, seeded seed + k on the CPU, so
        it is the same alone or in a batch. height, width: pixels.
        noise: the initial noise (b, c, h, w), or a callable that gives every draw in turn, the
        initial one first.

        Everything is checked before the first state. Raises ValueError for what cannot be done, and
        FloatingPointError where the latent is no longer a finite number.
        """
        prompts = repeat(as_prompts("prompt", prompt), n)
        negatives = self.negatives(negative_prompt, prompts, n)
        scale = self.spec.guidance if guidance_scale is None else guidance_scale
        if not (isinstance(scale, SupportsFloat) and math.isfinite(scale)):
            raise ValueError(f"guidance_scale is {scale!r}; it must be a finite number")
        walk = offered(self.spec.sampler if sampler is None else sampler).walk
        path = self.path(steps, sampler)
        shape = (len(prompts), self.unet.config.out_channels, *self.latent_size(height, width))
        check_noise(noise)
        draw = noise if callable(noise) else self.normal(shape, whole("seed", seed))
        start = draw()
        if isinstance(noise, Tensor):
            start = noise
        if start.shape != shape:
            raise ValueError(f"noise has the shape {tuple(start.shape)}; it must be {shape}")
        start = start.to(self.device, self.dtype)

        with torch.inference_mode():
            if scale == 1:
                cond, uncond = self.text(prompts), None
            else:
                both = self.text(negatives + prompts)  # equal prompts are encoded once
                uncond = both.rows(range(len(prompts)))
                cond = both.rows(range(len(prompts), 2 * len(prompts)))
        denoise = denoiser(guided(self.model, cond, uncond, scale), self.spec.predicts)
        return states(walk(denoise, start, path, noise=lambda: draw().to(start)))

    def text_to_image(
        self,
        prompt: str | list[str],
        negative_prompt: str | list[str] | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        sampler: str | None = None,
        seed: int = 0,
        height: int | None = None,
        width: int | None = None,
        n: int = 1,
        noise: Noise | None = None,
        output: Literal["image", "latent"] = "image",
        progress: bool = True,
    ) -> Any:
        """Pictures of the prompts: a list of PIL images, the n of the first prompt first.

        output: "latent" returns the latents instead, a Tensor (b, c, h, w). progress: show a bar.
        Everything else, errors included, is as in `trajectory`.
        """
        if output not in ("image", "latent"):
            raise ValueError(f"output is {output!r}; it is 'image' or 'latent'")
        walk = self.trajectory(
            prompt,
            negative_prompt,
            steps,
            guidance_scale,
            sampler,
            seed,
            height,
            width,
            n,
            noise,
        )
        state = next(walk)
        total = self.spec.steps if steps is None else steps
        for state in tqdm(walk, desc="denoising", total=total, disable=not progress):  # noqa: B007
            pass
        return state.z if output == "latent" else self.to_images(state.z)

    @torch.inference_mode()
    def to_images(self, z: Tensor) -> list[Image.Image]:
        """Clean latents (b, c, h, w) -> b pictures. Raises FloatingPointError for NaN."""
        # Decoding needs far more memory than denoising: no more than one picture of 512² at a time.
        at_once = max(1, 64**2 // (z.shape[-1] * z.shape[-2]))
        z = z.to(self.device, self.dtype)
        x = torch.cat([self.vae.to_image(part) for part in z.split(at_once)])
        if not x.isfinite().all():
            raise FloatingPointError("the autoencoder's picture is not finite; use float32")
        pixels = ((x.float() + 1) * 127.5).round().to(torch.uint8)
        pixels = pixels.permute(0, 2, 3, 1).cpu()  # (b, 3, h, w) -> (b, h, w, 3)
        return [Image.fromarray(picture.numpy()) for picture in pixels]

    # --------------------------------------------------------------------------------- details

    def negatives(self, negative: str | list[str] | None, prompts: list[str], n: int) -> list[str]:
        """One negative prompt for each picture; none is the empty prompt."""
        if negative is None or isinstance(negative, str):
            return [negative or ""] * len(prompts)
        each = repeat(as_prompts("negative_prompt", negative), n)
        if len(each) != len(prompts):
            raise ValueError(
                f"negative_prompt has {len(each) // n} entries for {len(prompts) // n} prompts; "
                "give one for all, or one for each"
            )
        return each

    def latent_size(self, height: int | None, width: int | None) -> tuple[int, int]:
        """Pixels -> the latent's (h, w); ValueError where the autoencoder cannot make that size."""
        sizes = []
        for name, given in (("height", height), ("width", width)):
            pixels = self.spec.size if given is None else whole(name, given)
            if pixels < 1 or pixels % self.vae.factor:
                raise ValueError(
                    f"{name} is {pixels}; it must be a positive multiple of {self.vae.factor} "
                    "pixels, the autoencoder's factor"
                )
            sizes.append(pixels // self.vae.factor)
        return sizes[0], sizes[1]

    def normal(self, shape: tuple[int, ...], seed: int) -> Callable[[], Tensor]:
        """Standard normals of this shape, call after call; row k from a generator of its own."""
        if not -(2**63) <= seed <= 2**63 - shape[0]:
            raise ValueError(f"seed is {seed}; it must have fewer than 64 bits")
        generators = [torch.Generator().manual_seed(seed + k) for k in range(shape[0])]

        def draw() -> Tensor:
            rows = [torch.randn(shape[1:], generator=generator) for generator in generators]
            return torch.stack(rows).to(self.device, self.dtype)

        return draw


def states(walk: Iterator[Step]) -> Iterator[State]:
    """Number a sampler's states, and stop where one is not finite.

    The states are copies outside inference mode, so that they can be used in any computation.
    """
    for number in count():
        with torch.inference_mode():
            step = next(walk, None)
        if step is None:
            return
        if not step.z.isfinite().all():
            raise FloatingPointError(
                f"the latent is not finite after step {number}: the weights are damaged, or their "
                "type is too small for them (use float32)"
            )
        yield State(number, step.point.t, step.z.clone(), step.z_0.clone())


def as_prompts(name: str, value: object) -> list[str]:
    """One prompt or several -> several; ValueError for anything else."""
    prompts = [value] if isinstance(value, str) else value
    if (
        not isinstance(prompts, list)
        or not prompts
        or not all(isinstance(prompt, str) for prompt in prompts)
    ):
        raise ValueError(f"{name} is {value!r}; it must be a string or a list of strings")
    return prompts


def check_noise(value: object) -> None:
    """ValueError for an initial noise that is none."""
    if not (value is None or isinstance(value, Tensor) or callable(value)):
        kind = type(value).__name__
        raise ValueError(f"noise is a {kind}; it must be a Tensor or a callable that gives one")


def repeat(prompts: list[str], n: int) -> list[str]:
    """Every prompt n times, side by side."""
    if whole("n", n) < 1:
        raise ValueError(f"n is {n}; it must be at least 1")
    return [prompt for prompt in prompts for _ in range(n)]


def whole(name: str, value: object) -> int:
    """The value, if it is a whole number; else ValueError."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):  # NumPy's count as well
        raise ValueError(f"{name} is {value!r}; it must be a whole number")
    return index(value)
