"""Editing: find the noise of an image, change one word of a prompt, go from one noise to another.

`invert` follows the probability-flow ODE from a clean latent back to the noise that DDIM turns into
it (Song et al., arXiv:2010.02502, section 4.3), so that a given image can be generated again, with
another prompt. `prompt_to_prompt` generates two images at once and gives the second one the
attention weights of the first, so that a changed word changes little else (Hertz et al.,
arXiv:2208.01626). `slerp` interpolates between two noises along an arc.

Attention is changed through a *control*, a function of the weights. Everything else of the network
stays as it is, and a control that changes nothing leaves every bit of the output as it was.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import SequenceMatcher
from functools import partial
from itertools import pairwise
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdlearn.attention import Attention
from sdlearn.controlnet import unet_with
from sdlearn.guidance import classifier_free_guidance, denoiser
from sdlearn.pipeline import StableDiffusion
from sdlearn.samplers import Denoiser, Path, State, initial_state, predicted_noise, step_to
from sdlearn.text import token_ids
from sdlearn.utils.images import ImageList, Images, fit_image
from sdlearn.utils.pipeline_inputs import Options
from sdlearn.utils.sampling_checks import sampler_path
from sdlearn.utils.validation import check_int, check_unit_interval

# ------------------------------------------------------------------------------------ inversion


def invert(denoise: Denoiser, z_0: Tensor, path: Path, iterations: int = 5) -> Iterator[State]:
    """Follow DDIM backwards: from a clean latent to the noise from which DDIM generates it.

    A step of DDIM from `here` to `there` computes z_there from the noise predicted at z_here. Its
    inverse needs that prediction before it knows z_here, and finds both by fixed-point iteration,
    starting at z_there. The usual DDIM inversion is one iteration; more reduce its error until
    rounding is left, where the network changes slowly enough with z.

    Args:
        denoise: The denoiser of the model, as for the sampler.
        z_0: Clean latents, (b, c, h, w).
        path: The sampler's path, the noisiest point first. It is followed from its end.
        iterations: Calls of the denoiser for each step, 1 or more.

    Yields:
        The state at each point, from the last of the path to the first. `z_0` is the denoiser's
        estimate at that point.

    Raises:
        ValueError: For iterations below 1.
    """
    if check_int("iterations", iterations) < 1:
        raise ValueError(f"iterations is {iterations}; it must be 1 or more")
    backwards = path[::-1]
    yield initial_state(z_0, backwards)
    z = z_0
    for step, (there, here) in enumerate(pairwise(backwards), start=1):
        z_here = z
        for _ in range(iterations):
            estimate = denoise(z_here, here)
            z_here = step_to(z, predicted_noise(z_here, estimate, here), there, here)
        z = z_here
        yield State(step, here, z, estimate)


@torch.inference_mode()
def noise_of(
    sd: StableDiffusion,
    image: Images,
    prompt: str | list[str] = "",
    *,
    iterations: int = 5,
    **options: Unpack[Options],
) -> Tensor:
    """The initial noise from which the model generates an image.

    `sd.text_to_image(prompt, noise=noise_of(sd, image, prompt), guidance_scale=1)` gives the image
    again, as well as the autoencoder can; the same noise with another prompt gives an edit of it.

    Args:
        sd: The model.
        image: PIL, a list of them, or a Tensor (b, 3, H, W) in [0, 1]; one for each prompt.
        prompt: One, or a list of them. The closer it describes the image, the better an edit works.
        iterations: As for `invert`.
        **options: As for StableDiffusion.trajectory. guidance_scale is 1 unless it is given, since
            guidance amplifies the errors of the inversion.

    Returns:
        (b, c, h, w).

    Raises:
        ValueError: For what StableDiffusion.trajectory refuses, a sampler other than ddim, an eta
            other than 0, an inpainting model, and a number of images that isn't that of the
            prompts.
    """
    if sd.is_inpainting:
        raise ValueError("the model is for inpainting; an inversion needs a text-to-image model")
    x = fit_image(image, options.get("height"), options.get("width"), sd.vae.factor)
    size = Options(height=x.shape[-2], width=x.shape[-1])
    want = sd.request(prompt, Options(guidance_scale=1.0) | options | size)
    sampling = want.sampling
    if sampling.sampler != "ddim" or sampling.eta != 0:
        raise ValueError(
            f"sampler is {sampling.sampler!r} with eta {sampling.eta:g}; an inversion follows "
            "'ddim' with eta 0"
        )
    if len(x) != len(want.prompts):
        raise ValueError(f"{len(x)} images and {len(want.prompts)} prompts; give one for each")
    clip_skip = sampling.clip_skip or 0
    cond, uncond = sd.text.pair(want.prompts, want.negatives, want.scale, want.sizes, clip_skip)
    guidance = want.scale, sampling.guidance_rescale, sampling.guidance_interval
    model = unet_with(sd.unet, None, want.controls)
    network = classifier_free_guidance(model, cond, uncond, *guidance)
    denoise = denoiser(network, sd.spec.predicts)
    z = sd.vae.to_latent((2 * x - 1).to(sd.device, sd.vae.dtype)).to(sd.dtype)
    for state in invert(denoise, z, sampler_path(sampling, sd.spec), iterations):
        z = state.z
    return z


# ----------------------------------------------------------------------------- attention control

# (name of the layer, weights (b, heads, n, m)) -> weights (b, heads, n, m)
Control = Callable[[str, Tensor], Tensor]


@contextmanager
def attention_control(unet: nn.Module, control: Control) -> Iterator[None]:
    """Let a control change, in this context, the weights of every attention layer.

    Args:
        unet: The network. Under guidance its batch has the rows without the prompts first.
        control: Gets the layer's name, which ends in "attn1" for self-attention and in "attn2" for
            cross-attention, and its weights, which it must not change in place. Rows of weights
            need not sum to 1.
    """
    layers = {name: m for name, m in unet.named_modules() if isinstance(m, Attention)}
    for name, layer in layers.items():
        layer.__dict__["forward"] = partial(attend, layer, partial(control, name))
    try:
        yield
    finally:
        for layer in layers.values():
            del layer.__dict__["forward"]


def attend(
    layer: Attention,
    control: Callable[[Tensor], Tensor],
    x: Tensor,
    context: Tensor | None = None,
) -> Tensor:
    """The output of an attention layer with its weights changed by a control.

    It is softmax(q k^T / sqrt(d)) v, computed as the layer does, plus (changed - weights) v. So a
    row of weights that isn't changed gives the same output to the bit.

    Args:
        layer: The layer.
        control: Weights (b, heads, n, m) -> weights of that shape.
        x: (b, n, dim).
        context: (b, m, context_dim); None attends to x itself.

    Returns:
        (b, n, dim).
    """
    context = x if context is None else context
    q, k, v = (
        layer.split(part) for part in (layer.to_q(x), layer.to_k(context), layer.to_v(context))
    )
    if layer.upcast:
        dtype = torch.promote_types(q.dtype, torch.float32)
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1)
    out = F.scaled_dot_product_attention(q, k, v) + (control(weights) - weights) @ v
    return layer.to_out[0](out.transpose(1, 2).flatten(2).to(x.dtype))


# ------------------------------------------------------------------------------ prompt-to-prompt


def align(sd: StableDiffusion, source: str, edited: str) -> Tensor:
    """Which token of the source prompt each token of the edited prompt corresponds to.

    Tokens that both prompts have in the same order correspond, and so do those of a passage that
    was replaced by one with as many tokens. Any other token of the edited prompt is new.

    Returns:
        (m,) int64 for the m tokens of the edited prompt, padding included; -1 for a new token.
    """
    ids, own = (token_ids(sd.text.tokenizers[0], [text])[0].tolist() for text in (source, edited))
    alignment = torch.full((len(own),), -1)
    for kind, a, a_end, b, b_end in SequenceMatcher(None, ids, own, False).get_opcodes():
        if kind == "equal" or (kind == "replace" and a_end - a == b_end - b):
            alignment[b:b_end] = torch.arange(a, a_end)
    # A shorter prompt has more padding than the source; its last tokens take the source's last.
    surplus = (alignment == -1) & (torch.arange(len(own)) > alignment.argmax())
    alignment[surplus] = len(ids) - 1
    return alignment


def inject(edited: Tensor, source: Tensor, alignment: Tensor) -> Tensor:
    """Weights in which every token that isn't new has those of its counterpart.

    Args:
        edited: Weights for the edited prompt, (..., n, m).
        source: Weights for the source prompt, of that shape.
        alignment: As from `align`, (m,).

    Returns:
        (..., n, m). Its rows need not sum to 1, as in the paper.
    """
    return torch.where(alignment >= 0, source[..., alignment.clamp(min=0)], edited)


def prompt_to_prompt(
    sd: StableDiffusion,
    source: str,
    edited: str,
    *,
    cross: float = 0.8,
    own: float = 0.4,
    **options: Unpack[Options],
) -> ImageList:
    """Two images from one noise: for the source prompt, and the edited one in its composition.

    Both are generated in one batch. At each step the second takes attention weights of the first,
    where its prompt has the same tokens.

    Args:
        sd: The model.
        source: The prompt of the first image.
        edited: The prompt of the second.
        cross: The fraction of the steps, from the first, in which cross-attention is taken over,
            0 … 1. Less lets a new object take its own shape.
        own: The same for self-attention.
        **options: As for StableDiffusion.trajectory. `noise` may be that of a given image, from
            `noise_of`, (1, c, h, w).

    Raises:
        ValueError: For what StableDiffusion.trajectory refuses, several prompts or images at once,
            and a fraction outside 0 … 1.
    """
    for name, prompt in (("source", source), ("edited", edited)):
        if not isinstance(prompt, str):
            raise ValueError(f"{name} is a {type(prompt).__name__}; it must be one prompt, a str")
    shares = {"attn1": check_unit_interval("own", own)}
    shares["attn2"] = check_unit_interval("cross", cross)
    want = sd.request(source, options)
    if len(want.prompts) != 1:
        raise ValueError(f"n is {want.sampling.n}; prompt_to_prompt generates one pair: give 1")
    noise = want.draw() if want.eps is None else want.eps
    alignment = align(sd, source, edited).to(sd.device)
    step = 0

    def control(name: str, weights: Tensor) -> Tensor:
        kind = name.rpartition(".")[2]
        if step >= shares[kind] * want.num_steps:
            return weights
        rows = weights[-2]  # of the source, with its prompt
        taken = inject(weights[-1], rows, alignment) if kind == "attn2" else rows
        return torch.cat([weights[:-1], taken[None]])

    with attention_control(sd.unet, control):
        both = Options(noise=noise.expand(2, -1, -1, -1))
        for state in sd.trajectory([source, edited], **(options | both)):
            step = state.step
    return sd.to_images(state.z)


# -------------------------------------------------------------------------------- interpolation


def slerp(a: Tensor, b: Tensor, w: float) -> Tensor:
    """Spherical interpolation of two noises (Shoemake 1985).

    It goes along the arc between them, so noises of equal length keep it. A straight line goes
    through shorter ones, which the network was not trained on.

    Args:
        a: A Tensor.
        b: A Tensor of the same shape.
        w: 0 gives a, 1 gives b.

    Returns:
        A Tensor of that shape. Tensors with (almost) one direction are interpolated linearly.
    """
    cosine = F.cosine_similarity(a.flatten(), b.flatten(), dim=0).double().clamp(-1, 1)
    angle = cosine.arccos()
    if angle.sin() < 1e-6:
        return torch.lerp(a, b, w)
    return (((1 - w) * angle).sin() * a + (w * angle).sin() * b) / angle.sin()
