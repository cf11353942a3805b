"""What a model looked at while it drew: the queries and keys of its cross-attentions, kept.

From them the weights can be computed again, also for one head, or sharper and softer than they
were. A look is not a reason: see notebook 05 on what these maps show and what they do not.
"""

from collections.abc import Callable, Iterator, Mapping
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

    def seen(name: str, queries: Tensor, keys: Tensor) -> None:
        q.setdefault(name, []).append(queries)
        k[name] = keys

    with seeing(unet, seen):
        yield


@contextmanager
def added_up(unet: nn.Module, looks: dict[str, Tensor]) -> Iterator[None]:
    """While this is open, every cross-attention adds to its weights of the last example, (n, m).

    They are means over the heads. Unlike `kept` this needs no more room for more steps.
    """

    def seen(name: str, queries: Tensor, keys: Tensor) -> None:
        scores = queries @ keys.transpose(1, 2) / queries.shape[-1] ** 0.5
        shares = scores.float().softmax(dim=-1).mean(0)
        looks[name] = looks[name] + shares if name in looks else shares

    with seeing(unet, seen):
        yield


@contextmanager
def seeing(unet: nn.Module, seen: Callable[[str, Tensor, Tensor], None]) -> Iterator[None]:
    """While this is open, `seen` gets the name of each cross-attention that is used, and of its
    last example the queries (heads, n, d) and the keys (heads, m, d), on the CPU."""

    def watcher(name: str) -> Any:
        def before(layer: Attention, inputs: tuple[Tensor, Tensor]) -> None:
            x, context = (part[-1:] for part in inputs)
            queries, keys = layer.split(layer.to_q(x)), layer.split(layer.to_k(context))
            seen(name, queries[0].cpu(), keys[0].cpu())

        return before

    layers = {n: m for n, m in unet.named_modules() if n.endswith("attn2")}
    handles = [m.register_forward_pre_hook(watcher(n)) for n, m in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def word_maps(looks: Mapping[str, Tensor], side: int = 32) -> Tensor:
    """Maps of all tokens (m, h, w) from `added_up` looks: shares of the looks at each position.

    The mean over the layers with the largest feature map of at most side * side positions, whose
    maps are square.
    """
    fitting = [shares for shares in looks.values() if shares.shape[0] <= side**2]
    most = max(len(shares) for shares in fitting)
    mean = torch.stack([shares for shares in fitting if len(shares) == most]).mean(0)
    maps = mean / mean.sum(dim=1, keepdim=True)
    return maps.T.unflatten(1, (round(most**0.5), -1))


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
