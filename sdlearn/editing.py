"""Editing: invert an image to its noise, change a word of its prompt, interpolate two noises.

`invert` follows the probability-flow ODE from a clean latent back to the noise that DDIM turns into
it (Song et al., arXiv:2010.02502, section 4.3), so you can generate a given image again with
another prompt. `prompt_to_prompt` generates two images at once and gives the second the attention
weights of the first, so a changed word changes little else (Hertz et al., arXiv:2208.01626).
`slerp` interpolates between two noises along an arc.

A *control*, a function of the attention weights, changes the attention layers. The rest of the
network stays as it is, and a control that changes nothing leaves the output identical to the bit.
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

    A DDIM step from `here` to `there` computes z_there from the noise predicted at z_here. The
    inverse needs that prediction before it knows z_here, so it finds both by fixed-point iteration,
    starting at z_there. The usual DDIM inversion (Song et al., arXiv:2010.02502, section 4.3) is
    one iteration. More iterations reduce the error down to rounding, as long as the network changes
    slowly enough with z.

    Args:
        denoise: The model's denoiser, as for a sampler.
        z_0: Clean latents, (b, c, h, w).
        path: The sampler's path, the noisiest point first. It is followed from its end.
        iterations: Calls of the denoiser in each step, 1 or more.

    Yields:
        The state at each point, from the last of the path to the first. Its `z_0` is the denoiser's
        estimate at that point, and alpha z in the initial state.

    Raises:
        ValueError: If iterations is not an integer of at least 1.
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
    """Find the initial noise from which the model generates an image, by `invert`.

    `sd.text_to_image(prompt, noise=noise_of(sd, image, prompt), guidance_scale=1)` generates the
    image again, as well as the autoencoder can. With another prompt, the same noise gives an edit.

    Args:
        sd: The model.
        image: A PIL image, a list of them, or a Tensor (b, 3, H, W) in [0, 1]; one image for each
            prompt.
        prompt: One prompt, or a list of them. The more closely a prompt describes its image, the
            better an edit works.
        iterations: As for `invert`.
        **options: As for StableDiffusion.trajectory. guidance_scale defaults to 1, because guidance
            amplifies the errors of the inversion.

    Returns:
        The noise, (b, c, h, w).

    Raises:
        ValueError: For what StableDiffusion.trajectory refuses, an inpainting model, a sampler
            other than ddim, an eta other than 0, an n other than 1, and different numbers of
            images and prompts.
        TypeError: For an unknown option.
    """
    if sd.is_inpainting:
        raise ValueError("the model is for inpainting; inversion needs a text-to-image model")
    x = fit_image(image, options.get("height"), options.get("width"), sd.vae.factor)
    size = Options(height=x.shape[-2], width=x.shape[-1])
    want = sd.request(prompt, Options(guidance_scale=1.0) | options | size)
    sampling = want.sampling
    if sampling.sampler != "ddim" or sampling.eta != 0:
        raise ValueError(
            f"sampler is {sampling.sampler!r} with eta {sampling.eta:g}; inversion needs "
            "'ddim' with eta 0"
        )
    if sampling.n != 1:
        raise ValueError(f"n is {sampling.n}; noise_of finds one noise for each image: give 1")
    if len(x) != len(want.prompts):
        raise ValueError(
            f"images: {len(x)}, prompts: {len(want.prompts)}; give one image for each prompt"
        )
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
    """Let a control change the weights of every attention layer within this context.

    The layers are restored when the context ends, even after an error.

    Args:
        unet: The network. With guidance, its batch starts with the rows without the prompts.
        control: Receives a layer's name, which ends in "attn1" for self-attention and in "attn2"
            for cross-attention, and its weights (b, heads, n, m), which it must not change in
            place. It returns weights of the same shape, whose rows need not sum to 1.
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
    """Compute the output of an attention layer whose weights a control changes.

    It is softmax(q k^T / sqrt(d)) v, computed as the layer does, plus (changed - weights) v. So a
    row of weights that stays the same gives the same output, to the bit.

    Args:
        layer: The attention layer.
        control: Weights (b, heads, n, m) -> weights of the same shape.
        x: Input, (b, n, dim).
        context: What x attends to, (b, m, context_dim); None for x itself.

    Returns:
        Output, (b, n, dim).
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
    """Find the token of the source prompt that each token of the edited prompt corresponds to.

    Tokens that both prompts contain in the same order correspond. So do those of a passage that was
    replaced by one with as many tokens. Any other token of the edited prompt is new.

    Args:
        sd: The model, whose first tokenizer is used.
        source: The source prompt.
        edited: The edited prompt.

    Returns:
        (m,) int64 for the m tokens of the edited prompt, padding included; -1 for a new token.
    """
    ids, own = (token_ids(sd.text.tokenizers[0], [text])[0].tolist() for text in (source, edited))
    alignment = torch.full((len(own),), -1)
    for kind, a, a_end, b, b_end in SequenceMatcher(None, ids, own, False).get_opcodes():
        if kind == "equal" or (kind == "replace" and a_end - a == b_end - b):
            alignment[b:b_end] = torch.arange(a, a_end)
    # A shorter prompt has more padding than the source; the surplus takes the source's last token.
    surplus = (alignment == -1) & (torch.arange(len(own)) > alignment.argmax())
    alignment[surplus] = len(ids) - 1
    return alignment


def inject(edited: Tensor, source: Tensor, alignment: Tensor) -> Tensor:
    """Replace the weights of every token that isn't new with those of its counterpart.

    Args:
        edited: Attention weights for the edited prompt, (..., n, m).
        source: Attention weights for the source prompt, of the same shape.
        alignment: From `align`, (m,).

    Returns:
        New weights, (..., n, m). Their rows need not sum to 1, as in Hertz et al.
    """
    return torch.where(alignment >= 0, source[..., alignment.clamp(min=0)], edited)


def prompt_to_prompt(
    sd: StableDiffusion,
    source: str,
    edited: str,
    *,
    cross_attention: float = 0.8,
    self_attention: float = 0.4,
    **options: Unpack[Options],
) -> ImageList:
    """Generate an image for the source prompt, and one of that composition for the edited prompt.

    Both start from the same noise and are generated in one batch. In the first steps, the second
    image takes over attention weights of the first: those of self-attention, and in cross-attention
    those of the tokens that correspond (Hertz et al., arXiv:2208.01626).

    Args:
        sd: The model.
        source: The prompt of the first image.
        edited: The prompt of the second.
        cross_attention: The fraction of the steps, from the first on, in which cross-attention is
            taken over, 0 … 1. A smaller one lets a new object take its own shape.
        self_attention: The same for self-attention, 0 … 1.
        **options: As for StableDiffusion.trajectory. `noise` may be that of a given image, from
            `noise_of`, (1, c, h, w).

    Returns:
        Two images: for the source prompt, then for the edited one.

    Raises:
        ValueError: For what StableDiffusion.trajectory refuses, several prompts or images at once,
            and a fraction outside 0 … 1.
        TypeError: For an unknown option.
    """
    for name, prompt in (("source", source), ("edited", edited)):
        if not isinstance(prompt, str):
            raise ValueError(f"{name} is a {type(prompt).__name__}; it must be one prompt, a str")
    shares = {"attn1": check_unit_interval("self_attention", self_attention)}
    shares["attn2"] = check_unit_interval("cross_attention", cross_attention)
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
        rows = weights[-2]  # those of the source image, with its prompt
        taken = inject(weights[-1], rows, alignment) if kind == "attn2" else rows
        return torch.cat([weights[:-1], taken[None]])

    with attention_control(sd.unet, control):
        both = Options(noise=noise.expand(2, -1, -1, -1))
        for state in sd.trajectory([source, edited], **(options | both)):
            step = state.step
    return sd.to_images(state.z)


# -------------------------------------------------------------------------------- interpolation


def slerp(a: Tensor, b: Tensor, w: float) -> Tensor:
    """Interpolate two noises along an arc: spherical linear interpolation (Shoemake 1985).

    Between noises of equal norm, every point of the arc has that norm. A straight line passes
    through noises of smaller norm, which the network was not trained on.

    Args:
        a: A Tensor of any shape.
        b: A Tensor of the same shape.
        w: Position on the arc: 0 gives a, 1 gives b.

    Returns:
        A Tensor of the same shape. If the directions of a and b are (almost) the same or opposite,
        the interpolation is linear.
    """
    cosine = F.cosine_similarity(a.flatten(), b.flatten(), dim=0).double().clamp(-1, 1)
    angle = cosine.arccos()
    if angle.sin() < 1e-6:
        return torch.lerp(a, b, w)
    return (((1 - w) * angle).sin() * a + (w * angle).sin() * b) / angle.sin()
