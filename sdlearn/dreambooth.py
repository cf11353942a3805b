"""DreamBooth: a model fine-tuned on a few images of one subject, with prior preservation.

DreamBooth (Ruiz et al., arXiv:2208.12242) trains the U-Net on three to five images of one subject.
Their captions name it by a rare word and its class: "a <toby> cat". Otherwise the training is the
usual one. But every weight may change, and every image shows the same cat. The model soon draws
this cat for "a cat" as well, and it forgets other words. The paper calls this language drift.

Prior preservation counteracts it. Before the training starts, the model draws images for the class
prompt, "a cat". They show what it knows about the class, and each training batch contains some of
them besides the learner's own images:

    loss = mean over own images + weight · mean over class images

Both are means of the same loss, `training.diffusion_loss`. The sum is therefore also a weighted
mean over the rows of a batch (see `row_weights`). A batch can thus be divided among processes, or
into the parts of gradient accumulation, and it doesn't matter which of them has the class images.
"""

import math

import torch
from torch import Tensor


def prior_loss(losses: Tensor, own: int, weight: float = 1.0) -> Tensor:
    """The loss of a batch with prior preservation, a scalar.

    Args:
        losses: The loss of each image, (b,): those of the learner's own images, then those of the
            class images.
        own: The number of the learner's own images, 1 … b. If it is b, there are no class images,
            and the loss is the mean of all, whatever the weight: plain fine-tuning.
        weight: λ in the paper, finite and 0 or more; 1 in the published scripts.

    Raises:
        ValueError: If losses is not a vector, or own or the weight is out of range.
    """
    if losses.ndim != 1:
        raise ValueError(f"losses have the shape {tuple(losses.shape)}; accepted: (b,), b losses")
    check_division(own, len(losses), weight)
    loss = losses[:own].mean()
    return loss if own == len(losses) else loss + weight * losses[own:].mean()


def row_weights(own: int, b: int, weight: float = 1.0) -> Tensor:
    """The weights, (b,) in float64, with which the weighted mean over the rows is `prior_loss`.

    (row_weights(own, b, weight) * losses).mean() equals prior_loss(losses, own, weight).

    Args:
        own: The number of rows with the learner's own images, 1 … b; they come first.
        b: The number of rows in the batch.
        weight: See `prior_loss`.

    Raises:
        ValueError: If own or the weight is out of range.
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
            "batch consists of images of the class"
        )
    return b // 2


def class_prompt(prompt: str, word: str) -> str:
    """The prompt without the subject's word, which names the class: "a <toby> cat" → "a cat".

    Raises:
        ValueError: If the prompt does not contain the word, or contains nothing else.
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
    """Raise ValueError unless own is in 1 … b, and the weight is finite and 0 or more."""
    if not 1 <= own <= b:
        raise ValueError(f"own is {own}; accepted: 1 to {b}, the number of images in the batch")
    if not (weight >= 0 and math.isfinite(weight)):
        raise ValueError(f"weight is {weight}; accepted: a finite number, 0 or more")
