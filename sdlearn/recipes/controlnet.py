"""Training of a ControlNet for one or all of the storybook's four kinds of hint.

The U-Net is frozen. Half of the captions are replaced by empty ones, so that the ControlNet learns
to read the hint itself (Zhang et al., arXiv:2302.05543, section 3.3).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from sdlearn.controlnet import ControlNet
from sdlearn.recipes.activation_checkpointing import checkpoint_activations
from sdlearn.recipes.base_model import check_room, frozen_base, load_base
from sdlearn.recipes.captioned_latents import Batch, CaptionedLatents, DiffusionRecipe
from sdlearn.recipes.contact_sheets import grid
from sdlearn.recipes.data import load_images, scene, to_pixels
from sdlearn.recipes.denoising_step import Model, compiled, denoising_step, in_training
from sdlearn.recipes.initial_weights import load_initial_weights
from sdlearn.recipes.ranges import Channels, Place, Range
from sdlearn.storybook import HINTS
from sdlearn.training import TrainingJob, step_generator
from sdlearn.utils.device import seeded


@dataclass(frozen=True, kw_only=True)
class ControlNetRecipe(DiffusionRecipe):
    """Settings of a ControlNet's training.

    Attributes:
        model: Folder of the model to control, or "" for the shipped one.
        hint: "edges", "depth", "pose" or "segmentation"; "all" for one ControlNet that accepts any
            of them. Only pages with a person have a pose.
        hint_channels: Channels of the hint encoder, see HintEncoder.
    """

    model: Place = ""
    hint: Annotated[str, Range(0, 20)] = "all"
    hint_channels: Channels = (16, 32, 96, 256)
    dropout: Annotated[float, Range(0, 1)] = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hint not in (*HINTS, "all"):
            raise ValueError(f"hint is {self.hint!r}; accepted: {', '.join(HINTS)} or all")
        if self.data:
            raise ValueError(
                f"data is {self.data!r}; accepted: nothing, because the hints of a ControlNet are "
                "drawn from the storybook's scenes"
            )


RECIPES = {
    "storybook": ControlNetRecipe(
        steps=8000, batch=16, lr=1e-3, warmup=50, scenes=24_000,
        min_snr=5.0, t_mean=0.3, t_std=1.0, ema=0.998,
    ),
    "small": ControlNetRecipe(steps=100, batch=8, lr=1e-3, warmup=10, scenes=200, ema=0.98),
}  # fmt: skip


def make_job(
    recipe: ControlNetRecipe, cache: Path, device: torch.device, run: Path | None = None
) -> TrainingJob:
    """Build the networks, the optimizer and the training step.

    Args:
        recipe: The settings.
        cache: Folder for images, captions, latents, hidden states and hints.
        device: Where to train.
        run: Folder of the run to resume from its checkpoint; None for a new run.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If the model does not fit the recipe, or the memory is too small.
    """
    base = load_base(recipe.model, recipe, device)
    sd = base.sd
    check_room(base, recipe, device, copies=4)
    with seeded(recipe.seed):
        controlnet = ControlNet.from_unet(sd.unet, recipe.hint_channels)
    load_initial_weights(recipe.init, {"controlnet": controlnet}, run)
    controlnet.train().requires_grad_(True)
    trained = in_training(controlnet, recipe, device)
    if recipe.activation_checkpointing:  # the gradients pass through the U-Net as well
        checkpoint_activations(sd.unet)
    unet, control = (compiled(each, recipe, device) for each in (sd.unet, controlnet))
    data = CaptionedLatents(recipe, base.parts(), sd.schedule.num_steps, cache, device)
    hints = Hints(recipe, cache)

    def controlled(k: int, batch: Batch) -> Model:
        """Return the U-Net as a function that adds the residuals for the hints of batch k."""
        hint = hints.batch(k, data.rows(k))[batch.places].to(device)
        return lambda z, t, context: unet(z, t, context, None, control(z, t, context, hint))

    step = denoising_step(recipe, data, sd.spec, trained, controlled, device)

    def samples() -> Image.Image:
        """Follow the hints of a batch; return pages, hints, images without and with control."""
        rows = data.rows(0)[:8]
        hint = hints.batch(0, data.rows(0))[:8].to(device)
        texts = [data.texts[row * data.each] for row in rows]
        z = [
            sd.text_to_image(texts, steps=20, seed=0, output="latent", progress=False, control=each)
            for each in (None, (trained.average.module, hint))
        ]
        drawn = [to_pixels(sd.vae.to_image(each)) for each in z]
        return grid([data.pages[rows], to_pixels(2 * hint - 1), *drawn], scale=3)

    networks: dict[str, nn.Module] = {"controlnet": controlnet, "ema": trained.average.module}
    frozen = frozen_base(base, recipe, cache)
    states = trained.states("controlnet")
    return TrainingJob(networks, states, step, recipe.batch, samples, frozen, trained.skeletons)


class Hints:
    """The hints of all pages, in batches.

    Attributes:
        images: For each kind of hint, bytes (n, size, size, 3).
        people: Whether each page has a person, and so a pose, (n,).
    """

    def __init__(self, recipe: ControlNetRecipe, cache: Path) -> None:
        """Draw the hints, or read them from the cache."""
        self.recipe = recipe
        kinds = HINTS if recipe.hint == "all" else [recipe.hint]
        self.images = {
            kind: load_images(recipe.scenes, recipe.size, cache, draw=HINTS[kind]) for kind in kinds
        }
        self.people = np.array(
            [any(thing.pose for thing in scene(k).things) for k in range(recipe.scenes)]
        )

    def batch(self, k: int, rows: NDArray[np.int64]) -> Tensor:
        """Return the hints of batch k, (b, 3, size, size) in [0, 1].

        Args:
            k: The step.
            rows: The numbers of the pages of the whole batch, (b,).
        """
        generator = step_generator(self.recipe.seed, k, stream=3)
        chances = torch.rand(len(rows), generator=generator).tolist()
        hints = [
            self.images[self.kind(row, chance)][row]
            for row, chance in zip(rows, chances, strict=True)
        ]
        return torch.from_numpy(np.stack(hints)).permute(0, 3, 1, 2).float() / 255

    def kind(self, row: int, chance: float) -> str:
        """Choose the kind of hint for a page.

        If the recipe's hint is "all", a page with a person gets its pose half of the time, because
        few pages have one.

        Args:
            row: The number of the page.
            chance: A random number, 0 <= chance < 1.
        """
        if self.recipe.hint != "all":
            return self.recipe.hint
        if self.people[row]:
            if chance < 0.5:
                return "pose"
            chance = 2 * chance - 1
        others = [kind for kind in HINTS if kind != "pose"]
        return others[int(chance * len(others))]


def export(job: TrainingJob, recipe: ControlNetRecipe, cache: Path, folder: Path) -> None:
    """Write the ControlNet, with the EMA weights, in the published layout.

    Args:
        job: The finished training.
        recipe: Its settings. Not used, because the ControlNet knows its own configuration.
        cache: Not used, because the folder holds the ControlNet alone.
        folder: Where to write.
    """
    controlnet = job.networks["ema"]
    assert isinstance(controlnet, ControlNet)
    controlnet.save_pretrained(folder, torch.float16)
