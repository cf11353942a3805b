"""Parts of notebook 05's small dual encoder: hard-negative pairs, batches of them, two towers."""

from itertools import combinations, product
from random import Random

import numpy as np
import torch
from torch import Tensor, nn

from sdlearn.storybook import Scene, Thing, render

KINDS = ("cat", "house", "tree", "car", "boat", "fish", "flower", "snail")
COLOURS = ("red", "yellow", "blue", "black")

Words = tuple[str, str]
Pair = tuple[Tensor, Words, Words]  # both images, their two kinds and their two colours


def combinations_of_two(rng: Random) -> list[tuple[Words, Words]]:
    """Return all 168 combinations of two kinds and two colours, shuffled."""
    combos = [*product(combinations(KINDS, 2), combinations(COLOURS, 2))]
    rng.shuffle(combos)
    return combos


def draw_pair(kinds: Words, colours: Words, rng: Random, time: str = "day") -> Pair:
    """Draw an image and its hard negative, the same image with the two colours swapped.

    Args:
        kinds: Of the two objects.
        colours: Of the two objects, in the first image.
        rng: Draws positions. Captions don't say which object is on the left.
        time: Of day.

    Returns:
        Images in -1..1, (2, 3, 32, 32), the kinds and the colours.
    """
    places = [
        (x + rng.uniform(-0.04, 0.04), rng.uniform(0.6, 0.75), 0.42)
        for x in rng.sample((0.28, 0.72), 2)
    ]
    images = []
    for both in (colours, colours[::-1]):
        objects = tuple(
            Thing(kind, colour, "plain", *place)
            for kind, colour, place in zip(kinds, both, places, strict=True)
        )
        images.append(np.array(render(Scene(time, "grass", objects), 32)))
    pixels = torch.tensor(np.stack(images)).permute(0, 3, 1, 2) / 127.5 - 1
    return pixels, kinds, colours


def describe(kinds: Words, colours: Words, flip: bool) -> list[str]:
    """Return both captions of a pair; with `flip`, the second object is named first."""
    order = (1, 0) if flip else (0, 1)
    return [
        " and ".join(f"a {both[k]} {kinds[k]}" for k in order) for both in (colours, colours[::-1])
    ]


def draw_batch(train: list[list[Pair]], number: int, rng: Random) -> tuple[Tensor, list[str]]:
    """Draw one pair of each of `number` combinations: images (2 · number, 3, 32, 32), captions.

    Rows 2k and 2k + 1 are a pair. Which object a pair's captions name first is drawn, too.
    """
    drawn = [rng.choice(pairs) for pairs in rng.sample(train, number)]
    captions = [
        text for _, kinds, colours in drawn for text in describe(kinds, colours, rng.random() < 0.5)
    ]
    return torch.cat([pixels for pixels, _, _ in drawn]), captions


def one_of_each(pixels: Tensor, captions: list[str], rng: Random) -> tuple[Tensor, list[str]]:
    """Keep one image of each pair and its caption, so that no two captions have the same words."""
    kept = [2 * k + rng.randrange(2) for k in range(len(captions) // 2)]
    return pixels[kept], [captions[k] for k in kept]


def warm_up_and_decay(step: int, steps: int, highest: float = 3e-3) -> float:
    """Return the learning rate: it rises for 20 steps, stays, and falls to a tenth at the end."""
    return highest * min(1, (step + 1) / 20, 1.1 - step / steps)


def image_tower() -> nn.Sequential:
    """Build a small convolutional network, (b, 3, 32, 32) -> (b, 64)."""
    layers: list[nn.Module] = []
    for c_in, c_out in ((3, 16), (16, 32), (32, 64)):
        convolution = nn.Conv2d(c_in, c_out, 3, stride=2, padding=1)
        layers += [convolution, nn.GroupNorm(4, c_out), nn.SiLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 4 * 4, 64, bias=False))


class Bag(nn.Module):
    """A bag of words: the mean of token and position embeddings, then an MLP.

    Args:
        embeddings: Token and position embeddings, (b, n) -> (b, n, 64).
    """

    def __init__(self, embeddings: nn.Module) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.mlp = nn.Sequential(nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, 64))

    def forward(self, ids: Tensor) -> Tensor:
        """Encode ids (b, n) as vectors (b, 64)."""
        pooled: Tensor = self.mlp(self.embeddings(ids).mean(dim=1))
        return pooled
