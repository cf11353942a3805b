"""The judge: a small detector of the things on a storybook page.

It is a detector without boxes (CenterNet, arXiv:1904.07850). For every cell of a 16 x 16 grid it
predicts whether the cell contains the centre of a thing, and that thing's kind, colour and
pattern. Two heads for the whole page predict the sky and the ground. The judge is trained on
renders only, never on a model's images, so it is independent of the models that it evaluates.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from sdlearn import weights
from sdlearn.evaluation.image_metrics import as_tensor
from sdlearn.storybook import COLOURS, GROUNDS, KINDS, PATTERNS, SKIES
from sdlearn.utils.atomic_files import read_json, user_path, write_json
from sdlearn.utils.resources import data_folder

WEIGHTS, CONFIG = "judge.safetensors", "judge.json"
APART = 0.09  # two detections closer than this fraction of the page are one thing


@dataclass(frozen=True)
class JudgeConfig:
    """The judge's sizes and the names of its classes.

    Attributes:
        channels: At 1/2, 1/4 and 1/8 of the resolution.
        size: Side of its input in pixels.
        kinds: Names of the kinds.
        colours: Names of the colours.
        patterns: Names of the patterns.
        skies: Names of the skies.
        grounds: Names of the grounds.
        threshold: Lowest probability at which a cell counts as the centre of a thing.
    """

    channels: tuple[int, int, int] = (32, 64, 96)
    size: int = 64
    kinds: tuple[str, ...] = KINDS
    colours: tuple[str, ...] = COLOURS
    patterns: tuple[str, ...] = PATTERNS
    skies: tuple[str, ...] = SKIES
    grounds: tuple[str, ...] = GROUNDS
    threshold: float = 0.3


class Detection(NamedTuple):
    """A detected thing.

    Attributes:
        kind: One of the judge's kinds.
        colour: One of its colours.
        pattern: One of its patterns.
        x: Centre, 0..1 from the left.
        y: Centre, 0..1 from the top.
        score: Probability of the centre.
    """

    kind: str
    colour: str
    pattern: str
    x: float
    y: float
    score: float


class Reading(NamedTuple):
    """Everything detected on one page; the things are in descending order of score."""

    things: tuple[Detection, ...]
    sky: str
    ground: str


class Logits(NamedTuple):
    """The outputs of the network; offset is the position of the centre in its cell, 0..1."""

    centre: Tensor  # (b, 1, h/4, w/4)
    kind: Tensor  # (b, kinds, h/4, w/4)
    colour: Tensor
    pattern: Tensor
    offset: Tensor  # (b, 2, h/4, w/4): x, y
    sky: Tensor  # (b, skies)
    ground: Tensor


class Block(nn.Module):
    """A pre-normalised residual block of two 3 x 3 convolutions, (b, c, h, w)."""

    def __init__(self, channels: int) -> None:
        """Build the block for a number of channels, a multiple of 8."""
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the same shape."""
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class Judge(nn.Module):
    """The detector. `read` and `find` return names instead of logits."""

    def __init__(self, config: JudgeConfig = JudgeConfig()) -> None:
        """Build a judge with random weights."""
        super().__init__()
        self.config = config
        half, quarter, eighth = config.channels
        self.conv_in = nn.Conv2d(3, half, 3, stride=2, padding=1)
        self.down1 = nn.Conv2d(half, quarter, 3, stride=2, padding=1)
        self.block1 = Block(quarter)
        self.down2 = nn.Conv2d(quarter, eighth, 3, stride=2, padding=1)
        self.block2 = Block(eighth)
        self.up = nn.Conv2d(eighth, quarter, 1)
        self.norm = nn.GroupNorm(8, quarter)
        self.conv = nn.Conv2d(quarter, quarter, 3, padding=1)
        self.parts = [1, len(config.kinds), len(config.colours), len(config.patterns), 2]
        self.thing = nn.Conv2d(quarter, sum(self.parts), 1)
        assert self.thing.bias is not None
        self.page = nn.Linear(eighth, len(config.skies) + len(config.grounds))
        nn.init.constant_(self.thing.bias[:1], -4.0)  # few cells hold a thing

    def forward(self, x: Tensor) -> Logits:
        """Return the logits of images (b, 3, h, w) in [-1, 1]."""
        quarter, eighth = self.maps(x)
        wide = F.interpolate(self.up(eighth), scale_factor=2.0, mode="nearest")
        h = F.silu(self.conv(F.silu(self.norm(quarter + wide))))
        centre, kind, colour, pattern, offset = self.thing(h).split(self.parts, dim=1)
        page = self.page(self.features(eighth))
        sky, ground = page.split([len(self.config.skies), len(self.config.grounds)], dim=1)
        return Logits(centre, kind, colour, pattern, offset.sigmoid(), sky, ground)

    def maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the feature maps at 1/4 and 1/8 of the resolution of images in [-1, 1]."""
        quarter = self.block1(self.down1(F.silu(self.conv_in(x))))
        return quarter, self.block2(self.down2(F.silu(quarter)))

    @torch.no_grad()
    def embed(self, images: Sequence[Image.Image] | Tensor) -> Tensor:
        """Return one feature vector for each image, (b, 96), float64 on the CPU.

        The heads for the sky and the ground take these vectors as their input. The things are read
        from the feature map before it is pooled. `sdlearn.evaluation.frechet` and related modules
        compare sets of such vectors.

        Args:
            images: Images of any sizes, or a tensor (b, 3, 64, 64) in [-1, 1].
        """
        x = images if isinstance(images, Tensor) else self.prepare(images)
        rows = [self.features(self.maps(b.to(self.conv_in.weight))[1]) for b in x.split(64)]
        return torch.cat(rows).double().cpu()

    @staticmethod
    def features(eighth: Tensor) -> Tensor:
        """Pool the feature map of a page to one vector, (b, c, h, w) -> (b, c)."""
        return F.silu(eighth).mean(dim=(2, 3))

    @torch.no_grad()
    def read(self, images: Sequence[Image.Image] | Tensor) -> list[Reading]:
        """Detect everything on each image.

        Args:
            images: Images of any sizes, or a tensor (b, 3, 64, 64) in [-1, 1].
        """
        x = images if isinstance(images, Tensor) else self.prepare(images)
        return [reading for batch in x.split(64) for reading in self._read(batch)]

    def find(self, image: Image.Image) -> list[Detection]:
        """Detect the things on one image, in descending order of score."""
        return list(self.read([image])[0].things)

    def prepare(self, images: Sequence[Image.Image]) -> Tensor:
        """Convert images of any size to (b, 3, 64, 64) in [-1, 1]."""
        size = (self.config.size, self.config.size)
        small = [p.convert("RGB") for p in images]
        small = [p if p.size == size else p.resize(size, Image.Resampling.BOX) for p in small]
        return as_tensor(small)

    def _read(self, x: Tensor) -> list[Reading]:
        out = Logits(*(logits.float().cpu() for logits in self(x.to(self.conv_in.weight))))
        names = self.config
        peak = out.centre.sigmoid()
        peak = peak * (peak == F.max_pool2d(peak, 3, stride=1, padding=1))
        labels = [x.argmax(dim=1) for x in (out.kind, out.colour, out.pattern)]
        skies, grounds = out.sky.argmax(1).tolist(), out.ground.argmax(1).tolist()
        readings = []
        h, w = peak.shape[2:]
        for b, (sky, ground) in enumerate(zip(skies, grounds, strict=True)):
            found = []
            for i, j in (peak[b, 0] >= names.threshold).nonzero().tolist():
                kind, colour, pattern = (int(label[b, i, j]) for label in labels)
                dx, dy = out.offset[b, :, i, j].tolist()
                found.append(
                    Detection(
                        names.kinds[kind],
                        names.colours[colour],
                        names.patterns[pattern],
                        (j + dx) / w,
                        (i + dy) / h,
                        float(peak[b, 0, i, j]),
                    )
                )
            readings.append(Reading(distinct(found), names.skies[sky], names.grounds[ground]))
        return readings


def distinct(found: Sequence[Detection]) -> tuple[Detection, ...]:
    """Drop detections close to one with a higher score; return the rest in descending order."""
    kept: list[Detection] = []
    for thing in sorted(found, key=lambda thing: -thing.score):
        if all((thing.x - k.x) ** 2 + (thing.y - k.y) ** 2 >= APART**2 for k in kept):
            kept.append(thing)
    return tuple(kept)


def load_judge(folder: str | Path | None = None) -> Judge:
    """Load a judge, frozen and in eval mode.

    Args:
        folder: Its folder. None takes the shipped judge.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file cannot be read.
    """
    folder = data_folder("judge") if folder is None else user_path(folder)
    written = read_json(folder / CONFIG)
    names = {f.name: written[f.name] for f in fields(JudgeConfig) if f.name in written}
    lists = {name: tuple(value) for name, value in names.items() if isinstance(value, list)}
    config = replace(JudgeConfig(), **{**names, **lists})
    judge = Judge(config)
    weights.load(judge, folder / WEIGHTS)
    return judge.eval().requires_grad_(False)


def save_judge(judge: Judge, folder: Path, recipe: dict[str, object] | None = None) -> None:
    """Write a judge in half precision, with its configuration.

    Args:
        judge: The judge.
        folder: Where to write.
        recipe: Settings of its training, stored with the configuration.
    """
    weights.save(judge, folder / WEIGHTS, dtype=torch.float16)
    write_json(folder / CONFIG, {**asdict(judge.config), "recipe": recipe or {}})
