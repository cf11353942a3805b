"""Prompts -> what the U-Net is conditioned on.

A tokenizer cuts a prompt into at most 75 known pieces between a start and an end token and pads it
to 77; a text encoder turns the 77 numbers into 77 vectors. Stable Diffusion 1, 2 and the storybook
model use the last layer's states of one encoder. SDXL puts the last but one layer's states of two
encoders side by side, and also uses the one vector in which the second sums the prompt up.
"""

import warnings
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from sdlearn.clip import CLIPTextEncoder

TextState = Literal["last", "penultimate"]


class Sizes(NamedTuple):
    """What SDXL is told of a picture's making, height and width in pixels (arXiv:2307.01952, 2.2).

    original: of the training picture before it was scaled; small ones look blurred. crop: how much
    was cut off at the top and at the left; (0, 0) keeps things whole. target: of what was left.
    None is the size of the picture that is made.
    """

    original: tuple[int, int] | None = None
    crop: tuple[int, int] = (0, 0)
    target: tuple[int, int] | None = None

    def row(self, height: int, width: int) -> Tensor:
        """The six numbers for a picture of this size, (1, 6) int64."""
        made = height, width
        return torch.tensor([[*(self.original or made), *self.crop, *(self.target or made)]])


class Conditioning(NamedTuple):
    """What the U-Net is told.

    context: one vector per token, (b, n, d), for cross-attention. For SDXL also pooled: one vector
    per prompt, (b, d); and sizes: six numbers, (b, 6), see Sizes.
    """

    context: Tensor
    pooled: Tensor | None = None
    sizes: Tensor | None = None

    @property
    def added(self) -> tuple[Tensor, Tensor] | None:
        """What an SDXL U-Net takes besides the context."""
        return None if self.pooled is None or self.sizes is None else (self.pooled, self.sizes)

    @staticmethod
    def cat(parts: "Sequence[Conditioning]") -> "Conditioning":
        """One batch of several, in this order."""
        columns = zip(*parts, strict=True)
        return Conditioning._make(None if c[0] is None else torch.cat(c) for c in columns)

    def rows(self, index: Sequence[int]) -> "Conditioning":
        """The prompts of these numbers, in this order; a number may come twice."""
        return Conditioning._make(None if part is None else part[list(index)] for part in self)

    def silent(self) -> "Conditioning":
        """Zeros for the text, which is not what the encoder makes of an empty one; same sizes."""
        pooled = None if self.pooled is None else torch.zeros_like(self.pooled)
        return Conditioning(torch.zeros_like(self.context), pooled, self.sizes)


class TextEncoder(nn.Module):
    """Tokenizers and their encoders; the contexts of several are put side by side along d.

    state: which states of the tokens are the context, "last" after the encoder's final norm, or
    "penultimate", as the last layer but one leaves them.
    """

    def __init__(
        self,
        tokenizers: Sequence[PreTrainedTokenizerBase],
        encoders: Sequence[CLIPTextEncoder],
        state: TextState = "last",
    ) -> None:
        super().__init__()
        self.tokenizers = list(tokenizers)
        self.encoders = nn.ModuleList(encoders)
        self.state = state

    def forward(self, prompts: Sequence[str]) -> Conditioning:
        """Prompts -> context (b, 77, d), and where the last encoder has a projection, pooled.

        What a prompt has beyond 75 tokens is cut, with a warning. Equal prompts are encoded once.
        """
        different = list(dict.fromkeys(prompts))
        contexts, pooled = [], None
        for tokenizer, encoder in zip(self.tokenizers, self.encoders, strict=True):
            assert isinstance(encoder, CLIPTextEncoder)
            device = encoder.embeddings.token_embedding.weight.device
            length = encoder.config.max_positions
            states = encoder(token_ids(tokenizer, different, length).to(device))
            contexts.append(states.last if self.state == "last" else states.hidden[-2])
            pooled = None if encoder.config.projection_dim is None else states.pooled
        rows = [different.index(prompt) for prompt in prompts]
        return Conditioning(torch.cat(contexts, dim=-1), pooled).rows(rows)


def token_ids(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], length: int = 77
) -> Tensor:
    """Prompts -> (b, length) int64, cut and padded as CLIP does; warns where it cuts.

    What pads is the tokenizer's affair: the end token in SD 1, "!" (number 0) in SD 2 and in SDXL's
    second one. These two therefore read a "!" of the prompt as padding, as they do everywhere.
    """
    uncut = tokenizer(list(prompts), truncation=False, verbose=False).input_ids
    for prompt, ids in zip(prompts, uncut, strict=True):
        if len(ids) > length:
            lost = tokenizer.decode(ids[length - 1 : -1])
            warnings.warn(
                f"the prompt {prompt[:40]!r}… has {len(ids) - 2} tokens, of which the text encoder "
                f"reads {length - 2}; this end is ignored: {lost!r}",
                stacklevel=2,
            )
    padded = tokenizer(
        list(prompts),
        padding="max_length",
        max_length=length,
        truncation=True,
        return_tensors="pt",
    )
    result: Tensor = padded.input_ids
    return result
