"""Prompts -> the conditioning of the U-Net.

A tokenizer splits a prompt into at most 75 tokens, adds a start-of-text and an end-of-text token
and pads the sequence to 77. A text encoder turns the 77 token ids into 77 embeddings. Stable
Diffusion 1, 2 and the storybook model use the last hidden states of one encoder. SDXL concatenates
the penultimate hidden states of two encoders and also uses the second encoder's pooled embedding.
"""

import re
import reprlib
import warnings
from collections.abc import Sequence
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from sdlearn.clip import CLIPTextConfig, CLIPTextEncoder

TextLayer = Literal["last", "penultimate"]


class Sizes(NamedTuple):
    """SDXL's size conditioning, (height, width) in pixels (arXiv:2307.01952, section 2.2).

    Attributes:
        original: Size of the training image before resizing; a small size gives blurred images.
            None for the size of the generated image.
        crop: Pixels cropped at the top and at the left; (0, 0) keeps objects whole.
        target: Size after cropping; None for the size of the generated image.
    """

    original: tuple[int, int] | None = None
    crop: tuple[int, int] = (0, 0)
    target: tuple[int, int] | None = None

    def row(self, height: int, width: int) -> Tensor:
        """The six values for an image of this size, (1, 6) int64."""
        size = height, width
        return torch.tensor([[*(self.original or size), *self.crop, *(self.target or size)]])


class Conditioning(NamedTuple):
    """What the U-Net is conditioned on, besides the timestep.

    Attributes:
        context: One embedding per token for cross-attention, (b, n, d).
        pooled: For SDXL, one embedding per prompt, (b, d).
        sizes: For SDXL, six values per image, (b, 6), see `Sizes`.
    """

    context: Tensor
    pooled: Tensor | None = None
    sizes: Tensor | None = None

    @property
    def unet_inputs(self) -> tuple[Tensor] | tuple[Tensor, tuple[Tensor, Tensor]]:
        """The arguments of a U-Net after z and t: (context,), or (context, (pooled, sizes))."""
        if self.pooled is None or self.sizes is None:
            return (self.context,)
        return self.context, (self.pooled, self.sizes)

    @staticmethod
    def cat(parts: "Sequence[Conditioning]") -> "Conditioning":
        """Concatenate several along the batch axis, in this order."""
        columns = zip(*parts, strict=True)
        return Conditioning._make(None if c[0] is None else torch.cat(c) for c in columns)

    def rows(self, index: Sequence[int]) -> "Conditioning":
        """Select rows of the batch, in this order; an index may occur twice."""
        return Conditioning._make(None if part is None else part[list(index)] for part in self)

    def zeroed(self) -> "Conditioning":
        """The same shapes and sizes with zeros for the text, unlike the encoded empty prompt."""
        pooled = None if self.pooled is None else torch.zeros_like(self.pooled)
        return Conditioning(torch.zeros_like(self.context), pooled, self.sizes)


