"""What LoRA, textual inversion and DreamBooth share: they train on a few images of your own."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from sdlearn.dreambooth import own_in_batch, row_weights
from sdlearn.recipes.captioned_latents import Batch, DiffusionRecipe
from sdlearn.recipes.ranges import Place, Range
from sdlearn.text import Conditioning


@dataclass(frozen=True, kw_only=True)
class PersonalRecipe(DiffusionRecipe):
    """Settings that these trainings share.

    Attributes:
        model: The model to start from: a folder in the published layout, one original file
            (.safetensors or .ckpt), or "" for the shipped one. Stable Diffusion 1, 2 or XL.
        spec: For a file only: the name of its system, such as "sd2.1", if the tensors do not show
            which it is.
        tokenizer: For a file only, because it holds none: a folder with vocab.json and merges.txt,
            or a model's folder; "" for CLIP's, from the Hugging Face hub or its local cache.
        class_images: Number of class images for prior preservation (see `sdlearn.dreambooth`). The
            model draws them before the training, and they make up half of each batch. 0 for none.
        class_prompt: The prompt of the class images, such as "a cat", which is also their caption.
        prior_weight: Weight of the class images' loss.
    """

    model: Place = ""
    spec: Annotated[str, Range(0, 100)] = ""
    tokenizer: Place = ""
    class_images: Annotated[int, Range(0, 100_000)] = 0
    class_prompt: Annotated[str, Range(0, 1000)] = ""
    prior_weight: Annotated[float, Range(0, 1000)] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.class_images:
            own_in_batch(self.batch)


def weighted_parts(recipe: DiffusionRecipe, batch: Batch) -> Iterator[tuple[float, Batch]]:
    """Divide rows of a batch into the terms of their loss: each a weight, and rows to average over.

    With prior preservation there is a term for the learner's own images and one for those of the
    class. Averaged over equal parts of a batch, in one process or several, the sum of the terms is
    `dreambooth.prior_loss`. Without prior preservation there is one term, with weight 1.
    """
    if not (isinstance(recipe, PersonalRecipe) and recipe.class_images):
        yield 1.0, batch
        return
    own, b = own_in_batch(recipe.batch), len(batch.places)
    weights = row_weights(own, recipe.batch, recipe.prior_weight)[batch.places]
    first = int((batch.places < own).sum())
    for rows in (slice(0, first), slice(first, b)):
        if rows.start < rows.stop:
            yield float(weights[rows].sum()) / b, batch.part(rows)


def conditioned(
    predict: Callable[..., Tensor], given: Conditioning
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The U-Net as a function of z and t, with this conditioning; the third argument is ignored."""
    return lambda z, t, _: predict(z, t, *given.unet_inputs)
