"""Cross-attention maps of a generated image, computed from recorded queries and keys.

From queries and keys you can recompute the attention weights of one head, or at another softmax
temperature. Attention weights are not explanations: notebook 04 shows what they do and do not tell.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from sdlearn.attention import Attention
from sdlearn.pipeline import StableDiffusion
from sdlearn.text import token_ids


@dataclass(frozen=True)
class AttentionMaps:
    """Queries and keys of one image's cross-attentions, from the layers with the largest maps.

    Attributes:
        image: The generated image.
        words: The prompt's tokens from start-of-text to end-of-text, without padding.
        side: Side of the feature maps, in positions.
        q: By layer, (steps, heads, side * side, d).
        k: By layer, (heads, m, d) for all m tokens, padding included. The keys depend on the
            prompt alone, so they are the same at every step.
    """

    image: Image.Image
    words: tuple[str, ...]
    side: int
    q: Mapping[str, Tensor]
    k: Mapping[str, Tensor]


def record(
    sd: StableDiffusion, prompt: str, seed: int = 0, steps: int | None = None
) -> AttentionMaps:
    """Generate an image and record the queries and keys of its cross-attentions.

    Guidance evaluates the network with and without the prompt. The evaluation with the prompt is
    recorded.

    Args:
        sd: The model.
        prompt: The prompt.
        seed: Of the initial noise.
        steps: Sampling steps. None takes the model's own number.
    """
    q: dict[str, list[Tensor]] = {}
    k: dict[str, Tensor] = {}
    with torch.no_grad(), record_queries_keys(sd.unet, q, k):
        (image,) = sd.text_to_image(prompt, seed=seed, steps=steps, progress=False)
    most = max(queries[0].shape[1] for queries in q.values())
    layers = [name for name, queries in q.items() if queries[0].shape[1] == most]
    return AttentionMaps(
        image,
        prompt_tokens(sd, prompt),
        round(most**0.5),
        {name: torch.stack(q[name]) for name in layers},
        {name: k[name] for name in layers},
    )


@contextmanager
def record_queries_keys(
    unet: nn.Module, q: dict[str, list[Tensor]], k: dict[str, Tensor]
) -> Iterator[None]:
    """Record, in this context, the queries and keys of every cross-attention by layer.

    Args:
        unet: The network.
        q: Filled with one tensor (heads, n, d) for each call.
        k: Filled with the keys (heads, m, d) of the last call.
    """

    def store(name: str, queries: Tensor, keys: Tensor) -> None:
        q.setdefault(name, []).append(queries)
        k[name] = keys

    with observe_cross_attention(unet, store):
        yield


@contextmanager
def accumulate_weights(unet: nn.Module, totals: dict[str, Tensor]) -> Iterator[None]:
    """Sum, in this context, the attention weights of every cross-attention over all calls.

    Unlike `record_queries_keys`, this needs the same memory for any number of steps.

    Args:
        unet: The network.
        totals: Filled by layer with weights (n, m), averaged over the heads.
    """

    def add(name: str, queries: Tensor, keys: Tensor) -> None:
        scores = queries @ keys.transpose(1, 2) / queries.shape[-1] ** 0.5
        weights = scores.float().softmax(dim=-1).mean(0)
        totals[name] = totals[name] + weights if name in totals else weights

    with observe_cross_attention(unet, add):
        yield


@contextmanager
def observe_cross_attention(
    unet: nn.Module, observer: Callable[[str, Tensor, Tensor], None]
) -> Iterator[None]:
    """Call `observer`, in this context, before each call of a cross-attention.

    Args:
        unet: The network.
        observer: Gets the name of the layer and, for the last example of the batch, the queries
            (heads, n, d) and the keys (heads, m, d) on the CPU.
    """

    def hook(name: str) -> Any:
        def before(layer: Attention, inputs: tuple[Tensor, Tensor]) -> None:
            x, context = (part[-1:] for part in inputs)
            queries, keys = layer.split(layer.to_q(x)), layer.split(layer.to_k(context))
            observer(name, queries[0].cpu(), keys[0].cpu())

        return before

    layers = {n: m for n, m in unet.named_modules() if n.endswith("attn2")}
    handles = [m.register_forward_pre_hook(hook(n)) for n, m in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def custom_weights(unet: nn.Module, weigh: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
    """Let a function compute, in this context, the weights of every cross-attention.

    It computes them for the last example of the batch, which is the one with the prompt under
    guidance. The other examples keep the softmax of their scores.

    Args:
        unet: The network.
        weigh: Gets the name of the layer and the scores (heads, n, m), which it may change in
            place, and returns the weights (heads, n, m).
    """

    def forward(name: str, layer: Attention, x: Tensor, context: Tensor) -> Tensor:
        projected = layer.to_q(x), layer.to_k(context), layer.to_v(context)
        q, k, v = (layer.split(part) for part in projected)
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        weights = scores.softmax(dim=-1)
        weights[-1] = weigh(name, scores[-1])
        return layer.to_out[0]((weights @ v).transpose(1, 2).flatten(2))

    layers = {n: m for n, m in unet.named_modules() if n.endswith("attn2")}
    try:
        for name, layer in layers.items():
            layer.forward = partial(forward, name, layer)
        yield
    finally:
        for layer in layers.values():
            layer.__dict__.pop("forward", None)


def token_maps(totals: Mapping[str, Tensor], side: int = 32) -> Tensor:
    """Return the attention maps of all tokens, (m, h, w); over the tokens they sum to 1.

    They are means over the layers with the largest feature map of at most side * side positions.
    The feature maps must be square.

    Args:
        totals: By layer, (n, m), from `accumulate_weights`.
        side: Largest side of a feature map, in positions.
    """
    fitting = [weights for weights in totals.values() if weights.shape[0] <= side**2]
    most = max(len(weights) for weights in fitting)
    mean = torch.stack([weights for weights in fitting if len(weights) == most]).mean(0)
    maps = mean / mean.sum(dim=1, keepdim=True)
    return maps.T.unflatten(1, (round(most**0.5), -1))


def attention_weights(
    maps: AttentionMaps, layer: str, step: int, head: int | None = None, sharpness: float = 1.0
) -> Tensor:
    """Compute the attention weights of every position over all tokens.

    Args:
        maps: Recorded queries and keys.
        layer: A key of `maps.q`.
        step: Sampling step, from 0.
        head: Number of a head, or None for the mean over all heads.
        sharpness: Inverse softmax temperature, in addition to 1/√d. 1 is the model's own, 0 gives
            equal weights, and a large value selects one token.

    Returns:
        (side * side, m); every row sums to 1.
    """
    q, k = maps.q[layer][step], maps.k[layer]
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5  # (heads, n, m)
    weights = (sharpness * scores).softmax(dim=-1)
    return weights.mean(0) if head is None else weights[head]


def token_map(maps: AttentionMaps, word: int, weights: Tensor) -> Tensor:
    """Return the attention map (side, side) of one token.

    Args:
        maps: Recorded queries and keys.
        word: Index of the token in `maps.words`.
        weights: (side * side, m), from `attention_weights`.
    """
    return weights[:, word].reshape(maps.side, maps.side)


def prompt_tokens(sd: StableDiffusion, prompt: str) -> tuple[str, ...]:
    """Return the tokens of a prompt, from start-of-text to the first end-of-text token."""
    tokenizer = sd.text.tokenizers[0]
    ids = token_ids(tokenizer, [prompt])[0].tolist()
    end = ids.index(tokenizer.eos_token_id)
    tokens = tokenizer.convert_ids_to_tokens(ids[: end + 1])
    return ("(start)", *(token.replace("</w>", "") for token in tokens[1:-1]), "(end)")
