"""Training of the perceptual loss's network: a small VGG that classifies the contents of a page.

LPIPS (arXiv:1801.03924) found that the features of networks trained to recognise objects agree
with human perception better than pixels do. This network is trained on renders to classify sky,
ground, and the kinds, colours and patterns on a page, so nothing has to be downloaded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdlearn import weights
from sdlearn.distributed import own_rows
from sdlearn.recipes.data import Batches, load_images, scene, to_tensor
from sdlearn.recipes.initial_weights import load_initial_weights
from sdlearn.recipes.mixed_precision import gradient_metrics, with_scalers
from sdlearn.recipes.ranges import Channels, check_size
from sdlearn.recipes.recipe import Recipe
from sdlearn.recipes.room import check_memory
from sdlearn.storybook import COLOURS, GROUNDS, KINDS, PATTERNS, SKIES, Scene
from sdlearn.training import TrainingJob, learning_rate, update
from sdlearn.utils.atomic_files import read_json, write_json
from sdlearn.utils.device import autocast, channels_last, loss_scaler, seeded
from sdlearn.utils.resources import data_folder

PAIRS = [(kind, colour) for kind in KINDS for colour in COLOURS]


@dataclass(frozen=True, kw_only=True)
class PerceptualRecipe(Recipe):
    """Settings of the perceptual network's training.

    Attributes:
        widths: Channels of the stages. Each stage has two convolutions, and the resolution is
            halved between two stages.
    """

    widths: Channels = (16, 32, 64, 64)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size(self.size, len(self.widths))


RECIPES = {
    "storybook": PerceptualRecipe(steps=1500, batch=64, lr=2e-3, warmup=50, scenes=20_000),
    "small": PerceptualRecipe(steps=100, batch=32, lr=2e-3, warmup=10, scenes=2000),
}


class PerceptualNetwork(nn.Module):
    """A VGG that returns one feature map a stage, at full, half, quarter … resolution.

    `classify` uses the last stage and serves only to train the others.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        """Build the network with these channels of the stages."""
        super().__init__()
        self.widths = widths
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(c_in, c, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(c, c, 3, padding=1),
                nn.ReLU(),
            )
            for c_in, c in zip((3, *widths[:-1]), widths, strict=True)
        )
        self.head = nn.Linear(2 * widths[-1], sum(head_sizes()))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the feature maps of images (b, 3, h, w) in [-1, 1]."""
        features = []
        for i, stage in enumerate(self.stages):
            x = stage(x if i == 0 else F.max_pool2d(x, 2))
            features.append(x)
        return features

    def classify(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return logits of sky (b, 5), ground (b, 5) and contents (b, pairs + patterns)."""
        last = self(x)[-1]
        pooled = torch.cat([last.mean((2, 3)), last.amax((2, 3))], dim=1)
        return self.head(pooled).split(head_sizes(), dim=1)


def head_sizes() -> list[int]:
    """Return the numbers of logits for sky, ground and contents."""
    return [len(SKIES), len(GROUNDS), len(PAIRS) + len(PATTERNS)]


def scene_labels(page: Scene) -> list[int]:
    """Return sky, ground, and 0 or 1 for each (kind, colour) and each pattern."""
    pairs = {(thing.kind, thing.colour) for thing in page.things}
    patterns = {thing.pattern for thing in page.things}
    return [
        SKIES.index(page.sky),
        GROUNDS.index(page.ground),
        *(int(pair in pairs) for pair in PAIRS),
        *(int(pattern in patterns) for pattern in PATTERNS),
    ]