class TextEncoder(nn.Module):
    """Tokenizers and text encoders; several encoders have their contexts concatenated along d.

    Args:
        tokenizers: One for each encoder.
        encoders: CLIP text encoders.
        layer: Which hidden states are the context: "last", after the final LayerNorm, or
            "penultimate", the output of the second to last layer, without it.
    """

    def __init__(
        self,
        tokenizers: Sequence[PreTrainedTokenizerBase],
        encoders: Sequence[CLIPTextEncoder],
        layer: TextLayer = "last",
    ) -> None:
        super().__init__()
        self.tokenizers = list(tokenizers)
        self.encoders = nn.ModuleList(encoders)
        self.layer = layer

    def forward(self, prompts: Sequence[str], clip_skip: int = 0) -> Conditioning:
        """Encode b prompts; equal prompts are encoded once.

        Warns about a prompt of more than 75 tokens and ignores the rest of it.

        Args:
            prompts: b strings.
            clip_skip: How many layers to leave out at the end of each encoder, as diffusers counts:
                the context is the hidden states of so many layers earlier, with the final LayerNorm
                where `layer` is "last". The pooled embedding stays that of the last layer.

        Returns:
            The context, (b, 77, d), and the pooled embedding, (b, projection_dim), if the last
            encoder has a projection.

        Raises:
            ValueError: If an encoder has fewer layers, or for anything but strings.
        """
        listed = isinstance(prompts, list | tuple) and prompts
        if not listed or not all(isinstance(prompt, str) for prompt in prompts):
            raise ValueError(
                f"prompts is {reprlib.repr(prompts)}; it must be a list of at least one string"
            )
        encoders = cast(list[CLIPTextEncoder], list(self.encoders))
        check_layers_skipped(clip_skip, [encoder.config for encoder in encoders], self.layer)
        unique = list(dict.fromkeys(prompts))
        contexts, pooled = [], None
        for tokenizer, encoder in zip(self.tokenizers, encoders, strict=True):
            device = encoder.embeddings.token_embedding.weight.device
            length = context_length(tokenizer, encoder.config)
            states = encoder(token_ids(tokenizer, unique, length).to(device))
            if self.layer == "last":
                contexts.append(encoder.final_norm(states.hidden[-1 - clip_skip]))
            else:
                contexts.append(states.hidden[-2 - clip_skip])
            pooled = None if encoder.config.projection_dim is None else states.pooled
        rows = [unique.index(prompt) for prompt in prompts]
        return Conditioning(torch.cat(contexts, dim=-1), pooled).rows(rows)

    def pair(
        self,
        prompts: list[str],
        negatives: list[str] | None,
        scale: float,
        sizes: Tensor | None = None,
        clip_skip: int = 0,
    ) -> tuple[Conditioning, Conditioning | None]:
        """The two conditionings of classifier-free guidance.

        Args:
            prompts: b prompts.
            negatives: b negative prompts; None for zeros in place of an encoded text.
            scale: Guidance scale. At 1 only the prompts are encoded.
            sizes: SDXL's size conditioning, (1, 6).
            clip_skip: As in `forward`, for the prompts. Negative and empty prompts are encoded with
                all layers, as in diffusers; the web interfaces leave layers out for these, too.

        Returns:
            The conditional and the unconditional, each with b rows; at scale 1 the second is None.
        """
        b = len(prompts)
        texts = prompts if scale == 1 or negatives is None or clip_skip else negatives + prompts
        both: Conditioning = self(texts, clip_skip)  # equal prompts are encoded once
        if sizes is not None:
            both = both._replace(sizes=sizes.to(both.context.device).expand(len(texts), -1))
        cond = both.rows(range(len(texts) - b, len(texts)))
        if scale == 1:
            return cond, None
        if negatives is None:
            return cond, cond.zeroed()
        return cond, self(negatives)._replace(sizes=cond.sizes) if clip_skip else both.rows(
            range(b)
        )


def most_layers_skipped(configs: Sequence[CLIPTextConfig], layer: TextLayer) -> int:
    """How many layers all of these encoders can leave out at their end."""
    # The first hidden states are the embeddings; SDXL's count begins at the penultimate layer.
    return min(config.num_layers for config in configs) - (layer == "penultimate")


def check_layers_skipped(
    clip_skip: int, configs: Sequence[CLIPTextConfig], layer: TextLayer
) -> None:
    """Raise ValueError if one of these encoders does not have so many layers to leave out."""
    most = most_layers_skipped(configs, layer)
    if type(clip_skip) is not int or not 0 <= clip_skip <= most:
        raise ValueError(
            f"clip_skip is {reprlib.repr(clip_skip)}; it must lie in 0 … {most} for this text "
            "encoder"
        )


