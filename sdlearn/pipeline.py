"""Text to image: the parts put together.

A prompt becomes a conditioning, the U-Net and guidance become a denoiser, a sampler walks it from
noise to a clean latent, and the autoencoder turns that into a picture. `trajectory` is that walk,
state by state; `text_to_image` walks to the end and decodes.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from sdlearn import folder, hub, singlefile
from sdlearn.beginning import Canvas, begin, normals
from sdlearn.controlnet import combined
from sdlearn.guidance import denoiser, guided
from sdlearn.inpainting import ending, keeping
from sdlearn.inputs import (
    Control,
    ControlInput,
    Pictures,
    as_interval,
    as_mask,
    as_pictures,
    as_prompts,
    check_noise,
    finite,
    for_each,
    fraction,
    hints,
    repeat,
    shaped,
    whole,
)
from sdlearn.paths import data_folder
from sdlearn.samplers import Step, offered
from sdlearn.schedule import NoiseSchedule, Point, Spacing
from sdlearn.text import Conditioning, Sizes, TextEncoder
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
        spec: ModelSpec | str | None = None,
        tokenizer: str | Path | None = None,
    ) -> Self:
        """Load a model from a folder in the published layout, or from one original file.

        source: a folder, or the id of one on the Hugging Face hub, "organisation/name", which is
        downloaded once; or a file. dtype: None for float32, whatever the files hold. device: None
        for a GPU or Apple device where there is one, else the CPU. spec, tokenizer: what a file may
        not say and does not hold, see singlefile.read_single; a folder has both.
        Raises FileNotFoundError or ValueError, in one sentence, for what cannot be read.
        """
        dtype = dtype or torch.float32
        if Path(source).is_file():
            parts = singlefile.read_single(Path(source), dtype, spec, tokenizer)
        elif spec is not None or tokenizer is not None:
            raise ValueError(f"{source} is no file; only for a file are spec and tokenizer given")
        else:
            parts = folder.read_folder(hub.local_folder(source), dtype)
        spec, unet, vae, text = parts
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

    @property
    def sees_mask(self) -> bool:
        """Whether the U-Net was made for inpainting, with more channels in than out."""
        return self.unet.config.in_channels > self.unet.config.out_channels

    def model(
        self,
        z: Tensor,
        t: Tensor,
        conditioning: Conditioning,
        beside: Tensor | None = None,
        controls: Sequence[Control] = (),
    ) -> Tensor:
        """The U-Net as guidance sees it: (z, t, conditioning) -> noise or velocity.

        z: (b, c, h, w). beside: what an inpainting U-Net sees beside z, (b, 5, h, w). controls:
        ControlNets, their hints (b or 1, 3, H, W) in [0, 1] and scales.
        """
        context, added = conditioning.context, conditioning.added
        residuals = [net(z, t, context, hint, scale, added) for net, hint, scale in controls]
        x = z if beside is None else torch.cat([z, beside], dim=1)
        return self.unet(x, t, context, added, combined(residuals) if residuals else None)

    def path(
        self,
        steps: int | None = None,
        sampler: str | None = None,
        spacing: Spacing | None = None,
        karras: bool | None = None,
        lu: bool | None = None,
    ) -> list[Point]:
        """The points that a sampler visits with this model; None: the specification's own.

        spacing, karras, lu: see NoiseSchedule.path; a specification's karras and lu leave alone the
        samplers that have no such points, and its lu gives way to a karras.
        """
        offer = offered(self.spec.sampler if sampler is None else sampler)
        karras = self.spec.karras and offer.grid != "t" if karras is None else karras
        return self.schedule.path(
            self.spec.steps if steps is None else steps,
            self.spec.spacing if spacing is None else spacing,
            offer.final or self.spec.final,
            self.spec.offset,
            offer.grid,
            karras,
            self.spec.lu and offer.grid == "lambda" and not karras if lu is None else lu,
        )

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
        image: Pictures | None = None,
        mask: Pictures | None = None,
        strength: float = 1.0,
        control: ControlInput | list[ControlInput] | None = None,
        control_scale: float | list[float] = 1.0,
        sizes: Sizes | None = None,
        guidance_rescale: float = 0.0,
        guidance_interval: tuple[float, float] | None = None,
    ) -> Iterator[State]:
        """Walk from noise to a clean latent; yields the start, then one state for each step.

        prompt: one, or a list of them; n: pictures of each. None leaves a choice to `spec`.
        negative_prompt: what to lead away from, one for all or one for each prompt.
        guidance_scale: uncond + scale * (cond - uncond), so 1 is off. guidance_rescale: 0 … 1, how
        much of the spread that guidance adds to take back. guidance_interval: (lo, hi), the times
        of 0 … 999 at which to guide, None for all of them; both as in guidance.guided.
        seed: picture k draws all its noise from its own generator, seeded seed + k on the CPU, so
        it is the same alone or in a batch. height, width: pixels.
        noise: the initial noise (b, c, h, w), or a callable that gives every draw in turn.
        image: where to start from: PIL, or a Tensor (b, 3, h, w) in [0, 1]; one for all prompts or
        one for each. It gets the noise that belongs to the last strength * steps of the way, and
        only those are walked. mask: white, or 1, where the image is repainted, see inpainting.
        control: a ControlNet and its hint, a picture like `image`; or a list of such pairs, with
        one control_scale for all or one for each. sizes: what SDXL is told, see text.Sizes.

        Everything is checked before the first state. Raises ValueError for what cannot be done, and
        FloatingPointError where the latent is no longer a finite number.
        """
        asked = as_prompts("prompt", prompt)
        prompts = repeat(asked, n)
        negatives = self.negatives(negative_prompt, prompts, n)
        scale = self.spec.guidance if guidance_scale is None else guidance_scale
        scale = finite("guidance_scale", scale)
        rescale = fraction("guidance_rescale", guidance_rescale)
        interval = as_interval("guidance_interval", guidance_interval)
        offer = offered(self.spec.sampler if sampler is None else sampler)
        path = self.path(steps, sampler)
        std = offer.initial_std(path, self.spec.spacing)
        canvas = self.canvas(image, mask, strength, height, width, len(asked), n)
        if canvas is not None:
            height, width = canvas.x.shape[-2:]
            total = len(path) - 1  # cut as diffusers cuts: 10 steps of strength 0.77 are 7
            path = path[total - int(total * canvas.strength) :]
        h, w = self.latent_size(height, width)
        told = self.told(sizes, h * self.vae.factor, w * self.vae.factor)
        hinted = hints(control, control_scale, (h, w), self.vae.factor, len(asked), n)
        hinted = [(net, hint.to(self.device, self.dtype), each) for net, hint, each in hinted]
        for net, _, _ in hinted:
            net.check_fits(self.unet)
        shape = (len(prompts), self.unet.config.out_channels, h, w)
        draw, eps = self.drawn(noise, whole("seed", seed), shape)

        with torch.inference_mode():
            cond, uncond = self.conditionings(prompts, negatives, scale, told)
            start = begin(canvas, draw, eps, path[0], std, self.vae, self.sees_mask)

        def model(z: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
            halves = len(z) // len(prompts)  # two where guidance asks for both at once
            beside = None if start.beside is None else start.beside.repeat(halves, 1, 1, 1)
            controls = [(net, hint.repeat(halves, 1, 1, 1), each) for net, hint, each in hinted]
            return self.model(z, t, conditioning, beside, controls)

        network = guided(model, cond, uncond, scale, rescale, interval)
        denoise = denoiser(network, self.spec.predicts)
        if start.known is not None:
            denoise = keeping(denoise, *start.known)
        walk = offer.walk(denoise, start.z, path, noise=draw)
        if start.known is not None:
            walk = ending(walk, path[-1], *start.known)
        return states(walk)

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
        control: ControlInput | list[ControlInput] | None = None,
        control_scale: float | list[float] = 1.0,
        sizes: Sizes | None = None,
        guidance_rescale: float = 0.0,
        guidance_interval: tuple[float, float] | None = None,
        output: Literal["image", "latent"] = "image",
        progress: bool = True,
    ) -> Any:
        """Pictures of the prompts: a list of PIL images, the n of the first prompt first.

        output: "latent" returns the latents instead, a Tensor (b, c, h, w). progress: show a bar.
        Everything else, errors included, is as in `trajectory`.
        """
        walk = self.trajectory(
            prompt, negative_prompt, steps, guidance_scale, sampler, seed, height, width, n, noise,
            control=control, control_scale=control_scale, sizes=sizes,
            guidance_rescale=guidance_rescale, guidance_interval=guidance_interval,
        )  # fmt: skip
        return self.finish(walk, self.walked(steps, 1.0), output, progress)

    def image_to_image(
        self,
        prompt: str | list[str],
        image: Pictures,
        strength: float = 0.6,
        negative_prompt: str | list[str] | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        sampler: str | None = None,
        seed: int = 0,
        height: int | None = None,
        width: int | None = None,
        n: int = 1,
        noise: Noise | None = None,
        control: ControlInput | list[ControlInput] | None = None,
        control_scale: float | list[float] = 1.0,
        sizes: Sizes | None = None,
        guidance_rescale: float = 0.0,
        guidance_interval: tuple[float, float] | None = None,
        output: Literal["image", "latent"] = "image",
        progress: bool = True,
    ) -> Any:
        """Pictures of the prompts that begin from a picture (SDEdit, arXiv:2108.01073).

        strength: 0 … 1, the part of the way that is walked: 0 gives the image back as the
        autoencoder sees it, 1 keeps next to nothing. height, width: None for the image's own,
        rounded down to what the autoencoder can encode. The rest is as in `text_to_image`.
        """
        walk = self.trajectory(
            prompt, negative_prompt, steps, guidance_scale, sampler, seed, height, width, n, noise,
            image, None, strength, control, control_scale, sizes, guidance_rescale,
            guidance_interval,
        )  # fmt: skip
        return self.finish(walk, self.walked(steps, strength), output, progress)

    def inpaint(
        self,
        prompt: str | list[str],
        image: Pictures,
        mask: Pictures,
        strength: float = 1.0,
        negative_prompt: str | list[str] | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        sampler: str | None = None,
        seed: int = 0,
        height: int | None = None,
        width: int | None = None,
        n: int = 1,
        noise: Noise | None = None,
        control: ControlInput | list[ControlInput] | None = None,
        control_scale: float | list[float] = 1.0,
        sizes: Sizes | None = None,
        guidance_rescale: float = 0.0,
        guidance_interval: tuple[float, float] | None = None,
        output: Literal["image", "latent"] = "image",
        progress: bool = True,
    ) -> Any:
        """The picture with the white part of the mask repainted, and the rest as it was.

        A U-Net with nine input channels sees the mask and the rest; with any other model the rest
        is kept by replacement, see inpainting. strength: 1 forgets what the white part showed.
        The rest is as in `image_to_image`.
        """
        x = self.fitted(image, height, width)
        m = as_mask(mask, x)
        walk = self.trajectory(
            prompt, negative_prompt, steps, guidance_scale, sampler, seed, height, width, n, noise,
            x, m, strength, control, control_scale, sizes, guidance_rescale, guidance_interval,
        )  # fmt: skip
        painted = self.finish(walk, self.walked(steps, strength), output, progress)
        if output == "latent":
            return painted
        b, prompts = len(painted), len(painted) // n
        before = to_pil(for_each("image", 2 * x - 1, prompts, n).expand(b, -1, -1, -1))
        where = to_pil(for_each("mask", 2 * m - 1, prompts, n).expand(b, 3, -1, -1))
        return [
            Image.composite(new, old, white.getchannel(0))
            for new, old, white in zip(painted, before, where, strict=True)
        ]

    def walked(self, steps: int | None, strength: float) -> int:
        """How many steps a picture of this strength takes."""
        return int((self.spec.steps if steps is None else steps) * strength)

    def finish(
        self, walk: Iterator[State], steps: int, output: Literal["image", "latent"], progress: bool
    ) -> Any:
        """Walk to the end and decode; steps is for the bar alone."""
        if output not in ("image", "latent"):
            raise ValueError(f"output is {output!r}; it is 'image' or 'latent'")
        state = next(walk)
        for state in tqdm(walk, desc="denoising", total=steps, disable=not progress):  # noqa: B007
            pass
        return state.z if output == "latent" else self.to_images(state.z)

    @torch.inference_mode()
    def to_images(self, z: Tensor) -> list[Image.Image]:
        """Clean latents (b, c, h, w) -> b pictures. Raises FloatingPointError for NaN."""
        # Decoding needs far more memory than denoising: no more than one picture of 512² at a time.
        at_once = max(1, 64**2 // (z.shape[-1] * z.shape[-2]))
        z = z.to(self.device, self.vae.dtype)
        x = torch.cat([self.vae.to_image(part) for part in z.split(at_once)])
        if not x.isfinite().all():
            raise FloatingPointError("the autoencoder's picture is not finite; use float32")
        return to_pil(x)

    # --------------------------------------------------------------------------------- details

    def conditionings(
        self,
        prompts: list[str],
        negatives: list[str] | None,
        scale: float,
        sizes: Tensor | None = None,
    ) -> tuple[Conditioning, Conditioning | None]:
        """Of the prompts, and of what guidance leads away from where it is on; sizes (1, 6)."""
        b = len(prompts)
        texts = prompts if scale == 1 or negatives is None else negatives + prompts
        both = self.text(texts)  # equal prompts are encoded once
        if sizes is not None:
            both = both._replace(sizes=sizes.to(self.device).expand(len(texts), -1))
        cond = both.rows(range(len(texts) - b, len(texts)))
        if scale == 1:
            return cond, None
        return cond, cond.silent() if negatives is None else both.rows(range(b))

    def told(self, sizes: Sizes | None, height: int, width: int) -> Tensor | None:
        """The sizes that the U-Net of SDXL is told, (1, 6); other systems are not told any."""
        if self.unet.config.added_dim is not None:
            return (sizes or Sizes()).row(height, width)
        if sizes is not None:
            raise ValueError(
                f"sizes are for SDXL; {self.spec.name} is not told any, leave them out"
            )
        return None

    def fitted(self, image: Pictures, height: int | None, width: int | None) -> Tensor:
        """The image (b, 3, H, W) in [0, 1], in the size asked for or else its own."""
        size = None
        if height is not None or width is not None:
            h, w = self.latent_size(height, width)
            size = h * self.vae.factor, w * self.vae.factor
        return as_pictures("image", image, "RGB", size, self.vae.factor)

    def canvas(
        self,
        image: Pictures | None,
        mask: Pictures | None,
        strength: float,
        height: int | None,
        width: int | None,
        prompts: int,
        n: int,
    ) -> Canvas | None:
        """The picture to begin from, with its mask, if there is one."""
        if self.sees_mask and (image is None or mask is None):
            raise ValueError(
                f"{self.spec.name} fills in parts of pictures: it needs an image and a mask, as "
                "inpaint takes them"
            )
        if image is None:
            if mask is not None:
                raise ValueError("mask says what to repaint of an image, but there is no image")
            return None
        x = self.fitted(image, height, width)
        repaint = None if mask is None else for_each("mask", as_mask(mask, x), prompts, n)
        x = for_each("image", 2 * x - 1, prompts, n)
        return Canvas(x, repaint, fraction("strength", strength))

    def negatives(
        self, negative: str | list[str] | None, prompts: list[str], n: int
    ) -> list[str] | None:
        """One negative prompt for each picture; none is the empty prompt, or None for zeros."""
        if negative is None and self.spec.zero_negative:
            return None
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

    def drawn(
        self, noise: Noise | None, seed: int, shape: tuple[int, ...]
    ) -> tuple[Callable[[], Tensor], Tensor | None]:
        """Where normals come from, call after call, and the initial noise where it was given."""
        check_noise(noise)
        like = self.unet.conv_in.weight
        if not callable(noise):
            draw = normals(seed, shape, like)
            return draw, None if noise is None else shaped(noise, shape).to(like)
        return lambda: shaped(noise(), shape).to(like), None


def to_pil(x: Tensor) -> list[Image.Image]:
    """(b, 3, H, W) in [-1, 1] -> b pictures."""
    pixels = ((x.float() + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()
    return [Image.fromarray(picture.numpy()) for picture in pixels]


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