def make_job(
    recipe: PerceptualRecipe, cache: Path, device: torch.device, run: Path | None = None
) -> TrainingJob:
    """Build the network, the optimizer and the training step.

    Args:
        recipe: The settings.
        cache: Folder for rendered images.
        device: Where to train.
        run: Folder of the run that goes on from its checkpoint; None for a new one.

    Raises:
        ValueError: If the recipe names a user's folder.
    """
    if recipe.data:
        raise ValueError(
            f"--data is {recipe.data}; this network is trained on the storybook's scenes only"
        )
    check_memory(recipe, device, lambda: PerceptualNetwork(recipe.widths), recipe.widths[0])
    with seeded(recipe.seed):
        network = channels_last(PerceptualNetwork(recipe.widths), device)
    load_initial_weights(recipe.init, {"perceptual": network}, run)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    scaler = loss_scaler(device, recipe.precision)
    pages = load_images(recipe.scenes, recipe.size, cache)
    shown = np.array([scene_labels(scene(k)) for k in range(recipe.scenes)])
    batches = Batches(pages, recipe.seed, recipe.batch, device)
    labels = Batches(shown, recipe.seed, recipe.batch, device)

    def step(k: int) -> dict[str, Tensor]:
        rows = own_rows(batches.indices(k))
        x = to_tensor(batches.rows(rows), device).contiguous(memory_format=torch.channels_last)
        wanted = labels.rows(rows)
        with autocast(device, recipe.precision):
            sky, ground, things = (logits.float() for logits in network.classify(x))
        truth = wanted[:, 2:].float()
        # Summed over the labels: in a mean, the many absent ones would dominate.
        present = F.binary_cross_entropy_with_logits(things, truth, reduction="none").sum(1).mean()
        loss = F.cross_entropy(sky, wanted[:, 0]) + F.cross_entropy(ground, wanted[:, 1]) + present
        lr = learning_rate(k, recipe.steps, recipe.lr, recipe.warmup)
        gradient = gradient_metrics(update(loss, optimizer, lr, scaler=scaler), scaler)
        found = ((things > 0) == (truth > 0)).all(1).float().mean()
        return {"loss": loss, "all_right": found, **gradient}

    states = with_scalers({"perceptual": optimizer}, scaler=scaler)
    return TrainingJob({"perceptual": network}, states, step, recipe.batch)


def export(job: TrainingJob, recipe: PerceptualRecipe, cache: Path, folder: Path) -> None:
    """Write perceptual.safetensors and perceptual.json in the layout of data/judge/.

    Args:
        job: The finished training.
        recipe: Its settings.
        cache: Not used.
        folder: Where to write.
    """
    weights.save(job.networks["perceptual"], folder / "perceptual.safetensors", torch.float16)
    write_json(folder / "perceptual.json", {"widths": list(recipe.widths)})


# ----------------------------------------------------------------------- for the perceptual loss


def load_perceptual(folder: Path, device: torch.device) -> PerceptualNetwork:
    """Load the trained network of a folder, frozen and in eval mode."""
    network = PerceptualNetwork(tuple(read_json(folder / "perceptual.json")["widths"]))
    weights.load(network, folder / "perceptual.safetensors")
    return channels_last(network, device).eval().requires_grad_(False)


def load_features(name: str, device: torch.device) -> tuple[Callable[[Tensor], list[Tensor]], int]:
    """Load the feature network of the perceptual loss.

    Args:
        name: "" for the shipped network, a folder, or "vgg16" for the first four stages of
            torchvision's, whose weights come from torch's cache or are downloaded.
        device: Where to put the network.

    Returns:
        The network, and the number of feature maps that it returns.

    Raises:
        FileNotFoundError: If the folder has no perceptual network.
        ValueError: If the name is "vgg16" and torchvision is not installed.
    """
    if name == "vgg16":
        return vgg16_features(device), 4
    try:
        folder = Path(name) if name else data_folder("judge")
        network = load_perceptual(folder, device)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}; `sdlearn train perceptual --out RUN` trains the network of the perceptual "
            "loss for --set perceptual_network=RUN/export; --set perceptual=0 trains without it"
        ) from error
    return network, len(network.widths)


def vgg16_features(device: torch.device) -> Callable[[Tensor], list[Tensor]]:
    """Return a function that computes relu1_2, relu2_2, relu3_3 and relu4_3 of ImageNet's VGG16.

    Raises:
        ValueError: If torchvision is not installed.
    """
    try:
        from torchvision.models import (  # type: ignore[import-not-found]
            VGG16_Weights,
            vgg16,
        )
    except ImportError as error:
        raise ValueError(
            "perceptual_network is 'vgg16', which needs torchvision; install it, or leave the "
            "setting empty for the network that comes with this package"
        ) from error
    layers = vgg16(weights=VGG16_Weights.IMAGENET1K_V1).features
    stages = [layers[:4], layers[4:9], layers[9:16], layers[16:23]]
    for stage in stages:
        stage.to(device).eval().requires_grad_(False)
    mean = torch.tensor([0.485, 0.456, 0.406], device=device).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], device=device).view(1, 3, 1, 1)

    def features(x: Tensor) -> list[Tensor]:
        x = ((x + 1) / 2 - mean) / std
        found = []
        for stage in stages:
            x = stage(x)
            found.append(x)
        return found

    return features
