"""Text to image: the parts put together.

A prompt becomes a conditioning, the U-Net and guidance become a denoiser, a sampler runs it from
noise to a clean latent, and the autoencoder turns that into an image. `trajectory` gives every
state on the way; `text_to_image` runs to the end and decodes.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, Self, Unpack, overload

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from sdlearn.controlnet import unet_with
from sdlearn.guidance import classifier_free_guidance, denoiser
from sdlearn.inpainting import initial_latent, replace_known, restore_known
from sdlearn.lora import Adapter, Attachment, detach_all
from sdlearn.samplers import State, checked, get_sampler
from sdlearn.schedule import NoiseSchedule, Point, Spacing
from sdlearn.text import TextEncoder
from sdlearn.unet import UNet
from sdlearn.utils import images
from sdlearn.utils import pipeline_inputs as inputs
from sdlearn.utils.device import check_device
from sdlearn.utils.images import ImageList, Images
from sdlearn.utils.pipeline_inputs import Options, Output, Request, prepare
from sdlearn.utils.sampling import Sampling
from sdlearn.utils.sampling_checks import resolve, sampler_path
from sdlearn.utils.validation import check_place
from sdlearn.vae import VAE
from sdlearn.versions import ModelSpec


class StableDiffusion:
    """A text-to-image model: a U-Net, an autoencoder, a text encoder and their specification."""

    def __init__(self, unet: UNet, vae: VAE, text: TextEncoder, spec: ModelSpec) -> None:
        self.unet, self.vae, self.text, self.spec = unet, vae, text, spec

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        spec: ModelSpec | str | None = None,
        tokenizer: str | Path | None = None,
        variant: str | None = None,
    ) -> Self:
        """Load a model from a folder in the published layout, or from one original file.

        Args:
            source: A folder, a file, or the Hugging Face hub's "organisation/name" of a folder.
            dtype: None for float32, whatever the files hold.
            device: None for a GPU or Apple device where there is one, else the CPU.
            spec, tokenizer: For a file only, see weights.single_file.read_single_file.
            variant: Of a folder's weights, such as "fp16", see weights.weight_names.pick_weights.

        Raises:
            FileNotFoundError, ValueError: In one sentence, for what cannot be read.
        """
        from sdlearn.weights.single_file import read_system

        chosen = check_device(device)
        own, unet, vae, text = read_system(source, dtype, spec, tokenizer, variant)
        for module in (unet, vae, text):
            module.to(chosen).eval().requires_grad_(False)
        return cls(unet, vae, text, own)

    @classmethod
    def storybook(
        cls,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        inpaint: bool = False,
        few_steps: bool = False,
    ) -> Self:
        """The model in this package; or its U-Net for inpainting, or the one for four steps."""
        from sdlearn.weights.storybook_models import read_storybook

        return read_storybook(cls, dtype, device, inpaint, few_steps)

    def save_pretrained(
        self, folder: str | Path, dtype: torch.dtype | None = None, max_bytes: int | None = None
    ) -> None:
        """Write the model, without adapters, as a folder in the published layout.

        Args:
            folder: Made if it is not there. diffusers reads it, too.
            dtype: The type to store the weights in; None for the modules' own.
            max_bytes: Larger files are split into shards.
        """
        from sdlearn.weights.diffusers_folder import write_folder

        place = Path(check_place(folder, "folder"))
        write_folder(place, self.spec, self.unet, self.vae, self.text, dtype, max_bytes)

    def load_adapter(self, source: str | Path, scale: float = 1.0) -> Attachment:
        """Attach a LoRA file, folder or hub id; see weights.adapter_files.load_adapter."""
        from sdlearn.weights.adapter_files import load_adapter

        return load_adapter(self.adaptable, source, scale)

    def unload_adapters(self) -> None:
        """Detach every adapter; the model is then what it was, to the bit."""
        detach_all(*self.adaptable.values())

    def save_adapter(
        self, path: str | Path, adapter: Adapter | Mapping[str, Adapter],
        layout: Literal["peft", "kohya"] = "peft", dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        """Write an adapter of the U-Net or of several parts, see weights.adapter_saving."""
        from sdlearn.weights.adapter_saving import save_adapter

        save_adapter(self.adaptable, path, adapter, layout, dtype)

    def load_embedding(self, source: str | Path, word: str | None = None) -> str:
        """Learn a word from a textual-inversion file; see weights.embedding_files. Returns it."""
        from sdlearn.weights.embedding_files import load_embedding

        return load_embedding(self.text, source, word)

    def save_embedding(self, path: str | Path, word: str, dtype: torch.dtype | None = None) -> None:
        """Write a learnt word, see weights.embedding_files."""
        from sdlearn.weights.embedding_files import save_embedding

        save_embedding(self.text, path, word, dtype)

    @property
    def adaptable(self) -> dict[str, nn.Module]:
        """What adapters are for: "unet", "text_encoder" and SDXL's "text_encoder_2"."""
        names = ("text_encoder", "text_encoder_2")
        return {"unet": self.unet, **dict(zip(names, self.text.encoders, strict=False))}

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule it was trained with."""
        return self.spec.schedule

    @property
    def device(self) -> torch.device:
        """Where the U-Net is."""
        return self.unet.conv_in.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """In which the U-Net computes."""
        return self.unet.conv_in.weight.dtype

    @property
    def is_inpainting(self) -> bool:
        """Whether the U-Net was made for inpainting, with more channels in than out."""
        return self.unet.config.in_channels > self.unet.config.out_channels

    def resolve(self, sampling: Sampling) -> Sampling:
        """The same settings with this model's own in place of each None that stands for one."""
        return resolve(sampling, self.spec)

    def path(
        self, steps: int | None = None, sampler: str | None = None,
        spacing: Spacing | None = None, sigmas: str | None = None,
    ) -> list[Point]:  # fmt: skip
        """The points that a sampler visits, see NoiseSchedule.path; None is the spec's own."""
        asked = self.resolve(Sampling(steps=steps, sampler=sampler, sigmas=sigmas))
        return sampler_path(asked, self.spec, spacing)

    def trajectory(
        self,
        prompt: str | list[str],
        *,
        image: Images | None = None,
        mask: Images | None = None,
        strength: float = 1.0,
        **options: Unpack[Options],
    ) -> Iterator[State]:
        """Denoise step by step; yields the start, then one state for each step.

        Everything is checked before the first state. The n images of the first prompt come first.

        Args:
            prompt: One, or a list of them.
            image: Where to start from: PIL, or a Tensor (b, 3, H, W) in [0, 1]; one for all prompts
                or one for each. It gets the noise of the last strength * steps of the path.
            mask: White, or 1, where the image is repainted, see inpainting.
            strength: 0 … 1.
            **options: negative_prompt, noise, control, control_scale and sizes, see
                utils.pipeline_inputs.Options; steps, guidance_scale, sampler, seed, height, width,
                n and the other fields of utils.sampling.Sampling.

        Raises:
            ValueError: For what cannot be done; TypeError for an unknown option.
            FloatingPointError: Where the latent is no longer finite.
        """
        return self.states(self.request(prompt, options, image, mask, strength))

    def request(
        self, prompt: str | list[str], options: Options,
        image: Images | None = None, mask: Images | None = None, strength: float = 1.0,
    ) -> Request:  # fmt: skip
        """The arguments of `trajectory`, checked."""
        parts = self.unet, self.vae, self.text, self.spec
        return prepare(*parts, prompt, image, mask, strength, options)

    def states(self, want: Request) -> Iterator[State]:
        """The states of a request, see `trajectory`."""
        sampling, init, draw = want.sampling, want.init, want.draw
        method = get_sampler(sampling.sampler)
        sample = method.with_eta(sampling.sampler, sampling.eta)
        path = sampler_path(sampling, self.spec)
        std = method.initial_std(path, self.spec.spacing)
        path = path[len(path) - 1 - want.num_steps :]
        with torch.inference_mode():
            texts = want.prompts, want.negatives
            cond, uncond = self.text.pair(*texts, want.scale, want.sizes, sampling.clip_skip or 0)
            start = initial_latent(init, draw, want.eps, path[0], std, self.vae, self.is_inpainting)
        model = unet_with(self.unet, start.extra_channels, want.controls)
        guidance = want.scale, sampling.guidance_rescale, sampling.guidance_interval
        network = classifier_free_guidance(model, cond, uncond, *guidance)
        denoise = denoiser(network, self.spec.predicts)
        if start.known_region is None:
            return checked(sample(denoise, start.z, path, noise=draw))
        states = sample(replace_known(denoise, *start.known_region), start.z, path, noise=draw)
        return checked(restore_known(states, path[-1], *start.known_region))

    @overload
    def text_to_image(self, prompt: str | list[str], *, output: Literal["image"] = ...,
        progress: bool = ..., **options: Unpack[Options]) -> ImageList: ...  # fmt: skip
    @overload
    def text_to_image(self, prompt: str | list[str], *, output: Literal["latent"],
        progress: bool = ..., **options: Unpack[Options]) -> Tensor: ...  # fmt: skip
    def text_to_image(
        self, prompt: str | list[str], *, output: Output = "image", progress: bool = True,
        **options: Unpack[Options],
    ) -> ImageList | Tensor:  # fmt: skip
        """Images of the prompts, the n of the first prompt first; errors are those of `trajectory`.

        Args:
            prompt: One, or a list of them.
            output: "image" for PIL images, "latent" for the clean latents (b, c, h, w).
            progress: Whether to show a progress bar.
            **options: negative_prompt, steps, seed and all else that `trajectory` takes.
        """
        return self.run(output, progress, self.request(prompt, options))

    @overload
    def image_to_image(self, prompt: str | list[str], image: Images, *, strength: float = ...,
        output: Literal["image"] = ..., progress: bool = ...,
        **options: Unpack[Options]) -> ImageList: ...  # fmt: skip
    @overload
    def image_to_image(self, prompt: str | list[str], image: Images, *, strength: float = ...,
        output: Literal["latent"], progress: bool = ...,
        **options: Unpack[Options]) -> Tensor: ...  # fmt: skip
    def image_to_image(
        self, prompt: str | list[str], image: Images, *, strength: float = 0.6,
        output: Output = "image", progress: bool = True, **options: Unpack[Options],
    ) -> ImageList | Tensor:  # fmt: skip
        """Images of the prompts that begin from an image (SDEdit, arXiv:2108.01073).

        Args:
            prompt, output, progress, **options: As in `text_to_image`; a height or width of None is
                the image's own, rounded down to what the autoencoder can encode.
            image: PIL, a list of them, or a Tensor (b, 3, H, W) in [0, 1].
            strength: 0 … 1, the fraction of the path that is run. 0 gives the image back as the
                autoencoder reconstructs it, 1 keeps next to nothing.
        """
        start = inputs.need_image("image", image)
        return self.run(output, progress, self.request(prompt, options, start, None, strength))

    @overload
    def inpaint(self, prompt: str | list[str], image: Images, mask: Images, *,
        strength: float = ..., output: Literal["image"] = ..., progress: bool = ...,
        **options: Unpack[Options]) -> ImageList: ...  # fmt: skip
    @overload
    def inpaint(self, prompt: str | list[str], image: Images, mask: Images, *,
        strength: float = ..., output: Literal["latent"], progress: bool = ...,
        **options: Unpack[Options]) -> Tensor: ...  # fmt: skip
    def inpaint(
        self,
        prompt: str | list[str],
        image: Images,
        mask: Images,
        *,
        strength: float = 1.0,
        output: Output = "image",
        progress: bool = True,
        **options: Unpack[Options],
    ) -> ImageList | Tensor:
        """The image with the white region of the mask repainted and the rest unchanged.

        A U-Net with nine input channels sees the mask and the rest; with any other model the rest
        is kept by replacement, see inpainting.

        Args:
            prompt, image, output, progress, **options: As in `image_to_image`.
            mask: Like `image`, of one channel; white, or at least 0.5, where to repaint.
            strength: 0 … 1; at 1 nothing is left of what the white region showed.
        """
        start, repaint = inputs.need_image("image", image), inputs.need_image("mask", mask)
        want = self.request(prompt, options, start, repaint, strength)
        painted = self.run(output, progress, want)
        return painted if isinstance(painted, Tensor) else want.outside_kept(painted)

    def run(self, output: Output, progress: bool, want: Request) -> ImageList | Tensor:
        """Run a request to its end, and decode the last latent unless the output is "latent"."""
        inputs.check_output(output, progress)
        states, hidden = self.states(want), not progress
        state = next(states)
        for state in tqdm(states, desc="denoising", total=want.num_steps, disable=hidden):  # noqa: B007
            pass
        return state.z if output == "latent" else self.to_images(state.z)

    @torch.inference_mode()
    def to_images(self, z: Tensor) -> ImageList:
        """Clean latents (b, c, h, w) -> b images. Raises FloatingPointError for NaN."""
        inputs.check_latents(z, self.vae.config.latent_channels)
        return images.decoded(self.vae.to_image, z.to(self.device, self.vae.dtype))
