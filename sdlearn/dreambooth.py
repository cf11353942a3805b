"""DreamBooth: a model fine-tuned on a few images of one thing, with prior preservation.

DreamBooth (Ruiz et al., arXiv:2208.12242) trains the U-Net on three to five images of one subject,
whose captions name it by a rare word and its class: "a <toby> cat". Nothing else is new about the
training. But every weight may change, and all images show the same cat. The model soon draws this
cat for "a cat" as well, and it forgets other words. The paper calls this language drift.

Prior preservation works against it. Before the training starts, the model draws images of the
class prompt, "a cat". They are what it knows about the class, and the training goes on showing them
beside the new ones:

    loss = mean over own images + weight · mean over class images

Both means are of the same loss, `training.diffusion_loss`. So it is also a weighted mean over the
rows of one batch, see `row_weights`. Each part of a batch then has its share of the loss, and it
doesn't matter which process, or which part of an accumulated batch, has the class images.
"""

import math

import torch
from torch import Tensor


def prior_loss(losses: Tensor, own: int, weight: float = 1.0) -> Tensor:
    """The loss of a batch with prior preservation, a scalar.

    Args:
        losses: The loss of each image, (b,): first those of the learner's own images, then those of
            the images of the class.
        own: How many are the learner's own, 1 … b. With b there are no images of the class, and
            the loss is the mean of all: plain fine-tuning, whatever the weight.
        weight: λ of the paper, 0 or more; 1 in the published scripts.

    Raises:
        ValueError: If the losses are not a vector, or a number is out of range.
    """
    if losses.ndim != 1:
        raise ValueError(f"losses have the shape {tuple(losses.shape)}; accepted: (b,), b losses")
    check_division(own, len(losses), weight)
    loss = losses[:own].mean()
    return loss if own == len(losses) else loss + weight * losses[own:].mean()


def row_weights(own: int, b: int, weight: float = 1.0) -> Tensor:
    """Weights of the rows whose weighted mean is `prior_loss`, (b,), in float64.

    (row_weights(own, b, weight) * losses).mean() equals prior_loss(losses, own, weight).

    Args:
        own: The rows that are the learner's own images, the first 1 … b.
        b: Rows of the batch.
        weight: See `prior_loss`.

    Raises:
        ValueError: If a number is out of range.
    """
    check_division(own, b, weight)
    weights = torch.full((b,), b / own, dtype=torch.float64)
    weights[own:] = weight * b / max(1, b - own)
    return weights


def own_in_batch(b: int) -> int:
    """How many of the b images of a batch are the learner's own: half, as in the published scripts.

    Raises:
        ValueError: If b is odd or below 2.
    """
    if b < 2 or b % 2:
        raise ValueError(
            f"batch is {b}; accepted with prior preservation: even numbers, because half of each "
            "batch are images of the class"
        )
    return b // 2


def class_prompt(prompt: str, word: str) -> str:
    """A prompt without the subject's word, which names its class: "a <toby> cat" → "a cat".

    Raises:
        ValueError: If the prompt does not contain the word, or nothing else.
    """
    words = prompt.split()
    if word not in words:
        raise ValueError(
            f"the prompt is {prompt[:80]!r}; accepted: one that has {word!r} among its words"
        )
    rest = [each for each in words if each != word]
    if not rest:
        raise ValueError(f"the prompt is {prompt[:80]!r}; accepted: one that also names the class")
    return " ".join(rest)


def check_division(own: int, b: int, weight: float) -> None:
    """Raise ValueError unless a batch of b images can have so many own ones, and this weight."""
    if not 1 <= own <= b:
        raise ValueError(f"own is {own}; accepted: 1 to {b}, the number of images in the batch")
    if not (weight >= 0 and math.isfinite(weight)):
        raise ValueError(f"weight is {weight}; accepted: a finite number, 0 or more")
