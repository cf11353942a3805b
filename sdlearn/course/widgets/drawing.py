"""What the playground keeps of an image, or of several drawn at once: every step.

A `Drawing` holds the sampler's states and the attention of every step, so that a slider can go back
to any of them. Nothing here depends on widgets.
"""

import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from sdlearn.attention import Attention
from sdlearn.controlnet import ControlNet
from sdlearn.course.attention_maps import prompt_tokens
from sdlearn.pipeline import StableDiffusion
from sdlearn.samplers import State
from sdlearn.storybook.captions import NOUNS, PLURALS
from sdlearn.text import context_length
from sdlearn.utils.png_metadata import GenerationSettings

LARGEST_SIDE = 32  # of the attention maps that are kept, in positions


@dataclass(frozen=True, eq=False)
class Drawing:
    """One or more images with the same settings, and every step that led to them.

    Attributes:
        settings: The settings they are drawn with; image k has the seed of the settings plus k.
        total: The number of steps to run.
        tokens: The prompt's tokens, from start-of-text to the first end-of-text token.
        num_tokens: The number of tokens with padding; an equal share of the attention is
            1 / num_tokens.
        states: The sampler's states, the initial one first.
        attention: For each step from 1 on, the attention weights (n, len(tokens), h, w), averaged
            over the calls of the step, the heads and the layers with the largest maps of at most
            32 x 32. Empty if nothing was recorded.
        images: The finished images; empty while they are being drawn.
        decoded: Images already decoded, by step and number of the image.
    """

    settings: GenerationSettings
    total: int
    tokens: tuple[str, ...]
    num_tokens: int
    states: tuple[State, ...] = ()
    attention: tuple[Tensor, ...] = ()
    images: tuple[Image.Image, ...] = ()
    decoded: dict[tuple[int, int], Image.Image] = field(default_factory=dict, repr=False)

    @property
    def step(self) -> int:
        """The number of steps run so far."""
        return len(self.states) - 1

    def image_at(self, sd: StableDiffusion, step: int, k: int = 0) -> Image.Image:
        """Return image k: finished after the last step, the decoded estimate of it before.

        Raises:
            FloatingPointError: If the estimate is not finite.
        """
        if self.images and step == self.total:
            return self.images[k]
        if (step, k) not in self.decoded:
            (self.decoded[step, k],) = sd.to_images(self.states[step].z_0[k : k + 1])
        return self.decoded[step, k]

    def latent_at(self, step: int, k: int = 0) -> Tensor:
        """Return the latent (c, h, w) of image k after a step."""
        return self.states[step].z[k]

    def map_at(self, step: int, token: int, k: int = 0) -> Tensor | None:
        """Return the attention map (h, w) of a token in a step; None before the first step."""
        return self.attention[step - 1][k, token] if 0 < step <= len(self.attention) else None

    def peaks(self) -> Tensor:
        """Return each token's largest attention weight over all images, steps and positions."""
        return torch.stack([step.amax(dim=(0, 2, 3)) for step in self.attention]).amax(0)

    def most_attention(self) -> float:
        """Return the largest weight of any word, which every map of this drawing shows as white."""
        words = self.peaks()[1:-1]
        return float(words.max()) if len(words) else 1.0

    def settings_of(self, k: int) -> GenerationSettings:
        """Return the settings that draw image k alone."""
        how = self.settings.sampling
        return replace(self.settings, sampling=replace(how, seed=how.seed + k, n=1))


# ------------------------------------------------------------------------------------ to draw it


def draw(
    sd: StableDiffusion,
    settings: GenerationSettings,
    states: Iterator[State] | None = None,
    controlnet: ControlNet | None = None,
) -> Generator[Drawing]:
    """Draw step by step; yield the drawing after each step, and at the end the finished one.

    Args:
        sd: The model.
        settings: What to draw.
        states: The trajectory of these settings; None to begin it here.
        controlnet: Follows the hint of the settings; not needed without one.

    Raises:
        ValueError, FloatingPointError: As StableDiffusion.trajectory.
    """
    with warnings.catch_warnings(action="ignore"):  # the trajectory warns of long prompts
        tokens = prompt_tokens(sd, settings.prompt)
    length = context_length(sd.text.tokenizers[0], sd.spec.text[0])
    now = Drawing(settings, settings.num_steps(sd), tokens, length)
    weights: dict[str, list[Tensor]] = {}
    with record_weights(sd.unet, weights, settings.sampling.n, len(tokens)):
        for state in settings.trajectory(sd, controlnet) if states is None else states:
            seen = step_maps(weights, state.z.shape[-2], state.z.shape[-1])
            attention = now.attention if seen is None else (*now.attention, seen)
            now = replace(now, states=(*now.states, state), attention=attention)
            weights.clear()
            yield now
    yield replace(now, images=tuple(settings.images(sd, now.states[-1].z)))


