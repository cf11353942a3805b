"""The network behind the perceptual loss: a small VGG that has learned to name what a page shows.

LPIPS (arXiv:1801.03924) found that the features of any network trained to recognise things measure
what people see better than pixels do. Ours is trained here, on renders alone, to say which sky and
ground a page has and which kinds, colours and patterns are on it, so nothing has to be downloaded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdlearn import weights
from sdlearn.files import read_json, write_json
from sdlearn.paths import data_folder
from sdlearn.recipes.data import Batches, load_pictures, scene, to_tensor
from sdlearn.recipes.recipe import Recipe
from sdlearn.storybook import COLOURS, GROUNDS, KINDS, PATTERNS, SKIES, Scene
from sdlearn.training import Job, autocast, channels_last, learning_rate, seeded, update

PAIRS = [(kind, colour) for kind in KINDS for colour in COLOURS]


@dataclass(frozen=True, kw_only=True)
class PerceptualRecipe(Recipe):
    """widths: channels of the stages; each has two convolutions and halves the picture after."""

    widths: tuple[int, ...] = (16, 32, 64, 64)


RECIPES = {
    "storybook": PerceptualRecipe(steps=1500, batch=64, lr=2e-3, warmup=50, scenes=20_000),
    "small": PerceptualRecipe(steps=100, batch=32, lr=2e-3, warmup=10, scenes=2000),
}


class PerceptualNetwork(nn.Module):
    """(b, 3, h, w) in [-1, 1] -> one feature map per stage, at full, half, quarter … size.

    `classify` reads the last stage and is only used to train the rest.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
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
        self.head = nn.Linear(2 * widths[-1], sum(sizes()))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for i, stage in enumerate(self.stages):
            x = stage(x if i == 0 else F.max_pool2d(x, 2))
            features.append(x)
        return features

    def classify(self, x: Tensor) -> tuple[Tensor, ...]:
        """Logits of sky (b, 5), of ground (b, 5) and of what is there (b, pairs + patterns)."""
        last = self(x)[-1]
        pooled = torch.cat([last.mean((2, 3)), last.amax((2, 3))], dim=1)
        return self.head(pooled).split(sizes(), dim=1)


def sizes() -> list[int]:
    return [len(SKIES), len(GROUNDS), len(PAIRS) + len(PATTERNS)]


def content(page: Scene) -> list[int]:
    """A scene as numbers: sky, ground, then 0 or 1 for each (kind, colour) and each pattern."""
    pairs = {(thing.kind, thing.colour) for thing in page.things}
    patterns = {thing.pattern for thing in page.things}
    return [
        SKIES.index(page.sky),
        GROUNDS.index(page.ground),
        *(int(pair in pairs) for pair in PAIRS),
        *(int(pattern in patterns) for pattern in PATTERNS),
    ]


def make_job(recipe: PerceptualRecipe, cache: Path, device: torch.device) -> Job:
    if recipe.data:
        raise ValueError(f"--data {recipe.data}: this network learns from the storybook's scenes")
    with seeded(recipe.seed):
        network = channels_last(PerceptualNetwork(recipe.widths), device)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    pages = load_pictures(recipe.scenes, recipe.size, cache)
    shown = np.array([content(scene(k)) for k in range(recipe.scenes)])
    batches = Batches(pages, recipe.seed, recipe.batch, device)
    labels = Batches(shown, recipe.seed, recipe.batch, device)

    def step(k: int) -> dict[str, Tensor]:
        x = to_tensor(batches(k), device).contiguous(memory_format=torch.channels_last)
        wanted = labels(k)
        with autocast(device):
            sky, ground, things = (logits.float() for logits in network.classify(x))
        truth = wanted[:, 2:].float()
        # The sum over what may be there: the mean would drown in the many that are absent.
        there = F.binary_cross_entropy_with_logits(things, truth, reduction="none").sum(1).mean()
        loss = F.cross_entropy(sky, wanted[:, 0]) + F.cross_entropy(ground, wanted[:, 1]) + there
        lr = learning_rate(k, recipe.steps, recipe.lr, recipe.warmup)
        gradient = update(loss, optimizer, lr)
        found = ((things > 0) == (truth > 0)).all(1).float().mean()
        return {"loss": loss, "all_right": found, "gradient": gradient}

    return Job({"perceptual": network}, {"perceptual": optimizer}, step, recipe.batch)


def export(job: Job, recipe: PerceptualRecipe, cache: Path, folder: Path) -> None:
    """Write perceptual.safetensors and perceptual.json, as data/judge/ holds them."""
    weights.save(job.networks["perceptual"], folder / "perceptual.safetensors", torch.float16)
    write_json(folder / "perceptual.json", {"widths": list(recipe.widths)})


# ------------------------------------------------------------------------------------ its use


def load_perceptual(folder: Path, device: torch.device) -> PerceptualNetwork:
    """The trained network of a folder, frozen."""
    network = PerceptualNetwork(tuple(read_json(folder / "perceptual.json")["widths"]))
    weights.load(network, folder / "perceptual.safetensors")
    return channels_last(network, device).eval().requires_grad_(False)


def load_features(name: str, device: torch.device) -> tuple[Callable[[Tensor], list[Tensor]], int]:
    """(network, how many stages it returns) for the perceptual loss.

    name: "" for the shipped network, "vgg16" for the first four stages of torchvision's, whose
    weights it looks for in torch's cache and downloads where there is a network, or a folder.
    """
    if name == "vgg16":
        return vgg16_features(device), 4
    try:
        folder = Path(name) if name else data_folder("judge")
        network = load_perceptual(folder, device)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}; `sdlearn train perceptual --out RUN` makes the network of the perceptual "
            "loss, for --set perceptual_network=RUN/export; --set perceptual=0 trains without it"
        ) from error
    return network, len(network.widths)


def vgg16_features(device: torch.device) -> Callable[[Tensor], list[Tensor]]:
    """relu1_2, relu2_2, relu3_3 and relu4_3 of VGG16 trained on ImageNet, as LPIPS uses them."""
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
