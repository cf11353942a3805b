"""The judge: a small network that says what a storybook picture shows, and where.

It is a detector without boxes (CenterNet, arXiv:1904.07850): every cell of a 16 x 16 grid says
whether the middle of a thing lies in it, and of which kind, colour and pattern that thing is; two
heads for the whole page name the sky and the ground. It has seen renders alone, never a picture
that a model made, so what it says of those is no echo of their training.
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
from sdlearn.evaluation.pixels import as_tensor
from sdlearn.files import read_json, write_json
from sdlearn.paths import data_folder
from sdlearn.storybook import COLOURS, GROUNDS, KINDS, PATTERNS, SKIES

WEIGHTS, CONFIG = "judge.safetensors", "judge.json"
APART = 0.09  # two detections nearer than this (of the page) are one thing


@dataclass(frozen=True)
class JudgeConfig:
    """The judge's widths at 1/2, 1/4 and 1/8 of the page, and the names of what it tells apart.

    threshold: a cell counts as the middle of a thing from this probability on.
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
    """A thing found on a page; (x, y) its middle in scene units, score its probability."""

    kind: str
    colour: str
    pattern: str
    x: float
    y: float
    score: float


class Reading(NamedTuple):
    """All that the judge sees on one page; the things by falling score."""

    things: tuple[Detection, ...]
    sky: str
    ground: str


class Logits(NamedTuple):
    """What the network returns. The grid is (b, h/4, w/4); offset is where in its cell, 0..1."""

    centre: Tensor  # (b, 1, h/4, w/4)
    kind: Tensor  # (b, kinds, h/4, w/4)
    colour: Tensor
    pattern: Tensor
    offset: Tensor  # (b, 2, h/4, w/4): x, y
    sky: Tensor  # (b, skies)
    ground: Tensor


class Block(nn.Module):
    """Two 3x3 convolutions round a skip, normalised before each (b, c, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class Judge(nn.Module):
    """Pictures (b, 3, h, w) in [-1, 1] -> Logits; `read` and `find` put them into words."""

    def __init__(self, config: JudgeConfig = JudgeConfig()) -> None:
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
        quarter = self.block1(self.down1(F.silu(self.conv_in(x))))
        eighth = self.block2(self.down2(F.silu(quarter)))
        wide = F.interpolate(self.up(eighth), scale_factor=2.0, mode="nearest")
        h = F.silu(self.conv(F.silu(self.norm(quarter + wide))))
        centre, kind, colour, pattern, offset = self.thing(h).split(self.parts, dim=1)
        page = self.page(self.features(eighth))
        sky, ground = page.split([len(self.config.skies), len(self.config.grounds)], dim=1)
        return Logits(centre, kind, colour, pattern, offset.sigmoid(), sky, ground)

    @staticmethod
    def features(eighth: Tensor) -> Tensor:
        """One vector for a page (b, c): the mean of what was seen over it."""
        return F.silu(eighth).mean(dim=(2, 3))

    @torch.no_grad()
    def read(self, pictures: Sequence[Image.Image] | Tensor) -> list[Reading]:
        """What each picture shows. pictures: any sizes, or a tensor (b, 3, 64, 64) in [-1, 1]."""
        x = pictures if isinstance(pictures, Tensor) else self.prepare(pictures)
        return [reading for batch in x.split(64) for reading in self._read(batch)]

    def find(self, picture: Image.Image) -> list[Detection]:
        """The things on one picture, the surest first."""
        return list(self.read([picture])[0].things)

    def prepare(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Pictures of any size -> (b, 3, 64, 64) in [-1, 1]."""
        size = (self.config.size, self.config.size)
        small = [p.convert("RGB") for p in pictures]
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
    """The detections by falling score, without those that repeat a surer one close by."""
    kept: list[Detection] = []
    for thing in sorted(found, key=lambda thing: -thing.score):
        if all((thing.x - k.x) ** 2 + (thing.y - k.y) ** 2 >= APART**2 for k in kept):
            kept.append(thing)
    return tuple(kept)


def load_judge(folder: str | Path | None = None) -> Judge:
    """The judge in a folder (None: the shipped one), ready to read pictures.

    Raises FileNotFoundError or ValueError, naming the file, where it is missing or broken.
    """
    folder = data_folder("judge") if folder is None else Path(folder)
    written = read_json(folder / CONFIG)
    names = {f.name: written[f.name] for f in fields(JudgeConfig) if f.name in written}
    lists = {name: tuple(value) for name, value in names.items() if isinstance(value, list)}
    config = replace(JudgeConfig(), **{**names, **lists})
    judge = Judge(config)
    weights.load(judge, folder / WEIGHTS)
    return judge.eval().requires_grad_(False)


def save_judge(judge: Judge, folder: Path, recipe: dict[str, object] | None = None) -> None:
    """Write the judge as it is shipped: half precision, its names and its recipe beside it."""
    weights.save(judge, folder / WEIGHTS, dtype=torch.float16)
    write_json(folder / CONFIG, {**asdict(judge.config), "recipe": recipe or {}})