def size_conditioning(
    sizes: Sizes | None, height: int, width: int, name: str, has_sizes: bool
) -> Tensor | None:
    """SDXL's size conditioning for an image of this size.

    Args:
        sizes: What the caller chose; None for the defaults.
        height: Height of the generated image, in pixels.
        width: Its width, in pixels.
        name: Name of the model, for the message.
        has_sizes: Whether the model has size conditioning.

    Returns:
        (1, 6) int64; None for a model without size conditioning.

    Raises:
        ValueError: If sizes are malformed, or given to a model without size conditioning.
    """
    if has_sizes:
        return (Sizes() if sizes is None else check_sizes(sizes)).row(height, width)
    if sizes is not None:
        raise ValueError(f"sizes are for SDXL; {name} has no size conditioning, leave them out")
    return None


def context_length(tokenizer: PreTrainedTokenizerBase, config: CLIPTextConfig) -> int:
    """Tokens of each sequence, 77 for Stable Diffusion; the encoder has no more positions."""
    return int(min(tokenizer.model_max_length, config.max_positions))


def spell_out(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """Replace learnt tokens of several embeddings, such as "<cat>", by "<cat> <cat>_1 <cat>_2".

    Textual inversion (Gal et al., arXiv:2208.01618) adds a token to the vocabulary for each of
    them; a prompt names only the first. What is already spelled out stays as it is.
    """
    added = tokenizer.get_added_vocab()
    ids = tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids
    whole = {}
    for word in set(tokenizer.convert_ids_to_tokens(ids)) & added.keys():
        last = next(i for i in range(1, len(added) + 1) if f"{word}_{i}" not in added)
        whole[word] = " ".join([word, *(f"{word}_{i}" for i in range(1, last))])
    if not whole:
        return prompt
    # In one pass, the longest first: one word may begin another, and <cat> begins <cat>_1.
    texts = sorted({*whole, *whole.values()}, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, texts)), lambda m: whole.get(m[0], m[0]), prompt)


def check_sizes(sizes: object) -> Sizes:
    """Return the sizes; ValueError unless each is two whole numbers that int64 holds, or None."""
    if not isinstance(sizes, Sizes):
        kind = type(sizes).__name__
        raise ValueError(f"sizes is a {kind}; it must be a Sizes(original, crop, target)")
    for name, pair in sizes._asdict().items():
        if pair is None and name != "crop":
            continue
        whole = isinstance(pair, tuple | list) and len(pair) == 2
        if not whole or not all(type(side) is int and 0 <= side < 2**31 for side in pair):
            raise ValueError(
                f"{name} of sizes is {reprlib.repr(pair)}; it must be two whole numbers (height, "
                "width) in 0 … 2^31 - 1"
            )
    return sizes


def shorten(text: str) -> str:
    """The text, or its beginning and its end if it has more than 200 characters."""
    return text if len(text) <= 200 else f"{text[:150]} … {text[-45:]}"


def token_ids(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], length: int = 77
) -> Tensor:
    """Tokenize b prompts, truncated and padded to `length` tokens; warns about truncation.

    The tokenizer decides on the padding token: end-of-text in SD 1, "!" (id 0) in SD 2 and in
    SDXL's second tokenizer. Those two read a "!" in the prompt as padding, here as elsewhere.

    Returns:
        (b, length) int64.
    """
    texts = [spell_out(tokenizer, prompt) for prompt in prompts]
    untruncated = tokenizer(texts, truncation=False, verbose=False).input_ids
    for prompt, ids in zip(prompts, untruncated, strict=True):
        if len(ids) > length:
            ignored = tokenizer.decode(ids[length - 1 : -1])
            warnings.warn(
                f"the prompt {prompt[:40]!r}… has {len(ids) - 2} tokens, of which the text encoder "
                f"reads {length - 2}; this end is ignored: {shorten(repr(ignored))}",
                stacklevel=2,
            )
    padded = tokenizer(
        texts,
        padding="max_length",
        max_length=length,
        truncation=True,
        return_tensors="pt",
    )
    result: Tensor = padded.input_ids
    return result
