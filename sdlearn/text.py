"""Prompts -> what the U-Net is conditioned on.

A tokenizer cuts a prompt into at most 75 known pieces between a start and an end token and pads it
with more end tokens to 77; a text encoder turns the 77 numbers into 77 vectors. Stable Diffusion 1
and the storybook model use the last layer's states of one encoder.
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from sdlearn.clip import CLIPTextEncoder


class Conditioning(NamedTuple):
    """What a text tells the U-Net.

    context: one vector per token, (b, n, d), for cross-attention; pooled: one vector per prompt,
    (b, d), where a system uses it.
    """

    context: Tensor
    pooled: Tensor | None = None

    @staticmethod
    def cat(parts: "Sequence[Conditioning]") -> "Conditioning":
        """One batch of several, in this order."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return Conditioning(
            torch.cat([part.context for part in parts]), torch.cat(pooled) if pooled else None
        )

    def rows(self, index: Sequence[int]) -> "Conditioning":
        """The prompts of these numbers, in this order; a number may come twice."""
        pooled = None if self.pooled is None else self.pooled[list(index)]
        return Conditioning(self.context[list(index)], pooled)


class TextEncoder(nn.Module):
    """Tokenizers and their encoders; the contexts of several are put side by side along d."""

    def __init__(
        self,
        tokenizers: Sequence[PreTrainedTokenizerBase],
        encoders: Sequence[CLIPTextEncoder],
    ) -> None:
        super().__init__()
        self.tokenizers = list(tokenizers)
        self.encoders = nn.ModuleList(encoders)

    def forward(self, prompts: Sequence[str]) -> Conditioning:
        """Prompts -> context (b, 77, d). What a prompt has beyond 75 tokens is cut, with a warning.

        Equal prompts are encoded once.
        """
        different = list(dict.fromkeys(prompts))
        contexts = []
        for tokenizer, encoder in zip(self.tokenizers, self.encoders, strict=True):
            assert isinstance(encoder, CLIPTextEncoder)
            device = encoder.embeddings.token_embedding.weight.device
            length = encoder.config.max_positions
            contexts.append(encoder(token_ids(tokenizer, different, length).to(device)).last)
        rows = [different.index(prompt) for prompt in prompts]
        return Conditioning(torch.cat(contexts, dim=-1)).rows(rows)


def token_ids(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], length: int = 77
) -> Tensor:
    """Prompts -> (b, length) int64, cut and padded as CLIP does; warns where it cuts."""
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
