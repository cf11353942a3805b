"""What a model looked at while it drew: the queries and keys of its cross-attentions, kept.

From them the weights can be computed again, also for one head, or sharper and softer than they
were. A look is not a reason: see notebook 05 on what these maps show and what they do not.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from sdlearn.attention import Attention
from sdlearn.pipeline import StableDiffusion
from sdlearn.text import token_ids


@dataclass(frozen=True)
class Looks:
    """The looks of one picture at its prompt.

    words: the prompt's tokens, start and end included, without the filling. side: of the feature
    map, in positions. q: by layer, (steps, heads, side * side, d). k: by layer, (heads, m, d) with
    all m tokens; it is the same at every step, as the prompt is.
    """

    picture: Image.Image
    words: tuple[str, ...]
    side: int
    q: Mapping[str, Tensor]
    k: Mapping[str, Tensor]


def watch(sd: StableDiffusion, prompt: str, seed: int = 0, steps: int | None = None) -> Looks:
    """Draw the prompt's picture and keep what its largest feature maps asked the words.

    Of the two answers that guidance needs, the one with the prompt is kept.
    """
    q: dict[str, list[Tensor]] = {}
    k: dict[str, Tensor] = {}
    with torch.no_grad(), kept(sd.unet, q, k):
        (picture,) = sd.text_to_image(prompt, seed=seed, steps=steps, progress=False)
    most = max(seen[0].shape[1] for seen in q.values())
    layers = [name for name, seen in q.items() if seen[0].shape[1] == most]
    return Looks(
        picture,
        words_of(sd, prompt),
        round(most**0.5),
        {name: torch.stack(q[name]) for name in layers},
        {name: k[name] for name in layers},
    )


@contextmanager
def kept(unet: nn.Module, q: dict[str, list[Tensor]], k: dict[str, Tensor]) -> Iterator[None]:
    """While this is open, every cross-attention adds its queries and keys of the last example."""

    def watcher(name: str) -> Any:
        def before(layer: Attention, inputs: tuple[Tensor, Tensor]) -> None:
            x, context = inputs
            q.setdefault(name, []).append(layer.split(layer.to_q(x[-1:]))[0].cpu())
            k[name] = layer.split(layer.to_k(context[-1:]))[0].cpu()

        return before

    layers = {n: m for n, m in unet.named_modules() if n.endswith("attn2")}
    handles = [m.register_forward_pre_hook(watcher(n)) for n, m in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def weights(
    looks: Looks, layer: str, step: int, head: int | None = None, sharpness: float = 1.0
) -> Tensor:
    """How every position shares out its look, (side * side, m); every row adds up to 1.

    step: 0 for the first. head: None for the mean of all. sharpness: what the scores are multiplied
    with besides 1/√d: 1 is the model's own, 0 an equal share for all, large a choice of one.
    """
    q, k = looks.q[layer][step], looks.k[layer]
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5  # (heads, n, m)
    shares = (sharpness * scores).softmax(dim=-1)
    return shares.mean(0) if head is None else shares[head]


def word_map(looks: Looks, word: int, shares: Tensor) -> Tensor:
    """The share of one word, by its number in `looks.words`, as a map (side, side)."""
    return shares[:, word].reshape(looks.side, looks.side)


def words_of(sd: StableDiffusion, prompt: str) -> tuple[str, ...]:
    """The tokens of a prompt, from the start to the first end token."""
    tokenizer = sd.text.tokenizers[0]
    ids = token_ids(tokenizer, [prompt])[0].tolist()
    end = ids.index(tokenizer.eos_token_id)
    tokens = tokenizer.convert_ids_to_tokens(ids[: end + 1])
    return ("(start)", *(token.replace("</w>", "") for token in tokens[1:-1]), "(end)")