@contextmanager
def record_weights(
    unet: nn.Module, weights: dict[str, list[Tensor]], n: int, tokens: int
) -> Iterator[None]:
    """Record, in this context, the weights of cross-attention layers with few enough positions.

    Args:
        unet: The network.
        weights: Filled by layer with the weights (n, positions, tokens) of each call, averaged
            over the heads.
        n: How many images are drawn at once. They are the last n of the batch, because under
            guidance the half without the prompt comes first.
        tokens: How many of the first tokens to keep.
    """

    def hook(name: str):  # type: ignore[no-untyped-def]
        def before(layer: Attention, inputs: tuple[Tensor, Tensor]) -> None:
            x, context = (part[-n:] for part in inputs)
            if x.shape[1] > LARGEST_SIDE**2:
                return
            q, k = layer.split(layer.to_q(x)), layer.split(layer.to_k(context))
            scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
            mean = scores.float().softmax(dim=-1).mean(1)[..., :tokens]
            weights.setdefault(name, []).append(mean.cpu().clone())

        return before

    layers = {name: m for name, m in unet.named_modules() if name.endswith("attn2")}
    handles = [m.register_forward_pre_hook(hook(name)) for name, m in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def step_maps(weights: dict[str, list[Tensor]], h: int, w: int) -> Tensor | None:
    """Return a step's attention maps (n, tokens, h', w') for a latent (h, w), or None if empty."""
    means = [torch.stack(calls).mean(0) for calls in weights.values()]
    if not means:
        return None
    most = max(each.shape[1] for each in means)
    while h * w > most:
        h, w = (h + 1) // 2, (w + 1) // 2
    mean = torch.stack([each for each in means if each.shape[1] == most]).mean(0)
    return mean.transpose(1, 2).unflatten(2, (h, w))


# ---------------------------------------------------------------------------------- its attention


def opening_token(drawing: Drawing) -> int | None:
    """Return the token whose map is shown first: the first noun, or the one with the highest peak.

    Returns None if that isn't known yet.
    """
    noun = first_noun(drawing.tokens)
    if noun is not None:
        return noun
    if not drawing.images or not drawing.attention or len(drawing.tokens) < 3:
        return None
    return int(drawing.peaks()[1:-1].argmax()) + 1


def first_noun(tokens: Sequence[str]) -> int | None:
    """Return the first token of the first storybook noun, which may take several tokens."""
    nouns = storybook_nouns()
    for k in range(1, len(tokens) - 1):
        pieces = ("".join(tokens[k:end]) for end in range(k + 1, len(tokens)))
        if any(piece in nouns for piece in pieces):
            return k
    return None


def storybook_nouns() -> set[str]:
    """Return the last words of the storybook's nouns, in the singular and the plural."""
    nouns = [noun for row in NOUNS.values() for noun in row]
    plurals = [PLURALS.get(noun, f"{noun}s") for noun in nouns]
    return {noun.split()[-1] for noun in [*nouns, *plurals]}


def attention_sentence(token: str, weights: Tensor, equal: float) -> str:
    """Say how much of the attention a token gets, in percent.

    Args:
        token: The token's text.
        weights: The token's map.
        equal: An equal share of the attention.
    """
    mean, most = percent(float(weights.mean())), percent(float(weights.max()))
    if weights.mean() < equal:
        return (
            f"“{token}” gets hardly any attention: {mean} (an equal share would be "
            f"{percent(equal)}), and {most} where it gets most."
        )
    return f"“{token}” gets {mean} of the attention, and {most} where it gets most."


def percent(fraction: float) -> str:
    """Return a fraction in percent, with two significant digits below 10 %."""
    value = 100 * fraction
    return f"{value:.0f}\N{NO-BREAK SPACE}%" if value >= 9.95 else f"{value:.1f}\N{NO-BREAK SPACE}%"


def short_settings(settings: GenerationSettings) -> str:
    """Return everything that determines an image except its prompt, in a few words."""
    how = settings.sampling
    count = f"seed {how.seed}" if how.n == 1 else f"seeds {how.seed} to {how.seed + how.n - 1}"
    parts = [count, f"{how.steps} steps of {how.sampler}", f"guidance {how.guidance_scale:g}"]
    if settings.negative_prompt:
        parts.append(f"negative prompt “{settings.negative_prompt}”")
    if settings.image is not None:
        share = painted_share(settings.mask)
        part = f" with {percent(share)} repainted" if share else ""
        parts.append(f"from an image{part}, strength {settings.strength:g}")
    if settings.hint is not None:
        parts.append(f"control scale {settings.control_scale:g}")
    others = {
        "eta": how.eta,
        "rescale": how.guidance_rescale,
        "noise levels": how.sigmas,
        "CLIP layers skipped": how.clip_skip,
    }
    parts += [f"{name} {value}" for name, value in others.items() if value]
    if how.guidance_interval:
        parts.append("guided from {1:g} to {0:g}".format(*how.guidance_interval))
    return ", ".join(parts)


def painted_share(mask: Image.Image | None) -> float:
    """Return the fraction of a mask that is at least half white, 0 without a mask."""
    if mask is None:
        return 0.0
    return float((np.asarray(mask.convert("L")) >= 127.5).mean())


def pick(drawing: Drawing, steps: Sequence[int]) -> list[int]:
    """Return those of the steps that have been run."""
    return [step for step in steps if step <= drawing.step]
